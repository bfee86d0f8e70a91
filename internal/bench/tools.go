package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// toolset runs the tools on the servers of one benchmark.
type toolset struct {
	cluster *cluster
	s3      *s3Server
	meter   *meter
	dir     string // for configuration files, keys, local dumps

	hourvault string // the program
	self      string // this program
	zstdLevel int    // of pg_dump and pgBackRest
	// clientDir holds a pg_dump that knows zstd, serverDir the programs of the server's version.
	clientDir, serverDir string
	ageRecipient         string
}

// need returns the path of a program.
func need(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is not installed: apt-get install %s", name, name)
	}
	return path, nil
}

// quiet runs programs that are not measured.
func (t *toolset) quiet(ctx context.Context, programs ...program) ([]byte, error) {
	_, output, err := t.meter.run(ctx, programs...)
	return output, err
}

// rclone is the uploader, and what buckets are made, measured and removed with.
func (t *toolset) rclone(arguments ...string) (program, error) {
	path, err := need("rclone")
	return program{path: path, arguments: arguments, environment: []string{
		"RCLONE_CONFIG=" + filepath.Join(t.dir, "rclone.conf"), // does not exist: the remote is described here
		"RCLONE_CA_CERT=" + t.s3.caFile,
		"RCLONE_CONFIG_S3_TYPE=s3", "RCLONE_CONFIG_S3_PROVIDER=Other", "RCLONE_CONFIG_S3_ENDPOINT=" + t.s3.endpoint(), "RCLONE_CONFIG_S3_REGION=" + s3Region,
		"RCLONE_CONFIG_S3_ACCESS_KEY_ID=" + t.s3.accessKey, "RCLONE_CONFIG_S3_SECRET_ACCESS_KEY=" + t.s3.secretKey,
		// Parts of 16 MiB, four at a time: its defaults of 5 MiB are for small memories.
		"RCLONE_S3_CHUNK_SIZE=16M", "RCLONE_S3_UPLOAD_CONCURRENCY=4", "RCLONE_S3_NO_CHECK_BUCKET=true", "RCLONE_LOG_LEVEL=ERROR",
	}}, err
}

func (t *toolset) makeBucket(ctx context.Context, bucket string) error {
	command, err := t.rclone("mkdir", "--s3-no-check-bucket=false", "s3:"+bucket)
	if err != nil {
		return err
	}
	_, err = t.quiet(ctx, command)
	return err
}

func (t *toolset) removeBucket(ctx context.Context, bucket string) error {
	command, err := t.rclone("purge", "s3:"+bucket)
	if err != nil {
		return err
	}
	_, err = t.quiet(ctx, command)
	return err
}

// storedBytes is the sum of the sizes of all objects in a bucket.
func (t *toolset) storedBytes(ctx context.Context, bucket string) (int64, error) {
	command, err := t.rclone("size", "--json", "s3:"+bucket)
	if err != nil {
		return 0, err
	}
	output, err := t.quiet(ctx, command)
	if err != nil {
		return 0, err
	}
	var size struct {
		Bytes int64 `json:"bytes"`
	}
	if err := json.Unmarshal(output, &size); err != nil {
		return 0, fmt.Errorf("read the size of bucket %s: %w", bucket, err)
	}
	return size.Bytes, nil
}

// repository is what one tool has stored in one round. prepare makes it, run adds a backup to it.
type repository interface {
	prepare(ctx context.Context) error
	run(ctx context.Context) (usage, error)
	bucket() string
}

// hourvaultRepository is backed up to by the hourvault program.
type hourvaultRepository struct {
	*toolset
	name string
}

func (r *hourvaultRepository) bucket() string { return r.name }

func (r *hourvaultRepository) configFile() string { return filepath.Join(r.dir, r.name+".yaml") }

func (r *hourvaultRepository) rootKeyFile() string { return filepath.Join(r.dir, r.name+".key") }

func (r *hourvaultRepository) prepare(ctx context.Context) error {
	if err := r.makeBucket(ctx, r.name); err != nil {
		return err
	}
	secretFile := filepath.Join(r.dir, "s3-secret")
	if err := os.WriteFile(secretFile, []byte(r.s3.secretKey+"\n"), 0o600); err != nil {
		return fmt.Errorf("configure hourvault: %w", err)
	}
	if err := r.writeConfig(secretFile); err != nil {
		return err
	}
	_, err := r.quiet(ctx, r.command("init"))
	return err
}

// writeConfig writes the configuration file; again after the server's port has changed.
func (r *hourvaultRepository) writeConfig(secretFile string) error {
	sse := "none"
	if r.s3.encrypts() {
		sse = "AES256"
	}
	text := fmt.Sprintf(`repository:
  url: s3://%s
  region: %s
  endpoint: %s
  path_style: true
  sse: %s
  access_key_id: %s
  secret_access_key_file: %s
  ca_file: %s
root_key: file://%s
servers:
  - name: bench
    dsn: %q
    pg_bin_dirs: [%q]
    workspaces: { include: [%s] }
`, r.name, s3Region, r.s3.endpoint(), sse, r.s3.accessKey, secretFile, r.s3.caFile, r.rootKeyFile(), r.cluster.dsn("postgres"), r.serverDir, database)
	if err := os.WriteFile(r.configFile(), []byte(text), 0o600); err != nil {
		return fmt.Errorf("configure hourvault: %w", err)
	}
	return nil
}

func (r *hourvaultRepository) command(arguments ...string) program {
	return program{path: r.hourvault, arguments: append([]string{"--config", r.configFile(), "--log-format", "json"}, arguments...)}
}

func (r *hourvaultRepository) run(ctx context.Context) (usage, error) {
	if err := r.writeConfig(filepath.Join(r.dir, "s3-secret")); err != nil {
		return usage{}, err
	}
	used, _, err := r.meter.run(ctx, r.command("backup", database, "--json"))
	return used, err
}

// phaseTime is how long a phase of a restore took, as hourvault says.
type phaseTime struct {
	Phase    string        `json:"phase"`
	Duration time.Duration `json:"duration_ns"`
}

// restore restores the newest snapshot.
func (r *hourvaultRepository) restore(ctx context.Context) (usage, []phaseTime, error) {
	if err := r.writeConfig(filepath.Join(r.dir, "s3-secret")); err != nil {
		return usage{}, nil, err
	}
	used, output, err := r.meter.run(ctx, r.command("restore", database, "--into", restored, "--json"))
	if err != nil {
		return used, nil, err
	}
	var document struct {
		Result struct {
			Phases []phaseTime `json:"phases"`
		} `json:"result"`
	}
	if err := json.Unmarshal(output, &document); err != nil {
		return used, nil, fmt.Errorf("read what hourvault restore printed: %w", err)
	}
	return used, document.Result.Phases, nil
}

// verify reads everything back and checks it.
func (r *hourvaultRepository) verify(ctx context.Context) error {
	_, err := r.quiet(ctx, r.command("verify", "--read-data", "--json"))
	return err
}

// dumpRepository holds dumps, compressed by pg_dump, sealed by age and uploaded by rclone: all as one pipeline.
type dumpRepository struct {
	*toolset
	name string
	// gzip is pg_dump's default compression, by the program of the server's version.
	gzip bool
	made int
}

func (r *dumpRepository) bucket() string { return r.name }

func (r *dumpRepository) prepare(ctx context.Context) error {
	if err := r.makeBucket(ctx, r.name); err != nil {
		return err
	}
	return r.needRecipient(ctx)
}

// needRecipient makes a key pair for age, once.
func (t *toolset) needRecipient(ctx context.Context) error {
	if t.ageRecipient != "" {
		return nil
	}
	keygen, err := need("age-keygen")
	if err != nil {
		return err
	}
	file := filepath.Join(t.dir, "age.key")
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("make a key for age: %w", err)
	}
	if _, err := t.quiet(ctx, program{path: keygen, arguments: []string{"-o", file}}); err != nil {
		return err
	}
	recipient, err := t.quiet(ctx, program{path: keygen, arguments: []string{"-y", file}})
	if err != nil {
		return err
	}
	t.ageRecipient = strings.TrimSpace(string(recipient))
	return nil
}

// dump is pg_dump in its custom format.
func (t *toolset) dump(gzip bool, more ...string) program {
	command := program{path: filepath.Join(t.serverDir, "pg_dump"), arguments: []string{"-Fc", "-d", database}, environment: t.cluster.clientEnvironment()}
	if !gzip {
		command.path = filepath.Join(t.clientDir, "pg_dump")
		command.arguments = append(command.arguments, "-Z", "zstd:"+strconv.Itoa(t.zstdLevel))
	}
	command.arguments = append(command.arguments, more...)
	return command
}

func (r *dumpRepository) run(ctx context.Context) (usage, error) {
	age, err := need("age")
	if err != nil {
		return usage{}, err
	}
	r.made++
	upload, err := r.rclone("rcat", fmt.Sprintf("s3:%s/dump-%d.age", r.name, r.made))
	if err != nil {
		return usage{}, err
	}
	used, _, err := r.meter.run(ctx, r.dump(r.gzip), program{path: age, arguments: []string{"-r", r.ageRecipient}}, upload)
	return used, err
}

// resticRepository holds uncompressed dumps, which restic splits, deduplicates, compresses and seals.
type resticRepository struct {
	*toolset
	name string
}

func (r *resticRepository) bucket() string { return r.name }

func (r *resticRepository) command(arguments ...string) (program, error) {
	path, err := need("restic")
	return program{path: path, arguments: append([]string{"--repo", "s3:" + r.s3.endpoint() + "/" + r.name, "--cacert", r.s3.caFile, "--quiet"}, arguments...), environment: []string{
		"AWS_ACCESS_KEY_ID=" + r.s3.accessKey, "AWS_SECRET_ACCESS_KEY=" + r.s3.secretKey, "AWS_DEFAULT_REGION=" + s3Region,
		"RESTIC_PASSWORD=benchmark", "RESTIC_CACHE_DIR=" + filepath.Join(r.dir, "restic-cache"), "RESTIC_COMPRESSION=auto",
	}}, err
}

func (r *resticRepository) prepare(ctx context.Context) error {
	if err := r.makeBucket(ctx, r.name); err != nil {
		return err
	}
	command, err := r.command("init")
	if err != nil {
		return err
	}
	_, err = r.quiet(ctx, command)
	return err
}

func (r *resticRepository) run(ctx context.Context) (usage, error) {
	command, err := r.command("backup", "--stdin", "--stdin-filename", database+".dump")
	if err != nil {
		return usage{}, err
	}
	dump := program{path: filepath.Join(r.serverDir, "pg_dump"), arguments: []string{"-Fc", "-Z0", "-d", database}, environment: r.cluster.clientEnvironment()}
	used, _, err := r.meter.run(ctx, dump, command)
	return used, err
}

// pgbackrestRepository holds physical backups of the whole cluster.
type pgbackrestRepository struct {
	*toolset
	name string
	kind string // full, then incr
}

func (r *pgbackrestRepository) bucket() string { return r.name }

func (r *pgbackrestRepository) command(arguments ...string) (program, error) {
	path, err := need("pgbackrest")
	return program{
		path: path, arguments: append([]string{"--config=" + filepath.Join(r.home(), "pgbackrest.conf"), "--stanza=bench"}, arguments...),
		as: r.cluster.as, // reads the files of the cluster
	}, err
}

// home is a directory of the server's user.
func (r *pgbackrestRepository) home() string { return filepath.Join(r.dir, r.name) }

func (r *pgbackrestRepository) prepare(ctx context.Context) error {
	if err := r.makeBucket(ctx, r.name); err != nil {
		return err
	}
	if err := os.Mkdir(r.home(), 0o755); err != nil {
		return fmt.Errorf("configure pgbackrest: %w", err)
	}
	if err := r.cluster.as.Own(r.home()); err != nil {
		return err
	}
	// Bundles spare a request for each of a thousand small files, as its manual recommends for object stores. The archive
	// of WAL, without which such a backup cannot be restored, is left out: it would cost the server besides.
	text := fmt.Sprintf(`[global]
repo1-type=s3
repo1-path=/pgbackrest
repo1-s3-bucket=%s
repo1-s3-endpoint=localhost
repo1-storage-port=%d
repo1-storage-ca-file=%s
repo1-s3-region=%s
repo1-s3-key=%s
repo1-s3-key-secret=%s
repo1-s3-uri-style=path
repo1-bundle=y
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass=benchmark-benchmark-benchmark
repo1-retention-full=100
compress-type=zst
compress-level=%d
process-max=2
start-fast=y
archive-check=n
archive-copy=n
log-level-console=error
log-level-file=off
log-path=%[8]s
lock-path=%[8]s
spool-path=%[8]s
[bench]
pg1-path=%s
pg1-socket-path=%s
pg1-port=%d
pg1-user=%s
`, r.name, r.s3.port, r.s3.caFile, s3Region, r.s3.accessKey, r.s3.secretKey, r.zstdLevel, r.home(), r.cluster.dataDir(), r.cluster.dir, r.cluster.port, superuser)
	file := filepath.Join(r.home(), "pgbackrest.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return fmt.Errorf("configure pgbackrest: %w", err)
	}
	if err := r.cluster.as.Own(file); err != nil {
		return err
	}
	command, err := r.command("stanza-create")
	if err != nil {
		return err
	}
	_, err = r.quiet(ctx, command)
	r.kind = "full"
	return err
}

func (r *pgbackrestRepository) run(ctx context.Context) (usage, error) {
	command, err := r.command("backup", "--type="+r.kind)
	if err != nil {
		return usage{}, err
	}
	used, _, err := r.meter.run(ctx, command)
	if err == nil {
		r.kind = "incr"
	}
	return used, err
}

// floor reads all rows over two connections and drops them.
func (t *toolset) floor(ctx context.Context, withCTID bool) (usage, error) {
	used, _, err := t.meter.run(ctx, program{path: t.self, arguments: []string{"child", "floor", t.cluster.dsn(database), strconv.FormatBool(withCTID)}})
	return used, err
}

// localDump is a dump in custom format on the local disk, to be restored by pg_restore.
func (t *toolset) localDump(ctx context.Context, gzip bool) (string, error) {
	file := filepath.Join(t.dir, "local.dump")
	if gzip {
		file += ".gzip"
	}
	_, err := t.quiet(ctx, t.dump(gzip, "-f", file))
	return file, err
}

// pgRestore restores a local dump with two jobs into a new database, and then collects statistics, which a restore by
// hourvault includes: the second usage is of that.
func (t *toolset) pgRestore(ctx context.Context, file string, gzip bool) (used, statistics usage, err error) {
	environment := t.cluster.clientEnvironment()
	create := program{path: filepath.Join(t.serverDir, "createdb"), arguments: []string{"--template", "template0", restored}, environment: environment}
	load := program{path: filepath.Join(t.serverDir, "pg_restore"), arguments: []string{"-j", "2", "-d", restored, file}, environment: environment}
	if !gzip {
		load.path = filepath.Join(t.clientDir, "pg_restore")
		load.tolerate = isComplaintOf17
	}
	analyze := program{path: filepath.Join(t.serverDir, "vacuumdb"), arguments: []string{"--analyze-only", "-j", "2", "-d", restored}, environment: environment}
	used, _, err = t.meter.run(ctx, create)
	if err != nil {
		return used, statistics, err
	}
	loading, _, err := t.meter.run(ctx, load)
	used.add(loading)
	if err != nil {
		return used, statistics, err
	}
	statistics, _, err = t.meter.run(ctx, analyze)
	return used, statistics, err
}

// versions returns what the tools say of themselves, for the report.
func (t *toolset) versions(ctx context.Context) map[string]string {
	found := map[string]string{}
	for name, command := range map[string][]string{
		"hourvault":         {t.hourvault, "version"},
		"PostgreSQL server": {filepath.Join(t.serverDir, "postgres"), "--version"},
		"pg_dump for zstd":  {filepath.Join(t.clientDir, "pg_dump"), "--version"},
		"age":               {"age", "--version"},
		"rclone":            {"rclone", "version"},
		"restic":            {"restic", "version"},
		"pgBackRest":        {"pgbackrest", "version"},
	} {
		path, err := exec.LookPath(command[0])
		if err != nil {
			continue
		}
		output, err := t.quiet(ctx, program{path: path, arguments: command[1:], environment: []string{"RCLONE_CONFIG=" + filepath.Join(t.dir, "rclone.conf")}})
		if err != nil {
			found[name] = "unknown: " + err.Error()
			continue
		}
		first, _, _ := bytes.Cut(bytes.TrimSpace(output), []byte("\n"))
		found[name] = string(first)
	}
	return found
}
