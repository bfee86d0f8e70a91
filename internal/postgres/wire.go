package postgres

import (
	"encoding/binary"
	"io"
	"math"
	"net"
	"sync"
	"time"
)

// closeWait bounds how long closing a connection waits for the server to end its side.
const closeWait = 2 * time.Second

// serverConn is a connection to a server in the v3 protocol, below pgx and above TLS. It does two things that pgx
// does not:
//
//   - The rows of a COPY TO STDOUT go straight from the read buffer to a sink (divert), and pgx sees a COPY without rows. The
//     server sends each row as a message of its own, up to 1 GiB long: pgx holds a message in memory whole, and
//     spends more time on the messages of small rows than all that is done with their content.
//   - Close waits until the server has ended its session, and then calls the function set by onClose once: the budget
//     of connections is what the server sees, and a place in it is given back however the connection ended.
type serverConn struct {
	net.Conn

	// reading guards messages: pgx closes a connection that was given up while another of its goroutines still reads, and a
	// net.Conn must bear that.
	reading  sync.Mutex
	messages messageReader

	mutex   sync.Mutex
	closed  bool
	release func()
	once    sync.Once
	err     error
}

func newServerConn(conn net.Conn) *serverConn {
	return &serverConn{Conn: conn, messages: messageReader{source: conn}}
}

// Read implements net.Conn. A deadline that passes in the middle of a message loses nothing.
func (c *serverConn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	return c.messages.Read(p)
}

// divert lets the content of all CopyData messages that come from now on go to sink, in pieces of any length, until restore
// is called. An error of the sink is what Read returns then: for pgx the connection is broken. restore waits for a call of
// the sink that is under way; after it sink is not called any more.
func (c *serverConn) divert(sink io.Writer) (restore func()) {
	c.messages.setSink(sink)
	return func() { c.messages.setSink(nil) }
}

// onClose sets the function that Close calls at its end; at once when the connection is closed already.
func (c *serverConn) onClose(release func()) {
	c.mutex.Lock()
	closed := c.closed
	if !closed {
		c.release = release
	}
	c.mutex.Unlock()
	if closed {
		release()
	}
}

// Close implements net.Conn.
func (c *serverConn) Close() error {
	c.once.Do(func() {
		// pgx has sent Terminate, or a cancel request, before. The server's session ends when it closes its side.
		if c.Conn.SetDeadline(time.Now().Add(closeWait)) == nil {
			discard := make([]byte, 16<<10)
			for {
				if _, err := c.Conn.Read(discard); err != nil {
					break
				}
			}
		}
		c.err = c.Conn.Close()
		c.mutex.Lock()
		c.closed = true
		release := c.release
		c.mutex.Unlock()
		if release != nil {
			release()
		}
	})
	return c.err
}

// cut closes the connection without waiting for the server, whoever is using it.
func (c *serverConn) cut() {
	_ = c.Conn.Close()
	_ = c.Close()
}

// messageReader passes on a server's stream of messages (PostgreSQL manual, "Message Formats": a byte of type, four bytes
// of length that count themselves, the body), except CopyData messages while there is a sink: the sink gets their bodies.
type messageReader struct {
	source interface{ Read([]byte) (int, error) }

	in         []byte // read from the source, not yet looked at
	buffer     [64 << 10]byte
	header     [headerBytes]byte // of the message that is coming in
	headerSize int               // bytes of header collected
	out        []byte            // header bytes that go out next
	body       int               // bytes of the current message that pass unchanged
	copied     int               // bytes of the current CopyData message that go to the sink

	mutex sync.Mutex // guards sink, and is held while it is called
	sink  io.Writer  // nil: CopyData passes like everything else
}

const headerBytes = 5

func (r *messageReader) setSink(sink io.Writer) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.sink = sink
}

// Read implements io.Reader. Its output is a stream of whole messages again.
func (r *messageReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	written := 0
	for written < len(p) {
		switch {
		case len(r.out) > 0:
			n := copy(p[written:], r.out)
			r.out = r.out[n:]
			written += n
			continue
		case r.body > 0 && len(r.in) > 0:
			n := copy(p[written:], r.in[:min(len(r.in), r.body)])
			r.in = r.in[n:]
			r.body -= n
			written += n
			continue
		case r.body == 0 && len(r.in) > 0:
			if err := r.look(); err != nil {
				return written, err
			}
			continue
		case written > 0:
			return written, nil
		case r.body > 0:
			// Straight into the caller's buffer.
			n, err := r.source.Read(p[:min(len(p), r.body)])
			r.body -= n
			return n, err
		}
		n, err := r.source.Read(r.buffer[:])
		r.in = r.buffer[:n]
		if n == 0 {
			return 0, err
		}
	}
	return written, nil
}

// look takes headers, and what goes to the sink, from the bytes that were read.
func (r *messageReader) look() error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for len(r.in) > 0 {
		if r.copied > 0 {
			piece := r.in[:min(len(r.in), r.copied)]
			r.in = r.in[len(piece):]
			r.copied -= len(piece)
			if r.sink != nil { // after restore nobody wants the rest of a COPY that was given up
				if _, err := r.sink.Write(piece); err != nil {
					return err
				}
			}
			continue
		}
		n := copy(r.header[r.headerSize:], r.in)
		r.in = r.in[n:]
		if r.headerSize += n; r.headerSize < headerBytes {
			return nil
		}
		r.headerSize = 0
		length := int64(binary.BigEndian.Uint32(r.header[1:])) - 4
		if r.header[0] == 'd' && length >= 0 && r.sink != nil {
			r.copied = int(length)
			continue
		}
		r.out = r.header[:]
		if r.body = int(length); length < 0 {
			r.body = math.MaxInt // not the protocol: pgx gets all as it is, and refuses it
		}
		return nil
	}
	return nil
}
