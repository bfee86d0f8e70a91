package demo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// contents is what a database holds, by the quoted name of each table, sequence and materialized view.
type contents struct {
	relations map[string]relation
}

// relation is the rows of one table or the like: how many, and the SHA-256 of what COPY prints of them, in stored order.
type relation struct {
	kind   string
	root   string
	rows   int64
	digest [sha256.Size]byte
}

// contentsSQL prints everything a database holds with COPY, each part after a line with the token TOKEN, its kind, and in
// hexadecimal the names of the relation and of its partition root. psql runs what the query returns, cell by cell. Order
// is that of the heap, save for materialized views, which are refreshed and not restored.
const contentsSQL = `
SET search_path = pg_catalog;
SET synchronize_seqscans = off;
SET max_parallel_workers_per_gather = 0;
SELECT format('COPY (SELECT %L) TO STDOUT', concat_ws(' ', 'TOKEN', kind, encode(convert_to(name, 'UTF8'), 'hex'), encode(convert_to(root, 'UTF8'), 'hex'))), statement
FROM (
	SELECT 'table' AS kind, format('%I.%I', nspname, relname) AS name, format('COPY (SELECT * FROM ONLY %I.%I) TO STDOUT', nspname, relname) AS statement,
		(SELECT format('%I.%I', n.nspname, r.relname) FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace WHERE c.relispartition AND r.oid = pg_partition_root(c.oid)) AS root
	FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind = 'r' AND nspname !~ '^(pg_|information_schema$)'
	UNION ALL
	SELECT 'materialized_view', format('%I.%I', nspname, relname), format('COPY (SELECT * FROM %I.%I AS v ORDER BY v::text COLLATE "C") TO STDOUT', nspname, relname), NULL
	FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind = 'm' AND relispopulated
	UNION ALL
	SELECT 'sequence', format('%I.%I', nspname, relname), format('COPY (SELECT last_value, is_called FROM %I.%I) TO STDOUT', nspname, relname), NULL
	FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind = 'S'
	UNION ALL
	SELECT 'large_objects', 'pages of large objects', 'COPY (SELECT loid, pageno, data FROM pg_largeobject ORDER BY loid, pageno) TO STDOUT', NULL
) AS parts ORDER BY kind, name \gexec
`

// content reads a whole database with psql and COPY: no code of hourvault's is involved.
func (d *demo) content(ctx context.Context, database string) (*contents, error) {
	secret := make([]byte, 16)
	_, _ = rand.Read(secret) // never fails
	token := hex.EncodeToString(secret)
	printed, err := d.psql(ctx, database, strings.ReplaceAll(contentsSQL, "TOKEN", token))
	if err != nil {
		return nil, err
	}
	return readContents(printed, token)
}

// readContents reads what contentsSQL prints. Rows are lines: COPY escapes line breaks within.
func readContents(printed []byte, token string) (*contents, error) {
	found := &contents{relations: map[string]relation{}}
	var (
		name    string
		current relation
		digest  = sha256.New()
	)
	finish := func() {
		if name != "" {
			digest.Sum(current.digest[:0])
			found.relations[name] = current
		}
		digest.Reset()
	}
	for line := range bytes.Lines(printed) {
		if !bytes.HasPrefix(line, []byte(token)) {
			if name != "" {
				current.rows++
				digest.Write(line)
			}
			continue
		}
		finish()
		fields := strings.Fields(string(line))
		if len(fields) < 3 {
			return nil, fmt.Errorf("psql printed %q", line)
		}
		decoded, err := hex.DecodeString(fields[2])
		if err != nil {
			return nil, fmt.Errorf("psql printed the name %q: %w", fields[2], err)
		}
		name, current = string(decoded), relation{kind: fields[1]}
		if len(fields) > 3 {
			if decoded, err = hex.DecodeString(fields[3]); err != nil {
				return nil, fmt.Errorf("psql printed the name %q: %w", fields[3], err)
			}
			current.root = string(decoded)
		}
	}
	finish()
	if len(found.relations) == 0 {
		return nil, fmt.Errorf("psql printed nothing of a database that cannot be empty")
	}
	return found, nil
}

func (c *contents) tables() int {
	count := 0
	for _, found := range c.relations {
		if found.kind == KindTable {
			count++
		}
	}
	return count
}

// rows counts those of tables.
func (c *contents) rows() int64 {
	var count int64
	for _, found := range c.relations {
		if found.kind == KindTable {
			count += found.rows
		}
	}
	return count
}

// difference names up to three relations that differ; "" when all are equal.
func (c *contents) difference(other *contents) string {
	var different []string
	for _, name := range slices.Sorted(maps.Keys(union(c.relations, other.relations))) {
		mine, here := c.relations[name]
		others, there := other.relations[name]
		switch {
		case !there:
			different = append(different, name+" is missing")
		case !here:
			different = append(different, name+" was not there before")
		case mine.rows != others.rows:
			different = append(different, fmt.Sprintf("%s has %d rows instead of %d", name, others.rows, mine.rows))
		case mine != others:
			different = append(different, fmt.Sprintf("%s has %d rows, not all of them the same", name, mine.rows))
		}
	}
	if more := len(different) - 3; more > 0 {
		different = append(different[:3], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(different, ", ")
}

func union(sets ...map[string]relation) map[string]relation {
	all := map[string]relation{}
	for _, one := range sets {
		maps.Copy(all, one)
	}
	return all
}

// compareTables lists everything that was there before or is restored, by kind and name.
func compareTables(before, damaged, restored *contents) []Table {
	rows := func(c *contents, name string) int64 {
		if found, there := c.relations[name]; there {
			return found.rows
		}
		return -1
	}
	var tables []Table
	for name, found := range union(restored.relations, before.relations) {
		mine, here := before.relations[name]
		got, there := restored.relations[name]
		tables = append(tables, Table{
			Name: name, Kind: found.kind, Root: found.root, Before: rows(before, name), Damaged: rows(damaged, name), Restored: rows(restored, name),
			Equal: here && there && mine == got,
		})
	}
	order := []string{KindTable, KindMaterializedView, KindSequence, KindLargeObjects}
	slices.SortFunc(tables, func(x, y Table) int {
		return cmp.Or(slices.Index(order, x.Kind)-slices.Index(order, y.Kind), strings.Compare(x.Name, y.Name))
	})
	return tables
}

// dumpDifference describes the first line in which two dumps differ; "" when they are equal.
func dumpDifference(want, got []byte) string {
	if bytes.Equal(want, got) {
		return ""
	}
	wantLines, gotLines := bytes.Split(want, []byte("\n")), bytes.Split(got, []byte("\n"))
	for i := range max(len(wantLines), len(gotLines)) {
		line := func(lines [][]byte) []byte {
			if i < len(lines) {
				return lines[i]
			}
			return nil
		}
		if w, g := line(wantLines), line(gotLines); !bytes.Equal(w, g) {
			return fmt.Sprintf("pg_dump differs first in line %d: %.100q instead of %.100q", i+1, g, w)
		}
	}
	return "pg_dump differs"
}
