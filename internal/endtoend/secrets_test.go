package endtoend_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/testenv"
)

// Hazard 2.8 in docs/hazards.md: roles are common to all databases of a server, and whoever may read rows may also read
// the hashes of everybody's passwords. Neither those nor the names of another customer's roles may reach a workspace.
func TestNoPasswordAndNoOtherCustomersRoleReachesTheRepository(t *testing.T) {
	for _, major := range testenv.Majors() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			cluster := testenv.Postgres(t, major)
			database, other := cluster.CreateDatabase(t, "TEMPLATE template0"), cluster.CreateDatabase(t, "TEMPLATE template0")
			owner, reader, neighbour := database+"_owner", database+"_reader", other+"_neighbour"
			const password, neighboursPassword, oldPassword = "ownersclearword", "neighboursclearword", "readersclearword"
			cluster.Exec(t, "postgres", fmt.Sprintf(`
				set password_encryption = 'scram-sha-256';
				create role %[1]s login createdb password '%[4]s' valid until '2031-02-03';
				create role %[3]s login password '%[5]s';
				set password_encryption = 'md5';
				create role %[2]s login password '%[6]s';
				grant %[3]s to %[1]s;
				alter database %[7]s owner to %[1]s;
				alter database %[8]s owner to %[3]s;
				alter role %[3]s in database %[8]s set work_mem = '7MB';
				alter role %[2]s in database %[7]s set work_mem = '8MB'`, owner, reader, neighbour, password, neighboursPassword, oldPassword, database, other))
			t.Cleanup(func() {
				for _, role := range []string{owner, reader, neighbour} {
					cluster.Exec(t, "postgres", "reassign owned by "+role+" to postgres; drop owned by "+role)
					cluster.Exec(t, database, "reassign owned by "+role+" to postgres; drop owned by "+role)
					cluster.Exec(t, other, "reassign owned by "+role+" to postgres; drop owned by "+role)
					cluster.Exec(t, "postgres", "drop role "+role)
				}
			})
			script := `set role %[1]s; create schema own; create table own.kept (id int, note text);
				insert into own.kept values (1, 'a row that is stored'); grant select on own.kept to public; reset role; grant select on own.kept to %[2]s;
				alter default privileges for role %[1]s grant select on tables to %[2]s`
			cluster.Exec(t, database, fmt.Sprintf("grant create on database %s to %s; ", database, owner)+fmt.Sprintf(script, owner, reader))
			cluster.Exec(t, other, fmt.Sprintf("grant create on database %s to %s; ", other, neighbour)+fmt.Sprintf(script, neighbour, neighbour))

			store := directory(t)
			vault := newVault(t, store)
			server := newServer(t, cluster, "postgres") // a superuser may read every hash
			vault.backup(t, server, database)
			vault.backup(t, server, database) // and with a base

			secrets := []string{"SCRAM-SHA-256", password, neighboursPassword, oldPassword, neighbour, other}
			hashes := query(t, cluster, "postgres", fmt.Sprintf("select rolpassword from pg_authid where rolname in ('%s', '%s', '%s')", owner, reader, neighbour))
			if len(hashes) != 3 {
				t.Fatalf("%d roles have passwords", len(hashes))
			}
			for _, hash := range hashes {
				secrets = append(secrets, hash)
				// Parts too, however they may be wrapped: iterations and salt, stored key and server key.
				for _, part := range strings.FieldsFunc(strings.TrimPrefix(strings.TrimPrefix(hash, "SCRAM-SHA-256"), "md5"), func(r rune) bool { return r == '$' || r == ':' }) {
					if len(part) >= 20 {
						secrets = append(secrets, part)
					}
				}
			}
			texts := everyText(t, store(t), vault.root)
			for _, secret := range secrets {
				for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret)), hex.EncodeToString([]byte(secret))} {
					for place, text := range texts {
						if bytes.Contains(text, []byte(form)) {
							t.Errorf("%s holds %q", place, form)
						}
					}
				}
			}
			// What must be there is found in the same way: the search sees what it claims to see.
			for what, kind := range map[string]crypto.Kind{
				owner: crypto.KindManifest, reader: crypto.KindManifest, database: crypto.KindWorkspace,
				"CREATE TABLE own.kept": crypto.KindArchive, `"kept"`: crypto.KindTables, "1\ta row that is stored\n": crypto.KindChunk,
			} {
				if !slices.ContainsFunc(slices.Collect(maps.Keys(texts)), func(place string) bool {
					return strings.HasSuffix(place, " "+kind.String()) && bytes.Contains(texts[place], []byte(what))
				}) {
					t.Errorf("no %s holds %q", kind, what)
				}
			}
		})
	}
}

// everyText opens every object of a repository, whatever refers to it, and returns all bytes that are stored under the
// object's key, a space, and its kind: texts of one kind in one pack one behind the other, so that nothing hides where
// pages are cut. Clear objects are of kind "clear". It closes the store.
func everyText(t *testing.T, store closingStore, root crypto.RootKey) map[string][]byte {
	t.Helper()
	defer closeStore(t, store)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("open every object: %v", err)
		}
	}
	decoder, err := zstd.NewReader(nil)
	must(err)
	defer decoder.Close()
	objects := make(map[string][]byte)
	for info, err := range store.List(t.Context(), "") {
		must(err)
		content, _, err := objectstore.ReadAll(t.Context(), store, info.Key, 1<<30)
		must(err)
		objects[info.Key] = content
	}
	id := func(text string) crypto.ID {
		bytes, err := hex.DecodeString(text)
		must(err)
		return crypto.ID(bytes)
	}
	var about struct {
		ID string `json:"id"`
	}
	must(json.Unmarshal(objects["repository.json"], &about))
	repository := id(about.ID)

	texts := make(map[string][]byte)
	for key, object := range objects {
		header, err := crypto.ParseHeader(object)
		if err != nil {
			texts[key+" clear"] = object
			continue
		}
		place := crypto.Place{Repository: repository, Object: key}
		wrapKey := fmt.Sprintf("keys/1/%s/%s", about.ID, root.ID())
		if segments := strings.Split(key, "/"); segments[0] == "workspaces" {
			place.Workspace = id(segments[1])
			wrapKey = fmt.Sprintf("workspaces/%s/keys/%d/%s", segments[1], header.KeyNumber, root.ID())
		}
		var wrap struct {
			Wrapped []byte `json:"wrapped"`
		}
		must(json.Unmarshal(objects[wrapKey], &wrap))
		secret, err := crypto.UnwrapKey(t.Context(), root, wrap.Wrapped, crypto.WrapPlace{Repository: repository, Workspace: place.Workspace, KeyNumber: header.KeyNumber})
		must(err)
		open := func(kind crypto.Kind, part uint32, plainSize uint64, sealed []byte) ([]byte, error) {
			text, err := crypto.NewSealer(secret, header, place, kind).Open(nil, kind, part, plainSize, sealed)
			if err != nil {
				return nil, fmt.Errorf("%s, part %d: %w", key, part, err)
			}
			return decoder.DecodeAll(text, nil)
		}
		if header.Kind != crypto.KindPack {
			plainSize := binary.BigEndian.Uint64(object[crypto.HeaderSize:])
			text, err := open(header.Kind, 0, plainSize, object[crypto.HeaderSize+8:])
			must(err)
			texts[key+" "+header.Kind.String()] = text
			continue
		}
		trailer := object[len(object)-8:]
		stored, plain := int(binary.BigEndian.Uint32(trailer)), binary.BigEndian.Uint32(trailer[4:])
		sealed := object[len(object)-8-stored : len(object)-8]
		var directory []byte
		for parts := plain/3 + 1; directory == nil; parts-- {
			if directory, err = open(crypto.KindDirectory, parts, uint64(plain), sealed); parts == 0 {
				must(err)
			}
		}
		count, n := binary.Uvarint(directory)
		offset := crypto.HeaderSize
		rest := directory[n:]
		for part := range uint32(count) {
			kind := crypto.Kind(rest[0])
			stored, n := binary.Uvarint(rest[1:])
			plain, m := binary.Uvarint(rest[1+n:])
			rest = rest[1+n+m:]
			text, err := open(kind, part, plain, object[offset:offset+int(stored)])
			must(err)
			offset += int(stored)
			texts[key+" "+kind.String()] = append(texts[key+" "+kind.String()], text...)
		}
		if len(rest) != 0 || offset != len(object)-8-len(sealed) {
			t.Fatalf("%s: the directory does not cover the pack", key)
		}
	}
	if len(texts) < 6 {
		t.Fatalf("the repository holds %d texts only", len(texts))
	}
	return texts
}
