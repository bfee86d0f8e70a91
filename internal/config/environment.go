package config

import (
	"io/fs"
	"os"
)

// Environment is what configuration may see of the machine. Both functions must be set.
type Environment struct {
	// LookupEnv returns an environment variable, as os.LookupEnv does.
	LookupEnv func(name string) (value string, found bool)
	// Open opens a file for reading, following symbolic links; errors are those of os.Open.
	Open func(path string) (fs.File, error)
}

// System returns the environment of this process.
func System() Environment {
	return Environment{
		LookupEnv: os.LookupEnv,
		Open:      func(path string) (fs.File, error) { return os.Open(path) },
	}
}
