package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/config"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/repository"
)

// initDocument is what hourvault init --json prints.
type initDocument struct {
	Repository   string `json:"repository"`
	RepositoryID string `json:"repository_id"`
	RootKey      string `json:"root_key"`
	RootKeyID    string `json:"root_key_id"`
	// RootKeyCreated says that the root key's file was made now; otherwise it was there before.
	RootKeyCreated bool `json:"root_key_created"`
}

func newInitCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Create the repository and, if it is a file and missing, the root key",
		Long: `Create the repository that the configuration names. When root_key is a file:/// address and there is no such
file, the root key is made first, readable by this user alone; a file that is there is kept and used.

Without the root key no backup can ever be read. Keep a copy of it away from this machine, and not in the
bucket.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration, or there is a repository already.`,
		Example: `  hourvault init
  hourvault --config ./hourvault.yaml init --json`,
		Args: noArguments,
		RunE: func(command *cobra.Command, _ []string) error { return runInit(command.Context(), a) },
	}
}

func runInit(ctx context.Context, a *app) error {
	loaded, err := a.loadConfig()
	if err != nil {
		return err
	}
	// Everything that can be refused is looked at before anything is made.
	makeKey := false
	var key crypto.RootKey
	if loaded.RootKey.Kind == config.RootKeyFile {
		there, err := fileExists(loaded.RootKey.Path)
		if err != nil {
			return usagef("root key: %w", err)
		}
		makeKey = !there
	}
	if makeKey {
		if there, err := fileExists(filepath.Dir(loaded.RootKey.Path)); err != nil || !there {
			return usagef("root key %s: its directory does not exist: make it with mkdir -m 700", loaded.RootKey.Path)
		}
	} else if key, err = a.rootKey(loaded.RootKey); err != nil {
		return err
	}
	objects, err := a.openStore(ctx, loaded.Repository, objectstore.DirectoryOptions{Create: true})
	if err != nil {
		return err
	}
	defer objects.Close()
	if err := objects.CheckBucket(ctx); err != nil {
		return err
	}
	exists, err := repositoryExists(ctx, objects)
	if err != nil {
		return err
	}
	if exists {
		return repositoryIsThere(objects.Location())
	}
	// A store that does not do what hourvault relies on must not get a repository.
	for _, probed := range objectstore.Probe(ctx, objects) {
		if !probed.OK {
			return fmt.Errorf("%s cannot hold a repository: %s: %s: %s", objects.Location(), probed.Name, probed.Detail, probed.Hint)
		}
	}

	if makeKey {
		if key, err = crypto.CreateRootKeyFile(loaded.RootKey.Path); err != nil {
			return err
		}
	}
	repo, err := repository.Create(ctx, objects, key, a.now())
	if errors.Is(err, repository.ErrRepositoryExists) {
		err = repositoryIsThere(objects.Location())
	}
	if err != nil {
		if makeKey {
			// It is not removed: a lost answer may mean that there is a repository under it.
			err = fmt.Errorf("%w (the new root key %s is kept; the next init uses it)", err, loaded.RootKey.Path)
		}
		return err
	}
	defer repo.Close()
	result := initDocument{
		Repository: repo.Location(), RepositoryID: repo.ID(), RootKey: loaded.RootKey.String(), RootKeyID: key.ID(), RootKeyCreated: makeKey,
	}
	if makeKey {
		a.say("hourvault: keep a copy of the root key %s in a safe place away from this machine and from the repository: without it no backup can be read", loaded.RootKey.Path)
	}
	if a.global.json {
		return a.answer(result)
	}
	made := "was there before and is used"
	if makeKey {
		made = "made"
	}
	_, err = fmt.Fprintf(a.streams.Out, "repository  %s created, id %s\nroot key    %s %s, id %s\n", result.Repository, result.RepositoryID, result.RootKey, made, result.RootKeyID)
	return err
}

func repositoryIsThere(location string) error {
	return usagef("there is a repository already in %s: use it, or give repository.url another prefix", location)
}
