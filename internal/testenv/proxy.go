package testenv

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Rule says which requests an S3Proxy treats otherwise than by passing them on, and how. Zero fields of the selection
// select everything, zero fields of the effect do nothing. Effects take place in the order written here.
type Rule struct {
	// Method selects requests by their method; "" all.
	Method string
	// KeyContains selects requests whose path (bucket and key) or query contains this.
	KeyContains string
	// From is the first selected request that the rule acts on, counted from 1; 0 means 1.
	From int
	// Times is how many requests from then on; 0 means all.
	Times int

	// Reached, if not nil, is sent the request when the rule begins to act on it, before anything is done: with the body
	// complete, unless CutBody says otherwise. It must have room or a receiver.
	Reached chan<- Request
	// Release, if not nil, is waited for before anything else is done. A client that gives up does not end the waiting: a
	// request held back lands later, when Release is closed. Close of the proxy drops it.
	Release <-chan struct{}
	// CutBody breaks the connection after so many bytes of the request's body were read from the client, and nothing
	// reaches the server; 0 means not, -1 at once.
	CutBody int64
	// Status answers with this HTTP status, and nothing reaches the server; 503 is S3's SlowDown, 403 AccessDenied.
	Status int
	// Landed, if not nil, is sent the request when the server has answered it, before the answer goes on.
	Landed chan<- Request
	// SwallowAnswer breaks the connection instead of passing the server's answer on.
	SwallowAnswer bool
	// CutAnswer breaks the connection after so many bytes of the answer's body; 0 means not.
	CutAnswer int64
	// StallAnswer sends nothing of the answer until it is closed, or the proxy is; the connection stays open.
	StallAnswer <-chan struct{}
	// BytesPerSecond bounds how fast the answer's body arrives; 0 means not at all.
	BytesPerSecond int
}

// Request is one request that a proxy saw.
type Request struct {
	// Number counts all requests of the proxy from 1, in the order in which their headers were complete.
	Number int
	Method string
	// Path is bucket and key, as in "/test-abc/prod/repository.json"; Query as sent.
	Path, Query string
}

// S3Proxy passes requests on to a real S3 server, counts them, and makes them fail by rules. It understands HTTP/1.1
// without encryption. The Host header is passed on as the client sent it, so signatures stay valid.
//
// All methods may be called concurrently. The proxy ends with the test.
type S3Proxy struct {
	// Endpoint is the proxy's address, such as http://127.0.0.1:34567.
	Endpoint string

	server    *S3Server
	target    *url.URL
	transport *http.Transport
	listener  net.Listener
	ctx       context.Context // ends when the proxy is closed
	close     context.CancelFunc
	serving   sync.WaitGroup

	mutex       sync.Mutex
	rules       []*armedRule
	requests    []Request
	connections map[net.Conn]struct{}
	refusing    bool
}

type armedRule struct {
	Rule
	selected int
}

// NewS3Proxy starts a proxy in front of a server.
func NewS3Proxy(t testing.TB, server *S3Server) *S3Proxy {
	t.Helper()
	target, err := url.Parse(server.Endpoint)
	if err != nil {
		t.Fatalf("testenv: %v", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("testenv: start a proxy: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	proxy := &S3Proxy{
		Endpoint: "http://" + listener.Addr().String(), server: server, target: target, listener: listener, ctx: ctx, close: cancel,
		transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}, connections: make(map[net.Conn]struct{}),
	}
	proxy.serving.Go(proxy.accept)
	t.Cleanup(proxy.Close)
	return proxy
}

// Server returns the server as it is reached through the proxy.
func (p *S3Proxy) Server() *S3Server {
	through := *p.server
	through.Endpoint = p.Endpoint
	return &through
}

// Close ends the proxy and all its connections, and waits until that is done. Requests held back are dropped.
func (p *S3Proxy) Close() {
	p.close()
	_ = p.listener.Close() // a second time is fine
	p.CutConnections()
	p.serving.Wait()
	p.transport.CloseIdleConnections()
}

// Add arms a rule; its counting begins now. The first armed rule that acts on a request decides.
func (p *S3Proxy) Add(rule Rule) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.rules = append(p.rules, &armedRule{Rule: rule})
}

// Clear disarms all rules; those that act on a request already go on.
func (p *S3Proxy) Clear() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.rules = nil
}

// Refuse makes the proxy close every connection, those that exist and those that come, as a service that is down; or ends that.
func (p *S3Proxy) Refuse(refuse bool) {
	p.mutex.Lock()
	p.refusing = refuse
	p.mutex.Unlock()
	if refuse {
		p.CutConnections()
	}
}

// CutConnections breaks all connections of clients, by a reset.
func (p *S3Proxy) CutConnections() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	for conn := range p.connections {
		reset(conn)
	}
}

// Requests returns the requests seen so far, in order.
func (p *S3Proxy) Requests() []Request {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return append([]Request(nil), p.requests...)
}

// Forget empties the list of requests; counting begins at 1 again.
func (p *S3Proxy) Forget() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.requests = nil
}

func (p *S3Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			if p.ctx.Err() != nil {
				return
			}
			continue // the client was faster to give up
		}
		p.mutex.Lock()
		refused := p.refusing || p.ctx.Err() != nil
		if !refused {
			p.connections[conn] = struct{}{}
		}
		p.mutex.Unlock()
		if refused {
			reset(conn)
			continue
		}
		p.serving.Go(func() {
			p.serve(conn)
			p.mutex.Lock()
			delete(p.connections, conn)
			p.mutex.Unlock()
			_ = conn.Close()
		})
	}
}

// reset closes a connection so that the other side sees it break.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// serve handles the requests of one connection, one after the other, until it ends or a rule cuts it.
func (p *S3Proxy) serve(conn net.Conn) {
	reader := bufio.NewReader(conn)
	for {
		request, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		seen, rule := p.choose(request)
		if !p.handle(conn, reader, request, seen, rule) {
			return
		}
	}
}

func (p *S3Proxy) choose(request *http.Request) (Request, Rule) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	seen := Request{Number: len(p.requests) + 1, Method: request.Method, Path: request.URL.Path, Query: request.URL.RawQuery}
	p.requests = append(p.requests, seen)
	var chosen Rule
	found := false
	for _, rule := range p.rules {
		if rule.Method != "" && rule.Method != seen.Method || !strings.Contains(seen.Path+"?"+seen.Query, rule.KeyContains) {
			continue
		}
		rule.selected++
		first := max(rule.From, 1)
		if !found && rule.selected >= first && (rule.Times == 0 || rule.selected < first+rule.Times) {
			chosen, found = rule.Rule, true
		}
	}
	return seen, chosen
}

// handle answers one request, and returns false when the connection must not be used any more.
func (p *S3Proxy) handle(conn net.Conn, reader *bufio.Reader, request *http.Request, seen Request, rule Rule) bool {
	if request.Header.Get("Expect") != "" {
		// The client sends the body only when it is asked to.
		if _, err := io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return false
		}
	}
	if rule.CutBody != 0 {
		if rule.Reached != nil && !send(p.ctx, rule.Reached, seen) {
			return false
		}
		_, _ = io.CopyN(io.Discard, request.Body, max(rule.CutBody, 0))
		reset(conn)
		return false
	}
	// The body is read whole before anything is passed on, so that the client may be gone by then. http.MaxBytesReader is not
	// needed: it is a test that sends it.
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return false
	}
	if rule.Reached != nil && !send(p.ctx, rule.Reached, seen) {
		return false
	}
	if rule.Release != nil && !receive(p.ctx, rule.Release) {
		return false
	}
	if rule.Status != 0 {
		return refuse(conn, request, rule.Status)
	}
	response, err := p.forward(request, body)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	if rule.Landed != nil {
		// The answer is complete only with its body: then the server has done what it was asked.
		content, err := io.ReadAll(response.Body)
		if err != nil || !send(p.ctx, rule.Landed, seen) {
			return false
		}
		response.Body = io.NopCloser(bytes.NewReader(content))
	}
	if rule.SwallowAnswer {
		reset(conn)
		return false
	}
	if rule.StallAnswer != nil && !receive(p.ctx, rule.StallAnswer) {
		return false
	}
	if rule.BytesPerSecond > 0 {
		response.Body = struct {
			io.Reader
			io.Closer
		}{&slowReader{ctx: p.ctx, source: response.Body, perSecond: rule.BytesPerSecond}, response.Body}
	}
	if rule.CutAnswer > 0 {
		response.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(response.Body, rule.CutAnswer), response.Body}
	}
	// Write fails where the body is shorter than announced, which cuts the connection as it should.
	if err := response.Write(conn); err != nil {
		reset(conn)
		return false
	}
	return !response.Close && !request.Close
}

func (p *S3Proxy) forward(request *http.Request, body []byte) (*http.Response, error) {
	onward, err := http.NewRequestWithContext(p.ctx, request.Method, p.target.Scheme+"://"+p.target.Host+request.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	onward.Header = request.Header.Clone()
	onward.Header.Del("Expect")
	onward.Host = request.Host // it is signed
	onward.ContentLength = int64(len(body))
	return p.transport.RoundTrip(onward)
}

// refuse answers as S3 does (Amazon S3 API Reference, "Error responses").
func refuse(conn net.Conn, request *http.Request, status int) bool {
	code := map[int]string{403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}[status]
	text := "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>" + code + "</Code><Message>injected by a test</Message></Error>"
	if request.Method == http.MethodHead {
		text = ""
	}
	response := &http.Response{
		StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Request: request, ContentLength: int64(len(text)),
		Header: http.Header{"Content-Type": {"application/xml"}, "Date": {time.Now().UTC().Format(http.TimeFormat)}},
		Body:   io.NopCloser(strings.NewReader(text)),
	}
	return response.Write(conn) == nil
}

// slowReader passes bytes on at a bounded rate.
type slowReader struct {
	ctx       context.Context
	source    io.Reader
	perSecond int
}

func (r *slowReader) Read(into []byte) (int, error) {
	const pause = 50 * time.Millisecond
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.ctx.Done():
		return 0, r.ctx.Err()
	}
	return r.source.Read(into[:min(len(into), max(1, r.perSecond/int(time.Second/pause)))])
}

func send[T any](ctx context.Context, to chan<- T, value T) bool {
	select {
	case to <- value:
		return true
	case <-ctx.Done():
		return false
	}
}

func receive(ctx context.Context, from <-chan struct{}) bool {
	select {
	case <-from:
		return true
	case <-ctx.Done():
		return false
	}
}

// A Stream says what a TCPProxy does with one direction of a connection.
type Stream struct {
	// CutAfter breaks the connection, both directions, after so many bytes of this one were passed on; 0 means not.
	CutAfter int64
	// Contains limits CutAfter's counting: it begins with the first piece that contains these bytes, piece by piece as
	// they arrive; nil counts from the beginning.
	Contains []byte
	// Passed, if not nil, is sent the total of all bytes of the connection's direction once CutAfter is reached, before the
	// connection breaks. It must have room or a receiver.
	Passed chan<- int64
	// Hold makes the connection stand still instead of breaking, until the proxy is closed or the client leaves.
	Hold bool
}

// Tap says what a TCPProxy does with connections. Each connection meets the tap that is set when it is accepted.
type Tap struct {
	// From is the first connection, counted from 1, that the tap acts on; 0 means 1. Times is how many; 0 means all.
	From, Times int
	// ToServer and ToClient are the two directions.
	ToServer, ToClient Stream
}

// TCPProxy passes connections on to a server, blind for what they carry. It is meant for PostgreSQL: a test cuts a
// connection after so many bytes of it, or all at once.
//
// All methods may be called concurrently. The proxy ends with the test.
type TCPProxy struct {
	listener net.Listener
	target   string
	ctx      context.Context
	close    context.CancelFunc
	serving  sync.WaitGroup

	mutex       sync.Mutex
	tap         Tap
	accepted    int
	passed      int64
	watch       int64        // of passed; 0: none
	reached     chan<- int64 // sent once when watch is reached
	connections map[net.Conn]struct{}
	refusing    bool
}

// NewTCPProxy starts a proxy in front of host:port.
func NewTCPProxy(t testing.TB, target string) *TCPProxy {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("testenv: start a proxy: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	proxy := &TCPProxy{listener: listener, target: target, ctx: ctx, close: cancel, connections: make(map[net.Conn]struct{})}
	proxy.serving.Go(proxy.accept)
	t.Cleanup(proxy.Close)
	return proxy
}

// Port returns the port at 127.0.0.1 that the proxy listens on.
func (p *TCPProxy) Port() int { return p.listener.Addr().(*net.TCPAddr).Port } // a TCP listener has a TCP address

// Close ends the proxy and all its connections, and waits until that is done.
func (p *TCPProxy) Close() {
	p.close()
	_ = p.listener.Close()
	p.CutConnections()
	p.serving.Wait()
}

// Set makes connections accepted from now on meet a tap, and counts them anew.
func (p *TCPProxy) Set(tap Tap) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.tap, p.accepted = tap, 0
}

// Refuse makes the proxy close every connection, those that exist and those that come; or ends that.
func (p *TCPProxy) Refuse(refuse bool) {
	p.mutex.Lock()
	p.refusing = refuse
	p.mutex.Unlock()
	if refuse {
		p.CutConnections()
	}
}

// CutConnections breaks all connections, by a reset to the client; the server sees them end.
func (p *TCPProxy) CutConnections() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	for conn := range p.connections {
		reset(conn)
	}
}

// Passed returns how many bytes were passed on since the last Watch, in both directions of all connections.
func (p *TCPProxy) Passed() int64 {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.passed
}

// Watch counts bytes anew, and sends the count to reached, once, when so many were passed on; reached must have room. 0
// only counts.
func (p *TCPProxy) Watch(bytes int64, reached chan<- int64) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.passed, p.watch, p.reached = 0, bytes, reached
}

func (p *TCPProxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			if p.ctx.Err() != nil {
				return
			}
			continue
		}
		p.serving.Go(func() { p.serve(client) })
	}
}

func (p *TCPProxy) serve(client net.Conn) {
	defer client.Close()
	p.mutex.Lock()
	p.accepted++
	tap := p.tap
	if p.accepted < max(tap.From, 1) || tap.Times != 0 && p.accepted >= max(tap.From, 1)+tap.Times {
		tap = Tap{}
	}
	refused := p.refusing || p.ctx.Err() != nil
	p.mutex.Unlock()
	if refused {
		reset(client)
		return
	}
	server, err := (&net.Dialer{}).DialContext(p.ctx, "tcp4", p.target)
	if err != nil {
		reset(client)
		return
	}
	defer server.Close()
	p.mutex.Lock()
	if p.refusing || p.ctx.Err() != nil { // since the look above
		p.mutex.Unlock()
		reset(client)
		return
	}
	p.connections[client], p.connections[server] = struct{}{}, struct{}{}
	p.mutex.Unlock()
	defer func() {
		p.mutex.Lock()
		defer p.mutex.Unlock()
		delete(p.connections, client)
		delete(p.connections, server)
	}()
	var both sync.WaitGroup
	both.Go(func() { p.pass(server, client, tap.ToServer, client, server) })
	both.Go(func() { p.pass(client, server, tap.ToClient, client, server) })
	both.Wait()
}

// pass copies one direction until it ends; then both connections are closed, since neither side of PostgreSQL's protocol
// goes on when the other has said its last.
func (p *TCPProxy) pass(to, from net.Conn, stream Stream, client, server net.Conn) {
	buffer := make([]byte, 32<<10)
	counting := len(stream.Contains) == 0
	var total, counted int64
	for {
		n, err := from.Read(buffer)
		piece := buffer[:n]
		counting = counting || n > 0 && bytes.Contains(piece, stream.Contains)
		cut := false
		if counting && stream.CutAfter > 0 && counted+int64(n) >= stream.CutAfter {
			piece, cut = piece[:stream.CutAfter-counted], true
		}
		if counting {
			counted += int64(len(piece))
		}
		total += int64(len(piece))
		if len(piece) > 0 {
			if _, writeErr := to.Write(piece); writeErr != nil {
				err = errors.Join(err, writeErr)
			}
			p.count(int64(len(piece)))
		}
		switch {
		case cut:
			if stream.Passed != nil && !send(p.ctx, stream.Passed, total) {
				return
			}
			if stream.Hold {
				_, _ = io.Copy(io.Discard, from) // until the client leaves, or the proxy is closed
			}
			reset(client)
			reset(server)
			return
		case err != nil:
			_ = client.Close()
			_ = server.Close()
			return
		}
	}
}

func (p *TCPProxy) count(n int64) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.passed += n
	if p.reached != nil && p.watch > 0 && p.passed >= p.watch {
		p.reached <- p.passed
		p.reached = nil
	}
}
