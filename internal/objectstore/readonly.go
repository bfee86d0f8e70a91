package objectstore

import (
	"context"
	"errors"
	"fmt"
)

// ErrReadOnly says that a write was asked of a store opened for reading.
var ErrReadOnly = errors.New("store is open for reading only")

// ReadOnly returns store without its writing half: PutIfAbsent, PutIfMatch and Delete return ErrReadOnly and send
// nothing. For commands that must not change anything.
func ReadOnly(store Store) Store { return readOnly{store} }

type readOnly struct{ Store }

func (readOnly) PutIfAbsent(_ context.Context, key string, _ []byte) (Info, error) {
	return Info{}, fmt.Errorf("put %s: %w", key, ErrReadOnly)
}

func (readOnly) PutIfMatch(_ context.Context, key string, _ []byte, _ string) (Info, error) {
	return Info{}, fmt.Errorf("replace %s: %w", key, ErrReadOnly)
}

func (readOnly) Delete(_ context.Context, key string) error {
	return fmt.Errorf("delete %s: %w", key, ErrReadOnly)
}
