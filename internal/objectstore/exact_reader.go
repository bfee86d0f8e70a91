package objectstore

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// exactReader yields exactly left bytes of source and makes everything else an error that names the key.
type exactReader struct {
	ctx    context.Context // of the Get that this reader belongs to
	key    string
	source io.ReadCloser
	left   int64
}

func (r *exactReader) Read(into []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, endedError(r.ctx, "read", r.key)
	}
	n, err := r.source.Read(into)
	if int64(n) > r.left {
		return int(r.left), &ReadError{Key: r.key, Err: errors.New("object has more bytes than announced")}
	}
	r.left -= int64(n)
	switch {
	case err == nil:
		return n, nil
	case err == io.EOF && r.left == 0:
		return n, io.EOF
	case err == io.EOF:
		return n, &ReadError{Key: r.key, Err: fmt.Errorf("object ends %d bytes early: %w", r.left, io.ErrUnexpectedEOF)}
	case r.ctx.Err() != nil:
		return n, endedError(r.ctx, "read", r.key)
	default:
		return n, &ReadError{Key: r.key, Err: err}
	}
}

func (r *exactReader) Close() error { return r.source.Close() }
