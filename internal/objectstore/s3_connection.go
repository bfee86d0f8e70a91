package objectstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

// buildTransport makes the HTTP client's parts: TLS 1.2 at least, HTTP/1.1 as S3 speaks it, the proxy of the
// environment, and connections that fail when nothing moves any more.
func buildTransport(caFile string, tuned tuning) (*awshttp.BuildableClient, error) {
	roots, err := trustedRoots(caFile)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return awshttp.NewBuildableClient().WithTransportOptions(func(transport *http.Transport) {
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			connection, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &stallConn{Conn: connection, limit: tuned.stallLimit}, nil
		}
		if transport.TLSClientConfig == nil {
			transport.TLSClientConfig = &tls.Config{}
		}
		transport.TLSClientConfig.MinVersion = tls.VersionTLS12
		transport.TLSClientConfig.RootCAs = roots
		transport.ForceAttemptHTTP2 = false
		transport.TLSHandshakeTimeout = 10 * time.Second
		transport.ExpectContinueTimeout = time.Second
		// Shorter than the stall limit, so that idle connections go quietly.
		transport.IdleConnTimeout = tuned.stallLimit * 3 / 4
		transport.MaxIdleConnsPerHost = 64
		// What is stored is what is read, bytes for bytes.
		transport.DisableCompression = true
	}), nil
}

// trustedRoots returns the system's roots with those of the file; nil, which means the system's, without one.
func trustedRoots(caFile string) (*x509.CertPool, error) {
	if caFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("CA file: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file %s: holds no certificate in PEM", caFile)
	}
	return roots, nil
}

// stallConn fails a Read or Write during which nothing moved for limit. A write that gets on counts for the read that
// waits for the answer, because net/http begins to read the answer before it has sent the request.
type stallConn struct {
	net.Conn
	limit   time.Duration
	stalled atomic.Bool // one direction failed so; net/http then closes the connection under the other
}

func (c *stallConn) Read(into []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(into)
	return n, c.explain(err)
}

func (c *stallConn) Write(content []byte) (int, error) {
	// In pieces, or a large one over a slow line would look like none for a long time.
	const piece = 64 << 10
	written := 0
	for first := true; first || written < len(content); first = false {
		if err := c.SetDeadline(time.Now().Add(c.limit)); err != nil {
			return written, c.explain(err)
		}
		n, err := c.Conn.Write(content[written:min(written+piece, len(content))])
		written += n
		if err != nil {
			return written, c.explain(err)
		}
	}
	return written, nil
}

// explain says of an error that it comes from standing still, if it does.
func (c *stallConn) explain(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.stalled.Store(true)
	}
	if err == nil || !c.stalled.Load() {
		return err
	}
	return fmt.Errorf("connection stood still for %v: %w", c.limit, os.ErrDeadlineExceeded)
}
