// Package config reads hourvault's configuration file: one YAML file, decoded strictly into one struct. An
// unknown key, a key given twice, a value of the wrong kind and a value that makes no sense are all problems
// that name file, line and key, and all of them are reported together.
//
// It is the only package that reads the environment: it finds the file (HOURVAULT_CONFIG) and reads secrets
// from where the file says they are. Nothing in the file is replaced by environment variables: ${NAME} is
// plain text. The package opens no connection and does not check that a server or a bucket exists.
package config

import (
	"time"
)

// Defaults of keys that the file leaves out.
const (
	// DefaultFile is read when neither --config nor HOURVAULT_CONFIG names a file.
	DefaultFile = "/etc/hourvault/hourvault.yaml"
	// DefaultConnections is the most connections hourvault opens to one server at a time.
	DefaultConnections = 4
	// MinConnections is the least that a snapshot can work with: one session that holds its snapshot and its
	// locks, and one that reads.
	MinConnections = 2
	// DefaultLockTimeout bounds the wait for the locks of a snapshot.
	DefaultLockTimeout = 10 * time.Second
	// DefaultYieldToDDL is how long DDL may wait behind a snapshot's locks before the snapshot gives way.
	DefaultYieldToDDL = 30 * time.Second
	// DefaultLeaseLifetime is how long a run that died keeps others from its workspace; MinLeaseLifetime the least that
	// can be configured, which suits only a store nearby.
	DefaultLeaseLifetime = 60 * time.Second
	MinLeaseLifetime     = time.Second
	// DefaultListen is where the daemon serves its API: on this machine only.
	DefaultListen = "127.0.0.1:8461"
	// DefaultSchedule, DefaultRPO and DefaultDrillEvery complete a policy.
	DefaultSchedule   = "@hourly"
	DefaultRPO        = 2 * time.Hour
	DefaultDrillEvery = 7 * 24 * time.Hour
)

// Config is the whole configuration file, checked and with defaults filled in. It is not changed after Load
// and may be read concurrently. It holds no secret except the receivers' addresses, which print as redacted.
type Config struct {
	// File is the path that the configuration was read from.
	File string `yaml:"-"`

	Repository Repository `yaml:"repository"`
	RootKey    RootKey    `yaml:"root_key"`
	// Servers may be empty: listing, verifying and restoring need the repository and the root key alone.
	Servers []Server `yaml:"servers"`
	// Policies in the order of the file: the first whose match fits a workspace applies. Never empty: a file
	// without policies has DefaultPolicy.
	Policies []Policy `yaml:"policies"`
	Alerts   []Alert  `yaml:"alerts"`
	API      API      `yaml:"api"`
	// WitnessFile is an absolute path on this machine where backups write down the newest snapshot of each workspace, and
	// where they and verify look whether the repository became older; empty for none.
	WitnessFile string `yaml:"witness_file"`
}

// Server returns the server of that name.
func (c *Config) Server(name string) (*Server, bool) {
	for i := range c.Servers {
		if c.Servers[i].Name == name {
			return &c.Servers[i], true
		}
	}
	return nil, false
}

// RepositoryKind says where a repository lies.
type RepositoryKind string

// The kinds of repository.
const (
	RepositoryS3        RepositoryKind = "s3"
	RepositoryDirectory RepositoryKind = "file"
)

// SSE is the server-side encryption that is asked of an S3 store, on top of hourvault's own.
type SSE string

// The kinds of server-side encryption. SSENone must be written out for s3:// repositories.
const (
	SSEAES256 SSE = "AES256"
	SSEKMS    SSE = "aws:kms"
	SSENone   SSE = "none"
)

// Checksums says when the S3 client sends checksums of its own.
type Checksums string

// The checksum modes, named as in the AWS SDKs (setting request_checksum_calculation).
const (
	ChecksumsWhenSupported Checksums = "when_supported"
	ChecksumsWhenRequired  Checksums = "when_required"
)

// Repository says where everything is stored.
type Repository struct {
	// URL is s3://BUCKET[/PREFIX] or file:///DIRECTORY as written; Kind, Bucket, Prefix and Directory are
	// what it says. Prefix has no slash at either end and is empty for the whole bucket. Directory is
	// absolute and clean.
	URL       string         `yaml:"url"`
	Kind      RepositoryKind `yaml:"-"`
	Bucket    string         `yaml:"-"`
	Prefix    string         `yaml:"-"`
	Directory string         `yaml:"-"`

	// All that follows is for s3:// only, and empty otherwise.

	// Region and Profile are empty where the SDK's usual chain shall decide.
	Region string `yaml:"region"`
	// Endpoint is http[s]://HOST[:PORT] of an S3-compatible store; empty for AWS.
	Endpoint string `yaml:"endpoint"`
	// PathStyle puts the bucket into the path of a request instead of the host name.
	PathStyle bool `yaml:"path_style"`
	SSE       SSE  `yaml:"sse"`
	// SSEKMSKeyID is set exactly if SSE is aws:kms.
	SSEKMSKeyID string    `yaml:"sse_kms_key_id"`
	Checksums   Checksums `yaml:"checksums"`
	// RoleARN is a role to assume with the credentials found; empty for none.
	RoleARN string `yaml:"role_arn"`
	// CAFile is a PEM file with certificate authorities to trust instead of the system's; empty for those.
	CAFile string `yaml:"ca_file"`
	// Profile is a section of the shared AWS files.
	Profile string `yaml:"profile"`
	// AccessKeyID and SecretAccessKey are given both or not at all; if not, the SDK's usual chain decides.
	AccessKeyID               string    `yaml:"access_key_id"`
	SecretAccessKeyFile       string    `yaml:"secret_access_key_file"`
	SecretAccessKeyEnv        string    `yaml:"secret_access_key_env"`
	SecretAccessKeyCredential string    `yaml:"secret_access_key_credential"`
	SecretAccessKey           SecretRef `yaml:"-"`

	// LeaseLifetime is how long the lease of a run on a workspace counts without having been renewed, which happens four
	// times in that time: how long a run that was killed keeps the next one waiting, and how long the store may fail to
	// answer before a run that is alive is taken for dead. Every run's own lease says how long it counts.
	LeaseLifetime time.Duration `yaml:"lease_lifetime"`
}

func (r *Repository) setDefaults() { r.LeaseLifetime = DefaultLeaseLifetime }

// Checkpoint says how a snapshot gets the checkpoint that proves it.
type Checkpoint string

// The checkpoint modes.
const (
	// CheckpointWait waits for the checkpoints that the server makes anyway.
	CheckpointWait Checkpoint = "wait"
	// CheckpointRequest asks for one, at most once per server and cycle.
	CheckpointRequest Checkpoint = "request"
)

// Server is one PostgreSQL cluster.
type Server struct {
	// Name is unique in the file: 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit.
	Name string `yaml:"name"`
	// DSN is a postgres:// URL or a keyword/value string. It never holds a password.
	DSN string `yaml:"dsn"`
	// At most one of the three is set; Password is where the password is, zero when none is configured (peer
	// authentication, client certificate, password file of libpq).
	PasswordFile       string    `yaml:"password_file"`
	PasswordEnv        string    `yaml:"password_env"`
	PasswordCredential string    `yaml:"password_credential"`
	Password           SecretRef `yaml:"-"`

	Workspaces Workspaces `yaml:"workspaces"`
	// Connections is the most that hourvault opens to this server at a time, at least MinConnections.
	Connections int           `yaml:"connections"`
	LockTimeout time.Duration `yaml:"lock_timeout"`
	YieldToDDL  time.Duration `yaml:"yield_to_ddl"`
	Checkpoint  Checkpoint    `yaml:"checkpoint"`
	// PGBinDirs are absolute directories in which pg_dump and pg_restore are looked for first, in order.
	PGBinDirs []string `yaml:"pg_bin_dirs"`
}

func (s *Server) setDefaults() {
	s.Workspaces.Include = []Pattern{"*"}
	s.Connections = DefaultConnections
	s.LockTimeout = DefaultLockTimeout
	s.YieldToDDL = DefaultYieldToDDL
	s.Checkpoint = CheckpointWait
}

// Workspaces chooses databases of a server by name.
type Workspaces struct {
	// Include defaults to every database.
	Include []Pattern `yaml:"include"`
	Exclude []Pattern `yaml:"exclude"`
}

// Selects reports whether a database of that name is a workspace: some include pattern fits and no exclude
// pattern does.
func (w Workspaces) Selects(database string) bool {
	return matchesAny(w.Include, database) && !matchesAny(w.Exclude, database)
}

// Excludes reports whether a database of that name is left out on purpose.
func (w Workspaces) Excludes(database string) bool { return matchesAny(w.Exclude, database) }

// Policy is schedule, retention, drill interval and objectives for a set of workspaces.
type Policy struct {
	// Name is unique in the file, of the same form as a server's.
	Name string `yaml:"name"`
	// Match holds at least one pattern.
	Match []Pattern `yaml:"match"`
	// Schedule is a cron expression of five fields, or @hourly and its like, or @every DURATION. Only its
	// shape is checked here.
	Schedule string `yaml:"schedule"`
	// RPO is the objective: how old the newest snapshot of a workspace may become.
	RPO   time.Duration `yaml:"rpo"`
	Keep  Keep          `yaml:"keep"`
	Drill Drill         `yaml:"drill"`
}

func (p *Policy) setDefaults() {
	p.Schedule = DefaultSchedule
	p.RPO = DefaultRPO
	p.Drill.Every = DefaultDrillEvery
}

// Keep says how many snapshots are kept: the newest Last, and the newest of each of so many hours, days,
// weeks, months and years.
type Keep struct {
	Last    int `yaml:"last"`
	Hourly  int `yaml:"hourly"`
	Daily   int `yaml:"daily"`
	Weekly  int `yaml:"weekly"`
	Monthly int `yaml:"monthly"`
	Yearly  int `yaml:"yearly"`
}

// DefaultKeep returns what a policy without keep keeps: 48 hours, 30 days, 8 weeks and 12 months.
func DefaultKeep() Keep { return Keep{Hourly: 48, Daily: 30, Weekly: 8, Monthly: 12} }

// Drill says how often a workspace's snapshots are proven by a test restore.
type Drill struct {
	Every time.Duration `yaml:"every"`
}

// DefaultPolicy returns the policy of a file that names none: named "default", for every workspace, with the
// defaults of a policy.
func DefaultPolicy() Policy {
	policy := Policy{Name: "default", Match: []Pattern{"*"}, Keep: DefaultKeep()}
	policy.setDefaults()
	return policy
}

// Alert is a receiver of alerts. Exactly one of the four places holds its address, which often contains a
// token and therefore counts as a secret.
type Alert struct {
	// Name is unique in the file, of the same form as a server's.
	Name          string    `yaml:"name"`
	URL           Secret    `yaml:"url"`
	URLFile       string    `yaml:"url_file"`
	URLEnv        string    `yaml:"url_env"`
	URLCredential string    `yaml:"url_credential"`
	Address       SecretRef `yaml:"-"`
}

// ReadURL returns the receiver's address from wherever it is kept. Errors are *Error.
func (a Alert) ReadURL(environment Environment) (Secret, error) {
	if !a.URL.IsZero() {
		return a.URL, nil
	}
	return a.Address.Read(environment)
}

// API says where the daemon serves health, metrics and status.
type API struct {
	// Listen is HOST:PORT.
	Listen string `yaml:"listen"`
}

func (a *API) setDefaults() { a.Listen = DefaultListen }
