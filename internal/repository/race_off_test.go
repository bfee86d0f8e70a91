//go:build !race

package repository

// raceDetector says that the tests run several times slower than usual.
const raceDetector = false
