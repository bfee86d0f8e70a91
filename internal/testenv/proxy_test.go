package testenv

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/jackc/pgx/v5"
)

// proxied is a bucket behind a proxy, and the same without it.
type proxied struct {
	t              *testing.T
	proxy          *S3Proxy
	through, plain *s3.Client
	bucket         string
}

func newProxied(t *testing.T) *proxied {
	server := VersityGW(t)
	p := &proxied{t: t, proxy: NewS3Proxy(t, server), bucket: server.NewBucket(t)}
	var done, doneThrough func()
	p.plain, done = server.client()
	p.through, doneThrough = p.proxy.Server().client()
	t.Cleanup(done)
	t.Cleanup(doneThrough)
	return p
}

// once keeps the SDK from trying again what failed.
func once(o *s3.Options) { o.RetryMaxAttempts = 1 }

func (p *proxied) put(key string, size int) error {
	_, err := p.through.PutObject(p.t.Context(), &s3.PutObjectInput{Bucket: &p.bucket, Key: &key, Body: bytes.NewReader(make([]byte, size)), IfNoneMatch: aws.String("*")}, once)
	return err
}

func (p *proxied) get(key string) (int, error) {
	output, err := p.through.GetObject(p.t.Context(), &s3.GetObjectInput{Bucket: &p.bucket, Key: &key}, once)
	if err != nil {
		return 0, err
	}
	defer output.Body.Close()
	content, err := io.ReadAll(output.Body)
	return len(content), err
}

// stored says whether an object is there, without the proxy.
func (p *proxied) stored(key string) bool {
	_, err := p.plain.HeadObject(p.t.Context(), &s3.HeadObjectInput{Bucket: &p.bucket, Key: &key})
	return err == nil
}

func TestS3ProxyPassesRequestsOnAndCountsThem(t *testing.T) {
	p := newProxied(t)
	const size = 300_000
	if err := p.put("a/b", size); err != nil {
		t.Fatal(err)
	}
	if n, err := p.get("a/b"); n != size || err != nil {
		t.Errorf("got %d bytes, %v", n, err)
	}
	if err := p.put("a/b", 1); statusOf(err) != http.StatusPreconditionFailed {
		t.Errorf("got %v, want 412", err)
	}
	if _, err := p.through.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: &p.bucket, Prefix: aws.String("a/")}); err != nil {
		t.Error(err)
	}
	var seen []string
	for i, request := range p.proxy.Requests() {
		if request.Number != i+1 {
			t.Errorf("request %d has number %d", i+1, request.Number)
		}
		seen = append(seen, request.Method+" "+request.Path)
	}
	object := "/" + p.bucket + "/a/b"
	if got, want := strings.Join(seen, ", "), fmt.Sprintf("PUT %s, GET %s, PUT %s, GET /%s", object, object, object, p.bucket); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	p.proxy.Forget()
	if len(p.proxy.Requests()) != 0 {
		t.Error("requests were not forgotten")
	}
}

func TestS3ProxyRuleChoosesItsRequests(t *testing.T) {
	p := newProxied(t)
	p.proxy.Add(Rule{Method: "PUT", KeyContains: "chosen", From: 2, Times: 1, Status: 503})
	for i, test := range []struct {
		key  string
		want int
	}{{"chosen-1", 0}, {"other", 0}, {"chosen-2", 503}, {"chosen-3", 0}} {
		if got := statusOf(p.put(test.key, 10)); got != test.want || p.stored(test.key) == (test.want != 0) {
			t.Errorf("request %d: status %d, want %d; stored: %v", i, got, test.want, p.stored(test.key))
		}
	}
	p.proxy.Add(Rule{Status: 403})
	if _, err := p.get("chosen-1"); statusOf(err) != http.StatusForbidden {
		t.Errorf("got %v, want 403", err)
	}
	p.proxy.Clear()
	if _, err := p.get("chosen-1"); err != nil {
		t.Error(err)
	}
}

func TestS3ProxyCutsAndSwallows(t *testing.T) {
	p := newProxied(t)
	const size = 400_000
	if err := p.put("there", size); err != nil {
		t.Fatal(err)
	}
	p.proxy.Add(Rule{KeyContains: "cut-body", CutBody: 100_000})
	if err := p.put("cut-body", size); err == nil || statusOf(err) != 0 || p.stored("cut-body") {
		t.Errorf("body cut: got %v, stored: %v", err, p.stored("cut-body"))
	}
	p.proxy.Add(Rule{KeyContains: "at-once", CutBody: -1})
	if err := p.put("at-once", size); err == nil || p.stored("at-once") {
		t.Errorf("cut at once: got %v, stored: %v", err, p.stored("at-once"))
	}
	landed := make(chan Request, 1)
	p.proxy.Add(Rule{KeyContains: "swallowed", SwallowAnswer: true, Landed: landed})
	if err := p.put("swallowed", size); err == nil || statusOf(err) != 0 || !p.stored("swallowed") {
		t.Errorf("answer swallowed: got %v, stored: %v", err, p.stored("swallowed"))
	}
	if got := <-landed; got.Method != "PUT" || !strings.HasSuffix(got.Path, "/swallowed") {
		t.Errorf("landed: %+v", got)
	}
	p.proxy.Add(Rule{Method: "GET", KeyContains: "there", CutAnswer: 150_000})
	if n, err := p.get("there"); err == nil || n > 150_000 {
		t.Errorf("answer cut: got %d bytes, %v", n, err)
	}
	p.proxy.Clear()
	p.proxy.Refuse(true)
	if _, err := p.get("swallowed"); err == nil || statusOf(err) != 0 {
		t.Errorf("refused: got %v", err)
	}
	p.proxy.Refuse(false)
	// With the SDK's own attempts: the first may meet a connection that was cut.
	if _, err := p.through.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &p.bucket, Key: aws.String("swallowed")}); err != nil {
		t.Error(err)
	}
}

func TestS3ProxyHoldsARequestThatLandsAfterItsClientHasGone(t *testing.T) {
	p := newProxied(t)
	reached, landed, release := make(chan Request, 1), make(chan Request, 1), make(chan struct{})
	p.proxy.Add(Rule{Method: "PUT", KeyContains: "late", Reached: reached, Landed: landed, Release: release})
	gone := make(chan error, 1)
	go func() { gone <- p.put("late", 1000) }()
	<-reached
	p.proxy.CutConnections()
	if err := <-gone; err == nil {
		t.Error("the client got an answer")
	}
	if p.stored("late") {
		t.Error("stored before it was released")
	}
	close(release)
	<-landed
	if !p.stored("late") {
		t.Error("not stored after it was released")
	}
}

func TestS3ProxySlowsAndStallsAnswers(t *testing.T) {
	p := newProxied(t)
	const size = 40_000
	if err := p.put("x", size); err != nil {
		t.Fatal(err)
	}
	p.proxy.Add(Rule{Method: "GET", Times: 1, BytesPerSecond: 100_000})
	begin := time.Now()
	if n, err := p.get("x"); n != size || err != nil {
		t.Errorf("got %d bytes, %v", n, err)
	}
	if took := time.Since(begin); took < 300*time.Millisecond {
		t.Errorf("%d bytes at 100000 a second took %s", size, took)
	}
	p.proxy.Clear()
	reached, stall := make(chan Request, 1), make(chan struct{})
	p.proxy.Add(Rule{Method: "GET", Times: 1, Reached: reached, StallAnswer: stall})
	done := make(chan error, 1)
	go func() {
		_, err := p.get("x")
		done <- err
	}()
	<-reached
	select {
	case err := <-done:
		t.Errorf("an answer that stalls arrived: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(stall)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTCPProxyCutsPostgreSQLConnections(t *testing.T) {
	cluster := Postgres(t, 18)
	proxy := NewTCPProxy(t, fmt.Sprintf("127.0.0.1:%d", cluster.Port()))
	connect := func() (*pgx.Conn, error) {
		conn, err := pgx.Connect(t.Context(), fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", proxy.Port()))
		if err == nil {
			t.Cleanup(func() { _ = conn.Close(t.Context()) }) // mostly cut already
		}
		return conn, err
	}
	copyOut := func(conn *pgx.Conn) (int64, error) {
		var received bytes.Buffer
		_, err := conn.PgConn().CopyTo(t.Context(), &received, "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 10000)) TO STDOUT")
		return int64(received.Len()), err
	}
	reached := make(chan int64, 1)
	proxy.Watch(5_000_000, reached)
	conn, err := connect()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := copyOut(conn); n != 10_010_000 || err != nil {
		t.Fatalf("got %d bytes, %v", n, err)
	}
	if at := <-reached; at < 5_000_000 || proxy.Passed() < 10_010_000 {
		t.Errorf("told at %d of %d bytes", at, proxy.Passed())
	}

	passed := make(chan int64, 1)
	proxy.Set(Tap{From: 2, Times: 1, ToClient: Stream{Contains: []byte("xxxxx"), CutAfter: 2_000_000, Passed: passed}})
	for i, cut := range []bool{false, true, false} {
		conn, err := connect()
		if err != nil {
			t.Fatal(err)
		}
		n, err := copyOut(conn)
		if (err != nil) != cut || cut && n > 2_000_000 {
			t.Errorf("connection %d: %d bytes, %v, want cut: %v", i+1, n, err, cut)
		}
	}
	if total := <-passed; total < 2_000_000 {
		t.Errorf("cut after %d bytes", total)
	}

	proxy.Set(Tap{})
	if conn, err = connect(); err != nil {
		t.Fatal(err)
	}
	proxy.CutConnections()
	if _, err := conn.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("a connection that was cut still works")
	}
	proxy.Refuse(true)
	if _, err := connect(); err == nil {
		t.Error("connected to a proxy that refuses")
	}
	proxy.Refuse(false)
	if _, err := connect(); err != nil {
		t.Error(err)
	}
}
