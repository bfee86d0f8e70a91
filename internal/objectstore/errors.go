package objectstore

import "fmt"

// ReadError says that an object's content could not be read to its end.
type ReadError struct {
	Key string
	Err error
}

func (e *ReadError) Error() string { return fmt.Sprintf("read %s: %v", e.Key, e.Err) }

// Unwrap returns the cause.
func (e *ReadError) Unwrap() error { return e.Err }

// TooLargeError says that an object is larger than any object of its kind may be. Nothing was read.
type TooLargeError struct {
	Key         string
	Size, Limit int64 // bytes
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("read %s: object has %d bytes, more than the %d that this kind may have", e.Key, e.Size, e.Limit)
}

// RangeError says that an object does not have the bytes asked for. Nothing was returned.
type RangeError struct {
	Key            string
	Offset, Length int64 // bytes
	Size           int64 // bytes the object has; -1 when that is not known
}

func (e *RangeError) Error() string {
	if e.Size < 0 {
		return fmt.Sprintf("get range of %s: there are no %d bytes at offset %d", e.Key, e.Length, e.Offset)
	}
	return fmt.Sprintf("get range of %s: there are no %d bytes at offset %d of an object of %d", e.Key, e.Length, e.Offset, e.Size)
}

// unavailableError is an error for which errors.Is finds ErrUnavailable; its text is that of the cause.
type unavailableError struct{ error }

func (e unavailableError) Is(target error) bool { return target == ErrUnavailable }

func (e unavailableError) Unwrap() error { return e.error }
