package objectstore

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// beforeUse refuses a context that has ended and a key that no store can hold.
func beforeUse(ctx context.Context, step, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return endedError(ctx, step, key)
	}
	return nil
}

// endedError carries the context's error and, where it says more, the cause it was ended with.
func endedError(ctx context.Context, step, key string) error {
	if cause := context.Cause(ctx); !errors.Is(cause, ctx.Err()) {
		return fmt.Errorf("%s %s: %w: %w", step, key, ctx.Err(), cause)
	}
	return fmt.Errorf("%s %s: %w", step, key, ctx.Err())
}

func checkRange(key string, offset, length int64) error {
	if offset < 0 || length < 1 || offset > math.MaxInt64-length {
		return &RangeError{Key: key, Offset: offset, Length: length, Size: -1}
	}
	return nil
}
