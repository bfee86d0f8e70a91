package crypto

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func testKey(t testing.TB, fill byte) *Key {
	t.Helper()
	key, err := KeyFromBytes(bytes.Repeat([]byte{fill}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func testRoot(t testing.TB, fill byte) *LocalRootKey {
	t.Helper()
	root, err := ParseLocalRootKey(bytes.Repeat([]byte{fill}, KeySize), "test")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func testPlace() Place {
	return Place{Repository: ID{1}, Workspace: ID{2}, Object: "workspaces/x/snapshots/y"}
}

func TestOpenReturnsWhatWasSealed(t *testing.T) {
	header := Header{Kind: KindManifest, KeyNumber: 1}
	sealer := NewSealer(testKey(t, 7), header, testPlace(), KindManifest, KindChunk)
	for _, text := range [][]byte{{}, {0}, bytes.Repeat([]byte("abc"), 1000)} {
		sealed := sealer.Seal([]byte("before"), KindManifest, 3, 17, text)
		opened, err := sealer.Open([]byte("and"), KindManifest, 3, 17, sealed[len("before"):])
		if err != nil || string(opened) != "and"+string(text) || len(sealed) != len("before")+len(text)+Overhead {
			t.Errorf("open(seal(%d bytes)) = %d bytes, %v", len(text), len(opened), err)
		}
	}
}

// Everything that stands in the associated data or in the derivation must matter.
func TestOpenRefusesEveryOtherPlace(t *testing.T) {
	header := Header{Kind: KindManifest, KeyNumber: 1}
	sealed := NewSealer(testKey(t, 7), header, testPlace(), KindManifest).Seal(nil, KindManifest, 3, 17, []byte("text"))
	other := func(change func(*Header, *Place)) *Sealer {
		header, place := header, testPlace()
		change(&header, &place)
		return NewSealer(testKey(t, 7), header, place, KindManifest, KindVoid)
	}
	same := other(func(*Header, *Place) {})
	for name, open := range map[string]func() ([]byte, error){
		"another repository": func() ([]byte, error) {
			return other(func(_ *Header, p *Place) { p.Repository[15]++ }).Open(nil, KindManifest, 3, 17, sealed)
		},
		"another workspace": func() ([]byte, error) {
			return other(func(_ *Header, p *Place) { p.Workspace[15]++ }).Open(nil, KindManifest, 3, 17, sealed)
		},
		"another object": func() ([]byte, error) {
			return other(func(_ *Header, p *Place) { p.Object += "z" }).Open(nil, KindManifest, 3, 17, sealed)
		},
		"another key number": func() ([]byte, error) {
			return other(func(h *Header, _ *Place) { h.KeyNumber++ }).Open(nil, KindManifest, 3, 17, sealed)
		},
		"another salt": func() ([]byte, error) {
			return other(func(h *Header, _ *Place) { h.Salt[31]++ }).Open(nil, KindManifest, 3, 17, sealed)
		},
		"another kind":   func() ([]byte, error) { return same.Open(nil, KindVoid, 3, 17, sealed) },
		"another part":   func() ([]byte, error) { return same.Open(nil, KindManifest, 4, 17, sealed) },
		"another length": func() ([]byte, error) { return same.Open(nil, KindManifest, 3, 18, sealed) },
		"another key": func() ([]byte, error) {
			return NewSealer(testKey(t, 8), header, testPlace(), KindManifest).Open(nil, KindManifest, 3, 17, sealed)
		},
		"nothing": func() ([]byte, error) { return same.Open(nil, KindManifest, 3, 17, nil) },
	} {
		if _, err := open(); !errors.Is(err, ErrNotAuthentic) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if _, err := same.Open(nil, KindManifest, 3, 17, changed); !errors.Is(err, ErrNotAuthentic) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := same.Open(nil, KindManifest, 3, 17, sealed[:i]); !errors.Is(err, ErrNotAuthentic) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
	if _, err := same.Open(nil, KindManifest, 3, 17, sealed); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

// Nonces are random: equal texts sealed again under the same key differ, and in the nonce above all.
func TestSealingTwiceNeverUsesANonceTwice(t *testing.T) {
	sealer := NewSealer(testKey(t, 7), Header{Kind: KindChunk}, testPlace(), KindChunk)
	seen := make(map[string]bool)
	for range 10_000 {
		nonce := string(sealer.Seal(nil, KindChunk, 0, 4, []byte("text"))[:12])
		if seen[nonce] {
			t.Fatalf("nonce %x came twice", nonce)
		}
		seen[nonce] = true
	}
}

func TestEveryKindHasALabelOfItsOwn(t *testing.T) {
	labels := map[string]Kind{"fingerprint": 0, "page digest": 0, "claim name": 0, "root wrap": 0, "root key id": 0}
	for kind, label := range kindLabels {
		if other, taken := labels[label]; taken {
			t.Errorf("kinds %d and %d share the label %q", kind, other, label)
		}
		labels[label] = kind
	}
	for _, kind := range []Kind{KindClaim, KindWorkspace, KindLease, KindManifest, KindVoid, KindPlan, KindReport, KindPack, KindChunk, KindArchive,
		KindListing, KindIndex, KindTables, KindSequences, KindLargeObjs, KindDirectory} {
		if kindLabels[kind] == "" {
			t.Errorf("kind %d has no label", kind)
		}
	}
}

// The values are those of docs/format.md, "Check values": another implementation relies on them.
func TestCheckValuesOfTheFormat(t *testing.T) {
	key := testKey(t, 7)
	fingerprint := key.NewFingerprinter()
	fingerprint.Write([]byte("1\ta\n"))
	for _, check := range []struct{ name, got, want string }{
		{"id of the local root key", testRoot(t, 7).ID(), "local-1fb5630f982b8eb2"},
		{"wrapping key", hex.EncodeToString(key.derive(nil, "root wrap")), "1d7ccc9e04d49dfca3ff6156ba9a568b26b104493b0ca6957555c451ecc7b1e7"},
		{"claim name", hex.EncodeToString(key.ClaimName([]byte("7123456789012345678/16384"))), "62589ebb50f1df8a83f191e3c982cd860bb030373195a872ecf84f67b099322c"},
		{"fingerprint key", hex.EncodeToString(key.derive(nil, "fingerprint")), "2e79fc2c86c5a2e0e609b3c1460e4a8ca8bcc377ac35d00bf5c2482a480a5aa5"},
		{"fingerprint", hex.EncodeToString(fingerprint.Sum(nil)[:8]), "6e10623e7f843a1d"},
		{"manifest key", hex.EncodeToString(key.derive(make([]byte, SaltSize), "manifest")), "bb13c1cafe07b1526da31a0e9de444ec89e14ce8fc221dae4c6fb13c1fda6639"},
		{"header", hex.EncodeToString(Header{Kind: KindManifest, KeyNumber: 1}.Append(nil)), "48564c5400010400" + "00000001" + "00000000" + strings.Repeat("00", 32)},
	} {
		if check.got != check.want {
			t.Errorf("%s: got %s, want %s", check.name, check.got, check.want)
		}
	}
	object := "workspaces/" + strings.Repeat("22", 16) + "/snapshots/20261122T140000Z-0123456789abcdef"
	place := Place{Repository: ID(bytes.Repeat([]byte{0x11}, 16)), Workspace: ID(bytes.Repeat([]byte{0x22}, 16)), Object: object}
	got := NewSealer(key, Header{Kind: KindManifest, KeyNumber: 1}, place).associatedData(KindManifest, 0, 300)
	want := "000104" + strings.Repeat("11", 16) + strings.Repeat("22", 16) + "00000001" + "00000000" + "000000000000012c" + hex.EncodeToString([]byte(object))
	if hex.EncodeToString(got) != want {
		t.Errorf("associated data: got %x, want %s", got, want)
	}
}

func TestParseHeaderReadsWhatAppendWroteAndNothingElse(t *testing.T) {
	header := Header{Kind: KindPack, KeyNumber: 0xfedcba98}
	header.Salt[0], header.Salt[31] = 1, 2
	object := header.Append(nil)
	if got, err := ParseHeader(object); err != nil || got != header || len(object) != HeaderSize {
		t.Errorf("got %+v, %v", got, err)
	}
	for n := range object {
		if _, err := ParseHeader(object[:n]); !errors.Is(err, ErrNotSealed) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	for i, want := range map[int]error{0: ErrNotSealed, 3: ErrNotSealed, 4: ErrNewerFormat, 5: ErrNewerFormat, 7: ErrNotSealed, 12: ErrNotSealed, 15: ErrNotSealed} {
		changed := bytes.Clone(object)
		changed[i] |= 2
		if _, err := ParseHeader(changed); !errors.Is(err, want) {
			t.Errorf("byte %d: %v, want %v", i, err, want)
		}
	}
	object[5] = 0
	if _, err := ParseHeader(object); !errors.Is(err, ErrNotSealed) {
		t.Errorf("version 0: %v", err)
	}
}

func TestWrapsAreBoundToTheirPlaceAndRootKey(t *testing.T) {
	ctx := t.Context()
	root, other := testRoot(t, 1), testRoot(t, 2)
	place := WrapPlace{Repository: ID{1}, Workspace: ID{2}, KeyNumber: 1}
	key := NewKey()
	wrapped, err := WrapKey(ctx, root, key, place)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := UnwrapKey(ctx, root, wrapped, place); err != nil || got.secret != key.secret {
		t.Errorf("unwrap: %v", err)
	}
	for name, place := range map[string]WrapPlace{
		"repository": {Repository: ID{9}, Workspace: ID{2}, KeyNumber: 1},
		"workspace":  {Repository: ID{1}, Workspace: ID{9}, KeyNumber: 1},
		"number":     {Repository: ID{1}, Workspace: ID{2}, KeyNumber: 2},
	} {
		if _, err := UnwrapKey(ctx, root, wrapped, place); !errors.Is(err, ErrWrongRootKey) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	if _, err := UnwrapKey(ctx, other, wrapped, place); !errors.Is(err, ErrWrongRootKey) {
		t.Errorf("another root key: %v", err)
	}
	for i := range wrapped {
		changed := bytes.Clone(wrapped)
		changed[i] ^= 0x80
		if _, err := UnwrapKey(ctx, root, changed, place); !errors.Is(err, ErrWrongRootKey) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := UnwrapKey(ctx, root, wrapped[:i], place); !errors.Is(err, ErrWrongRootKey) {
			t.Errorf("cut to %d: %v", i, err)
		}
	}
	// A wrap of something else than a key is no key.
	short, err := root.Wrap(ctx, []byte("short"), place.associatedData(root.ID()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := UnwrapKey(ctx, root, short, place); err == nil {
		t.Error("a wrapped secret of 5 bytes became a key")
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	key := testKey(t, 'K')
	sealer := NewSealer(key, Header{Kind: KindChunk}, testPlace(), KindChunk)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		for _, value := range []any{key, *key, struct{ Key *Key }{key}, testRoot(t, 'K'), sealer} {
			printed := fmt.Sprintf(verb, value)
			for _, secret := range []string{"KKKK", "4b4b4b", "4B4B4B", "75 75 75", "0x4b, 0x4b"} {
				if strings.Contains(printed, secret) {
					t.Errorf("%s of %T prints the secret: %s", verb, value, printed)
				}
			}
		}
	}
	if text, err := key.MarshalText(); err != nil || strings.Contains(string(text), "K") {
		t.Errorf("text %s, %v", text, err)
	}
}

func TestKeyFromBytesClearsItsArgument(t *testing.T) {
	secret := bytes.Repeat([]byte{9}, KeySize)
	if _, err := KeyFromBytes(secret); err != nil || !bytes.Equal(secret, make([]byte, KeySize)) {
		t.Errorf("%x, %v", secret, err)
	}
	if _, err := KeyFromBytes(make([]byte, 31)); err == nil {
		t.Error("31 bytes became a key")
	}
}

func TestRootKeyMaterial(t *testing.T) {
	plain := bytes.Repeat([]byte{5}, KeySize)
	text := base64.StdEncoding.EncodeToString(plain)
	want := testRoot(t, 5).ID()
	for name, material := range map[string]string{"plain": string(plain), "base64": text, "base64 and a newline": text + "\n"} {
		material := []byte(material)
		root, err := ParseLocalRootKey(material, "x")
		if err != nil || root.ID() != want {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(material, make([]byte, len(material))) {
			t.Errorf("%s: the material was not cleared", name)
		}
	}
	for name, material := range map[string]string{
		"empty": "", "short": string(plain[:31]), "long": string(plain) + "x", "two newlines": text + "\n\n", "carriage return": text + "\r\n",
		"no padding": text[:43], "another alphabet": "-_" + text[2:], "spaces": " " + text, "garbage": strings.Repeat("!", 44),
		"newlines inside": text[:20] + "\n\n\n\n" + text[24:], "hexadecimal": hex.EncodeToString(plain), "trailing bits": text[:42] + "B=",
	} {
		if _, err := ParseLocalRootKey([]byte(material), "the file"); err == nil || !strings.Contains(err.Error(), "the file") {
			t.Errorf("%s: %v", name, err)
		} else if len(material) > 8 && strings.Contains(err.Error(), material[:8]) {
			t.Errorf("%s: the error shows the material: %v", name, err)
		}
	}
}

func TestRootKeyFiles(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, "root.key")
	made, err := CreateRootKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	read, err := ReadRootKeyFile(path)
	if err != nil || read.ID() != made.ID() {
		t.Errorf("read back: %v", err)
	}
	before, _ := os.ReadFile(path)
	if _, err := CreateRootKeyFile(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made a second time: %v", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the root key was overwritten")
	}
	for mode, allowed := range map[os.FileMode]bool{0o400: true, 0o600: true, 0o640: false, 0o604: false, 0o660: false, 0o644: false, 0o620: false, 0o601: false, 0o777: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := ReadRootKeyFile(path)
		if (err == nil) != allowed || err != nil && !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	if _, err := ReadRootKeyFile(filepath.Join(directory, "none")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "hourvault init") {
		t.Errorf("no file: %v", err)
	}
	if _, err := ReadRootKeyFile(directory); err == nil {
		t.Error("a directory was read")
	}
	large := filepath.Join(directory, "large")
	if err := os.WriteFile(large, make([]byte, maxRootKeyFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRootKeyFile(large); err == nil {
		t.Error("a large file was read")
	}
	fifo := filepath.Join(directory, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRootKeyFile(fifo); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a pipe that nobody writes to: %v", err)
	}
}

// fipsVariable tells a child process of this test that it is one.
const fipsVariable = "HOURVAULT_TEST_FIPS_CHILD"

// With GODEBUG=fips140=only the toolchain refuses whatever is not approved: all other tests of the package are run that way.
func TestPackageUsesApprovedCryptographyOnly(t *testing.T) {
	if os.Getenv(fipsVariable) != "" {
		t.Skip("is the child")
	}
	command := exec.Command(os.Args[0], "-test.count=1")
	command.Env = append(os.Environ(), "GODEBUG=fips140=only", fipsVariable+"=1")
	if output, err := command.CombinedOutput(); err != nil {
		t.Errorf("under GODEBUG=fips140=only: %v\n%s", err, output)
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add(Header{Kind: KindPack, KeyNumber: 1}.Append(nil))
	f.Add([]byte("HVLT"))
	f.Fuzz(func(t *testing.T, data []byte) {
		header, err := ParseHeader(data)
		if err == nil && !bytes.Equal(header.Append(nil), data[:HeaderSize]) {
			t.Errorf("%x reads as %+v, which is written otherwise", data, header)
		}
	})
}

func FuzzUnwrap(f *testing.F) {
	place := WrapPlace{KeyNumber: 1}
	wrapped, err := WrapKey(context.Background(), testRoot(f, 1), testKey(f, 2), place)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wrapped)
	f.Add(wrapped[:28])
	root := testRoot(f, 1)
	f.Fuzz(func(t *testing.T, data []byte) {
		// Every process of a fuzzer wraps the key anew, with another nonce: what opens must be some wrap of it.
		if key, err := UnwrapKey(t.Context(), root, data, place); err == nil && key.secret != testKey(t, 2).secret {
			t.Errorf("%x is a wrap that nobody made", data)
		}
	})
}
