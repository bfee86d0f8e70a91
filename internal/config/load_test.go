package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// environment is one of variables and files that are readable by their owner alone. Paths are absolute.
func environment(variables map[string]string, files map[string]string) Environment {
	tree := fstest.MapFS{}
	for path, content := range files {
		tree[strings.TrimPrefix(path, "/")] = &fstest.MapFile{Data: []byte(content), Mode: 0o600}
	}
	return Environment{
		LookupEnv: func(name string) (string, bool) {
			value, found := variables[name]
			return value, found
		},
		Open: func(path string) (fs.File, error) { return tree.Open(strings.TrimPrefix(path, "/")) },
	}
}

func load(t testing.TB, content string) (*Config, error) {
	t.Helper()
	return Load("/h.yaml", environment(nil, map[string]string{"/h.yaml": content}))
}

// minimal is the shortest useful file; cases append to it.
const minimal = `repository:
  url: file:///var/lib/hourvault
root_key: file:///etc/hourvault/root.key
`

func TestMinimalFileGetsTheDocumentedDefaults(t *testing.T) {
	config, err := load(t, minimal+`servers:
  - name: eu-1
    dsn: host=/run/postgresql user=hourvault
alerts:
  - name: ops
    url: alertmanager+https://alerts.internal
`)
	if err != nil {
		t.Fatal(err)
	}
	r := config.Repository
	if r.Kind != RepositoryDirectory || r.Directory != "/var/lib/hourvault" || r.SSE != SSENone {
		t.Errorf("repository: got %+v", r)
	}
	if config.RootKey.Kind != RootKeyFile || config.RootKey.Path != "/etc/hourvault/root.key" {
		t.Errorf("root key: got %+v", config.RootKey)
	}
	s, found := config.Server("eu-1")
	if !found {
		t.Fatal("server eu-1 not found")
	}
	if s.Connections != 4 || s.LockTimeout != 10*time.Second || s.YieldToDDL != 30*time.Second || s.Checkpoint != CheckpointWait {
		t.Errorf("server defaults: got %+v", s)
	}
	if !s.Workspaces.Selects("anything") || !s.Password.IsZero() {
		t.Errorf("server defaults: got workspaces %v, password %v", s.Workspaces, s.Password)
	}
	if want := []Policy{DefaultPolicy()}; !reflect.DeepEqual(config.Policies, want) {
		t.Errorf("policies: got %+v, want %+v", config.Policies, want)
	}
	if config.Repository.LeaseLifetime != DefaultLeaseLifetime {
		t.Errorf("repository.lease_lifetime: got %s", config.Repository.LeaseLifetime)
	}
	if config.API.Listen != DefaultListen {
		t.Errorf("api.listen: got %q", config.API.Listen)
	}
	if config.WitnessFile != "" {
		t.Errorf("witness_file: got %q", config.WitnessFile)
	}
	if _, found := config.Server("eu-2"); found {
		t.Error("server eu-2 was found")
	}
}

func TestEveryValueArrives(t *testing.T) {
	config, err := load(t, `repository:
  url: s3://acme-backups/prod/eu/
  region: eu-central-1
  endpoint: https://s3.example.net:9000
  path_style: true
  sse: aws:kms
  sse_kms_key_id: alias/hourvault
  checksums: when_required
  role_arn: arn:aws:iam::111122223333:role/hourvault
  ca_file: /etc/ca.pem
  access_key_id: AKIA
  secret_access_key_file: /run/s3
  lease_lifetime: 5m
root_key: credential:root
servers:
  - name: eu-1
    dsn: postgres://hourvault@a,b/postgres?target_session_attrs=primary
    password_env: PW
    workspaces: { include: ["ws_*", "2024"], exclude: [ws_test] }
    connections: 2
    lock_timeout: 5s
    yield_to_ddl: 1m
    checkpoint: request
    pg_bin_dirs: [/usr/lib/postgresql/18/bin]
policies:
  - name: gold
    match: ["ws_a*"]
    schedule: 15 * * * *
    rpo: 90m
    keep: { last: 3, yearly: 2 }
    drill: { every: 1d }
  - name: rest
    match: ["*"]
alerts:
  - { name: ops, url_credential: alerts }
api: { listen: "[::1]:9000" }
witness_file: /var/lib/hourvault/witness.json
`)
	if err != nil {
		t.Fatal(err)
	}
	r := config.Repository
	if r.Kind != RepositoryS3 || r.Bucket != "acme-backups" || r.Prefix != "prod/eu" || r.Region != "eu-central-1" || r.Endpoint != "https://s3.example.net:9000" ||
		!r.PathStyle || r.SSE != SSEKMS || r.SSEKMSKeyID != "alias/hourvault" || r.Checksums != ChecksumsWhenRequired || r.RoleARN == "" || r.CAFile != "/etc/ca.pem" ||
		r.AccessKeyID != "AKIA" || r.SecretAccessKey.String() != "file /run/s3" || r.LeaseLifetime != 5*time.Minute {
		t.Errorf("repository: got %+v", r)
	}
	if config.RootKey.Kind != RootKeyCredential || config.RootKey.String() != "credential:root" {
		t.Errorf("root key: got %+v", config.RootKey)
	}
	s := config.Servers[0]
	if s.Password.String() != "environment variable PW" || s.Connections != 2 || s.LockTimeout != 5*time.Second || s.YieldToDDL != time.Minute ||
		s.Checkpoint != CheckpointRequest || !reflect.DeepEqual(s.PGBinDirs, []string{"/usr/lib/postgresql/18/bin"}) {
		t.Errorf("server: got %+v", s)
	}
	for name, want := range map[string]bool{"ws_1": true, "2024": true, "ws_test": false, "other": false} {
		if got := s.Workspaces.Selects(name); got != want {
			t.Errorf("Selects(%q) = %t, want %t", name, got, want)
		}
	}
	if !s.Workspaces.Excludes("ws_test") || s.Workspaces.Excludes("other") {
		t.Error("Excludes: only ws_test is left out on purpose")
	}
	gold := config.Policies[0]
	if gold.Schedule != "15 * * * *" || gold.RPO != 90*time.Minute || gold.Keep != (Keep{Last: 3, Yearly: 2}) || gold.Drill.Every != 24*time.Hour {
		t.Errorf("policy gold: got %+v", gold)
	}
	if rest := config.Policies[1]; rest.Schedule != DefaultSchedule || rest.RPO != DefaultRPO || rest.Keep != DefaultKeep() || rest.Drill.Every != DefaultDrillEvery {
		t.Errorf("policy rest: got %+v", rest)
	}
	if config.Alerts[0].Address.String() != "systemd credential alerts" || config.API.Listen != "[::1]:9000" {
		t.Errorf("alerts and api: got %+v %+v", config.Alerts, config.API)
	}
	if config.WitnessFile != "/var/lib/hourvault/witness.json" {
		t.Errorf("witness_file: got %q", config.WitnessFile)
	}
}

func TestSectionWithEverythingCommentedOutCountsAsLeftOut(t *testing.T) {
	config, err := load(t, minimal+"servers:\n  # - name: x\npolicies:\nalerts: ~\napi:\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(config.Servers) != 0 || len(config.Policies) != 1 || config.API.Listen != DefaultListen {
		t.Errorf("got %+v", config)
	}
}

func TestNothingIsSubstitutedInTheFile(t *testing.T) {
	environment := environment(map[string]string{"DB": "secret-host"}, map[string]string{"/h.yaml": minimal + "servers:\n  - name: a\n    dsn: host=${DB}\n"})
	config, err := Load("/h.yaml", environment)
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Servers[0].DSN; got != "host=${DB}" {
		t.Errorf("dsn: got %q, want it as written", got)
	}
}

const s3 = `repository:
  url: s3://acme-backups/prod
  sse: AES256
root_key: env:ROOT
`

const server = minimal + `servers:
  - name: a
    dsn: host=x
`

// badFile is a file that must be refused, with the exact text of the refusal.
type badFile struct{ content, want string }

func badFiles() map[string]badFile {
	return map[string]badFile{
		"empty file": {"", `/h.yaml:1: repository.url: is required: write s3://BUCKET/PREFIX or file:///DIRECTORY
/h.yaml:1: root_key: is required: write file:///etc/hourvault/root.key, credential:NAME or env:NAME`},
		"a text":               {"hello\n", `/h.yaml:1: must hold keys such as repository: and servers:, is text`},
		"a list":               {"# x\n- a\n", `/h.yaml:2: must hold keys such as repository: and servers:, is a list`},
		"two documents":        {minimal + "---\na: b\n", `/h.yaml:5: begins a second document: the file must be one document, without ---`},
		"not UTF-8":            {minimal + "servers: \xff\n", `/h.yaml:4: is not valid UTF-8 here: save the file as UTF-8`},
		"syntax":               {minimal + "servers: \"x\n", `/h.yaml:4: is not valid YAML: could not find end character of double-quoted text`},
		"tab":                  {minimal + "\tapi: x\n", `/h.yaml:4: is indented with a tab: use spaces`},
		"star not quoted":      {server + "    workspaces: { include: [*] }\n", `/h.yaml:7: is not valid YAML: unexpected scalar value type (a pattern that begins with * must be in quotes: "*")`},
		"star as alias":        {server + "    workspaces:\n      include:\n        - *ws\n", `/h.yaml:9: servers[0].workspaces.include[0]: uses a YAML anchor or alias, which is not supported: write the value itself; a pattern that begins with * must be in quotes`},
		"anchor":               {"repository: &r\n  url: file:///x\nroot_key: env:R\n", `/h.yaml:1: repository: uses a YAML anchor or alias, which is not supported: write the value itself; a pattern that begins with * must be in quotes`},
		"tag":                  {server + "    connections: !!int 4\n", `/h.yaml:7: servers[0].connections: uses a YAML tag, which is not supported: write the value without it`},
		"merge key":            {server + "    <<: {connections: 4}\n", `/h.yaml:7: servers[0]."<<": is no plain key: anchors, aliases, merge keys and complex keys are not supported`},
		"unknown section":      {minimal + "server: []\n", `/h.yaml:4: server: unknown key: did you mean servers?`},
		"unknown key":          {server + "    frobnicate: 1\n", `/h.yaml:7: servers[0].frobnicate: unknown key`},
		"misspelt key":         {server + "    conections: 4\n", `/h.yaml:7: servers[0].conections: unknown key: did you mean connections?`},
		"odd key":              {server + "    \"a\\e[31m\": 4\n", `/h.yaml:7: servers[0]."a\x1b[31m": unknown key`},
		"inline password":      {server + "    password: hunter2\n", `/h.yaml:7: servers[0].password: unknown key: a secret is never written in this file; use password_file, password_env or password_credential`},
		"unknown at the end":   {s3 + "servers: []\napi: {}\nalerts: []\npolicies: []\nx: 1\n", `/h.yaml:9: x: unknown key`},
		"duplicate key":        {server + "    connections: 4\n    connections: 5\n", `/h.yaml:8: servers[0].connections: is given twice, first in line 7`},
		"duplicate section":    {minimal + "root_key: env:X\n", `/h.yaml:4: root_key: is given twice, first in line 3`},
		"no value":             {server + "    connections:\n", `/h.yaml:7: servers[0].connections: has no value: give it one or remove the key`},
		"empty entry":          {minimal + "servers:\n  -\n", `/h.yaml:5: servers[0]: is empty: give it a value or remove the dash`},
		"number for text":      {server + "    workspaces: { include: [2024] }\n", `/h.yaml:7: servers[0].workspaces.include[0]: must be text, is the number 2024: put it in quotes`},
		"bool for text":        {minimal + "servers:\n  - name: true\n    dsn: host=x\n", `/h.yaml:5: servers[0].name: must be text, is true: put it in quotes`},
		"list for text":        {minimal + "servers:\n  - name: [a]\n    dsn: host=x\n", `/h.yaml:5: servers[0].name: must be text, is a list`},
		"text for number":      {server + "    connections: four\n", `/h.yaml:7: servers[0].connections: must be a whole number, is text`},
		"fraction":             {server + "    connections: 2.5\n", `/h.yaml:7: servers[0].connections: must be a whole number, is the number 2.5`},
		"huge number":          {server + "    connections: 99999999999\n", `/h.yaml:7: servers[0].connections: is out of range`},
		"number for duration":  {server + "    lock_timeout: 10\n", `/h.yaml:7: servers[0].lock_timeout: must be a duration such as 90s, 30m, 2h or 7d, is the number 10`},
		"bad duration":         {server + "    lock_timeout: 10 minutes\n", `/h.yaml:7: servers[0].lock_timeout: "10 minutes" is not a duration: write a number and a unit, such as 90s, 30m, 2h, 7d or 2w`},
		"negative duration":    {server + "    lock_timeout: -10s\n", `/h.yaml:7: servers[0].lock_timeout: "-10s" must not be negative`},
		"short lease":          {minimal[:strings.Index(minimal, "root")] + "  lease_lifetime: 500ms\nroot_key: env:R\n", `/h.yaml:3: repository.lease_lifetime: must be at least 1s: a run whose lease expires while it works loses its snapshot`},
		"zero duration":        {server + "    yield_to_ddl: 0s\n", `/h.yaml:7: servers[0].yield_to_ddl: must be longer than 0s`},
		"text for list":        {server + "    workspaces: { include: ws }\n", `/h.yaml:7: servers[0].workspaces.include: must be a list, is text`},
		"text for section":     {server + "    workspaces: ws\n", `/h.yaml:7: servers[0].workspaces: must hold keys of its own, is text`},
		"section for list":     {minimal + "servers:\n  name: a\n", `/h.yaml:4: servers: must be a list, is a group of keys`},
		"text for bool":        {s3[:strings.Index(s3, "root")] + "  path_style: yes\nroot_key: env:R\n", `/h.yaml:4: repository.path_style: must be true or false, is text`},
		"too few connections":  {server + "    connections: 0\n", `/h.yaml:7: servers[0].connections: must be at least 2, is 0`},
		"checkpoint":           {server + "    checkpoint: never\n", `/h.yaml:7: servers[0].checkpoint: must be wait or request, is "never"`},
		"relative bin dir":     {server + "    pg_bin_dirs: [bin]\n", `/h.yaml:7: servers[0].pg_bin_dirs[0]: must be an absolute path, is "bin"`},
		"nothing included":     {server + "    workspaces: { include: [] }\n", `/h.yaml:7: servers[0].workspaces.include: is empty: every database is left out by it: name at least one pattern, or remove the key for all databases`},
		"character class":      {server + "    workspaces: { include: ['ws_[a-z]'] }\n", `/h.yaml:7: servers[0].workspaces.include[0]: has a character class: only * and ? are understood; write \[ for a bracket`},
		"trailing backslash":   {server + "    workspaces: { exclude: ['ws\\'] }\n", `/h.yaml:7: servers[0].workspaces.exclude[0]: ends with a backslash: write \\ for one`},
		"two password places":  {server + "    password_file: /x\n    password_env: X\n", `/h.yaml:8: servers[0].password_env: and password_file exclude each other: remove one`},
		"relative secret":      {server + "    password_file: x\n", `/h.yaml:7: servers[0].password_file: must be an absolute path, is "x"`},
		"dollar in env":        {server + "    password_env: $X\n", `/h.yaml:7: servers[0].password_env: must be the name of an environment variable, without $: letters, digits and _`},
		"credential path":      {server + "    password_credential: ../x\n", `/h.yaml:7: servers[0].password_credential: must be the name of a systemd credential, as in LoadCredential=NAME:PATH`},
		"empty secret place":   {server + "    password_file: \"\"\n", `/h.yaml:7: servers[0].password_file: is empty: give it a value or remove the key`},
		"no name, no dsn":      {minimal + "servers:\n  - connections: 4\n", "/h.yaml:5: servers[0].name: is required: a name of a-z, 0-9 and '-'\n/h.yaml:5: servers[0].dsn: is required: write a connection URL or string without a password, such as postgres://hourvault@db1.internal/postgres?sslmode=verify-full"},
		"bad name":             {minimal + "servers:\n  - name: EU_1\n    dsn: host=x\n", `/h.yaml:5: servers[0].name: must be 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit, is "EU_1"`},
		"name taken":           {server + "  - name: a\n    dsn: host=y\n", `/h.yaml:7: servers[1].name: "a" is the name of servers[0] already`},
		"dsn URL password":     {minimal + "servers:\n  - name: a\n    dsn: postgres://u:hunter2@h/db\n", `/h.yaml:6: servers[0].dsn: ` + errPasswordInDSN.Error()},
		"dsn query password":   {minimal + "servers:\n  - name: a\n    dsn: postgresql://h/db?pass%77ord=hunter2\n", `/h.yaml:6: servers[0].dsn: ` + errPasswordInDSN.Error()},
		"dsn keyword password": {minimal + "servers:\n  - name: a\n    dsn: host='a b' Password = hunter2\n", `/h.yaml:6: servers[0].dsn: ` + errPasswordInDSN.Error()},
		"dsn key passphrase":   {minimal + "servers:\n  - name: a\n    dsn: host=x sslpassword=hunter2\n", `/h.yaml:6: servers[0].dsn: ` + errPasswordInDSN.Error()},
		"dsn broken URL":       {minimal + "servers:\n  - name: a\n    dsn: postgres://u:hun/ter2@h/db\n", `/h.yaml:6: servers[0].dsn: is not a valid connection URL: ` + dsnHint},
		"dsn no keyword":       {minimal + "servers:\n  - name: a\n    dsn: hunter2\n", `/h.yaml:6: servers[0].dsn: is not a valid connection string: ` + dsnHint},
		"dsn open quote":       {minimal + "servers:\n  - name: a\n    dsn: host='x\n", `/h.yaml:6: servers[0].dsn: is not a valid connection string: ` + dsnHint},
		"dsn open escape":      {minimal + "servers:\n  - name: a\n    dsn: host=x\\\n", `/h.yaml:6: servers[0].dsn: is not a valid connection string: ` + dsnHint},

		"relative witness":     {minimal + "witness_file: witness.json\n", `/h.yaml:4: witness_file: must be an absolute path, is "witness.json"`},
		"empty witness":        {minimal + "witness_file: ''\n", `/h.yaml:4: witness_file: is empty: give it a value or remove the key`},
		"witness no file":      {minimal + "witness_file: /var/lib/\n", `/h.yaml:4: witness_file: must be the plain path of a file, such as /var/lib/hourvault/witness.json, is "/var/lib/"`},
		"witness in bucket":    {minimal + "witness_file: /var/lib/hourvault/witness.json\n", `/h.yaml:4: witness_file: lies in the repository's directory: whoever removes snapshots there could remove it too; put it somewhere else`},
		"repository scheme":    {"repository: { url: gs://x }\nroot_key: env:R\n", `/h.yaml:1: repository.url: has a scheme that is not supported: write s3://BUCKET/PREFIX or file:///DIRECTORY`},
		"relative repository":  {"repository: { url: file://backups/x }\nroot_key: env:R\n", `/h.yaml:1: repository.url: must be an absolute path: write file:///absolute/path, with three slashes`},
		"root as repository":   {"repository: { url: file:///x/.. }\nroot_key: env:R\n", `/h.yaml:1: repository.url: must not be the root directory`},
		"bucket name":          {"repository: { url: s3://Acme, sse: none }\nroot_key: env:R\n", `/h.yaml:1: repository.url: "Acme" is not the name of a bucket: 3 to 63 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit`},
		"prefix":               {"repository: { url: s3://acme/a//b, sse: none }\nroot_key: env:R\n", `/h.yaml:1: repository.url: prefix "a//b" has an empty part, . or .. in it`},
		"prefix characters":    {"repository: { url: 's3://acme/a b', sse: none }\nroot_key: env:R\n", `/h.yaml:1: repository.url: prefix "a b" has other characters than letters, digits, / ! - _ . * ' ( )`},
		"credentials in url":   {"repository: { url: 's3://k:s@acme/a', sse: none }\nroot_key: env:R\n", `/h.yaml:1: repository.url: must be s3://BUCKET/PREFIX without any of ? # % @ \: region and credentials are keys of their own`},
		"sse not said":         {"repository:\n  url: s3://acme\nroot_key: env:R\n", `/h.yaml:1: repository.sse: is required: say AES256, aws:kms (with sse_kms_key_id), or none to go without encryption by the store`},
		"sse unknown":          {"repository:\n  url: s3://acme\n  sse: aes256\nroot_key: env:R\n", `/h.yaml:3: repository.sse: must be AES256, aws:kms or none, is "aes256"`},
		"kms without key":      {"repository:\n  url: s3://acme\n  sse: aws:kms\nroot_key: env:R\n", `/h.yaml:1: repository.sse_kms_key_id: is required: sse: aws:kms needs the id, ARN or alias of the key`},
		"key without kms":      {"repository:\n  url: s3://acme\n  sse: AES256\n  sse_kms_key_id: x\nroot_key: env:R\n", `/h.yaml:4: repository.sse_kms_key_id: is for sse: aws:kms only, sse is AES256`},
		"s3 key for directory": {"repository:\n  url: file:///x\n  region: eu\nroot_key: env:R\n", `/h.yaml:3: repository.region: is for s3:// repositories only: remove it`},
		"sse for directory":    {"repository:\n  url: file:///x\n  sse: AES256\nroot_key: env:R\n", `/h.yaml:3: repository.sse: is for s3:// repositories only: remove it, or write none`},
		"endpoint":             {"repository:\n  url: s3://acme\n  sse: none\n  endpoint: s3.example.net\nroot_key: env:R\n", `/h.yaml:4: repository.endpoint: must be https://HOST[:PORT]`},
		"endpoint path":        {"repository:\n  url: s3://acme\n  sse: none\n  endpoint: https://s3.example.net/acme\nroot_key: env:R\n", `/h.yaml:4: repository.endpoint: must be https://HOST[:PORT], without a path: bucket and prefix belong into url`},
		"checksums":            {"repository:\n  url: s3://acme\n  sse: none\n  checksums: always\nroot_key: env:R\n", `/h.yaml:4: repository.checksums: must be when_supported or when_required, is "always"`},
		"key id alone":         {"repository:\n  url: s3://acme\n  sse: none\n  access_key_id: A\nroot_key: env:R\n", `/h.yaml:4: repository.access_key_id: needs a secret_access_key_file, secret_access_key_env or secret_access_key_credential beside it`},
		"secret alone":         {"repository:\n  url: s3://acme\n  sse: none\n  secret_access_key_file: /x\nroot_key: env:R\n", `/h.yaml:1: repository.access_key_id: is required beside a secret access key`},
		"secret inline":        {"repository:\n  url: s3://acme\n  sse: none\n  secret_access_key: hunter2\nroot_key: env:R\n", `/h.yaml:4: repository.secret_access_key: unknown key: a secret is never written in this file; use secret_access_key_file, secret_access_key_env or secret_access_key_credential`},
		"profile and key":      {"repository:\n  url: s3://acme\n  sse: none\n  access_key_id: A\n  secret_access_key_env: S\n  profile: p\nroot_key: env:R\n", `/h.yaml:6: repository.profile: and access_key_id exclude each other: remove one`},
		"role":                 {"repository:\n  url: s3://acme\n  sse: none\n  role_arn: admin\nroot_key: env:R\n", `/h.yaml:4: repository.role_arn: must be an ARN: arn:aws:iam::ACCOUNT:role/NAME`},

		"root key path":    {"repository: { url: file:///x }\nroot_key: /etc/key\n", `/h.yaml:2: root_key: is not a root key's address: write file:///etc/hourvault/root.key, credential:NAME or env:NAME`},
		"root key kms":     {"repository: { url: file:///x }\nroot_key: aws-kms://alias/x\n", `/h.yaml:2: root_key: aws-kms:// is not yet supported by this version: write file:///etc/hourvault/root.key, credential:NAME or env:NAME`},
		"root key vault":   {"repository: { url: file:///x }\nroot_key: hcvault://x\n", `/h.yaml:2: root_key: hcvault:// is not yet supported by this version: write file:///etc/hourvault/root.key, credential:NAME or env:NAME`},
		"root key env":     {"repository: { url: file:///x }\nroot_key: env:A-B\n", `/h.yaml:2: root_key: must be the name of an environment variable, without $: letters, digits and _`},
		"root key missing": {"repository: { url: file:///x }\n", `/h.yaml:1: root_key: is required: write file:///etc/hourvault/root.key, credential:NAME or env:NAME`},

		"policy without match": {minimal + "policies:\n  - name: p\n", `/h.yaml:5: policies[0].match: is required: list patterns of workspaces, such as ["*"]`},
		"policy empty match":   {minimal + "policies:\n  - { name: p, match: [] }\n", `/h.yaml:5: policies[0].match: is empty: the policy would apply to no workspace: name at least one pattern`},
		"policy schedule":      {minimal + "policies:\n  - { name: p, match: ['*'], schedule: hourly }\n", `/h.yaml:5: policies[0].schedule: must be @hourly, @daily, @every 30m, or five fields such as 15 * * * *, is "hourly"`},
		"policy every":         {minimal + "policies:\n  - { name: p, match: ['*'], schedule: '@every 1s' }\n", `/h.yaml:5: policies[0].schedule: @every needs a duration of at least 1m, such as 30m or 1h, is "@every 1s"`},
		"policy keeps nothing": {minimal + "policies:\n  - name: p\n    match: ['*']\n    keep: { daily: 0 }\n", `/h.yaml:7: policies[0].keep: keeps nothing: give at least one of last, hourly, daily, weekly, monthly, yearly a number above 0`},
		"policy keeps less":    {minimal + "policies:\n  - name: p\n    match: ['*']\n    keep: { daily: -1 }\n", `/h.yaml:7: policies[0].keep.daily: must be at least 0, is -1`},
		"policy drill":         {minimal + "policies:\n  - name: p\n    match: ['*']\n    drill: { every: 0s }\n", `/h.yaml:7: policies[0].drill.every: must be longer than 0s`},
		"policy name taken":    {minimal + "policies:\n  - { name: p, match: ['*'] }\n  - { name: p, match: ['*'] }\n", `/h.yaml:6: policies[1].name: "p" is the name of policies[0] already`},
		"alert without url":    {minimal + "alerts:\n  - name: ops\n", `/h.yaml:5: alerts[0].url: is required: give url, or url_file, url_env or url_credential`},
		"alert url shape":      {minimal + "alerts:\n  - { name: ops, url: hunter2 }\n", `/h.yaml:5: alerts[0].url: must be a URL such as alertmanager+https://alerts.internal`},
		"alert url twice":      {minimal + "alerts:\n  - { name: ops, url: 'a://b', url_env: X }\n", `/h.yaml:5: alerts[0].url: is given twice: remove it, or the url_file, url_env or url_credential beside it`},
		"api":                  {minimal + "api: { listen: localhost }\n", `/h.yaml:4: api.listen: must be HOST:PORT with a port of 0 to 65535, such as 127.0.0.1:8461, is "localhost"`},
	}
}

func TestBadFilesNameFileLineAndKey(t *testing.T) {
	for name, c := range badFiles() {
		t.Run(name, func(t *testing.T) {
			config, err := load(t, c.content)
			if err == nil {
				t.Fatalf("loaded %+v from\n%s", config, c.content)
			}
			if err.Error() != c.want {
				t.Errorf("input\n%s\n got %s\nwant %s", c.content, err, c.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows a password: %s", err)
			}
		})
	}
}

func TestEveryProblemIsReportedAtOnceInTheOrderOfTheFile(t *testing.T) {
	_, err := load(t, `repository:
  url: s3://acme-backups/prod
  sse: sometimes
  regoin: eu-central-1
root_key: vault://x
servers:
  - name: eu-1
    dsn: postgres://u:hunter2@h/db
    connections: 0
    connections: 9
    lock_timeout: soon
  - name: eu-1
    dsn: host=x
    wrkspaces: {}
policies:
  - name: p
    match: ["*"]
    rpo: [2h]
`)
	want := `/h.yaml:3: repository.sse: must be AES256, aws:kms or none, is "sometimes"
/h.yaml:4: repository.regoin: unknown key: did you mean region?
/h.yaml:5: root_key: is not a root key's address: write file:///etc/hourvault/root.key, credential:NAME or env:NAME
/h.yaml:8: servers[0].dsn: has a password in it: a password is never written in this file; take it out and use password_file, password_env or password_credential
/h.yaml:9: servers[0].connections: must be at least 2, is 0
/h.yaml:10: servers[0].connections: is given twice, first in line 9
/h.yaml:11: servers[0].lock_timeout: "soon" is not a duration: write a number and a unit, such as 90s, 30m, 2h, 7d or 2w
/h.yaml:12: servers[1].name: "eu-1" is the name of servers[0] already
/h.yaml:14: servers[1].wrkspaces: unknown key: did you mean workspaces?
/h.yaml:18: policies[0].rpo: must be a duration such as 90s, 30m, 2h or 7d, is a list`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	var configError *Error
	if !errors.As(err, &configError) || len(configError.Problems) != 10 || configError.Problems[0].Column != 8 {
		t.Errorf("got %#v, want an *Error with 10 problems, the first in column 8", err)
	}
}

func TestTheFileIsFoundByFlagThenEnvironmentThenDefault(t *testing.T) {
	variables := map[string]string{"HOURVAULT_CONFIG": "/env.yaml"}
	for _, c := range []struct {
		flag, want string
		variables  map[string]string
	}{
		{"/flag.yaml", "/flag.yaml", variables},
		{"", "/env.yaml", variables},
		{"", DefaultFile, map[string]string{"HOURVAULT_CONFIG": ""}},
		{"", "/etc/hourvault/hourvault.yaml", nil},
	} {
		if got := Find(c.flag, environment(c.variables, nil)); got != c.want {
			t.Errorf("Find(%q) with %v = %s, want %s", c.flag, c.variables, got, c.want)
		}
	}
}

func TestMissingFileSaysWhatToDo(t *testing.T) {
	_, err := Load("", environment(nil, nil))
	want := "/etc/hourvault/hourvault.yaml: file does not exist: create it from the commented example deploy/hourvault.example.yaml, or name another file with --config or HOURVAULT_CONFIG"
	if err == nil || err.Error() != want || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %s", err, want)
	}
	var configError *Error
	if !errors.As(err, &configError) {
		t.Errorf("got %T, want *Error", err)
	}
}

func TestDirectoryInPlaceOfTheFileIsRefused(t *testing.T) {
	directory := t.TempDir()
	_, err := Load(directory, System())
	if err == nil || err.Error() != directory+": is a directory" {
		t.Errorf("got %v", err)
	}
}

func TestHugeFileIsRefused(t *testing.T) {
	_, err := load(t, strings.Repeat("# x\n", maxFileSize/4+1))
	if err == nil || err.Error() != "/h.yaml: is larger than 256 KiB: it is no configuration file" {
		t.Errorf("got %v", err)
	}
}

const example = "../../deploy/hourvault.example.yaml"

func TestExampleLoads(t *testing.T) {
	path, err := filepath.Abs(example)
	if err != nil {
		t.Fatal(err)
	}
	config, err := Load(path, System())
	if err != nil {
		t.Fatal(err)
	}
	if len(config.Servers) == 0 || len(config.Alerts) == 0 {
		t.Fatal("the example has no server or no alert")
	}
	// The example promises that its policy is the one a file without policies has.
	if want := []Policy{DefaultPolicy()}; !reflect.DeepEqual(config.Policies, want) {
		t.Errorf("policies of the example: got %+v, want %+v", config.Policies, want)
	}
}

var commentedKey = regexp.MustCompile(`(?m)^( *)#([a-z])`)

func TestExampleShowsEveryKeyAndCommentedOnesAreRight(t *testing.T) {
	content, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	decoded, d := decode(commentedKey.ReplaceAll(content, []byte("$1$2")))
	for _, problem := range d.problems {
		t.Errorf("with every key uncommented: %+v", problem)
	}
	given := map[string]bool{}
	index := regexp.MustCompile(`\[\d+\]`)
	for path := range d.places {
		given[index.ReplaceAllString(path, "[]")] = true
	}
	paths := keyPaths(reflect.TypeFor[Config](), "")
	if len(paths) < 40 {
		t.Fatalf("only %d keys found in Config", len(paths))
	}
	for _, path := range paths {
		if !given[path] {
			t.Errorf("key %s is not in %s, not even commented out", path, example)
		}
	}
	// The value shown for a commented key that has a default must be the default.
	s, defaults := decoded.Servers[0], Server{}
	defaults.setDefaults()
	if s.Connections != defaults.Connections || s.LockTimeout != defaults.LockTimeout || s.YieldToDDL != defaults.YieldToDDL ||
		s.Checkpoint != defaults.Checkpoint {
		t.Errorf("the example shows other defaults than the real ones: got %+v, want %+v", s, defaults)
	}
}

// keyPaths lists every key of a struct, with [] for list entries.
func keyPaths(t reflect.Type, path string) []string {
	var paths []string
	for name, i := range yamlFields(t) {
		field := t.Field(i).Type
		keyPath := join(path, name)
		paths = append(paths, keyPath)
		if field.Kind() == reflect.Slice && field.Elem().Kind() == reflect.Struct {
			field, keyPath = field.Elem(), keyPath+"[]"
		}
		if isSection(reflect.New(field).Elem()) {
			paths = append(paths, keyPaths(field, keyPath)...)
		}
	}
	return paths
}

func TestEveryExportedFieldHasAKeyOrIsDerived(t *testing.T) {
	for _, structType := range []reflect.Type{reflect.TypeFor[Config](), reflect.TypeFor[Repository](), reflect.TypeFor[Server](), reflect.TypeFor[Workspaces](),
		reflect.TypeFor[Policy](), reflect.TypeFor[Keep](), reflect.TypeFor[Drill](), reflect.TypeFor[Alert](), reflect.TypeFor[API]()} {
		for i := range structType.NumField() {
			if field := structType.Field(i); field.Tag.Get("yaml") == "" {
				t.Errorf("%s.%s has no yaml tag: it could never be set", structType, field.Name)
			}
		}
	}
}

// FuzzLoad holds that whatever the file says, Load answers with a configuration or with problems that lie in
// the file and are one printable line each.
func FuzzLoad(f *testing.F) {
	content, err := os.ReadFile(example)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content)
	f.Add([]byte(minimal))
	for _, bad := range badFiles() {
		f.Add([]byte(bad.content))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		if len(content) > 16<<10 {
			return // the library's time grows with the square of the size
		}
		config, err := load(t, string(content))
		if err == nil {
			if config.Repository.Kind == "" || config.RootKey.Kind == "" || len(config.Policies) == 0 {
				t.Fatalf("loaded without what is required: %+v", config)
			}
			return
		}
		var configError *Error
		if !errors.As(err, &configError) || len(configError.Problems) == 0 {
			t.Fatalf("got %#v, want an *Error with problems", err)
		}
		lines := strings.Count(string(content), "\n") + strings.Count(string(content), "\r") + 2
		for _, problem := range configError.Problems {
			if problem.Line < 0 || problem.Line > lines || problem.Message == "" || strings.ContainsFunc(problem.Key+problem.Message, func(r rune) bool { return r < ' ' || r == 0x7f }) {
				t.Fatalf("bad problem %+v for %d lines", problem, lines)
			}
		}
	})
}
