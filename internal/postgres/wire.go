package postgres

import (
	"encoding/binary"
	"net"
	"sync"
	"time"
)

// maxCopyPiece is the largest CopyData message, body only, that pgx gets to see, in bytes.
const maxCopyPiece = 64 << 10

// closeWait bounds how long closing a connection waits for the server to end its side.
const closeWait = 2 * time.Second

// serverConn is a connection to a server in the v3 protocol, below pgx and above TLS. It does two things that pgx
// does not:
//
//   - Large CopyData messages from the server arrive in pieces of at most maxCopyPiece. The server sends a row of COPY
//     as one message of up to 1 GiB, and pgx holds a message in memory whole. Nothing is lost: a row of the text
//     format ends where its newline is.
//   - Close waits until the server has ended its session, and then calls the function set by onClose once: the budget
//     of connections is what the server sees, and a place in it is given back however the connection ended.
type serverConn struct {
	net.Conn

	// reading guards splitter: pgx closes a connection that was given up while another of its goroutines still reads, and a
	// net.Conn must bear that.
	reading  sync.Mutex
	splitter copySplitter

	mutex   sync.Mutex
	closed  bool
	release func()
	once    sync.Once
	err     error
}

func newServerConn(conn net.Conn) *serverConn {
	return &serverConn{Conn: conn, splitter: copySplitter{source: conn, limit: maxCopyPiece}}
}

// Read implements net.Conn. A deadline that passes in the middle of a message loses nothing.
func (c *serverConn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	return c.splitter.Read(p)
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

// copySplitter passes a server's stream of messages (PostgreSQL manual, "Message Formats": a byte of type, four bytes
// of length that count themselves, the body) and cuts CopyData messages whose body is larger than limit into several.
type copySplitter struct {
	source interface{ Read([]byte) (int, error) }
	limit  int

	in         []byte // read from the source, not yet looked at
	buffer     [32 << 10]byte
	header     [5]byte // of the message that is coming in
	headerSize int     // bytes of header collected
	out        []byte  // header bytes that go out next; slice of outBuffer
	outBuffer  [5]byte
	body       int // bytes of the current message, or piece, that pass unchanged
	rest       int // bytes of the large CopyData message after the current piece
}

const headerBytes = 5

// Read implements io.Reader. Its output is a stream of whole messages again.
func (s *copySplitter) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	written := 0
	for written < len(p) {
		switch {
		case len(s.out) > 0:
			n := copy(p[written:], s.out)
			s.out = s.out[n:]
			written += n
		case s.body > 0:
			if len(s.in) == 0 {
				if written > 0 {
					return written, nil
				}
				// Straight into the caller's buffer: most bytes of a large table take this way.
				n, err := s.source.Read(p[:min(len(p), s.body)])
				s.body -= n
				return n, err
			}
			n := copy(p[written:], s.in[:min(len(s.in), s.body)])
			s.in = s.in[n:]
			s.body -= n
			written += n
		case s.rest > 0:
			piece := min(s.rest, s.limit)
			s.rest -= piece
			s.begin('d', piece)
		default:
			if len(s.in) == 0 {
				if written > 0 {
					return written, nil
				}
				n, err := s.source.Read(s.buffer[:])
				s.in = s.buffer[:n]
				if n == 0 {
					return 0, err
				}
			}
			n := copy(s.header[s.headerSize:], s.in)
			s.in = s.in[n:]
			s.headerSize += n
			if s.headerSize < headerBytes {
				continue
			}
			s.headerSize = 0
			length := int64(binary.BigEndian.Uint32(s.header[1:])) - 4
			switch {
			case length < 0:
				// Not the protocol: pgx gets the header as it is, and refuses it.
				s.outBuffer = s.header
				s.out = s.outBuffer[:]
			case s.header[0] == 'd' && length > int64(s.limit):
				s.rest = int(length) - s.limit
				s.begin('d', s.limit)
			default:
				s.begin(s.header[0], int(length))
			}
		}
	}
	return written, nil
}

func (s *copySplitter) begin(kind byte, body int) {
	s.outBuffer[0] = kind
	binary.BigEndian.PutUint32(s.outBuffer[1:], uint32(body+4))
	s.out = s.outBuffer[:]
	s.body = body
}
