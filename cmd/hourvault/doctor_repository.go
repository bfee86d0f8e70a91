package main

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/config"
	"github.com/hourvault/hourvault/internal/objectstore"
	"github.com/hourvault/hourvault/internal/repository"
)

// examineRepository checks the root key and everything about the repository.
func (a *app) examineRepository(ctx context.Context, loaded *config.Config) []finding {
	ofKey := &findings{subject: "root key"}
	key := a.examineRootKey(ofKey, loaded.RootKey)
	ofStore := &findings{subject: "repository"}
	a.examineStore(ctx, ofStore, loaded.Repository, key)
	return append(ofKey.list, ofStore.list...)
}

// examineRootKey returns the key, or nil when it cannot be used.
func (a *app) examineRootKey(found *findings, from config.RootKey) crypto.RootKey {
	key, err := a.rootKey(from)
	if err != nil {
		advice := ""
		if errors.Is(err, fs.ErrPermission) {
			advice = "run as the user that the file belongs to, or give it to the user that hourvault runs as"
		}
		found.add(statusFailure, "readable", advice, "%v", err)
		return nil
	}
	found.ok("readable", "%s, id %s", from, key.ID())
	if from.Kind == config.RootKeyFile {
		if info, err := os.Stat(from.Path); err == nil {
			found.ok("mode", "%04o: for its owner alone", info.Mode().Perm())
		}
	}
	return key
}

func (a *app) examineStore(ctx context.Context, found *findings, from config.Repository, key crypto.RootKey) {
	objects, err := a.openStore(ctx, from, objectstore.DirectoryOptions{})
	if err != nil {
		found.add(statusFailure, "reach", deniedAdvice(err), "%v", err)
		return
	}
	defer objects.Close()
	reached := true
	for _, probed := range objectstore.Probe(ctx, objects) {
		status := statusOK
		if !probed.OK {
			status = statusFailure
			reached = reached && probed.Name != "reach"
		}
		found.add(status, probed.Name, probed.Hint, "%s", probed.Detail)
	}
	if !reached {
		return
	}
	if key == nil {
		exists, err := repositoryExists(ctx, objects)
		switch {
		case err != nil:
			found.add(statusFailure, "format", "", "%v", err)
		case !exists:
			found.add(statusFailure, "format", "hourvault init makes one", "there is no repository in %s", objects.Location())
		default:
			found.add(statusFailure, "keys", "mend the root key first", "there is a repository; its keys cannot be opened without the root key")
		}
		return
	}
	repo, err := repository.Open(ctx, objectstore.ReadOnly(objects), key)
	if err != nil {
		advice := deniedAdvice(err)
		if errors.Is(err, repository.ErrWrongRootKey) {
			advice = "point root_key at the key that this repository was made with"
		}
		found.add(statusFailure, "format", advice, "%v", err)
		return
	}
	defer repo.Close()
	found.ok("format", "version %d, repository %s", crypto.FormatVersion, repo.ID())
	workspaces, problem := repo.Workspaces(ctx)
	if problem != nil {
		for _, one := range splitErrors(problem) {
			found.add(statusFailure, "keys", "hourvault verify says what else is damaged", "%v", one)
		}
	}
	found.ok("keys", "those of %s open", count(len(workspaces), "workspace"))
}

// deniedAdvice says what to do about an error when it is that the store does not let hourvault in.
func deniedAdvice(err error) string {
	if errors.Is(err, objectstore.ErrDenied) {
		return "let the user or role that hourvault runs as list, read, write and delete there"
	}
	return ""
}
