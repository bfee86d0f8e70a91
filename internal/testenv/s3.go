package testenv

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sys/unix"

	"github.com/hourvault/hourvault/internal/postgres/throwaway"
	"github.com/hourvault/hourvault/internal/serverprocess"
)

const (
	// versityName and minioName are the tools of .ci/tools that serve S3.
	versityName = "versitygw"
	minioName   = "minio"

	// region is what both servers take themselves for: not us-east-1, which clients fall back to, so that a client that
	// ignores its region setting is found out.
	region = "eu-central-1"
	// kmsKey is the name of MinIO's only KMS key.
	kmsKey = "hourvault-test-key"
)

// S3Server is a running S3 server of this machine, spoken to with plain HTTP and path-style addresses.
type S3Server struct {
	Endpoint  string // such as http://127.0.0.1:34567
	Region    string
	AccessKey string
	SecretKey string
	KMSKeyID  string // key for SSE-KMS; empty for a server without it

	dir     string
	process *serverprocess.Process
}

// VersityGW returns the Versity S3 Gateway that all tests of this process share, and starts it on first use. It has
// conditional writes (If-None-Match and If-Match), versioning and object lock, and silently ignores what is asked about
// server-side encryption.
func VersityGW(t testing.TB) *S3Server {
	t.Helper()
	return sharedS3(t, versityName, func(program, dir, address string, server *S3Server) ([]string, []string, error) {
		data, versions := filepath.Join(dir, "data"), filepath.Join(dir, "versions")
		arguments := []string{
			"--port", address, "--region", server.Region, "--keep-alive", "--quiet",
			"posix", "--versioning-dir", versions,
		}
		directories := []string{data, versions}
		// Metadata is kept in extended attributes, which not every file system has (tmpfs of older kernels).
		if !hasExtendedAttributes(dir) {
			sidecar := filepath.Join(dir, "sidecar")
			directories = append(directories, sidecar)
			arguments = append(arguments, "--sidecar", sidecar)
		}
		arguments = append(arguments, data)
		for _, directory := range directories {
			if err := os.Mkdir(directory, 0o700); err != nil {
				return nil, nil, fmt.Errorf("prepare %s: %w", versityName, err)
			}
		}
		environment := []string{"ROOT_ACCESS_KEY=" + server.AccessKey, "ROOT_SECRET_KEY=" + server.SecretKey}
		return append([]string{program}, arguments...), environment, nil
	})
}

// MinIO returns the MinIO server that all tests of this process share, and starts it on first use. It really encrypts on
// request: SSE-S3 and, with the key named by KMSKeyID, SSE-KMS.
//
// MinIO's open-source version is no longer maintained. It is here because it is the one server of which both kinds of
// encryption can be tested without a cloud account; nothing recommends it.
func MinIO(t testing.TB) *S3Server {
	t.Helper()
	return sharedS3(t, minioName, func(program, dir, address string, server *S3Server) ([]string, []string, error) {
		key := make([]byte, 32)
		rand.Read(key)
		server.KMSKeyID = kmsKey
		data := filepath.Join(dir, "data")
		if err := os.Mkdir(data, 0o700); err != nil {
			return nil, nil, fmt.Errorf("prepare %s: %w", minioName, err)
		}
		environment := []string{
			"MINIO_ROOT_USER=" + server.AccessKey,
			"MINIO_ROOT_PASSWORD=" + server.SecretKey,
			"MINIO_SITE_REGION=" + server.Region,
			"MINIO_KMS_SECRET_KEY=" + kmsKey + ":" + base64.StdEncoding.EncodeToString(key),
			"MINIO_BROWSER=off",
			"MINIO_UPDATE=off",
		}
		return []string{program, "server", "--certs-dir", filepath.Join(dir, "certs"), "--address", address, data}, environment, nil
	})
}

// NewBucket creates a bucket with a name of its own and returns the name. It is left in place: the server's data goes
// away with the test process.
func (s *S3Server) NewBucket(t testing.TB) string {
	t.Helper()
	return s.newBucket(t, &s3.CreateBucketInput{})
}

// NewLockBucket is like NewBucket and turns object lock on, and with it versioning. There is no default retention.
func (s *S3Server) NewLockBucket(t testing.TB) string {
	t.Helper()
	return s.newBucket(t, &s3.CreateBucketInput{ObjectLockEnabledForBucket: aws.Bool(true)})
}

func (s *S3Server) newBucket(t testing.TB, input *s3.CreateBucketInput) string {
	t.Helper()
	name := "test-" + strings.ToLower(rand.Text()[:16])
	input.Bucket = aws.String(name)
	input.CreateBucketConfiguration = &types.CreateBucketConfiguration{LocationConstraint: types.BucketLocationConstraint(s.Region)}
	client, done := s.client()
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
	defer cancel()
	if _, err := client.CreateBucket(ctx, input); err != nil {
		t.Fatalf("testenv: create bucket %s: %v", name, err)
	}
	return name
}

// PID returns the process id of the server.
func (s *S3Server) PID() int { return s.process.PID() }

// Log returns the last 8 KiB of what the server printed.
func (s *S3Server) Log() string { return s.process.LogTail() }

// client returns a client with the server's credentials and a function that closes its connections.
func (s *S3Server) client() (*s3.Client, func()) {
	transport := &http.Transport{}
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(s.Endpoint),
		Region:       s.Region,
		UsePathStyle: true,
		HTTPClient:   &http.Client{Transport: transport},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: s.AccessKey, SecretAccessKey: s.SecretKey}, nil
		}),
	}), transport.CloseIdleConnections
}

// s3Command makes the command line and the environment of a server that keeps its files in dir and listens on address,
// and completes what is known of the server.
type s3Command func(program, dir, address string, server *S3Server) (commandLine, environment []string, err error)

// sharedS3 returns the shared server of a name, started by the command on first use.
func sharedS3(t testing.TB, name string, command s3Command) *S3Server {
	t.Helper()
	slot := shared.s3Server(name)
	slot.once.Do(func() {
		slot.server, slot.err = startS3(name, command)
		if slot.err == nil {
			shared.atEnd(func() error { return slot.server.process.Stop(syscall.SIGTERM) })
		}
	})
	if slot.err != nil {
		reportStart(t, slot.err)
	}
	return slot.server
}

// startS3 starts a server and waits until it answers a signed request.
func startS3(name string, command s3Command) (*S3Server, error) {
	program, err := toolPath(name)
	if err != nil {
		return nil, errMissing{err}
	}
	as, err := serverprocess.Unprivileged()
	if err != nil {
		return nil, err
	}
	work, err := shared.work()
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		server, err := tryS3(name, program, work, as, command)
		if err == nil {
			return server, nil
		}
		// Between choosing the port and listening on it somebody else can be faster.
		if attempt == startAttempts || !strings.Contains(err.Error(), "in use") {
			return nil, fmt.Errorf("start %s: %w", name, err)
		}
	}
}

func tryS3(name, program string, work *serverprocess.WorkDir, as serverprocess.Identity, command s3Command) (*S3Server, error) {
	dir, err := work.Subdirectory(name+"-*", as)
	if err != nil {
		return nil, err
	}
	port, err := throwaway.FreePort()
	if err != nil {
		return nil, err
	}
	address := "127.0.0.1:" + strconv.Itoa(port)
	server := &S3Server{
		Endpoint: "http://" + address, Region: region, AccessKey: "test" + rand.Text()[:12], SecretKey: rand.Text(), dir: dir,
	}
	commandLine, environment, err := command(program, dir, address, server)
	if err != nil {
		return nil, err
	}
	if err := ownAll(dir, as); err != nil {
		return nil, err
	}
	environment = append(environment, "HOME="+dir, "PATH=/usr/bin:/bin", "TMPDIR="+dir)
	server.process, err = serverprocess.Start(as, dir, environment, syscall.SIGKILL, commandLine[0], commandLine[1:]...)
	if err != nil {
		return nil, err
	}
	client, done := server.client()
	defer done()
	err = server.process.AwaitReady(context.Background(), func(ctx context.Context) error {
		// One attempt each: the SDK's own retries wait longer than a start takes.
		_, err := client.ListBuckets(ctx, &s3.ListBucketsInput{}, func(o *s3.Options) { o.RetryMaxAttempts = 1 })
		return err
	})
	if err != nil {
		return nil, errors.Join(err, server.process.Stop(syscall.SIGKILL))
	}
	return server, nil
}

// ownAll gives the directories directly in dir to the identity.
func ownAll(dir string, as serverprocess.Identity) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("prepare a server: %w", err)
	}
	for _, entry := range entries {
		if err := as.Own(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// hasExtendedAttributes reports whether files of dir's file system take attributes of users.
func hasExtendedAttributes(dir string) bool {
	const name = "user.hourvault-test"
	if unix.Setxattr(dir, name, []byte("x"), 0) != nil {
		return false
	}
	return unix.Removexattr(dir, name) == nil
}
