package objectstore_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/objectstore/faultstore"
	"github.com/hourvault/hourvault/internal/objectstore/storetest"
	"github.com/hourvault/hourvault/internal/testenv"
)

func TestS3KeepsThePromisesOfStore(t *testing.T) {
	versity, minio := testenv.VersityGW(t), testenv.MinIO(t)
	for _, test := range []struct {
		name      string
		server    *testenv.S3Server
		sse       objectstore.SSE
		keyID     string
		prefix    string
		checksums objectstore.Checksums
	}{
		{name: "versitygw without encryption", server: versity, sse: objectstore.SSENone},
		{name: "versitygw, checksums when required, prefix", server: versity, sse: objectstore.SSENone, prefix: "deep/prefix", checksums: objectstore.ChecksumsWhenRequired},
		{name: "minio with SSE-S3", server: minio, sse: objectstore.SSES3, prefix: "prefix"},
		{name: "minio with SSE-KMS", server: minio, sse: objectstore.SSEKMS, keyID: minio.KMSKeyID},
	} {
		t.Run(test.name, func(t *testing.T) {
			storetest.Run(t, func(t testing.TB) objectstore.Store {
				return openS3(t, test.server, objectstore.S3Options{
					SSE: test.sse, SSEKMSKeyID: test.keyID, Prefix: test.prefix, Checksums: test.checksums,
				})
			})
		})
	}
}

func TestProbeFindsAGoodStoreGood(t *testing.T) {
	versity, minio := testenv.VersityGW(t), testenv.MinIO(t)
	portable := []string{"write", "create once", "replace by version", "read", "read range", "list", "delete"}
	s3 := slices.Concat([]string{"clock", "reach", "write", "encryption", "checksum"}, portable[1:])
	for name, test := range map[string]struct {
		store objectstore.Store
		want  []string
	}{
		"directory":           {openDirectory(t, t.TempDir()), slices.Concat([]string{"reach"}, portable)},
		"versitygw":           {openS3(t, versity, objectstore.S3Options{SSE: objectstore.SSENone}), s3},
		"versitygw, required": {openS3(t, versity, objectstore.S3Options{SSE: objectstore.SSENone, Checksums: objectstore.ChecksumsWhenRequired}), s3},
		"minio SSE-S3":        {openS3(t, minio, objectstore.S3Options{SSE: objectstore.SSES3}), s3},
		"minio SSE-KMS":       {openS3(t, minio, objectstore.S3Options{SSE: objectstore.SSEKMS, SSEKMSKeyID: minio.KMSKeyID}), s3},
	} {
		var names []string
		for _, result := range objectstore.Probe(t.Context(), test.store) {
			names = append(names, result.Name)
			if !result.OK || result.Detail == "" {
				t.Errorf("%s: %+v", name, result)
			}
		}
		if !slices.Equal(names, test.want) {
			t.Errorf("%s: tried %q, want %q", name, names, test.want)
		}
		if keys := list(t, test.store, ""); len(keys) != 0 {
			t.Errorf("%s: left behind %q", name, keys)
		}
	}
}

func TestProbeNamesWhatIsWrong(t *testing.T) {
	versity := testenv.VersityGW(t)
	directory := openDirectory(t, t.TempDir())
	for name, test := range map[string]struct {
		store objectstore.Store
		fails []string
	}{
		"encryption ignored": {openS3(t, versity, objectstore.S3Options{SSE: objectstore.SSES3}), []string{"encryption"}},
		"bucket missing":     {openS3(t, versity, objectstore.S3Options{SSE: objectstore.SSENone, Bucket: "never-created"}), []string{"reach"}},
		"conditions ignored": {unconditional{directory}, []string{"create once", "replace by version"}},
		"listing behind": {faultstore.New(directory, faultstore.Fault{Method: faultstore.List, Hide: func(string) bool { return true }}),
			[]string{"list"}},
		"writes denied": {faultstore.New(directory, faultstore.Fault{Method: faultstore.PutIfAbsent, Err: objectstore.ErrDenied}), []string{"write"}},
		"ranges broken": {faultstore.New(directory, faultstore.Fault{Method: faultstore.GetRange, Err: errors.New("no ranges")}), []string{"read range"}},
		"deletes denied": {faultstore.New(directory, faultstore.Fault{Method: faultstore.Delete, Times: 1, Err: objectstore.ErrDenied}),
			[]string{"delete"}},
	} {
		var fails []string
		for _, result := range objectstore.Probe(t.Context(), test.store) {
			if !result.OK {
				fails = append(fails, result.Name)
				if result.Detail == "" || result.Hint == "" {
					t.Errorf("%s: %+v has no detail or hint", name, result)
				}
			}
		}
		if !slices.Equal(fails, test.fails) {
			t.Errorf("%s: failed %q, want %q", name, fails, test.fails)
		}
	}
	if keys := list(t, directory, ""); len(keys) != 0 {
		t.Errorf("left behind %q", keys)
	}
}

// unconditional is a store that ignores conditions, as some S3-compatible ones do.
type unconditional struct{ objectstore.Store }

func (u unconditional) PutIfAbsent(ctx context.Context, key string, content []byte) (objectstore.Info, error) {
	if err := u.Delete(ctx, key); err != nil {
		return objectstore.Info{}, err
	}
	return u.Store.PutIfAbsent(ctx, key, content)
}

func (u unconditional) PutIfMatch(ctx context.Context, key string, content []byte, _ string) (objectstore.Info, error) {
	return u.PutIfAbsent(ctx, key, content)
}

func TestProbeRemovesItsObjectAlthoughItsContextEnded(t *testing.T) {
	directory := openDirectory(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	reached := make(chan string)
	store := faultstore.New(directory, faultstore.Fault{Method: faultstore.Get, Reached: reached, Release: make(chan struct{})})
	done := make(chan []objectstore.ProbeResult)
	go func() { done <- objectstore.Probe(ctx, store) }()
	if key := <-reached; !strings.HasPrefix(key, "doctor/") {
		t.Errorf("probed with %s", key)
	}
	cancel()
	<-done
	if keys := list(t, directory, ""); len(keys) != 0 {
		t.Errorf("left behind %q", keys)
	}
}

func openS3(t testing.TB, server *testenv.S3Server, options objectstore.S3Options) *objectstore.S3 {
	t.Helper()
	if options.Bucket == "" {
		options.Bucket = server.NewBucket(t)
	}
	options.Region, options.Endpoint, options.PathStyle = server.Region, server.Endpoint, true
	options.AccessKeyID, options.SecretAccessKey = server.AccessKey, objectstore.NewSecret(server.SecretKey)
	store, err := objectstore.OpenS3(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}
