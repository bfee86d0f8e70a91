package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/config"
	"github.com/hourvault/hourvault/internal/console"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/postgres"
	"github.com/hourvault/hourvault/internal/repository"
)

func (a *app) loadConfig() (*config.Config, error) {
	loaded, err := config.Load(a.global.configFile, a.environment)
	if err != nil {
		return nil, err
	}
	return loaded, nil
}

// store is an object store that is closed after use.
type store interface {
	objectstore.Store
	CheckBucket(context.Context) error
	Close() error
}

// openStore opens the repository's store, and makes its directory if create is set and it is one.
func (a *app) openStore(ctx context.Context, from config.Repository, options objectstore.DirectoryOptions) (store, error) {
	if from.Kind == config.RepositoryDirectory {
		opened, err := objectstore.OpenDirectory(from.Directory, options)
		if errors.Is(err, objectstore.ErrNoBucket) {
			return nil, &noDirectoryError{url: from.URL, cause: err}
		}
		if err != nil {
			return nil, err
		}
		return opened, nil
	}
	secret, err := from.SecretAccessKey.Read(a.environment)
	if err != nil {
		return nil, err
	}
	opened, err := objectstore.OpenS3(ctx, objectstore.S3Options{
		Bucket: from.Bucket, Prefix: from.Prefix, Region: from.Region, Endpoint: from.Endpoint, PathStyle: from.PathStyle,
		SSE: objectstore.SSE(from.SSE), SSEKMSKeyID: from.SSEKMSKeyID, Checksums: objectstore.Checksums(from.Checksums),
		RoleARN: from.RoleARN, Profile: from.Profile, AccessKeyID: from.AccessKeyID, SecretAccessKey: objectstore.NewSecret(secret.Reveal()), CAFile: from.CAFile,
	})
	if err != nil {
		return nil, usagef("repository %s: %w", from.URL, err)
	}
	return opened, nil
}

// noDirectoryError is objectstore.ErrNoBucket in the words of whoever configured a directory.
type noDirectoryError struct {
	url   string
	cause error
}

func (e *noDirectoryError) Error() string {
	return fmt.Sprintf("repository %s: there is no such directory: correct the path; hourvault init makes it", console.Printable(e.url))
}

func (e *noDirectoryError) Unwrap() error { return e.cause }

// rootKey reads the root key. All its errors mean that the configuration, or what it points at, must be changed.
func (a *app) rootKey(from config.RootKey) (crypto.RootKey, error) {
	if from.Kind == config.RootKeyFile {
		key, err := crypto.ReadRootKeyFile(from.Path)
		if err != nil {
			return nil, &usageError{err}
		}
		return key, nil
	}
	material, err := from.Material(a.environment)
	if err != nil {
		return nil, err
	}
	key, err := crypto.ParseLocalRootKey(material, from.String())
	if err != nil {
		return nil, &usageError{err}
	}
	return key, nil
}

// access says whether a command writes to the repository.
type access int

const (
	readOnly access = iota
	readWrite
)

// openRepository opens the repository that the configuration names. The function returned closes it.
func (a *app) openRepository(ctx context.Context, from *config.Config, how access) (*repository.Repository, func(), error) {
	key, err := a.rootKey(from.RootKey)
	if err != nil {
		return nil, nil, err
	}
	opened, err := a.openStore(ctx, from.Repository, objectstore.DirectoryOptions{})
	if err != nil {
		return nil, nil, err
	}
	objects := objectstore.Store(opened)
	if how == readOnly {
		objects = objectstore.ReadOnly(opened)
	}
	repo, err := repository.Open(ctx, objects, key)
	if err != nil {
		_ = opened.Close()
		if errors.Is(err, repository.ErrWrongRootKey) {
			err = fmt.Errorf("%w: point root_key at the key that this repository was made with", err)
		}
		return nil, nil, err
	}
	return repo, func() {
		repo.Close()
		_ = opened.Close()
	}, nil
}

// openServer prepares a server; nothing is connected yet.
func (a *app) openServer(from *config.Server) (*postgres.Server, error) {
	password, err := from.Password.Read(a.environment)
	if err != nil {
		return nil, err
	}
	server, err := postgres.NewServer(postgres.ServerConfig{
		Name: from.Name, DSN: from.DSN, Password: postgres.Password(password.Reveal()), Connections: from.Connections,
		LockTimeout: from.LockTimeout, YieldToDDL: from.YieldToDDL, RequestCheckpoint: from.Checkpoint == config.CheckpointRequest,
		BinDirs: from.PGBinDirs,
	})
	if err != nil {
		return nil, &usageError{err}
	}
	return server, nil
}

// findServer returns the configuration of the server called name.
func findServer(from *config.Config, name string) (*config.Server, error) {
	if found, ok := from.Server(name); ok {
		return found, nil
	}
	return nil, usagef("no server is called %s in %s: %s", console.Printable(name), from.File, configuredServers(from))
}

func configuredServers(from *config.Config) string {
	if len(from.Servers) == 0 {
		return "it names no servers"
	}
	names := make([]string, len(from.Servers))
	for i, server := range from.Servers {
		names[i] = server.Name
	}
	return "it names " + strings.Join(names, ", ")
}

// repositoryExists says whether a store holds a repository, whatever key it was made with.
func repositoryExists(ctx context.Context, objects objectstore.Store) (bool, error) {
	// Any key will do: a repository answers with ErrWrongRootKey.
	material := []byte(strings.Repeat("x", crypto.KeySize))
	anyKey, err := crypto.ParseLocalRootKey(material, "for looking")
	if err != nil {
		return false, err
	}
	opened, err := repository.Open(ctx, objectstore.ReadOnly(objects), anyKey)
	var unknown *repository.UnknownFeatureError
	switch {
	case err == nil:
		opened.Close()
		return true, nil
	case errors.Is(err, repository.ErrNoRepository):
		return false, nil
	case errors.Is(err, repository.ErrWrongRootKey), errors.Is(err, crypto.ErrNewerFormat), errors.As(err, &unknown):
		return true, nil
	default:
		return false, err
	}
}

// holder names this process for whoever finds a lease held.
func holder() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("%s, process %d", host, os.Getpid())
}

// fileExists says whether a file is there, also one that may not be read.
func fileExists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// cleanUp is how long what must happen after a stop may take.
const cleanUp = 30 * time.Second
