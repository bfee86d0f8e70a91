package catalog

// TableKind says how a table's rows are read and put back.
type TableKind string

const (
	// KindTable is an ordinary table, or a leaf of a partitioned or inherited one: emptied and loaded whole.
	KindTable TableKind = "table"
	// KindExtensionConfig is a table that belongs to an extension and was marked by pg_extension_config_dump: only the
	// rows that Condition selects are stored, and they are appended without emptying the table first, because
	// CREATE EXTENSION has already filled it with rows of its own.
	KindExtensionConfig TableKind = "extension_config"
	// KindLargeObjects is pg_catalog.pg_largeobject: the columns are loid, pageno, data.
	KindLargeObjects TableKind = "large_objects"
)

// HeapAccessMethod is the access method whose ctids are heap blocks. Tables of any other are read as one stream.
const HeapAccessMethod = "heap"

// Table describes one relation whose rows a snapshot holds.
type Table struct {
	OID    OID       `json:"oid"`
	Kind   TableKind `json:"kind"`
	Schema Text      `json:"schema"`
	Name   Text      `json:"name"`
	Owner  Text      `json:"owner"`
	// Persistence is pg_class.relpersistence: "p" or "u" (unlogged).
	Persistence string `json:"persistence"`
	// AccessMethod is the name in pg_am.
	AccessMethod string `json:"access_method"`
	// Columns are the columns read, and loaded again, in this order: the live ones that are not generated, by
	// attribute number. May be empty.
	Columns []Text   `json:"columns"`
	Shape   RowShape `json:"shape"`
	// Tablespace is the resolved one: the database's where pg_class.reltablespace is 0.
	Tablespace OID `json:"tablespace"`
	// RelFileNode is pg_relation_filenode() seen after the table was locked.
	RelFileNode OID `json:"relfilenode"`
	// Blocks is the number of blocks in the main fork when the snapshot was open; blocks beyond hold no visible row.
	Blocks uint32 `json:"blocks"`
	// ReadWhole says that planning a query on the table would run functions that are not PostgreSQL's own, because an index or
	// statistics object has expressions that call them: so the rows were read by a plain COPY of the table, without ctids.
	ReadWhole bool `json:"read_whole,omitempty"`
	// LoadThrough is the partitioned root through which rows must be loaded, 0 for none: a hash partition's rows may
	// belong into another partition where enum values have other oids.
	LoadThrough OID `json:"load_through,omitempty"`
	// Extension and Condition are set for KindExtensionConfig; Condition starts with WHERE or is empty.
	Extension Text `json:"extension,omitempty"`
	Condition Text `json:"condition,omitempty"`
}

// HasBlocks says whether the rows can be read, and stored, by heap block; otherwise they are one stream.
func (t *Table) HasBlocks() bool { return t.AccessMethod == HeapAccessMethod && !t.ReadWhole }

// StoredTable is a table with what a snapshot holds of its rows.
type StoredTable struct {
	Table
	// Rows is the number of rows stored, Bytes that of their COPY text, line feeds included.
	Rows  int64 `json:"rows"`
	Bytes int64 `json:"bytes"`
}

// RowShape is everything in the catalogs that decides how stored tuples turn into row text, apart from the settings
// pinned for reading. Two snapshots' rows may be compared by block only under equal shapes: an equal schema archive does
// not mean equal row text.
type RowShape struct {
	Attributes []Attribute `json:"attributes"`
	// Types are all types reached from the attributes through arrays, domains, ranges, multiranges and composites,
	// ascending by OID, each once.
	Types []TypeShape `json:"types"`
	// Unstable names a type that was reached and whose text depends on other catalogs (reg*, aclitem); empty when none.
	Unstable Text `json:"unstable,omitempty"`
}

// Attribute is a row of pg_attribute with attnum > 0, dropped ones included.
type Attribute struct {
	Number    int16  `json:"number"`
	Name      Text   `json:"name"`
	Type      OID    `json:"type"`
	TypeMod   int32  `json:"typmod"`
	Dropped   bool   `json:"dropped,omitempty"`
	Generated string `json:"generated,omitempty"`
	// Missing is attmissingval as text when atthasmissing is set.
	Missing *Text `json:"missing,omitempty"`
	// Collation is attcollation.
	Collation OID `json:"collation,omitempty"`
}

// TypeShape is a type that takes part in a table's rows.
type TypeShape struct {
	OID    OID  `json:"oid"`
	Schema Text `json:"schema"`
	Name   Text `json:"name"`
	// Kind is pg_type.typtype: b, c, d, e, m, p, r.
	Kind string `json:"kind"`
	// Base is the element, base, or subtype reached from this one; 0 for none.
	Base       OID         `json:"base,omitempty"`
	Attributes []Attribute `json:"attributes,omitempty"`
	Labels     []EnumLabel `json:"labels,omitempty"`
	// Extension is "name version" of the extension that the type belongs to.
	Extension Text `json:"extension,omitempty"`
}

// EnumLabel is a row of pg_enum.
type EnumLabel struct {
	OID   OID  `json:"oid"`
	Label Text `json:"label"`
}

// Sequence is a sequence's state. It is read after the snapshot was opened, so that it is never behind the rows.
type Sequence struct {
	OID       OID   `json:"oid"`
	Schema    Text  `json:"schema"`
	Name      Text  `json:"name"`
	LastValue int64 `json:"last_value,string"`
	LogCount  int64 `json:"log_cnt"`
	IsCalled  bool  `json:"is_called"`
	// Increment is known while reading only; the schema archive holds it.
	Increment int64 `json:"-"`
	// Extension names the extension that the sequence belongs to, for sequences marked as its configuration.
	Extension Text `json:"extension,omitempty"`
}

// Behind says whether s would give numbers again that earlier, a state of the same sequence, has given.
func (s *Sequence) Behind(earlier Sequence) bool {
	if s.LastValue == earlier.LastValue {
		return earlier.IsCalled && !s.IsCalled
	}
	return (s.LastValue < earlier.LastValue) == (s.Increment > 0)
}

// MaterializedView says whether a materialized view held rows. Views come back refreshed, in dependency order.
type MaterializedView struct {
	OID       OID  `json:"oid"`
	Schema    Text `json:"schema"`
	Name      Text `json:"name"`
	Populated bool `json:"populated"`
}

// LargeObject is the metadata of one large object; its pages are rows of the table of KindLargeObjects.
type LargeObject struct {
	OID    OID             `json:"oid"`
	Owner  Text            `json:"owner"`
	Grants []Grant         `json:"grants"` // nil: the default privileges
	Note   *Text           `json:"comment,omitempty"`
	Labels []SecurityLabel `json:"security_labels,omitempty"`
}
