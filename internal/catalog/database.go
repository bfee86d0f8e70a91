package catalog

// Database is what is recorded once per snapshot of the database itself.
type Database struct {
	SystemIdentifier string `json:"system_identifier"`
	OID              OID    `json:"oid"`
	Name             Text   `json:"name"`
	// ServerVersion is server_version_num, for instance 170011.
	ServerVersion int `json:"server_version_num"`
	// BlockSize is the server's block_size in bytes. Large objects are kept in pages of a quarter of it.
	BlockSize int `json:"block_size"`
	// Encoding is the server encoding's name, for instance UTF8. All Text of the snapshot and all rows are in it.
	Encoding         string `json:"encoding"`
	LocaleProvider   string `json:"locale_provider"` // libc, icu or builtin
	Collate          Text   `json:"collate"`
	CType            Text   `json:"ctype"`
	Locale           Text   `json:"locale,omitempty"` // of icu and builtin
	ICURules         Text   `json:"icu_rules,omitempty"`
	CollationVersion Text   `json:"collation_version,omitempty"`
	// Tablespace is the database's own default tablespace; Tablespaces are the others that its relations are placed in
	// by name, ascending.
	Tablespace  Text   `json:"tablespace"`
	Tablespaces []Text `json:"tablespaces,omitempty"`
	Owner       Text   `json:"owner"`
	// Grants is nil where the database has the default privileges.
	Grants           []Grant         `json:"grants"`
	Comment          *Text           `json:"comment,omitempty"`
	SecurityLabels   []SecurityLabel `json:"security_labels,omitempty"`
	ConnectionLimit  int             `json:"connection_limit"`
	AllowConnections bool            `json:"allow_connections"`
	IsTemplate       bool            `json:"is_template"`
	// Settings are those of ALTER DATABASE ... SET and ALTER ROLE ... IN DATABASE ... SET.
	Settings     []Setting     `json:"settings"`
	Extensions   []Extension   `json:"extensions"`
	Roles        []Role        `json:"roles"`
	UserMappings []UserMapping `json:"user_mappings,omitempty"`
	// Languages, foreign servers and all other definitions are in the schema archive.
}

// Grant is one item of an access control list.
type Grant struct {
	Grantor Text `json:"grantor"`
	// Grantee is empty for PUBLIC; Public says so, since a role's name may not be empty.
	Grantee   Text   `json:"grantee,omitempty"`
	Public    bool   `json:"public,omitempty"`
	Privilege string `json:"privilege"`
	Grantable bool   `json:"grantable,omitempty"`
}

// SecurityLabel is a row of pg_seclabel or pg_shseclabel.
type SecurityLabel struct {
	Provider Text `json:"provider"`
	Label    Text `json:"label"`
}

// Setting is one configuration parameter set for the database, or for one role in it.
type Setting struct {
	// Role is empty for a setting of the database itself.
	Role  Text `json:"role,omitempty"`
	Name  Text `json:"name"`
	Value Text `json:"value"`
}

// Extension is an installed extension. pg_dump does not record versions.
type Extension struct {
	Name    Text `json:"name"`
	Version Text `json:"version"`
	Schema  Text `json:"schema"`
}

// Role is a role that this database's objects, grants, policies, default privileges or settings name. Passwords are
// never recorded, nor roles that this database does not refer to: they are other customers' names.
type Role struct {
	Name            Text   `json:"name"`
	Superuser       bool   `json:"superuser,omitempty"`
	Inherit         bool   `json:"inherit,omitempty"`
	CreateRole      bool   `json:"create_role,omitempty"`
	CreateDatabase  bool   `json:"create_database,omitempty"`
	Login           bool   `json:"login,omitempty"`
	Replication     bool   `json:"replication,omitempty"`
	BypassRLS       bool   `json:"bypass_rls,omitempty"`
	ConnectionLimit int    `json:"connection_limit"`
	ValidUntil      Text   `json:"valid_until,omitempty"`
	MemberOf        []Text `json:"member_of,omitempty"` // only roles recorded here, and predefined ones
}

// UserMapping holds the options of a foreign server's user mapping, which pg_dump leaves out without a word unless it
// runs as the mapping's owner or a superuser.
type UserMapping struct {
	Server Text `json:"server"`
	// User is empty for PUBLIC.
	User    Text   `json:"user,omitempty"`
	Options []Text `json:"options"` // name=value
}

// Warning is something a snapshot or a restore could not carry over, or did in another way than asked.
type Warning struct {
	// Code is a stable word, for instance "subscription_not_captured" or "pg_dump".
	Code string `json:"code"`
	// Object names what is concerned; may be empty.
	Object  Text `json:"object,omitempty"`
	Message Text `json:"message"`
}

// Reading records how the rows were read, and all that a later incremental snapshot needs to decide whether blocks of
// this one may be taken over (docs/format.md, section 8.2). Positions that a server could not tell (a standby, a
// missing privilege) are nil.
type Reading struct {
	// SettingsVersion numbers the list of settings pinned while reading (docs/format.md, "Pinned settings").
	SettingsVersion int `json:"settings_version"`
	// XMin and XMax bound the exported snapshot: every transaction with an id below XMin was finished.
	XMin XID `json:"xmin"`
	XMax XID `json:"xmax"`
	// Timeline is that of the WAL written while the snapshot was open; 0 unknown.
	Timeline uint32 `json:"timeline,omitempty"`
	// End is pg_current_wal_insert_lsn() read after the snapshot was opened.
	End *LSN `json:"end_lsn,omitempty"`
	// Marks are checkpoints seen before the snapshot was opened, newest first.
	Marks []Mark `json:"marks,omitempty"`
	// Proof is the checkpoint that began after the snapshot was opened and completed on the connection that still held
	// it. Without it this snapshot can never be a base for reading only changed blocks.
	Proof *Mark `json:"proof,omitempty"`
	// NotBase says why this snapshot cannot be such a base; empty when it can.
	NotBase string `json:"not_base,omitempty"`
}

// Mark is a completed checkpoint: every transaction with an id at or above NextXID writes all of its WAL at or after
// Redo, because a checkpoint fixes its redo pointer first and reads the next id afterwards.
type Mark struct {
	Redo     LSN    `json:"redo_lsn"`
	NextXID  XID    `json:"next_xid"`
	Timeline uint32 `json:"timeline"`
}
