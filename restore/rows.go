package restore

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/postgres"
)

// loadUnit is what one transaction loads: a table, or all leaves of a tree that must be loaded through its root.
type loadUnit struct {
	tables []catalog.StoredTable
	// into is where COPY writes, quoted: the table itself or the root.
	into string
	// as is the role that loads.
	as    catalog.Text
	bytes int64
	// freeze has COPY write rows that every transaction sees as old: neither the index builds nor a later VACUUM need write
	// them once more.
	freeze bool
}

// relation is what there is to know of a table in the target.
type relation struct {
	oid, root catalog.OID // root: of the partition tree, 0 for none
	owner     catalog.Text
	// ownerLoads is false where the owner is a superuser, whose rights the customer's functions must not get, or lacks
	// the privileges to load the table.
	ownerLoads  bool
	foreignLeaf bool // of a root: one of its partitions is a foreign table
	schema      catalog.Text
	name        catalog.Text
}

type relationName struct{ schema, name catalog.Text }

// loadRows loads every table, large ones first, up to Jobs at the same time; and large objects beside them.
//
// Functions of the customer run while rows are loaded (in CHECK constraints, domains, generated columns, partition
// keys), so rows are loaded with the rights of the table's owner, or of a role that may do nothing but write.
func (r *run) loadRows(ctx context.Context) error {
	var tables []catalog.StoredTable
	var largeObjects *catalog.StoredTable
	for table, err := range r.source.Tables(ctx) {
		if err != nil {
			return fmt.Errorf("read the tables of the snapshot: %w", err)
		}
		if table.Kind == catalog.KindLargeObjects {
			largeObjects = &table
			continue
		}
		tables = append(tables, table)
	}
	r.report(true, func(p *Progress) {
		p.TablesTotal, p.RowsTotal, p.BytesTotal = r.plan.Tables, r.plan.Rows, r.plan.Bytes
	})

	var configuration, units []loadUnit
	err := r.inSession(ctx, func(conn *pgx.Conn) (err error) {
		relations, err := r.relations(ctx, conn)
		if err != nil {
			return err
		}
		if configuration, units, err = r.units(tables, relations); err != nil {
			return err
		}
		if err := r.orderByReferences(ctx, conn, configuration, relations); err != nil {
			return err
		}
		needsLoader := func(unit loadUnit) bool { return unit.as == r.loader }
		if slices.ContainsFunc(configuration, needsLoader) || slices.ContainsFunc(units, needsLoader) {
			if err := r.createLoader(ctx, conn); err != nil {
				return err
			}
		}
		// Extensions bring their foreign keys along: their tables are loaded first, one after the other.
		for _, unit := range configuration {
			if err := r.load(ctx, conn, unit); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}

	slices.SortStableFunc(units, func(a, b loadUnit) int { return cmp.Compare(b.bytes, a.bytes) })
	queue := make(chan loadUnit, len(units))
	for _, unit := range units {
		queue <- unit
	}
	close(queue)
	var postponed []postponedUnit
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(r.options.Jobs)
	group.Go(func() error { return r.loadLargeObjects(groupCtx, largeObjects) })
	for range min(r.options.Jobs, len(units)) {
		group.Go(func() error {
			if len(queue) == 0 {
				return nil // nothing left by the time a worker could begin
			}
			return r.inSession(groupCtx, func(conn *pgx.Conn) error {
				for unit := range queue {
					err := r.load(groupCtx, conn, unit)
					if err == nil {
						continue
					}
					if !mayDependOnOthers(err) && !(unit.freeze && mayDependOnFreezing(err)) {
						return err
					}
					if err := execute(groupCtx, conn, "ROLLBACK"); err != nil {
						return err
					}
					r.mutex.Lock()
					postponed = append(postponed, postponedUnit{unit, err})
					r.mutex.Unlock()
				}
				return nil
			})
		})
	}
	if err := group.Wait(); err != nil || len(postponed) == 0 {
		return err
	}
	return r.loadPostponed(ctx, postponed)
}

// postponedUnit is a unit that could not be loaded, and why.
type postponedUnit struct {
	loadUnit
	err error
}

// mayDependOnOthers tells whether loading a table failed in a way in which it can fail because other tables are still empty,
// or not readable for its owner. A function in a CHECK constraint, a domain or a generated column may read other
// tables, though PostgreSQL wants none that does, and knows nothing of it; privileges come back after the rows.
func mayDependOnOthers(err error) bool {
	switch sqlState(err) {
	case stateCheckViolation, stateInsufficientPrivilege, stateRaiseException:
		return true
	}
	return false
}

// mayDependOnFreezing tells whether loading a table failed in a way in which it can fail only because its rows were to be
// frozen: its storage may belong to an extension that cannot, and a function in a CHECK constraint that reads the table sees
// rows that it would not see otherwise, and may refuse them with any error of its own. What the server says of itself
// (resources, an operator, the system) is none of that.
func mayDependOnFreezing(err error) bool {
	state := sqlState(err)
	return state != "" && !slices.Contains([]string{"53", "57", "58", "XX"}, state[:2])
}

// loadPostponed tries units again after all others, one after the other, as long as one more can be loaded. What was
// refused for want of a privilege is tried by the loading role with the right to read every table of this database;
// roles that read everything by membership would read pg_authid, too, for the customer's functions.
func (r *run) loadPostponed(ctx context.Context, pending []postponedUnit) (err error) {
	revoke := func() error { return nil }
	defer func() { err = errors.Join(err, revoke()) }()
	return r.inSession(ctx, func(conn *pgx.Conn) error {
		if r.plan.Superuser && slices.ContainsFunc(pending, func(unit postponedUnit) bool { return sqlState(unit.err) == stateInsufficientPrivilege }) {
			if !r.loaderCreated {
				if err := r.createLoader(ctx, conn); err != nil {
					return err
				}
			}
			var err error
			if revoke, err = r.letLoaderRead(ctx, conn); err != nil {
				return err
			}
		}
		for len(pending) > 0 {
			var failed []postponedUnit
			for _, unit := range pending {
				if r.plan.Superuser && sqlState(unit.err) == stateInsufficientPrivilege {
					unit.as = r.loader
				}
				// A function that reads the very table that is loaded sees frozen rows of the same COPY, and others not.
				unit.freeze = false
				unit.err = r.load(ctx, conn, unit.loadUnit)
				switch {
				case unit.err == nil:
					continue
				case !mayDependOnOthers(unit.err):
					return unit.err
				}
				if err := execute(ctx, conn, "ROLLBACK"); err != nil {
					return err
				}
				failed = append(failed, unit)
			}
			if len(failed) == len(pending) {
				return failed[0].err
			}
			pending = failed
		}
		return nil
	})
}

// letLoaderRead lets the loading role read the tables of the database being restored until revoke is called. The role
// cannot be dropped before.
func (r *run) letLoaderRead(ctx context.Context, conn *pgx.Conn) (revoke func() error, err error) {
	schemas, err := collect(ctx, conn, "schemas", `SELECT nspname::pg_catalog.text FROM pg_catalog.pg_namespace
		WHERE nspname NOT IN ('pg_catalog', 'information_schema', pg_catalog.current_database()) AND nspname !~ '^pg_(toast|temp_|toast_temp_)' ORDER BY 1`, pgx.RowTo[catalog.Text])
	if err != nil {
		return func() error { return nil }, err
	}
	quoted := make([]string, len(schemas))
	for i, schema := range schemas {
		quoted[i] = postgres.QuoteIdentifier(schema)
	}
	tables := "SELECT ON ALL TABLES IN SCHEMA " + strings.Join(quoted, ", ")
	loader := postgres.QuoteIdentifier(r.loader)
	revoke = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
		defer cancel()
		// A session of its own: this one may be in a transaction that failed, or lost.
		return r.inSession(ctx, func(conn *pgx.Conn) error { return execute(ctx, conn, "REVOKE "+tables+" FROM "+loader) })
	}
	if err := execute(ctx, conn, "GRANT "+tables+" TO "+loader); err != nil {
		return revoke, fmt.Errorf("let the loading role read: %w", err)
	}
	return revoke, nil
}

// relations reads all tables of the target.
func (r *run) relations(ctx context.Context, conn *pgx.Conn) (map[relationName]relation, error) {
	list, err := collect(ctx, conn, "restored tables", `
		SELECT c.oid, CASE WHEN c.relispartition THEN COALESCE(pg_catalog.pg_partition_root(c.oid)::pg_catalog.oid, 0) ELSE 0 END,
			n.nspname::pg_catalog.text, c.relname::pg_catalog.text, o.rolname::pg_catalog.text,
			NOT o.rolsuper AND pg_catalog.has_table_privilege(o.oid, c.oid, 'INSERT')
				AND pg_catalog.has_schema_privilege(o.oid, n.oid, 'USAGE'),
			c.relkind = 'p' AND EXISTS (SELECT FROM pg_catalog.pg_partition_tree(c.oid) t
				JOIN pg_catalog.pg_class f ON f.oid = t.relid WHERE f.relkind = 'f')
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
			JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
		WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')`,
		func(row pgx.CollectableRow) (rel relation, err error) {
			err = row.Scan(&rel.oid, &rel.root, &rel.schema, &rel.name, &rel.owner, &rel.ownerLoads, &rel.foreignLeaf)
			return rel, err
		})
	if err != nil {
		return nil, err
	}
	found := make(map[relationName]relation, len(list))
	for _, rel := range list {
		found[relationName{rel.schema, rel.name}] = rel
	}
	return found, nil
}

// units groups the snapshot's tables into what is loaded together: extensions' configuration tables apart.
func (r *run) units(tables []catalog.StoredTable, relations map[relationName]relation) (configuration, units []loadUnit, err error) {
	byOID := make(map[catalog.OID]relation, len(relations))
	for _, rel := range relations {
		byOID[rel.oid] = rel
	}
	roleFor := func(rel relation) catalog.Text {
		if rel.ownerLoads || !r.plan.Superuser {
			return rel.owner
		}
		return r.loader
	}
	trees := make(map[catalog.OID]*loadUnit)
	var order []catalog.OID
	for _, table := range tables {
		rel, found := relations[relationName{table.Schema, table.Name}]
		if !found {
			return nil, nil, fmt.Errorf("the snapshot holds rows of table %s, which its schema archive does not define", tableName(table))
		}
		unit := loadUnit{
			tables: []catalog.StoredTable{table}, into: tableName(table), as: roleFor(rel), bytes: table.Bytes,
			// What is not emptied first cannot be frozen, nor what COPY routes to partitions.
			freeze: table.Kind == catalog.KindTable && table.Bytes >= freezeFrom,
		}
		switch {
		case table.Kind != catalog.KindTable && table.Kind != catalog.KindExtensionConfig:
			return nil, nil, fmt.Errorf("table %s is of kind %q, which this version does not know: use a newer one", tableName(table), table.Kind)
		case table.Kind == catalog.KindExtensionConfig:
			configuration = append(configuration, unit)
		case table.LoadThrough != 0 && rel.root != 0:
			root := byOID[rel.root]
			if root.foreignLeaf {
				// COPY would route rows to another server.
				return nil, nil, fmt.Errorf("table %s must be loaded through %s, of which a partition is a foreign table: its rows could be written to another server",
					tableName(table), postgres.QualifiedName(root.schema, root.name))
			}
			tree := trees[rel.root]
			if tree == nil {
				tree = &loadUnit{into: postgres.QualifiedName(root.schema, root.name), as: roleFor(root)}
				trees[rel.root] = tree
				order = append(order, rel.root)
			}
			tree.tables = append(tree.tables, table)
			tree.bytes += table.Bytes
		default:
			units = append(units, unit)
		}
	}
	for _, root := range order {
		units = append(units, *trees[root])
	}
	return configuration, units, nil
}

// orderByReferences sorts configuration tables so that a table comes after those its foreign keys refer to.
func (r *run) orderByReferences(ctx context.Context, conn *pgx.Conn, units []loadUnit, relations map[relationName]relation) error {
	if len(units) < 2 {
		return nil
	}
	type reference struct{ from, to catalog.OID }
	references, err := collect(ctx, conn, "foreign keys", `
		SELECT DISTINCT conrelid, confrelid FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conrelid <> confrelid`,
		func(row pgx.CollectableRow) (ref reference, err error) {
			err = row.Scan(&ref.from, &ref.to)
			return ref, err
		})
	if err != nil {
		return err
	}
	refersTo := make(map[catalog.OID][]catalog.OID)
	for _, ref := range references {
		refersTo[ref.from] = append(refersTo[ref.from], ref.to)
	}
	index := make(map[catalog.OID]int, len(units))
	oids := make([]catalog.OID, len(units))
	for i, unit := range units {
		oids[i] = relations[relationName{unit.tables[0].Schema, unit.tables[0].Name}].oid
		index[oids[i]] = i
	}
	sorted := make([]loadUnit, 0, len(units))
	for _, oid := range dependencyOrder(oids, refersTo) {
		if i, isUnit := index[oid]; isUnit {
			sorted = append(sorted, units[i])
		}
	}
	copy(units, sorted)
	return nil
}

// dependencyOrder returns wanted, and all they depend on, so that each comes after its dependencies; in a circle the
// given order counts.
func dependencyOrder(wanted []catalog.OID, dependsOn map[catalog.OID][]catalog.OID) []catalog.OID {
	var order []catalog.OID
	seen := make(map[catalog.OID]bool)
	var visit func(catalog.OID)
	visit = func(oid catalog.OID) {
		if seen[oid] {
			return
		}
		seen[oid] = true
		for _, dependency := range dependsOn[oid] {
			visit(dependency)
		}
		order = append(order, oid)
	}
	for _, oid := range wanted {
		visit(oid)
	}
	return order
}

func tableName(table catalog.StoredTable) string {
	return postgres.QualifiedName(table.Schema, table.Name)
}

// load loads one unit in one transaction. Tables are emptied in it first: they are empty already, but a table that was
// emptied in the loading transaction is filled from its first block on, in the order of the rows.
func (r *run) load(ctx context.Context, conn *pgx.Conn, unit loadUnit) error {
	fail := func(err error) error { return fmt.Errorf("load table %s: %w", unit.into, err) }
	if !slices.ContainsFunc(unit.tables, func(table catalog.StoredTable) bool { return table.Rows > 0 || table.Bytes > 0 }) {
		r.loaded(unit)
		return nil
	}
	statements := []string{"BEGIN"}
	truncate := func() {
		for _, table := range unit.tables {
			if table.Kind != catalog.KindExtensionConfig {
				statements = append(statements, "TRUNCATE ONLY "+tableName(table))
			}
		}
	}
	if r.plan.Superuser {
		truncate()
		statements = append(statements, r.become(unit.as))
	} else {
		statements = append(statements, r.become(unit.as))
		truncate()
	}
	if err := execute(ctx, conn, statements...); err != nil {
		return fail(err)
	}
	for _, table := range unit.tables {
		rows, err := r.copyTable(ctx, conn, unit, table)
		if err == nil && rows != table.Rows {
			err = fmt.Errorf("%d rows were loaded of %d", rows, table.Rows)
		}
		if err != nil {
			return fmt.Errorf("load table %s: %w", tableName(table), err)
		}
	}
	if err := execute(ctx, conn, "COMMIT"); err != nil {
		return fail(err)
	}
	r.loaded(unit)
	return nil
}

// loaded counts a unit that is done.
func (r *run) loaded(unit loadUnit) {
	r.mutex.Lock()
	for _, table := range unit.tables {
		r.result.Tables++
		r.result.Rows += table.Rows
		r.result.Bytes += table.Bytes
	}
	r.mutex.Unlock()
	r.report(true, func(p *Progress) {
		for _, table := range unit.tables {
			p.Tables++
			p.Rows += table.Rows
		}
	})
}

// copyTable streams the rows of table, one of unit's, to where the unit is loaded, and returns the number that the server counted.
func (r *run) copyTable(ctx context.Context, conn *pgx.Conn, unit loadUnit, table catalog.StoredTable) (_ int64, err error) {
	var columns string
	if len(table.Columns) > 0 { // without any, COPY takes empty lines for rows, and no list
		quoted := make([]string, len(table.Columns))
		for i, column := range table.Columns {
			quoted[i] = postgres.QuoteIdentifier(column)
		}
		columns = " (" + strings.Join(quoted, ", ") + ")"
	}
	sql := "COPY " + unit.into + columns + " FROM STDIN WITH (FORMAT text, ENCODING " +
		postgres.QuoteLiteral(catalog.Text(r.database.Encoding))
	if unit.freeze {
		sql += ", FREEZE"
	}
	sql += ")"

	sourceCtx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	reader, writer := io.Pipe()
	source := make(chan error, 1)
	go func() {
		// Rows come block by block: larger pieces cost fewer messages and hand-overs.
		buffered := bufio.NewWriterSize(writer, int(min(table.Bytes, copyBuffer)))
		err := r.source.Rows(sourceCtx, table, buffered)
		if err == nil {
			err = buffered.Flush()
		}
		_ = writer.CloseWithError(err) // nil is io.EOF to the reader
		source <- err
	}()
	// When ctx ends, COPY is ended by the protocol's own means, which keeps the session in order; a server that does not
	// answer even then loses its connection.
	ended := context.AfterFunc(ctx, func() {
		_ = reader.CloseWithError(context.Cause(ctx))
		_ = conn.PgConn().Conn().SetDeadline(time.Now().Add(stopTimeout))
	})
	defer ended()
	input := &copyInput{reader: reader, run: r}
	tag, err := conn.PgConn().CopyFrom(context.WithoutCancel(ctx), input, sql)
	bytes, inputErr := input.end()
	defer func() {
		if err != nil { // it may be tried again
			r.report(false, func(progress *Progress) { progress.Bytes -= bytes })
		}
	}()
	_ = reader.CloseWithError(errLoadStopped)
	stop(errLoadStopped)
	sourceErr := <-source
	switch {
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case inputErr != nil:
		return 0, fmt.Errorf("read its rows from the snapshot: %w", inputErr)
	case err != nil:
		return 0, sessionError(conn, err)
	case sourceErr != nil:
		return 0, fmt.Errorf("read its rows from the snapshot: %w", sourceErr)
	}
	return tag.RowsAffected(), nil
}

// freezeFrom is how many bytes of rows a table must have to be loaded frozen: freezing makes a visibility map, a file more
// to write and to flush, which costs a small table more than it saves.
const freezeFrom = 128 << 10

// copyBuffer is how many bytes of rows are gathered before they are handed to the connection.
const copyBuffer = 256 << 10

// stopTimeout is how long a server may take to end a COPY that is given up.
const stopTimeout = 10 * time.Second

// errLoadStopped ends the reading of rows that the server does not want any more.
var errLoadStopped = errors.New("loading stopped")

// copyInput is what COPY reads. It counts bytes, and keeps the source's error from the server, which would log it.
type copyInput struct {
	reader io.Reader
	run    *run

	mutex  sync.Mutex
	ended  bool
	bytes  int64
	failed error
}

// Read implements io.Reader. pgx may still be reading when it has returned because the connection was lost.
func (c *copyInput) Read(p []byte) (int, error) {
	n, err := c.reader.Read(p)
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.ended {
		return 0, errLoadStopped
	}
	if n > 0 {
		c.bytes += int64(n)
		c.run.report(false, func(progress *Progress) { progress.Bytes += int64(n) })
	}
	if err != nil && err != io.EOF {
		c.failed = err
		return n, errors.New("the snapshot could not be read")
	}
	return n, err
}

// end returns how many bytes were read until now, and the error that reading met.
func (c *copyInput) end() (bytes int64, err error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.ended = true
	return c.bytes, c.failed
}
