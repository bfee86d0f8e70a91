package postgres

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sort"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hourvault/hourvault/internal/catalog"
)

// tableBatch is how many tables are described at a time.
const tableBatch = 200

// TableCount returns how many tables Tables yields.
func (s *Snapshot) TableCount() int { return len(s.read) }

// Tables yields every table whose rows belong to the snapshot, ascending by oid, described in full. Descriptions are
// read some hundred tables at a time, while the consumer does not have the leader: it may run queries between two. After an
// error nothing more is yielded. It may be ranged over again.
func (s *Snapshot) Tables(ctx context.Context) iter.Seq2[catalog.Table, error] {
	return func(yield func(catalog.Table, error) bool) {
		types := newTypeLoader()
		for start := 0; start < len(s.read); start += tableBatch {
			batch := s.read[start:min(start+tableBatch, len(s.read))]
			tables, err := s.describe(ctx, batch, types)
			if err != nil {
				yield(catalog.Table{}, fmt.Errorf("describe tables of database %s: %w", printable(s.database), err))
				return
			}
			for _, table := range tables {
				if !yield(table, nil) {
					return
				}
			}
		}
	}
}

func (s *Snapshot) describe(ctx context.Context, batch []relation, types *typeLoader) ([]catalog.Table, error) {
	ctx, done, err := s.take(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	tables := make([]catalog.Table, len(batch))
	oids := make([]uint32, len(batch))
	index := make(map[catalog.OID]int, len(batch))
	for i, r := range batch {
		oids[i] = uint32(r.oid)
		index[r.oid] = i
		tables[i] = catalog.Table{OID: r.oid, Kind: r.tableKind(), Schema: r.schema, Name: r.name, Persistence: string(r.persistence),
			Columns: []catalog.Text{}, LoadThrough: s.through[r.oid]}
		if tables[i].Kind == catalog.KindExtensionConfig {
			tables[i].Extension, tables[i].Condition = r.extension, r.condition
		}
	}
	rows, err := s.leader.Query(ctx, `
select c.oid, pg_catalog.pg_get_userbyid(c.relowner), a.amname::text,
       coalesce(nullif(c.reltablespace, 0), (select dattablespace from pg_catalog.pg_database where datname = current_database())),
       coalesce(pg_catalog.pg_relation_filenode(c.oid), 0),
       coalesce(pg_catalog.pg_relation_size(c.oid, 'main') / current_setting('block_size')::int, 0)
from pg_catalog.pg_class c join pg_catalog.pg_am a on a.oid = c.relam
where c.oid = any ($1::oid[])`, oids)
	if err != nil {
		return nil, s.explain(err)
	}
	var oid, tablespace, file catalog.OID
	var owner catalog.Text
	var method string
	var blocks int64
	found := 0
	_, err = pgx.ForEachRow(rows, []any{&oid, &owner, &method, &tablespace, &file, &blocks}, func() error {
		found++
		table := &tables[index[oid]]
		table.Owner, table.AccessMethod, table.Tablespace, table.RelFileNode = owner, method, tablespace, file
		table.Blocks = uint32(blocks)
		return nil
	})
	if err != nil {
		return nil, s.explain(err)
	}
	if found != len(batch) {
		return nil, fmt.Errorf("%d of %d tables are in the catalogs of their own snapshot", found, len(batch))
	}
	foreign, err := tablesWithForeignExpressions(ctx, s.leader, oids)
	if err != nil {
		return nil, s.explain(err)
	}
	for _, oid := range foreign {
		// The condition of an extension's table needs a query; extensions are installed by the server's administrators.
		if table := &tables[index[oid]]; table.Kind != catalog.KindExtensionConfig {
			table.ReadWhole = true
		}
	}
	attributes, err := loadAttributes(ctx, s.leader, oids)
	if err != nil {
		return nil, s.explain(err)
	}
	var wanted []catalog.OID
	for i := range tables {
		table := &tables[i]
		table.Shape.Attributes = attributes[table.OID]
		for _, attribute := range table.Shape.Attributes {
			if attribute.Dropped {
				continue
			}
			wanted = append(wanted, attribute.Type)
			if attribute.Generated == "" {
				table.Columns = append(table.Columns, attribute.Name)
			}
		}
	}
	if err := types.load(ctx, s.leader, wanted); err != nil {
		return nil, s.explain(err)
	}
	for i := range tables {
		shape := &tables[i].Shape
		if shape.Attributes == nil {
			shape.Attributes = []catalog.Attribute{}
		}
		shape.Types, shape.Unstable = types.reached(shape.Attributes)
	}
	types.forget()
	return tables, nil
}

// loadAttributes returns the attributes of relations by relation, ascending by number, dropped ones included.
func loadAttributes(ctx context.Context, conn *pgx.Conn, relations []uint32) (map[catalog.OID][]catalog.Attribute, error) {
	rows, err := conn.Query(ctx, `
select attrelid, attnum, attname, atttypid, atttypmod, attisdropped, attgenerated::text,
       case when atthasmissing then attmissingval::text end, attcollation
from pg_catalog.pg_attribute where attrelid = any ($1::oid[]) and attnum > 0 order by attrelid, attnum`, relations)
	if err != nil {
		return nil, err
	}
	attributes := map[catalog.OID][]catalog.Attribute{}
	var relation catalog.OID
	var a catalog.Attribute
	var missing *string
	_, err = pgx.ForEachRow(rows, []any{&relation, &a.Number, &a.Name, &a.Type, &a.TypeMod, &a.Dropped, &a.Generated, &missing, &a.Collation}, func() error {
		attribute := a
		if missing != nil {
			text := catalog.Text(*missing)
			attribute.Missing = &text
		}
		attributes[relation] = append(attributes[relation], attribute)
		return nil
	})
	return attributes, err
}

// typeLoader reads the shapes of types and of all that they reach. It keeps those of the server itself, and those of
// the database until forget.
type typeLoader struct {
	types map[catalog.OID]typeEntry
}

type typeEntry struct {
	shape    catalog.TypeShape
	next     []catalog.OID // types reached directly
	unstable bool
}

func newTypeLoader() *typeLoader { return &typeLoader{types: map[catalog.OID]typeEntry{}} }

// load makes the given types, and all that they reach, known: one round of queries per level of nesting.
func (l *typeLoader) load(ctx context.Context, conn *pgx.Conn, wanted []catalog.OID) error {
	for {
		var missing []uint32
		for _, oid := range wanted {
			if _, known := l.types[oid]; !known && oid != 0 {
				missing = append(missing, uint32(oid))
			}
		}
		if len(missing) == 0 {
			return nil
		}
		slices.Sort(missing)
		missing = slices.Compact(missing)
		var err error
		if wanted, err = l.loadLevel(ctx, conn, missing); err != nil {
			return err
		}
	}
}

func (l *typeLoader) loadLevel(ctx context.Context, conn *pgx.Conn, oids []uint32) (next []catalog.OID, err error) {
	rows, err := conn.Query(ctx, `
select t.oid, n.nspname, t.typname, t.typtype::text, t.typrelid,
       case t.typtype when 'd' then t.typbasetype when 'r' then coalesce(r.rngsubtype, 0) when 'm' then coalesce(m.rngtypid, 0) else t.typelem end,
       coalesce(e.extname || ' ' || e.extversion, '')
from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace
left join pg_catalog.pg_range r on t.typtype = 'r' and r.rngtypid = t.oid
left join pg_catalog.pg_range m on t.typtype = 'm' and m.rngmultitypid = t.oid
left join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_type'::regclass and d.objid = t.oid and d.deptype = 'e'
     and d.refclassid = 'pg_catalog.pg_extension'::regclass
left join pg_catalog.pg_extension e on e.oid = d.refobjid
where t.oid = any ($1::oid[])`, oids)
	if err != nil {
		return nil, err
	}
	var shape catalog.TypeShape
	var relation catalog.OID
	composites := map[catalog.OID]catalog.OID{} // relation to type
	var enums []uint32
	_, err = pgx.ForEachRow(rows, []any{&shape.OID, &shape.Schema, &shape.Name, &shape.Kind, &relation, &shape.Base, &shape.Extension}, func() error {
		entry := typeEntry{shape: shape, unstable: unstable(shape)}
		if shape.Base != 0 {
			entry.next = append(entry.next, shape.Base)
		}
		if relation != 0 {
			composites[relation] = shape.OID
		}
		if shape.Kind == "e" {
			enums = append(enums, uint32(shape.OID))
		}
		l.types[shape.OID] = entry
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(composites) > 0 {
		relations := make([]uint32, 0, len(composites))
		for relation := range composites {
			relations = append(relations, uint32(relation))
		}
		attributes, err := loadAttributes(ctx, conn, relations)
		if err != nil {
			return nil, err
		}
		for relation, oid := range composites {
			entry := l.types[oid]
			entry.shape.Attributes = attributes[relation]
			for _, attribute := range entry.shape.Attributes {
				if !attribute.Dropped {
					entry.next = append(entry.next, attribute.Type)
				}
			}
			l.types[oid] = entry
		}
	}
	if len(enums) > 0 {
		rows, err := conn.Query(ctx, `
select enumtypid, oid, enumlabel from pg_catalog.pg_enum where enumtypid = any ($1::oid[]) order by enumtypid, enumsortorder`, enums)
		if err != nil {
			return nil, err
		}
		var owner catalog.OID
		var label catalog.EnumLabel
		_, err = pgx.ForEachRow(rows, []any{&owner, &label.OID, &label.Label}, func() error {
			entry := l.types[owner]
			entry.shape.Labels = append(entry.shape.Labels, label)
			l.types[owner] = entry
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	for _, oid := range oids {
		entry, found := l.types[catalog.OID(oid)]
		if !found {
			return nil, fmt.Errorf("type %d is used and does not exist", oid)
		}
		next = append(next, entry.next...)
	}
	return next, nil
}

// unstable says whether a type prints what other catalogs say: object and role names.
func unstable(shape catalog.TypeShape) bool {
	return shape.Schema == "pg_catalog" && (shape.Name == "aclitem" || strings.HasPrefix(string(shape.Name), "reg"))
}

// reached returns the shapes of all types that the attributes reach, ascending by oid, and the first unstable one.
func (l *typeLoader) reached(attributes []catalog.Attribute) ([]catalog.TypeShape, catalog.Text) {
	visited := map[catalog.OID]bool{}
	var visit func(catalog.OID)
	visit = func(oid catalog.OID) {
		if visited[oid] {
			return
		}
		visited[oid] = true
		for _, next := range l.types[oid].next {
			visit(next)
		}
	}
	for _, attribute := range attributes {
		if !attribute.Dropped {
			visit(attribute.Type)
		}
	}
	shapes := make([]catalog.TypeShape, 0, len(visited))
	for oid := range visited {
		shapes = append(shapes, l.types[oid].shape)
	}
	sort.Slice(shapes, func(i, j int) bool { return shapes[i].OID < shapes[j].OID })
	for _, shape := range shapes {
		if l.types[shape.OID].unstable {
			return shapes, shape.Name
		}
	}
	return shapes, ""
}

// forget drops the types that the server did not bring along, of which a database may have any number.
func (l *typeLoader) forget() {
	for oid := range l.types {
		if oid >= 16384 {
			delete(l.types, oid)
		}
	}
}

// loadThrough returns, for each leaf of a partitioned tree that has to be loaded through its root, that root: the trees
// with a level partitioned by hash where a key's hash is made of oids, which are others after a restore. pg_dump knows
// the case of enums (its --load-via-partition-root, forced for "unsafe partitions"); containers of enums and the reg* types
// hash the same way.
func loadThrough(ctx context.Context, conn *pgx.Conn) (map[catalog.OID]catalog.OID, error) {
	// Operator classes for pseudo types hash what their key holds: of an expression nothing more is known.
	rows, err := conn.Query(ctx, `
select p.partrelid,
       array(select a.atttypid from pg_catalog.pg_attribute a where a.attrelid = p.partrelid and a.attnum = any (p.partattrs::int2[])),
       0 = any (p.partattrs::int2[]) and exists (
         select from pg_catalog.pg_opclass o where o.oid = any (p.partclass::oid[])
         and o.opcintype in ('anyenum'::regtype, 'anyarray'::regtype, 'anyrange'::regtype, 'anymultirange'::regtype, 'record'::regtype, 'oid'::regtype))
from pg_catalog.pg_partitioned_table p where p.partstrat = 'h'`)
	if err != nil {
		return nil, fmt.Errorf("look for partitions by hash: %w", ServerError(err))
	}
	type hashed struct {
		relation catalog.OID
		types    []catalog.OID
		doubtful bool
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (hashed, error) {
		var h hashed
		var types []uint32
		err := row.Scan(&h.relation, &types, &h.doubtful)
		for _, oid := range types {
			h.types = append(h.types, catalog.OID(oid))
		}
		return h, err
	})
	if err != nil {
		return nil, fmt.Errorf("look for partitions by hash: %w", ServerError(err))
	}
	types := newTypeLoader()
	var unsafe []uint32
	for _, h := range list {
		if err := types.load(ctx, conn, h.types); err != nil {
			return nil, fmt.Errorf("look for partitions by hash: %w", ServerError(err))
		}
		keys := make([]catalog.Attribute, len(h.types))
		for i, oid := range h.types {
			keys[i].Type = oid
		}
		shapes, other := types.reached(keys)
		if h.doubtful || other != "" || slices.ContainsFunc(shapes, func(t catalog.TypeShape) bool { return t.Kind == "e" }) {
			unsafe = append(unsafe, uint32(h.relation))
		}
	}
	through := map[catalog.OID]catalog.OID{}
	if len(unsafe) == 0 {
		return through, nil
	}
	rows, err = conn.Query(ctx, `
with recursive up as (
  select u.oid from unnest($1::oid[]) u (oid)
  union
  select i.inhparent from up join pg_catalog.pg_inherits i on i.inhrelid = up.oid join pg_catalog.pg_class c on c.oid = i.inhparent and c.relkind = 'p'),
roots as (select oid from up where not exists (select from pg_catalog.pg_inherits i where i.inhrelid = up.oid)),
down as (
  select oid as root, oid from roots
  union
  select down.root, i.inhrelid from down join pg_catalog.pg_inherits i on i.inhparent = down.oid)
select down.root, down.oid from down join pg_catalog.pg_class c on c.oid = down.oid where c.relkind = 'r'`, unsafe)
	if err != nil {
		return nil, fmt.Errorf("look for partitions by hash: %w", ServerError(err))
	}
	var root, leaf catalog.OID
	if _, err = pgx.ForEachRow(rows, []any{&root, &leaf}, func() error { through[leaf] = root; return nil }); err != nil {
		return nil, fmt.Errorf("look for partitions by hash: %w", ServerError(err))
	}
	return through, nil
}

// tablesWithForeignExpressions returns those of the tables that have an index or a statistics object whose expressions or predicate
// depend on a function or an operator that is not PostgreSQL's own. The planner evaluates the constant parts of such
// expressions, with the rights of whoever asks, whatever the query: only a plain COPY of the table plans nothing.
func tablesWithForeignExpressions(ctx context.Context, conn *pgx.Conn, oids []uint32) ([]catalog.OID, error) {
	rows, err := conn.Query(ctx, `
select distinct o.relation from (
    select indrelid as relation, 'pg_catalog.pg_class'::pg_catalog.regclass as class, indexrelid as object from pg_catalog.pg_index
    where indrelid = any ($1::oid[]) and (indexprs is not null or indpred is not null)
    union all
    select stxrelid, 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass, oid from pg_catalog.pg_statistic_ext
    where stxrelid = any ($1::oid[]) and stxexprs is not null) o
join pg_catalog.pg_depend d on d.classid = o.class and d.objid = o.object
where d.refclassid in ('pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass)
  and d.refobjid >= 16384 -- FirstNormalObjectId: below are PostgreSQL's own
order by 1`, oids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[catalog.OID])
}
