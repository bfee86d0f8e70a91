package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// maxFileSize bounds the configuration file, in bytes. A thousand servers need less than half of it; the parser's
// time grows with the square of what is repeated.
const maxFileSize = 256 << 10

// Find names the configuration file: the value of --config if it is not empty, else HOURVAULT_CONFIG, else
// DefaultFile. The file need not exist.
func Find(flag string, environment Environment) string {
	if flag != "" {
		return flag
	}
	if path, found := environment.LookupEnv("HOURVAULT_CONFIG"); found && path != "" {
		return path
	}
	return DefaultFile
}

// Load reads and checks the configuration file. path is the value of --config: empty means that Find
// decides. Secrets are not read: a command reads those it needs. Every error is an *Error with all problems.
func Load(path string, environment Environment) (*Config, error) {
	name := Find(path, environment)
	content, err := readFile(name, environment)
	if err != nil {
		return nil, &Error{File: name, Problems: []Problem{{Message: err.Error()}}, Err: err}
	}
	config, problems := parse(name, content)
	if len(problems) > 0 {
		result := &Error{File: name, Problems: problems}
		result.sort()
		return nil, result
	}
	return config, nil
}

func readFile(name string, environment Environment) ([]byte, error) {
	file, err := environment.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: create it from the commented example deploy/hourvault.example.yaml, or name another file with --config or HOURVAULT_CONFIG", pathless(err))
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: this user may not read it; run as the user of the service, or give that user read access", pathless(err))
	case err != nil:
		return nil, pathless(err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err != nil {
		return nil, pathless(err)
	}
	if len(content) > maxFileSize {
		return nil, fmt.Errorf("is larger than %d KiB: it is no configuration file", maxFileSize>>10)
	}
	return content, nil
}

// parse decodes and checks; either problems or a usable configuration comes back.
func parse(name string, content []byte) (*Config, []Problem) {
	config, decoder := decode(content)
	config.File = name
	if !decoder.broken {
		check(config, decoder)
	}
	return config, decoder.problems
}
