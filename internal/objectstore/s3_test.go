package objectstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/hourvault/hourvault/internal/testenv"
)

// serverOptions returns the options for a new bucket of a test server.
func serverOptions(t testing.TB, server *testenv.S3Server, sse SSE) S3Options {
	t.Helper()
	return S3Options{
		Bucket: server.NewBucket(t), Prefix: "some/prefix", Region: server.Region, Endpoint: server.Endpoint, PathStyle: true,
		SSE: sse, AccessKeyID: server.AccessKey, SecretAccessKey: NewSecret(server.SecretKey),
	}
}

func open(t testing.TB, options S3Options, tuned tuning) *S3 {
	t.Helper()
	if tuned.maxBackoff == 0 {
		tuned.maxBackoff = 50 * time.Millisecond
	}
	store, err := openS3(t.Context(), options, tuned)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// keysInBucket lists everything in the bucket, whatever the prefix, with the server's own credentials.
func keysInBucket(t testing.TB, server *testenv.S3Server, bucket string) []string {
	t.Helper()
	store := open(t, S3Options{
		Bucket: bucket, Region: server.Region, Endpoint: server.Endpoint, PathStyle: true, SSE: SSENone,
		AccessKeyID: server.AccessKey, SecretAccessKey: NewSecret(server.SecretKey),
	}, tuning{})
	var keys []string
	for info, err := range store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

func TestUnencryptedWritesAreRefusedAndLeaveNothing(t *testing.T) {
	server := testenv.VersityGW(t) // which ignores the SSE header
	for _, sse := range []SSE{SSES3, SSEKMS} {
		options := serverOptions(t, server, sse)
		store := open(t, options, tuning{})
		_, err := store.PutIfAbsent(t.Context(), "dir/key", []byte("content"))
		if !errors.Is(err, ErrNotEncrypted) || !strings.Contains(err.Error(), "dir/key") || !strings.Contains(err.Error(), string(sse)) {
			t.Errorf("%s: got %v, want ErrNotEncrypted with key and algorithm", sse, err)
		}
		if keys := keysInBucket(t, server, options.Bucket); len(keys) != 0 {
			t.Errorf("%s: left in the bucket: %q", sse, keys)
		}
	}
}

func TestUnencryptedReplacementIsRefusedAndDoesNotDeleteTheObject(t *testing.T) {
	server := testenv.VersityGW(t)
	options := serverOptions(t, server, SSENone)
	info, err := open(t, options, tuning{}).PutIfAbsent(t.Context(), "lease", []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	options.SSE = SSES3
	store := open(t, options, tuning{})
	if _, err := store.PutIfMatch(t.Context(), "lease", []byte("two"), info.ETag); !errors.Is(err, ErrNotEncrypted) {
		t.Errorf("replace: got %v, want ErrNotEncrypted", err)
	}
	if _, err := store.Stat(t.Context(), "lease"); err != nil {
		t.Errorf("the lease is gone: %v", err)
	}
	// Equal bytes that were there before do not count as written when they are not encrypted, and are not deleted.
	content, _, err := ReadAll(t.Context(), store, "lease", 100)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.PutIfAbsent(t.Context(), "lease", content); !errors.Is(err, ErrNotEncrypted) {
		t.Errorf("create with equal bytes: got %v, want ErrNotEncrypted", err)
	}
	if _, err := store.Stat(t.Context(), "lease"); err != nil {
		t.Errorf("the lease is gone: %v", err)
	}
}

func TestUnencryptedVersionIsRemovedFromAVersionedBucket(t *testing.T) {
	server := testenv.VersityGW(t)
	options := serverOptions(t, server, SSENone)
	plain := open(t, options, tuning{})
	_, err := plain.client.PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{
		Bucket: aws.String(options.Bucket), VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
	})
	if err != nil {
		t.Fatal(err)
	}
	info, err := plain.PutIfAbsent(t.Context(), "lease", []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	options.SSE = SSES3
	store := open(t, options, tuning{})
	if _, err := store.PutIfAbsent(t.Context(), "new", []byte("x")); !errors.Is(err, ErrNotEncrypted) {
		t.Errorf("create: got %v, want ErrNotEncrypted", err)
	}
	if _, err := store.PutIfMatch(t.Context(), "lease", []byte("two"), info.ETag); !errors.Is(err, ErrNotEncrypted) {
		t.Errorf("replace: got %v, want ErrNotEncrypted", err)
	}
	versions, err := plain.client.ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: aws.String(options.Bucket)})
	if err != nil {
		t.Fatal(err)
	}
	if len(versions.Versions) != 1 || len(versions.DeleteMarkers) != 0 {
		t.Errorf("%d versions and %d delete markers are left, want the lease's first version alone", len(versions.Versions), len(versions.DeleteMarkers))
	}
	if content, _, err := ReadAll(t.Context(), plain, "lease", 100); err != nil || string(content) != "one" {
		t.Errorf("the lease holds %q, %v; want its former content", content, err)
	}
}

func TestStoredObjectsAreEncryptedAsAsked(t *testing.T) {
	server := testenv.MinIO(t)
	for _, test := range []struct {
		sse   SSE
		keyID string
	}{{SSES3, ""}, {SSEKMS, server.KMSKeyID}, {SSEKMS, ""}} {
		options := serverOptions(t, server, test.sse)
		options.SSEKMSKeyID = test.keyID
		store := open(t, options, tuning{})
		info, err := store.PutIfAbsent(t.Context(), "key", []byte("content"))
		if err != nil {
			t.Fatalf("%s %q: %v", test.sse, test.keyID, err)
		}
		if _, err := store.PutIfMatch(t.Context(), "key", []byte("content 2"), info.ETag); err != nil {
			t.Fatalf("%s %q: %v", test.sse, test.keyID, err)
		}
		head, err := store.client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String(options.Bucket), Key: store.name("key")})
		if err != nil {
			t.Fatal(err)
		}
		if string(head.ServerSideEncryption) != string(test.sse) {
			t.Errorf("asked for %s, stored with %q", test.sse, head.ServerSideEncryption)
		}
		if test.keyID != "" && !strings.HasSuffix(aws.ToString(head.SSEKMSKeyId), test.keyID) {
			t.Errorf("asked for key %s, stored with %q", test.keyID, aws.ToString(head.SSEKMSKeyId))
		}
	}
}

func TestEncryptionWithAnotherKeyIsRefused(t *testing.T) {
	server := testenv.MinIO(t)
	options := serverOptions(t, server, SSEKMS)
	options.SSEKMSKeyID = server.KMSKeyID
	proxy := newProxy(t, server.Endpoint)
	proxy.answer = func(response *http.Response) {
		if id := response.Header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"); id != "" {
			response.Header.Set("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id", id+"-another")
		}
	}
	options.Endpoint = proxy.url
	if _, err := open(t, options, tuning{}).PutIfAbsent(t.Context(), "key", []byte("x")); !errors.Is(err, ErrNotEncrypted) || !strings.Contains(err.Error(), "another") {
		t.Errorf("got %v, want ErrNotEncrypted naming both keys", err)
	}
	if keys := keysInBucket(t, server, options.Bucket); len(keys) != 0 {
		t.Errorf("left in the bucket: %q", keys)
	}
}

func TestSameKMSKey(t *testing.T) {
	const (
		id    = "1234abcd-12ab-34cd-56ef-1234567890ab"
		scope = "arn:aws:kms:eu-central-1:111122223333:"
		arn   = scope + "key/" + id
		other = "arn:aws:kms:eu-central-1:444455556666:key/" + id
	)
	for _, test := range []struct {
		asked, answered string
		want            bool
	}{
		{"", arn, true},
		{arn, arn, true},
		{id, arn, true},
		{arn, id, true},
		{id, scope + "key/ffff", false},
		{arn, other, false},
		{id, other, true}, // a bare id says nothing of the account
		{"alias/backups", arn, true},
		{scope + "alias/backups", arn, true},
		{scope + "alias/backups", other, false},
		{"alias/backups", "", false},
		{id, "", false},
		{"my-key", "arn:aws:kms:my-key", true},
		{"my-key", "arn:aws:kms:your-key", false},
		{"key", "arn:aws:kms:my-key", false},
	} {
		if got := sameKMSKey(test.asked, test.answered); got != test.want {
			t.Errorf("asked %q, answered %q: got %v, want %v", test.asked, test.answered, got, test.want)
		}
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	for name, server := range map[string]*testenv.S3Server{"versitygw": testenv.VersityGW(t), "minio": testenv.MinIO(t)} {
		wrongKey, wrongSecret, noBucket := serverOptions(t, server, SSENone), serverOptions(t, server, SSENone), serverOptions(t, server, SSENone)
		wrongKey.AccessKeyID = "AKIAIOSFODNN7EXAMPLE"
		wrongSecret.SecretAccessKey = NewSecret("wrong-secret-wrong-secret")
		noBucket.Bucket = "never-created"
		skewed := serverOptions(t, server, SSENone)
		for _, test := range []struct {
			name    string
			options S3Options
			tuned   tuning
			want    error
			says    string
		}{
			{"unknown access key", wrongKey, tuning{}, ErrDenied, "credentials"},
			{"wrong secret", wrongSecret, tuning{}, ErrDenied, "credentials"},
			{"missing bucket", noBucket, tuning{}, ErrNoBucket, "never-created"},
			{"clock behind", skewed, tuning{client: []func(*s3.Options){shiftClock(-20 * time.Minute)}}, ErrClockSkew, "clock"},
			{"clock ahead", skewed, tuning{client: []func(*s3.Options){shiftClock(20 * time.Minute)}}, ErrClockSkew, "clock"},
		} {
			store := open(t, test.options, test.tuned)
			calls := map[string]func() error{
				"put": func() error {
					_, err := store.PutIfAbsent(t.Context(), "key", []byte("x"))
					return err
				},
				"replace": func() error {
					_, err := store.PutIfMatch(t.Context(), "key", []byte("x"), "0123456789abcdef0123456789abcdef")
					return err
				},
				"get": func() error {
					_, _, err := store.Get(t.Context(), "key")
					return err
				},
				"get range of": func() error {
					_, err := store.GetRange(t.Context(), "key", 0, 1)
					return err
				},
				"list": func() error {
					for _, err := range store.List(t.Context(), "key") {
						return err
					}
					return nil
				},
				"delete":       func() error { return store.Delete(t.Context(), "key") },
				"check bucket": func() error { return store.CheckBucket(t.Context()) },
			}
			// Answers to HEAD have no body; the clock is then guessed from the Date header, which tests cannot shift.
			if !errors.Is(test.want, ErrClockSkew) {
				calls["stat"] = func() error {
					_, err := store.Stat(t.Context(), "key")
					return err
				}
			}
			for step, call := range calls {
				err := call()
				if !errors.Is(err, test.want) {
					t.Errorf("%s, %s: %s: got %v, want %v", name, test.name, step, err, test.want)
					continue
				}
				text := err.Error()
				says := test.says
				if step == "stat" {
					says = "" // the answer did not say why
				}
				if !strings.Contains(text, step) || !strings.Contains(text, says) || (step != "check bucket" && !strings.Contains(text, "key")) {
					t.Errorf("%s, %s: %s: error does not name step, key and %q: %s", name, test.name, step, says, text)
				}
				if strings.Contains(text, "wrong-secret") || strings.Contains(text, server.SecretKey) || strings.Contains(text, "\n") {
					t.Errorf("%s, %s: %s: error has a secret or several lines: %s", name, test.name, step, text)
				}
			}
		}
	}
}

// shiftClock signs requests as a machine would whose clock is off.
func shiftClock(by time.Duration) func(*s3.Options) {
	return func(o *s3.Options) { o.HTTPSignerV4 = shiftedSigner{v4.NewSigner(), by} }
}

type shiftedSigner struct {
	s3.HTTPSignerV4
	by time.Duration
}

func (s shiftedSigner) SignHTTP(ctx context.Context, credentials aws.Credentials, r *http.Request, hash, service, region string, at time.Time, options ...func(*v4.SignerOptions)) error {
	return s.HTTPSignerV4.SignHTTP(ctx, credentials, r, hash, service, region, at.Add(s.by), append(options, func(o *v4.SignerOptions) {
		o.DisableURIPathEscaping = true // as S3 wants it
	})...)
}

func TestSkewIsMeasuredAndNamed(t *testing.T) {
	server := testenv.VersityGW(t)
	options := serverOptions(t, server, SSENone)
	if skew, err := open(t, options, tuning{}).Skew(t.Context()); err != nil || skew.Abs() > 2*time.Second {
		t.Errorf("same machine: skew %v, %v", skew, err)
	}
	// A server elsewhere is 20 minutes ahead: it says so in each answer and takes this machine's signatures for old.
	proxy := newProxy(t, server.Endpoint)
	proxy.answer = func(response *http.Response) {
		response.Header.Set("Date", time.Now().Add(20*time.Minute).UTC().Format(http.TimeFormat))
	}
	options.Endpoint = proxy.url
	if skew, err := open(t, options, tuning{}).Skew(t.Context()); err != nil || (skew+20*time.Minute).Abs() > 2*time.Second {
		t.Errorf("store 20 minutes ahead: skew %v, %v", skew, err)
	}
	store := open(t, options, tuning{client: []func(*s3.Options){shiftClock(-20 * time.Minute)}})
	_, err := store.PutIfAbsent(t.Context(), "key", []byte("x"))
	if !errors.Is(err, ErrClockSkew) || !(strings.Contains(err.Error(), "20m") || strings.Contains(err.Error(), "19m59s")) || !strings.Contains(err.Error(), "behind") {
		t.Errorf("put: got %v, want ErrClockSkew that says 20m behind", err)
	}
	if _, err := store.Stat(t.Context(), "key"); !errors.Is(err, ErrClockSkew) {
		t.Errorf("stat: got %v, want ErrClockSkew", err)
	}
}

func TestLostAnswersAreSettled(t *testing.T) {
	server := testenv.VersityGW(t)
	options := serverOptions(t, server, SSENone)
	proxy := newProxy(t, server.Endpoint)
	options.Endpoint = proxy.url
	store := open(t, options, tuning{})
	content := []byte("bytes of this call alone")

	proxy.cutAnswers(http.MethodPut, 1)
	info, err := store.PutIfAbsent(t.Context(), "key", content)
	if err != nil || info.Size != int64(len(content)) || info.ETag == "" {
		t.Fatalf("put: %+v, %v", info, err)
	}
	if sent := proxy.count(http.MethodPut); sent != 2 {
		t.Errorf("%d requests were sent, want the lost one and its repetition", sent)
	}
	if keys := keysInBucket(t, server, options.Bucket); !slices.Equal(keys, []string{"some/prefix/key"}) {
		t.Errorf("in the bucket: %q, want the object once", keys)
	}
	proxy.cutAnswers(http.MethodPut, 1)
	second, err := store.PutIfMatch(t.Context(), "key", []byte("replaced"), info.ETag)
	if err != nil || second.ETag == info.ETag {
		t.Fatalf("replace: %+v, %v", second, err)
	}
	// The object of somebody else is not taken for one's own.
	proxy.cutAnswers(http.MethodPut, 1)
	if _, err := store.PutIfAbsent(t.Context(), "key", []byte("other")); !errors.Is(err, ErrExists) {
		t.Errorf("put over another's: got %v, want ErrExists", err)
	}
	proxy.cutAnswers(http.MethodPut, 1)
	if _, err := store.PutIfMatch(t.Context(), "key", []byte("other"), info.ETag); !errors.Is(err, ErrChanged) {
		t.Errorf("replace an old version: got %v, want ErrChanged", err)
	}
	if got, now, err := ReadAll(t.Context(), store, "key", 100); err != nil || string(got) != "replaced" || now.ETag != second.ETag {
		t.Errorf("stored is %q %+v, %v", got, now, err)
	}
}

// suspendedSigner signs the second attempt as a machine does that was suspended before it, and says so.
type suspendedSigner struct {
	s3.HTTPSignerV4
	by       time.Duration
	attempts int
	woken    func()
}

func (s *suspendedSigner) SignHTTP(ctx context.Context, credentials aws.Credentials, r *http.Request, hash, service, region string, at time.Time, options ...func(*v4.SignerOptions)) error {
	if s.attempts++; s.attempts > 1 {
		s.woken()
		at = at.Add(s.by)
	}
	return s.HTTPSignerV4.SignHTTP(ctx, credentials, r, hash, service, region, at, append(options, func(o *v4.SignerOptions) {
		o.DisableURIPathEscaping = true // as S3 wants it
	})...)
}

func TestMachineThatWakesUpLateDoesNotCreateAgainWhatWasDeleted(t *testing.T) {
	server := testenv.VersityGW(t)
	options := serverOptions(t, server, SSENone)
	others := open(t, options, tuning{})
	proxy := newProxy(t, server.Endpoint)
	options.Endpoint = proxy.url
	for name, test := range map[string]struct {
		by   time.Duration
		want []string
	}{
		"at once":          {by: 0, want: []string{"some/prefix/key"}}, // shows that it would be created
		"11 minutes later": {by: 11 * time.Minute},
	} {
		signer := &suspendedSigner{HTTPSignerV4: v4.NewSigner(), by: test.by, woken: func() {
			if err := others.Delete(t.Context(), "key"); err != nil {
				t.Error(err)
			}
		}}
		store := open(t, options, tuning{client: []func(*s3.Options){func(o *s3.Options) { o.HTTPSignerV4 = signer }}})
		proxy.cutAnswers(http.MethodPut, 1)
		_, err := store.PutIfAbsent(t.Context(), "key", []byte("x"))
		if refused := len(test.want) == 0; (err != nil) != refused || refused && !strings.Contains(err.Error(), "suspended") {
			t.Errorf("%s: %v", name, err)
		}
		if keys := keysInBucket(t, server, options.Bucket); !slices.Equal(keys, test.want) {
			t.Errorf("%s: in the bucket: %q, want %q", name, keys, test.want)
		}
		if err := others.Delete(t.Context(), "key"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLostAnswerOfAnUnencryptedWriteLeavesNothing(t *testing.T) {
	server := testenv.VersityGW(t)
	options := serverOptions(t, server, SSES3)
	proxy := newProxy(t, server.Endpoint)
	options.Endpoint = proxy.url
	proxy.cutAnswers(http.MethodPut, 1)
	if _, err := open(t, options, tuning{}).PutIfAbsent(t.Context(), "key", []byte("x")); !errors.Is(err, ErrNotEncrypted) {
		t.Errorf("got %v, want ErrNotEncrypted", err)
	}
	if keys := keysInBucket(t, server, options.Bucket); len(keys) != 0 {
		t.Errorf("left in the bucket: %q", keys)
	}
}

func TestConflictsAreTriedAgain(t *testing.T) {
	server := testenv.VersityGW(t)
	options := serverOptions(t, server, SSENone)
	proxy := newProxy(t, server.Endpoint)
	options.Endpoint = proxy.url
	var conflicts atomic.Int32
	proxy.instead = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut || conflicts.Add(1) > 2 {
			return false
		}
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, `<Error><Code>ConditionalRequestConflict</Code><Message>conflict</Message></Error>`)
		return true
	}
	if _, err := open(t, options, tuning{}).PutIfAbsent(t.Context(), "key", []byte("x")); err != nil {
		t.Errorf("put: %v", err)
	}
	if conflicts.Load() != 3 {
		t.Errorf("%d requests, want two conflicts and a success", conflicts.Load())
	}
}

func TestReadsGoOnAfterBrokenConnections(t *testing.T) {
	server := testenv.VersityGW(t)
	options := serverOptions(t, server, SSENone)
	content := make([]byte, 3<<20)
	_, _ = rand.Read(content)
	proxy := newProxy(t, server.Endpoint)
	options.Endpoint = proxy.url
	store := open(t, options, tuning{})
	if _, err := store.PutIfAbsent(t.Context(), "key", content); err != nil {
		t.Fatal(err)
	}
	proxy.cutBodies(2, 1<<20)
	if got, _, err := ReadAll(t.Context(), store, "key", 1<<30); err != nil || !bytes.Equal(got, content) {
		t.Errorf("get: %d bytes, %v", len(got), err)
	}
	proxy.cutBodies(2, 1<<20)
	if got, err := store.GetRange(t.Context(), "key", 1000, 2<<20); err != nil || !bytes.Equal(got, content[1000:1000+2<<20]) {
		t.Errorf("get range: %d bytes, %v", len(got), err)
	}
	// What stays broken is an error that names the key, never a short object.
	options.MaxAttempts = 2
	impatient := open(t, options, tuning{})
	proxy.cutBodies(1000, 1<<20, 0)
	var broken *ReadError
	if _, _, err := ReadAll(t.Context(), impatient, "key", 1<<30); !errors.As(err, &broken) || broken.Key != "key" {
		t.Errorf("get that stays broken: %v", err)
	}
	proxy.cutBodies(1000, 1<<20)
	if _, err := impatient.GetRange(t.Context(), "key", 0, 2<<20); !errors.As(err, &broken) {
		t.Errorf("get range that stays broken: %v", err)
	}
}

func TestReadDoesNotMixTwoVersions(t *testing.T) {
	server := testenv.VersityGW(t)
	options := serverOptions(t, server, SSENone)
	proxy := newProxy(t, server.Endpoint)
	direct := open(t, options, tuning{})
	options.Endpoint = proxy.url
	store := open(t, options, tuning{})
	info, err := direct.PutIfAbsent(t.Context(), "key", bytes.Repeat([]byte("a"), 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	proxy.cutBodies(1, 1<<19)
	reader, _, err := store.Get(t.Context(), "key")
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if _, err := direct.PutIfMatch(t.Context(), "key", bytes.Repeat([]byte("b"), 1<<20), info.ETag); err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(reader)
	if err == nil || bytes.ContainsRune(content, 'b') {
		t.Errorf("read %d bytes over a replacement, %v; want an error", len(content), err)
	}
}

func TestAnswersWithoutTheAskedRangeAreRefused(t *testing.T) {
	server := testenv.VersityGW(t)
	options := serverOptions(t, server, SSENone)
	proxy := newProxy(t, server.Endpoint)
	direct := open(t, options, tuning{})
	options.Endpoint = proxy.url
	store := open(t, options, tuning{})
	if _, err := direct.PutIfAbsent(t.Context(), "key", []byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	proxy.answer = func(response *http.Response) {
		if response.StatusCode == http.StatusPartialContent {
			response.Header.Set("Content-Range", "bytes 3-5/10")
		}
	}
	if got, err := store.GetRange(t.Context(), "key", 0, 3); err == nil {
		t.Errorf("another range was taken: %q", got)
	}
	proxy.answer = func(response *http.Response) {
		response.StatusCode = http.StatusOK
		response.Header.Del("Content-Range")
	}
	if got, err := store.GetRange(t.Context(), "key", 2, 3); err == nil {
		t.Errorf("an answer without a range was taken: %q", got)
	}
}

func TestDamagedContentIsNoticed(t *testing.T) {
	server := testenv.VersityGW(t)
	options := serverOptions(t, server, SSENone)
	proxy := newProxy(t, server.Endpoint)
	options.Endpoint = proxy.url
	store := open(t, options, tuning{})
	if _, err := store.PutIfAbsent(t.Context(), "key", []byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	proxy.answer = func(response *http.Response) {
		if response.Request.Method == http.MethodGet {
			_ = response.Body.Close()
			response.Body = io.NopCloser(strings.NewReader("012345678X"))
		}
	}
	if content, _, err := ReadAll(t.Context(), store, "key", 100); err == nil {
		t.Errorf("damaged on the way here: read %q", content)
	}
	proxy.answer = nil
	// On the way there: the signature covers the content in both modes.
	for _, mode := range []Checksums{ChecksumsWhenSupported, ChecksumsWhenRequired} {
		options.Checksums, options.MaxAttempts = mode, 1
		proxy.request = func(r *http.Request) {
			if r.Method == http.MethodPut {
				r.Body = io.NopCloser(strings.NewReader("012345678X"))
			}
		}
		key := "damaged-" + string(mode)
		if _, err := open(t, options, tuning{}).PutIfAbsent(t.Context(), key, []byte("0123456789")); err == nil {
			t.Errorf("%s: damaged on the way there: was accepted", mode)
		}
		if _, err := store.Stat(t.Context(), key); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: damaged on the way there: stat says %v", mode, err)
		}
		proxy.request = nil
	}
}

func TestChecksumModeDecidesWhichHeadersAreSent(t *testing.T) {
	server := testenv.VersityGW(t)
	for _, mode := range []Checksums{"", ChecksumsWhenSupported, ChecksumsWhenRequired} {
		options := serverOptions(t, server, SSENone)
		options.Checksums = mode
		proxy := newProxy(t, server.Endpoint)
		options.Endpoint = proxy.url
		var headers []http.Header
		proxy.request = func(r *http.Request) { headers = append(headers, r.Header.Clone()) }
		store := open(t, options, tuning{})
		info, err := store.PutIfAbsent(t.Context(), "key", []byte("content"))
		if err == nil {
			_, err = store.PutIfMatch(t.Context(), "key", []byte("content 2"), info.ETag)
		}
		if err == nil {
			_, _, err = ReadAll(t.Context(), store, "key", 100)
		}
		if err == nil {
			_, err = store.GetRange(t.Context(), "key", 1, 2)
		}
		if err == nil {
			err = store.Delete(t.Context(), "key")
		}
		if err != nil || len(headers) < 5 {
			t.Fatalf("%q: %d requests, %v", mode, len(headers), err)
		}
		for i, header := range headers {
			for name := range header {
				lower := strings.ToLower(name)
				if mode == ChecksumsWhenRequired && (strings.HasPrefix(lower, "x-amz-checksum") || strings.HasPrefix(lower, "x-amz-sdk-checksum") || lower == "x-amz-trailer") {
					t.Errorf("%q: request %d has the header %s", mode, i, name)
				}
			}
			if strings.HasPrefix(header.Get("X-Amz-Content-Sha256"), "STREAMING") || strings.Contains(header.Get("Content-Encoding"), "aws-chunked") {
				t.Errorf("%q: request %d is in the SDK's chunked encoding", mode, i)
			}
		}
		if sent := headers[0].Get("X-Amz-Checksum-Sha256") != ""; sent != (mode != ChecksumsWhenRequired) {
			t.Errorf("%q: checksum sent: %v", mode, sent)
		}
		if hash := headers[0].Get("X-Amz-Content-Sha256"); len(hash) != 64 {
			t.Errorf("%q: the signature covers the content as %q", mode, hash)
		}
	}
}

func TestTLSSignsContentToo(t *testing.T) {
	server := testenv.VersityGW(t)
	options := serverOptions(t, server, SSENone)
	proxy := newTLSProxy(t, server.Endpoint, nil)
	options.Endpoint, options.CAFile = proxy.url, proxy.caFile
	var hash atomic.Value
	proxy.request = func(r *http.Request) {
		if r.Method == http.MethodPut {
			hash.Store(r.Header.Get("X-Amz-Content-Sha256"))
		}
	}
	store := open(t, options, tuning{})
	if _, err := store.PutIfAbsent(t.Context(), "key", []byte("content")); err != nil {
		t.Fatal(err)
	}
	if got, _ := hash.Load().(string); len(got) != 64 {
		t.Errorf("content hash in the signature: %q", got)
	}
	options.CAFile, options.MaxAttempts = "", 1
	if _, err := open(t, options, tuning{}).Stat(t.Context(), "key"); err == nil || !strings.Contains(err.Error(), "CA file") {
		t.Errorf("unknown authority: got %v, want a hint at the CA file", err)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	server := testenv.VersityGW(t)
	options := serverOptions(t, server, SSENone)
	options.MaxAttempts = 1
	for version, accepted := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true} {
		proxy := newTLSProxy(t, server.Endpoint, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: version})
		options.Endpoint, options.CAFile = proxy.url, proxy.caFile
		err := open(t, options, tuning{}).CheckBucket(t.Context())
		if accepted && err != nil {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if !accepted && (err == nil || !strings.Contains(err.Error(), "protocol version")) {
			t.Errorf("%s: got %v, want a refusal of the protocol version", tls.VersionName(version), err)
		}
		if !accepted && proxy.count(http.MethodGet) != 0 {
			t.Errorf("%s: a request was sent", tls.VersionName(version))
		}
	}
}

func TestStalledConnectionFails(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() // nobody accepts: connections are made and nothing ever answers
	options := S3Options{
		Bucket: "bucket", Endpoint: "http://" + listener.Addr().String(), PathStyle: true, SSE: SSENone, MaxAttempts: 2,
		AccessKeyID: "x", SecretAccessKey: NewSecret("y"),
	}
	store := open(t, options, tuning{stallLimit: 100 * time.Millisecond})
	_, err = store.PutIfAbsent(t.Context(), "key", make([]byte, 20<<20))
	if err == nil || !strings.Contains(err.Error(), "put key") || !strings.Contains(err.Error(), "stood still") {
		t.Errorf("put: got %v, want an error that names step, key and the stall", err)
	}
	if _, err := store.Stat(t.Context(), "key"); err == nil || !strings.Contains(err.Error(), "2 attempts") {
		t.Errorf("stat: got %v, want a failure after 2 attempts", err)
	}
}

func TestSlowConnectionIsNotTakenForStalled(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	if err := there.SetDeadline(time.Now().Add(10 * time.Second)); err != nil { // a failure must not hang
		t.Fatal(err)
	}
	// The peer takes a piece a little before the limit, for longer in all than the limit: no byte of the answer yet.
	connection := &stallConn{Conn: here, limit: 200 * time.Millisecond}
	defer connection.Close()
	answer := make(chan error, 1)
	go func() {
		_, err := connection.Read(make([]byte, 1))
		answer <- err
	}()
	peer := make(chan error, 1)
	go func() {
		buffer := make([]byte, 64<<10)
		for range 5 {
			timer := time.NewTimer(100 * time.Millisecond)
			<-timer.C
			if _, err := io.ReadFull(there, buffer); err != nil {
				peer <- err
				return
			}
		}
		_, err := there.Write([]byte("a"))
		peer <- err
	}()
	if _, err := connection.Write(make([]byte, 5*64<<10)); err != nil {
		t.Errorf("write: %v", err)
	}
	if err := <-answer; err != nil {
		t.Errorf("the answer that was waited for meanwhile: %v", err)
	}
	if err := <-peer; err != nil {
		t.Errorf("peer: %v", err)
	}
}

func TestListRefusesAStoreThatDoesNotSort(t *testing.T) {
	store := fakeListing(t, "b", "a")
	var failed error
	for _, err := range store.List(t.Context(), "") {
		failed = err
	}
	if failed == nil || !strings.Contains(failed.Error(), "order") {
		t.Errorf("got %v, want an error about the order", failed)
	}
}

func TestListPassesOverForeignKeys(t *testing.T) {
	store := fakeListing(t, "a", "folder/", "folder/ü", "z")
	var keys []string
	for info, err := range store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	if !slices.Equal(keys, []string{"a", "z"}) {
		t.Errorf("listed %q", keys)
	}
}

// fakeListing answers every request with one page of the keys: what no correct server can be made to do.
func fakeListing(t *testing.T, keys ...string) *S3 {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `<ListBucketResult><IsTruncated>false</IsTruncated>`)
		for _, key := range keys {
			_, _ = fmt.Fprintf(w, `<Contents><Key>%s</Key><Size>1</Size><ETag>"x"</ETag></Contents>`, key)
		}
		_, _ = io.WriteString(w, `</ListBucketResult>`)
	}))
	t.Cleanup(server.Close)
	return open(t, S3Options{
		Bucket: "b", Endpoint: server.URL, PathStyle: true, SSE: SSENone, AccessKeyID: "x", SecretAccessKey: NewSecret("y"),
	}, tuning{})
}

func TestAssumedRoleIsUsed(t *testing.T) {
	server := testenv.MinIO(t)
	options := serverOptions(t, server, SSES3)
	options.RoleARN = "arn:aws:iam::111122223333:role/backup"
	t.Setenv("AWS_ENDPOINT_URL_STS", server.Endpoint)
	proxy := newProxy(t, server.Endpoint)
	options.Endpoint = proxy.url
	var token atomic.Bool
	proxy.request = func(r *http.Request) { token.Store(r.Header.Get("X-Amz-Security-Token") != "") }
	store := open(t, options, tuning{})
	if _, err := store.PutIfAbsent(t.Context(), "key", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if !token.Load() {
		t.Error("requests do not carry the role's session token")
	}
}

func TestCredentialsComeFromTheUsualChain(t *testing.T) {
	server := testenv.VersityGW(t)
	options := serverOptions(t, server, SSENone)
	options.AccessKeyID, options.SecretAccessKey = "", Secret{}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	if err := open(t, options, tuning{}).CheckBucket(t.Context()); err == nil || !strings.Contains(err.Error(), "no usable credentials") {
		t.Errorf("without any: got %v", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", server.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", server.SecretKey)
	if err := open(t, options, tuning{}).CheckBucket(t.Context()); err != nil {
		t.Errorf("from the environment: %v", err)
	}
}

func TestProfileOfTheSharedFilesIsUsed(t *testing.T) {
	server := testenv.VersityGW(t)
	options := serverOptions(t, server, SSENone)
	shared := filepath.Join(t.TempDir(), "credentials")
	content := "[default]\naws_access_key_id = nobody\naws_secret_access_key = wrong\n[vault]\naws_access_key_id = " + options.AccessKeyID +
		"\naws_secret_access_key = " + options.SecretAccessKey.Reveal() + "\n"
	if err := os.WriteFile(shared, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", shared)
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	options.AccessKeyID, options.SecretAccessKey, options.Profile = "", Secret{}, "vault"
	if err := open(t, options, tuning{}).CheckBucket(t.Context()); err != nil {
		t.Errorf("profile vault: %v", err)
	}
	options.Profile = ""
	if err := open(t, options, tuning{}).CheckBucket(t.Context()); !errors.Is(err, ErrDenied) {
		t.Errorf("the default profile, whose key is wrong: got %v, want %v", err, ErrDenied)
	}
}

func TestBadOptionsAreAllNamed(t *testing.T) {
	_, err := OpenS3(t.Context(), S3Options{
		Prefix: "a//b", Endpoint: "s3.example.net", Checksums: "always", SSE: "AES128", SSEKMSKeyID: "k", AccessKeyID: "x",
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"bucket", "prefix", "endpoint", "checksums", "AES128", "KMS", "access key"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not name %q: %v", want, err)
		}
	}
	if _, err := OpenS3(t.Context(), S3Options{Bucket: "b", Region: "r"}); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("no sse said: got %v", err)
	}
	if _, err := OpenS3(t.Context(), S3Options{Bucket: "b", Region: "r", SSE: SSENone, CAFile: os.DevNull}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("CA file without certificates: got %v", err)
	}
	for prefix, want := range map[string]string{"": "s3://b/", "/p/": "s3://b/p", "p/q": "s3://b/p/q"} {
		store := open(t, S3Options{Bucket: "b", Region: "r", SSE: SSENone, Prefix: prefix}, tuning{})
		if got := store.Location(); got != want {
			t.Errorf("prefix %q: location %s, want %s", prefix, got, want)
		}
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	secret := NewSecret("hidden")
	options := S3Options{SecretAccessKey: secret}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, value := range []any{secret, &secret, options, &options} {
			if text := fmt.Sprintf(verb, value); strings.Contains(text, "hidden") || strings.Contains(text, fmt.Sprintf("%x", "hidden")) {
				t.Errorf("%s prints %s", verb, text)
			}
		}
	}
	if secret.Reveal() != "hidden" {
		t.Error("the secret is lost")
	}
}

// proxy is a real HTTP server on loopback before a real store. It passes everything on unchanged, host name and
// signature included, but for what a test asks.
type proxy struct {
	url    string
	caFile string // of a TLS proxy

	// Set before requests are sent.
	request func(*http.Request)
	answer  func(*http.Response)
	instead func(http.ResponseWriter, *http.Request) bool // true: answered

	mutex     sync.Mutex
	counts    map[string]int
	cutMethod string
	cuts      int     // answers to cutMethod still to be cut off before their first byte
	bodyCuts  int     // bodies of GET still to be cut off
	bodyBytes []int64 // after so many bytes each; the last counts for the rest
}

func newProxy(t *testing.T, endpoint string) *proxy {
	t.Helper()
	p := &proxy{counts: make(map[string]int)}
	server := httptest.NewUnstartedServer(p.handler(t, endpoint))
	server.Config.ErrorLog = quiet()
	server.Start()
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

func newTLSProxy(t *testing.T, endpoint string, config *tls.Config) *proxy {
	t.Helper()
	p := &proxy{counts: make(map[string]int)}
	server := httptest.NewUnstartedServer(p.handler(t, endpoint))
	server.TLS = config
	server.Config.ErrorLog = quiet()
	server.StartTLS()
	t.Cleanup(server.Close)
	p.url = server.URL
	p.caFile = filepath.Join(t.TempDir(), "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(p.caFile, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *proxy) handler(t *testing.T, endpoint string) http.Handler {
	target, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
		Transport: transport,
		ErrorLog:  quiet(),
		ModifyResponse: func(response *http.Response) error {
			if p.answer != nil {
				p.answer(response)
			}
			if after, cut := p.cutThisBody(response.Request.Method); cut {
				response.Body = struct {
					io.Reader
					io.Closer
				}{io.MultiReader(io.LimitReader(response.Body, after), brokenReader{}), response.Body}
			}
			return nil
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mutex.Lock()
		p.counts[r.Method]++
		p.mutex.Unlock()
		if p.request != nil {
			p.request(r)
		}
		if p.instead != nil && p.instead(w, r) {
			return
		}
		if !p.cutThisAnswer(r.Method) {
			forward.ServeHTTP(w, r)
			return
		}
		// The store gets the request whole and answers; the answer goes nowhere.
		forward.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	})
}

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, http.ErrAbortHandler }

func (p *proxy) cutAnswers(method string, times int) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.cutMethod, p.cuts = method, times
}

func (p *proxy) cutThisAnswer(method string) bool {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.cuts == 0 || method != p.cutMethod {
		return false
	}
	p.cuts--
	return true
}

func (p *proxy) cutBodies(times int, after ...int64) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.bodyCuts, p.bodyBytes = times, after
}

func (p *proxy) cutThisBody(method string) (int64, bool) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.bodyCuts == 0 || method != http.MethodGet {
		return 0, false
	}
	p.bodyCuts--
	after := p.bodyBytes[0]
	if len(p.bodyBytes) > 1 {
		p.bodyBytes = p.bodyBytes[1:]
	}
	return after, true
}

func (p *proxy) count(method string) int {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.counts[method]
}

// Hazard 2.9 in docs/hazards.md: in a bucket that keeps versions a condition looks at the current version alone. After a
// deletion S3 lets the key be created again, whatever lies below the delete marker: so a repository never uses a name twice.
func TestDeletedKeyIsFreeAgainInAVersionedBucket(t *testing.T) {
	for name, server := range map[string]*testenv.S3Server{"versitygw": testenv.VersityGW(t), "minio": testenv.MinIO(t)} {
		t.Run(name, func(t *testing.T) {
			options := serverOptions(t, server, SSENone)
			store := open(t, options, tuning{})
			_, err := store.client.PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{
				Bucket: aws.String(options.Bucket), VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
			})
			if err != nil {
				t.Fatal(err)
			}
			first, err := store.PutIfAbsent(t.Context(), "dir/key", []byte("first"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := store.PutIfAbsent(t.Context(), "dir/key", []byte("second")); !errors.Is(err, ErrExists) {
				t.Errorf("create over the current version: got %v, want ErrExists", err)
			}
			if err := store.Delete(t.Context(), "dir/key"); err != nil {
				t.Fatal(err)
			}
			// Nothing of the version below the marker shows.
			if _, err := store.Stat(t.Context(), "dir/key"); !errors.Is(err, ErrNotFound) {
				t.Errorf("stat below the delete marker: got %v, want ErrNotFound", err)
			}
			if keys := keysInBucket(t, server, options.Bucket); len(keys) != 0 {
				t.Errorf("listed below the delete marker: %q", keys)
			}
			_, err = store.PutIfAbsent(t.Context(), "dir/key", []byte("third"))
			if name == "versitygw" {
				// Unlike S3 it compares with the newest version that is no marker: creation is refused, loudly.
				if err == nil {
					t.Error("versitygw creates keys below delete markers now: hold it to what S3 does")
				}
				return
			}
			if err != nil {
				t.Errorf("create again: %v", err)
			}
			if _, err := store.PutIfAbsent(t.Context(), "dir/key", []byte("fourth")); !errors.Is(err, ErrExists) {
				t.Errorf("create over the new version: got %v, want ErrExists", err)
			}
			if content, _, err := ReadAll(t.Context(), store, "dir/key", 100); err != nil || string(content) != "third" {
				t.Errorf("the object holds %q, %v", content, err)
			}
			// A version that came before the marker is nobody's current one.
			if err := store.Delete(t.Context(), "dir/key"); err != nil {
				t.Fatal(err)
			}
			if _, err := store.PutIfMatch(t.Context(), "dir/key", []byte("fifth"), first.ETag); !errors.Is(err, ErrChanged) {
				t.Errorf("replace the version below the delete marker: got %v, want ErrChanged", err)
			}
		})
	}
}
