package endtoend_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/testenv"
)

// installation is hourvault as an operator has it: the program, a configuration file and a root key.
type installation struct {
	program string
	config  string
	env     []string
}

// run runs a command and returns its exit code, what it printed on standard output, and on standard error.
func (i *installation) run(t *testing.T, args ...string) (int, string, string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), i.program, args...)
	command.Env = append(os.Environ(), append(i.env, "HOURVAULT_CONFIG="+i.config)...)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return command.ProcessState.ExitCode(), stdout.String(), stderr.String()
}

func (i *installation) mustRun(t *testing.T, args ...string) string {
	t.Helper()
	code, stdout, stderr := i.run(t, args...)
	if code != 0 {
		t.Fatalf("hourvault %s: exit code %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// tampered is a repository in a real store whose objects a test exchanges.
type tampered struct {
	store    objectstore.Store
	original map[string][]byte
}

func readRepository(t *testing.T, store objectstore.Store) *tampered {
	t.Helper()
	r := &tampered{store: store, original: make(map[string][]byte)}
	for info, err := range store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		content, _, err := objectstore.ReadAll(t.Context(), store, info.Key, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		r.original[info.Key] = content
	}
	return r
}

// put makes an object have that content; nil deletes it.
func (r *tampered) put(ctx context.Context, key string, content []byte) error {
	if err := r.store.Delete(ctx, key); err != nil || content == nil {
		return err
	}
	_, err := r.store.PutIfAbsent(ctx, key, content)
	return err
}

func (r *tampered) apply(t *testing.T, changes map[string][]byte) {
	t.Helper()
	for key, content := range changes {
		if err := r.put(t.Context(), key, content); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for key := range changes {
			if err := r.put(context.WithoutCancel(t.Context()), key, r.original[key]); err != nil {
				t.Error(err)
			}
		}
	})
}

// below returns the keys that begin with prefix, ascending.
func (r *tampered) below(t *testing.T, prefix string, want int) []string {
	t.Helper()
	var keys []string
	for key := range r.original {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	if slices.Sort(keys); len(keys) != want {
		t.Fatalf("%d objects below %s, want %d: %v", len(keys), prefix, want, keys)
	}
	return keys
}

// verified is what is looked at of the document of hourvault verify.
type verified struct {
	Complete bool `json:"complete"`
	Problems []struct {
		Kind      string `json:"kind"`
		Workspace string `json:"workspace"`
		ID        string `json:"workspace_id"`
		Object    string `json:"object"`
	} `json:"problems"`
}

// Whatever of one workspace is damaged, exchanged, moved or taken away: verify --read-data names it, restore names it and leaves no database
// behind, and another workspace of the same repository is verified and restored as if nothing had happened.
func TestTamperingIsNamedByTheProgramAndTouchesNoOtherWorkspace(t *testing.T) {
	t.Parallel()
	program := testenv.Hourvault(t)
	cluster := testenv.Postgres(t, 17)
	for _, place := range []string{"directory", "versitygw"} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			victim, other := cluster.CreateDatabase(t, ""), cluster.CreateDatabase(t, "")
			for _, database := range []string{victim, other} {
				cluster.Exec(t, database, "create table t (i int primary key, x text); insert into t select i, md5(i::text) from generate_series(1, 3000) i; create sequence s; select lo_create(77)")
			}
			dir := t.TempDir()
			hv := &installation{program: program, config: filepath.Join(dir, "hourvault.yaml")}
			where := fmt.Sprintf("repository: { url: %q }", "file://"+dir+"/repository")
			open := func() (objectstore.Store, error) {
				return objectstore.OpenDirectory(dir+"/repository", objectstore.DirectoryOptions{})
			}
			if place == "versitygw" {
				server := testenv.VersityGW(t)
				bucket := server.NewBucket(t)
				where = fmt.Sprintf("repository: { url: s3://%s/prod, region: %s, endpoint: %q, path_style: true, sse: none, access_key_id: %s, secret_access_key_env: SECRET }",
					bucket, server.Region, server.Endpoint, server.AccessKey)
				hv.env = []string{"SECRET=" + server.SecretKey}
				open = func() (objectstore.Store, error) {
					return objectstore.OpenS3(t.Context(), objectstore.S3Options{Bucket: bucket, Prefix: "prod", Region: server.Region, Endpoint: server.Endpoint, PathStyle: true,
						SSE: objectstore.SSENone, AccessKeyID: server.AccessKey, SecretAccessKey: objectstore.NewSecret(server.SecretKey)})
				}
			}
			config := fmt.Sprintf("%s\nroot_key: file://%s/root.key\nservers:\n  - { name: main, dsn: %q, pg_bin_dirs: [%q], workspaces: { include: [%q, %q] } }\n",
				where, dir, fmt.Sprintf("host=%s port=%d user=postgres", cluster.SocketDir(), cluster.Port()), cluster.BinDir(), victim, other)
			if err := os.WriteFile(hv.config, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			hv.mustRun(t, "init")
			ids := make(map[string]string)
			for range 2 {
				var taken struct {
					Workspaces []struct {
						Database string `json:"database"`
						ID       string `json:"workspace_id"`
					} `json:"workspaces"`
				}
				if err := json.Unmarshal([]byte(hv.mustRun(t, "backup", "--all", "--json")), &taken); err != nil {
					t.Fatal(err)
				}
				for _, workspace := range taken.Workspaces {
					ids[workspace.Database] = workspace.ID
				}
				for _, database := range []string{victim, other} {
					cluster.Exec(t, database, "update t set x = md5(x) where i % 100 = 0; alter table t add column if not exists y int default 7")
				}
			}
			store, err := open()
			if err != nil {
				t.Fatal(err)
			}
			r := readRepository(t, store)
			mine, theirs := "workspaces/"+ids[victim]+"/", "workspaces/"+ids[other]+"/"
			manifests, packs := r.below(t, mine+"snapshots/", 2), r.below(t, mine+"packs/", 2)
			foreignManifests, foreignPacks := r.below(t, theirs+"snapshots/", 2), r.below(t, theirs+"packs/", 2)
			key, record := r.below(t, mine+"keys/", 1)[0], r.below(t, mine+"workspace/", 1)[0]
			foreignKey, foreignRecord := r.below(t, theirs+"keys/", 1)[0], r.below(t, theirs+"workspace/", 1)[0]
			lease := r.below(t, mine+"lease", 1)[0]
			claims := r.below(t, "claims/", 2)
			flipped := func(key string, at int) map[string][]byte {
				content := bytes.Clone(r.original[key])
				content[at] ^= 1
				return map[string][]byte{key: content}
			}
			half := func(key string) map[string][]byte {
				return map[string][]byte{key: r.original[key][:len(r.original[key])/2]}
			}
			copied := func(to, from string) map[string][]byte { return map[string][]byte{to: r.original[from]} }
			swapped := func(a, b string) map[string][]byte {
				return map[string][]byte{a: r.original[b], b: r.original[a]}
			}
			for n, test := range []struct {
				name    string
				changes map[string][]byte
				object  string // that must be named, or how its key begins
				unread  bool   // a restore does not need it
				both    bool   // the other workspace is concerned as well
				long    bool
			}{
				{name: "a flipped bit in a pack", changes: flipped(packs[1], 100), object: packs[1]},
				{name: "a pack cut in half", changes: half(packs[1]), object: packs[1], long: true},
				{name: "two packs exchanged", changes: swapped(packs[0], packs[1]), object: mine + "packs/"},
				{name: "another workspace's pack", changes: copied(packs[1], foreignPacks[1]), object: packs[1], long: true},
				{name: "a pack removed", changes: map[string][]byte{packs[0]: nil}, object: packs[0]},
				{name: "a flipped bit in the newest manifest", changes: flipped(manifests[1], 200), object: manifests[1]},
				{name: "the newest manifest cut in half", changes: half(manifests[1]), object: manifests[1], long: true},
				{name: "the older manifest in the place of the newest", changes: copied(manifests[1], manifests[0]), object: manifests[1]},
				{name: "another workspace's manifest", changes: copied(manifests[1], foreignManifests[1]), object: manifests[1]},
				{name: "the older manifest removed", changes: map[string][]byte{manifests[0]: nil}, object: manifests[0], unread: true},
				{name: "another workspace's key", changes: copied(key, foreignKey), object: key},
				{name: "a flipped bit in the record", changes: flipped(record, 90), object: record, long: true},
				{name: "another workspace's record", changes: copied(record, foreignRecord), object: record},
				{name: "a flipped bit in the lease", changes: flipped(lease, 90), object: lease, unread: true},
				{name: "the claims exchanged", changes: swapped(claims[0], claims[1]), object: claims[0], both: true},
			} {
				if test.long && !testenv.Long() {
					continue
				}
				t.Run(test.name, func(t *testing.T) {
					r.apply(t, test.changes)
					code, stdout, stderr := hv.run(t, "verify", "--read-data", "--json")
					var report verified
					if err := json.Unmarshal([]byte(stdout), &report); err != nil || code != 1 || !report.Complete {
						t.Errorf("verify: exit code %d, %v\n%s%s", code, err, stdout, stderr)
					}
					named := false
					for _, problem := range report.Problems {
						named = named || strings.HasPrefix(problem.Object, test.object) && (test.both || problem.ID == ids[victim])
						// A workspace whose name cannot be read has its id alone.
						if !test.both && (problem.ID != ids[victim] || problem.Workspace != "" && problem.Workspace != "main/"+victim) {
							t.Errorf("verify blames %s (%s): %s of %s", problem.Workspace, problem.ID, problem.Kind, problem.Object)
						}
					}
					if !named {
						t.Errorf("verify does not name %s:\n%s", test.object, stdout)
					}

					into := fmt.Sprintf("%s_back_%d", victim, n)
					code, stdout, stderr = hv.run(t, "restore", victim, "--into", into)
					there := exists(t, cluster, into)
					if test.unread {
						if code != 0 || !there {
							t.Errorf("restore does not need it, and: exit code %d\n%s%s", code, stdout, stderr)
						}
						cluster.Exec(t, "postgres", "drop database "+into)
					} else if code != 1 || !strings.Contains(stderr, test.object) || there {
						t.Errorf("restore: exit code %d, a database is left: %t, and %s must be named:\n%s%s", code, there, test.object, stdout, stderr)
					}
					if test.both {
						return
					}

					hv.mustRun(t, "verify", "--read-data", other)
					if n == 0 || testenv.Long() {
						into := fmt.Sprintf("%s_back_%d", other, n)
						hv.mustRun(t, "restore", other, "--into", into)
						if got, want := digest(t, cluster, into), digest(t, cluster, other); got != want {
							t.Errorf("the other workspace came back with %s, want %s", got, want)
						}
						cluster.Exec(t, "postgres", "drop database "+into)
					}
				})
			}
			hv.mustRun(t, "verify", "--read-data") // all is as it was
		})
	}
}

func exists(t *testing.T, cluster *testenv.Cluster, like string) (found bool) {
	t.Helper()
	conn := connect(t, cluster, "postgres")
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if err := conn.QueryRow(t.Context(), "select exists (select from pg_database where datname like replace($1, '_', '\\_'))", like).Scan(&found); err != nil {
		t.Fatal(err)
	}
	return found
}

// digest is of the columns that both snapshots have: the tables were changed after the last one.
func digest(t *testing.T, cluster *testenv.Cluster, database string) (text string) {
	t.Helper()
	conn := connect(t, cluster, database)
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if err := conn.QueryRow(t.Context(), "select md5(string_agg(i || ' ' || case when i % 100 = 0 then '' else x end, ',' order by i)) from public.t").Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}
