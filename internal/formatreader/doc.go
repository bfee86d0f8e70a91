// Package formatreader holds, in its tests and nowhere else, a second reader of hourvault repositories. It was written
// from docs/format.md alone, with the standard library and a Zstandard decoder, and imports nothing of the code that
// writes repositories: so it shows that the page is sufficient, and it disagrees when code and page drift apart.
//
// It is strict: what the page says must be so is checked, and what is not so is an error that names the object. It reads
// directories only, holds what it can in memory, and takes its time. Nothing of it is part of the product: the files
// read_*_test.go are the reader, which imports nothing of hourvault; the other test files use it on the page's own check
// values, on the fixed vectors, on repositories that the product writes from real databases, and on damaged and forged
// ones.
package formatreader
