package repository

import (
	"encoding/binary"
	"errors"
	"math"
)

// errMalformed says that opened bytes do not have the structure that docs/format.md gives them.
var errMalformed = errors.New("malformed")

// decoder reads the binary texts of the format. After the first error everything read is zero; end reports it.
type decoder struct {
	data []byte
	err  error
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err = errMalformed
	}
	d.data = nil
}

func (d *decoder) uvarint() uint64 {
	value, n := binary.Uvarint(d.data)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.data = d.data[n:]
	return value
}

func (d *decoder) uint32() uint32 {
	value := d.uvarint()
	if value > math.MaxUint32 {
		d.fail()
		return 0
	}
	return uint32(value)
}

func (d *decoder) byte() byte {
	if bytes := d.bytes(1); bytes != nil {
		return bytes[0]
	}
	return 0
}

// bytes returns the next n bytes, or nil.
func (d *decoder) bytes(n int) []byte {
	if n < 0 || n > len(d.data) {
		d.fail()
		return nil
	}
	taken := d.data[:n]
	d.data = d.data[n:]
	return taken
}

// count reads a number of elements that have at least size bytes each, and refuses more than the data can hold: so that
// hostile bytes never make a reader allocate more than a multiple of their own length.
func (d *decoder) count(size int) int {
	value := d.uvarint()
	if value > uint64(len(d.data)/size) {
		d.fail()
		return 0
	}
	return int(value)
}

// end returns the first error, or errMalformed when bytes are left over.
func (d *decoder) end() error {
	if d.err == nil && len(d.data) > 0 {
		d.fail()
	}
	return d.err
}
