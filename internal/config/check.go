package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hourvault/hourvault/internal/timeexpr"
)

// check validates a decoded configuration, completes what is derived from it, and reports every problem to d.
func check(config *Config, d *decoder) {
	c := &checker{decoder: d, file: config.File}
	c.repository(&config.Repository)
	c.rootKey(&config.RootKey)
	names := map[string]string{}
	for i := range config.Servers {
		c.server(&config.Servers[i], fmt.Sprintf("servers[%d]", i), names)
	}
	if len(config.Policies) == 0 {
		config.Policies = []Policy{DefaultPolicy()}
	} else {
		names = map[string]string{}
		for i := range config.Policies {
			c.policy(&config.Policies[i], fmt.Sprintf("policies[%d]", i), names)
		}
	}
	names = map[string]string{}
	for i := range config.Alerts {
		c.alert(&config.Alerts[i], fmt.Sprintf("alerts[%d]", i), names)
	}
	c.listen(config.API.Listen, "api.listen")
	c.witnessFile(config)
}

type checker struct {
	*decoder
	file string // path of the configuration file
}

// required reports a missing or empty text; true means that there is one to look at.
func (c *checker) required(path, value, hint string) bool {
	switch {
	case !c.usable(path):
		return false
	case !c.given(path):
		c.report(path, "is required: %s", hint)
		return false
	case value == "":
		c.report(path, "is empty: %s", hint)
		return false
	}
	return true
}

// optional is true for a text that was given and needs a look; one that is given but empty is a problem.
func (c *checker) optional(path, value string) bool {
	if !c.given(path) || !c.usable(path) {
		return false
	}
	if value == "" {
		c.report(path, "is empty: give it a value or remove the key")
		return false
	}
	return true
}

func (c *checker) repository(r *Repository) {
	const where = "repository"
	if !c.usable(where) {
		return
	}
	const hint = "write s3://BUCKET/PREFIX or file:///DIRECTORY"
	if !c.required(where+".url", r.URL, hint) {
		return
	}
	if c.usable(where+".lease_lifetime") && r.LeaseLifetime < MinLeaseLifetime {
		c.report(where+".lease_lifetime", "must be at least %s: a run whose lease expires while it works loses its snapshot", MinLeaseLifetime)
	}
	var err error
	switch {
	case strings.HasPrefix(r.URL, "s3:"):
		r.Kind = RepositoryS3
		r.Bucket, r.Prefix, err = parseS3URL(r.URL)
	case strings.HasPrefix(r.URL, "file:"):
		r.Kind = RepositoryDirectory
		r.Directory, err = fileURLPath(r.URL)
	default:
		c.report(where+".url", "has a scheme that is not supported: %s", hint)
		return
	}
	if err != nil {
		c.report(where+".url", "%v", err)
	}

	if r.Kind == RepositoryDirectory {
		for _, key := range []string{"region", "endpoint", "path_style", "sse_kms_key_id", "checksums", "role_arn", "ca_file", "profile",
			"access_key_id", "secret_access_key_file", "secret_access_key_env", "secret_access_key_credential"} {
			if c.given(where + "." + key) {
				c.report(where+"."+key, "is for s3:// repositories only: remove it")
			}
		}
		if c.given(where+".sse") && c.usable(where+".sse") && r.SSE != SSENone {
			c.report(where+".sse", "is for s3:// repositories only: remove it, or write none")
		}
		r.SSE = SSENone
		return
	}

	if c.optional(where+".region", r.Region) && !simpleName.MatchString(r.Region) {
		c.report(where+".region", "%q is not the name of a region", r.Region)
	}
	if c.optional(where+".endpoint", r.Endpoint) {
		parsed, err := url.Parse(r.Endpoint)
		switch {
		case err != nil || parsed.Hostname() == "" || parsed.Scheme != "https" && parsed.Scheme != "http":
			c.report(where+".endpoint", "must be https://HOST[:PORT]")
		case parsed.User != nil:
			c.report(where+".endpoint", "must not hold a user or password: use access_key_id and secret_access_key_file")
		case strings.Trim(parsed.Path, "/") != "" || parsed.RawQuery != "" || parsed.Fragment != "":
			c.report(where+".endpoint", "must be https://HOST[:PORT], without a path: bucket and prefix belong into url")
		}
	}
	if c.required(where+".sse", string(r.SSE), "say AES256, aws:kms (with sse_kms_key_id), or none to go without encryption by the store") {
		switch r.SSE {
		case SSEAES256, SSENone:
			if c.given(where + ".sse_kms_key_id") {
				c.report(where+".sse_kms_key_id", "is for sse: aws:kms only, sse is %s", r.SSE)
			}
		case SSEKMS:
			c.required(where+".sse_kms_key_id", r.SSEKMSKeyID, "sse: aws:kms needs the id, ARN or alias of the key")
		default:
			c.report(where+".sse", "must be AES256, aws:kms or none, is %q", r.SSE)
		}
	}
	if !c.given(where + ".checksums") {
		r.Checksums = ChecksumsWhenSupported
	} else if c.usable(where+".checksums") && r.Checksums != ChecksumsWhenSupported && r.Checksums != ChecksumsWhenRequired {
		c.report(where+".checksums", "must be when_supported or when_required, is %q", r.Checksums)
	}
	if c.optional(where+".role_arn", r.RoleARN) && !strings.HasPrefix(r.RoleARN, "arn:") {
		c.report(where+".role_arn", "must be an ARN: arn:aws:iam::ACCOUNT:role/NAME")
	}
	if c.optional(where+".ca_file", r.CAFile) {
		c.absolutePath(where+".ca_file", r.CAFile)
	}
	c.optional(where+".profile", r.Profile)

	r.SecretAccessKey = c.secretRef(where+".secret_access_key", r.SecretAccessKeyFile, r.SecretAccessKeyEnv, r.SecretAccessKeyCredential)
	hasID := c.optional(where+".access_key_id", r.AccessKeyID)
	hasSecret := c.given(where+".secret_access_key_file") || c.given(where+".secret_access_key_env") || c.given(where+".secret_access_key_credential")
	switch {
	case hasID && !hasSecret:
		c.report(where+".access_key_id", "needs a secret_access_key_file, secret_access_key_env or secret_access_key_credential beside it")
	case hasSecret && !c.given(where+".access_key_id"):
		c.report(where+".access_key_id", "is required beside a secret access key")
	case hasID && c.given(where+".profile"):
		c.report(where+".profile", "and access_key_id exclude each other: remove one")
	}
}

// parseS3URL splits s3://BUCKET[/PREFIX].
func parseS3URL(text string) (bucket, prefix string, err error) {
	rest, found := strings.CutPrefix(text, "s3://")
	if !found {
		return "", "", errors.New("must be s3://BUCKET/PREFIX")
	}
	if strings.ContainsAny(rest, "?#%@\\") {
		return "", "", errors.New("must be s3://BUCKET/PREFIX without any of ? # % @ \\: region and credentials are keys of their own")
	}
	bucket, prefix, _ = strings.Cut(rest, "/")
	if !bucketName.MatchString(bucket) {
		return "", "", fmt.Errorf("%q is not the name of a bucket: 3 to 63 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit", bucket)
	}
	prefix = strings.TrimSuffix(prefix, "/")
	if prefix == "" {
		return bucket, "", nil
	}
	for _, part := range strings.Split(prefix, "/") {
		if part == "" || part == "." || part == ".." {
			return "", "", fmt.Errorf("prefix %q has an empty part, . or .. in it", prefix)
		}
	}
	if !keyPrefix.MatchString(prefix) {
		return "", "", fmt.Errorf("prefix %q has other characters than letters, digits, / ! - _ . * ' ( )", prefix)
	}
	return bucket, prefix, nil
}

var (
	bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	// keyPrefix allows what S3's documentation calls safe characters for object keys.
	keyPrefix  = regexp.MustCompile(`^[A-Za-z0-9/!_.*'()-]+$`)
	simpleName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)
	entryName  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	envName    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	credential = regexp.MustCompile(`^[A-Za-z0-9_.@:-]{1,255}$`)
)

func (c *checker) rootKey(r *RootKey) {
	if !c.required("root_key", r.text, rootKeyExamples) {
		return
	}
	if r.source.kind != noSecret {
		r.source.file, r.source.at = c.file, c.locate("root_key")
	}
}

func (c *checker) server(s *Server, where string, names map[string]string) {
	if !c.usable(where) {
		return
	}
	c.name(where+".name", s.Name, names)
	if c.required(where+".dsn", s.DSN, "write a connection URL or string without a password, such as postgres://hourvault@db1.internal/postgres?sslmode=verify-full") {
		if err := checkDSN(s.DSN); err != nil {
			c.report(where+".dsn", "%v", err)
		}
	}
	s.Password = c.secretRef(where+".password", s.PasswordFile, s.PasswordEnv, s.PasswordCredential)
	c.patterns(where+".workspaces.include", s.Workspaces.Include, "every database is left out by it: name at least one pattern, or remove the key for all databases")
	c.patterns(where+".workspaces.exclude", s.Workspaces.Exclude, "")
	c.atLeast(where+".connections", s.Connections, MinConnections)
	c.positive(where+".lock_timeout", s.LockTimeout)
	c.positive(where+".yield_to_ddl", s.YieldToDDL)
	if c.usable(where+".checkpoint") && s.Checkpoint != CheckpointWait && s.Checkpoint != CheckpointRequest {
		c.report(where+".checkpoint", "must be wait or request, is %q", s.Checkpoint)
	}
	for i, directory := range s.PGBinDirs {
		c.absolutePath(fmt.Sprintf("%s.pg_bin_dirs[%d]", where, i), directory)
	}
}

func (c *checker) policy(p *Policy, where string, names map[string]string) {
	if !c.usable(where) {
		return
	}
	c.name(where+".name", p.Name, names)
	if c.usable(where+".match") && !c.given(where+".match") {
		c.report(where+".match", `is required: list patterns of workspaces, such as ["*"]`)
	} else {
		c.patterns(where+".match", p.Match, "the policy would apply to no workspace: name at least one pattern")
	}
	if c.usable(where + ".schedule") {
		if err := checkSchedule(p.Schedule); err != nil {
			c.report(where+".schedule", "%v", err)
		}
	}
	c.positive(where+".rpo", p.RPO)
	switch {
	case !c.given(where + ".keep"):
		p.Keep = DefaultKeep()
	case c.usable(where + ".keep"):
		total := 0
		good := true
		for _, count := range []struct {
			key   string
			value int
		}{{"last", p.Keep.Last}, {"hourly", p.Keep.Hourly}, {"daily", p.Keep.Daily}, {"weekly", p.Keep.Weekly}, {"monthly", p.Keep.Monthly}, {"yearly", p.Keep.Yearly}} {
			good = c.atLeast(where+".keep."+count.key, count.value, 0) && good
			total += count.value
		}
		if good && total == 0 {
			c.report(where+".keep", "keeps nothing: give at least one of last, hourly, daily, weekly, monthly, yearly a number above 0")
		}
	}
	c.positive(where+".drill.every", p.Drill.Every)
}

func (c *checker) alert(a *Alert, where string, names map[string]string) {
	if !c.usable(where) {
		return
	}
	c.name(where+".name", a.Name, names)
	a.Address = c.secretRef(where+".url", a.URLFile, a.URLEnv, a.URLCredential)
	elsewhere := c.given(where+".url_file") || c.given(where+".url_env") || c.given(where+".url_credential")
	switch {
	case !c.usable(where + ".url"):
	case c.given(where+".url") && elsewhere:
		c.report(where+".url", "is given twice: remove it, or the url_file, url_env or url_credential beside it")
	case !c.given(where+".url") && !elsewhere:
		c.report(where+".url", "is required: give url, or url_file, url_env or url_credential")
	case c.given(where + ".url"):
		// The address may hold a token, so it is not shown.
		parsed, err := url.Parse(a.URL.Reveal())
		if err != nil || parsed.Scheme == "" {
			c.report(where+".url", "must be a URL such as alertmanager+https://alerts.internal")
		}
	}
}

func (c *checker) listen(address, where string) {
	if !c.usable("api") || !c.usable(where) {
		return
	}
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		c.report(where, "must be HOST:PORT with a port of 0 to 65535, such as %s, is %q", DefaultListen, address)
	}
}

// witnessFile demands a place of its own: in the repository's directory, whoever can take snapshots away can take the witness too.
func (c *checker) witnessFile(config *Config) {
	const where = "witness_file"
	if !c.optional(where, config.WitnessFile) {
		return
	}
	c.absolutePath(where, config.WitnessFile)
	switch {
	case !path.IsAbs(config.WitnessFile):
	case strings.HasSuffix(config.WitnessFile, "/") || path.Clean(config.WitnessFile) != config.WitnessFile:
		c.report(where, "must be the plain path of a file, such as /var/lib/hourvault/witness.json, is %q", config.WitnessFile)
	case config.Repository.Kind == RepositoryDirectory && config.Repository.Directory != "" && strings.HasPrefix(config.WitnessFile, config.Repository.Directory+"/"):
		c.report(where, "lies in the repository's directory: whoever removes snapshots there could remove it too; put it somewhere else")
	}
}

// name checks the name of an entry and that no other entry of names has it.
func (c *checker) name(where, name string, names map[string]string) {
	if !c.required(where, name, "a name of a-z, 0-9 and '-'") {
		return
	}
	if !entryName.MatchString(name) {
		c.report(where, "must be 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit, is %q", name)
		return
	}
	if other, taken := names[name]; taken {
		c.report(where, "%q is the name of %s already", name, strings.TrimSuffix(other, ".name"))
		return
	}
	names[name] = where
}

// patterns checks a list of patterns; emptyHint is reported when it is given and empty.
func (c *checker) patterns(where string, patterns []Pattern, emptyHint string) {
	if !c.usable(where) {
		return
	}
	if len(patterns) == 0 && emptyHint != "" {
		c.report(where, "is empty: %s", emptyHint)
	}
	for i, pattern := range patterns {
		itemPath := fmt.Sprintf("%s[%d]", where, i)
		if !c.usable(itemPath) {
			continue
		}
		if err := pattern.check(); err != nil {
			c.report(itemPath, "%v", err)
		}
	}
}

func (c *checker) atLeast(where string, value, least int) bool {
	if !c.usable(where) {
		return false
	}
	if value < least {
		c.report(where, "must be at least %d, is %d", least, value)
		return false
	}
	return true
}

func (c *checker) positive(where string, value time.Duration) {
	if c.usable(where) && value <= 0 {
		c.report(where, "must be longer than 0s")
	}
}

func (c *checker) absolutePath(where, value string) {
	if c.usable(where) && !path.IsAbs(value) {
		c.report(where, "must be an absolute path, is %q", value)
	}
}

// secretRef settles where the secret called base is: at base_file, base_env or base_credential.
func (c *checker) secretRef(base, file, env, credentialName string) SecretRef {
	var result SecretRef
	var chosen string
	for _, candidate := range []struct {
		path, value string
		kind        secretKind
		check       func(string) error
	}{
		{base + "_file", file, secretFile, checkSecretPath},
		{base + "_env", env, secretEnv, checkEnvName},
		{base + "_credential", credentialName, secretCredential, checkCredentialName},
	} {
		if !c.optional(candidate.path, candidate.value) {
			continue
		}
		if chosen != "" {
			c.report(candidate.path, "and %s exclude each other: remove one", chosen[strings.LastIndexByte(chosen, '.')+1:])
			continue
		}
		chosen = candidate.path
		if err := candidate.check(candidate.value); err != nil {
			c.report(candidate.path, "%v", err)
			continue
		}
		result = SecretRef{kind: candidate.kind, name: candidate.value, file: c.file, at: c.locate(candidate.path)}
	}
	return result
}

func checkSecretPath(value string) error {
	if !path.IsAbs(value) {
		return fmt.Errorf("must be an absolute path, is %q", value)
	}
	return nil
}

func checkEnvName(value string) error {
	if !envName.MatchString(value) {
		return errors.New("must be the name of an environment variable, without $: letters, digits and _")
	}
	return nil
}

func checkCredentialName(value string) error {
	if !credential.MatchString(value) || value == "." || value == ".." {
		return errors.New("must be the name of a systemd credential, as in LoadCredential=NAME:PATH")
	}
	return nil
}

const dsnHint = "write postgres://USER@HOST/DATABASE?sslmode=verify-full, or host=HOST user=USER dbname=DATABASE"

var errPasswordInDSN = errors.New("has a password in it: a password is never written in this file; take it out and use password_file, password_env or password_credential")

// checkDSN looks at a connection string without connecting. No error shows any part of it, because what
// cannot be parsed may be a password with an unescaped character.
func checkDSN(dsn string) error {
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		parsed, err := url.Parse(dsn)
		if err != nil {
			return errors.New("is not a valid connection URL: " + dsnHint)
		}
		query, err := url.ParseQuery(parsed.RawQuery)
		if err != nil {
			return errors.New("is not a valid connection URL: " + dsnHint)
		}
		if _, has := parsed.User.Password(); has {
			return errPasswordInDSN
		}
		for key := range query {
			if isPasswordKeyword(key) {
				return errPasswordInDSN
			}
		}
		return nil
	}
	return checkKeywordDSN(dsn)
}

func isPasswordKeyword(key string) bool {
	return strings.EqualFold(key, "password") || strings.EqualFold(key, "sslpassword")
}

// checkKeywordDSN walks a keyword/value string (PostgreSQL manual, libpq, "Keyword/Value Connection
// Strings"): pairs of keyword = value, spaces around them, values in single quotes with backslash escapes.
func checkKeywordDSN(dsn string) error {
	const space = " \t\n\r\v\f"
	invalid := errors.New("is not a valid connection string: " + dsnHint)
	rest := strings.TrimLeft(dsn, space)
	if rest == "" {
		return invalid
	}
	for rest != "" {
		key, after, found := strings.Cut(rest, "=")
		key = strings.TrimRight(key, space)
		if !found || key == "" || strings.ContainsAny(key, space+`'\`) {
			return invalid
		}
		if isPasswordKeyword(key) {
			return errPasswordInDSN
		}
		rest = strings.TrimLeft(after, space)
		quoted := strings.HasPrefix(rest, "'")
		if quoted {
			rest = rest[1:]
		}
		end := 0
		for end < len(rest) {
			if rest[end] == '\\' {
				end++
			} else if quoted && rest[end] == '\'' || !quoted && strings.IndexByte(space, rest[end]) >= 0 {
				break
			}
			end++
		}
		if end > len(rest) || quoted && end == len(rest) {
			return invalid
		}
		rest = rest[end:]
		if quoted {
			rest = rest[1:]
		}
		rest = strings.TrimLeft(rest, space)
	}
	return nil
}

var (
	cronNames = map[string]bool{"@hourly": true, "@daily": true, "@midnight": true, "@weekly": true, "@monthly": true, "@yearly": true, "@annually": true}
	cronField = regexp.MustCompile(`^[0-9A-Za-z*/,?-]+$`)
)

// checkSchedule looks at the shape of a cron expression.
func checkSchedule(schedule string) error {
	invalid := fmt.Errorf("must be @hourly, @daily, @every 30m, or five fields such as 15 * * * *, is %q", schedule)
	if every, found := strings.CutPrefix(schedule, "@every "); found {
		if duration, err := timeexpr.ParseDuration(every); err != nil || duration < time.Minute {
			return fmt.Errorf("@every needs a duration of at least 1m, such as 30m or 1h, is %q", schedule)
		}
		return nil
	}
	if strings.HasPrefix(schedule, "@") {
		if !cronNames[schedule] {
			return invalid
		}
		return nil
	}
	fields := strings.Fields(schedule)
	if len(fields) != 5 {
		return invalid
	}
	for _, field := range fields {
		if !cronField.MatchString(field) {
			return invalid
		}
	}
	return nil
}
