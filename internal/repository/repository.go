// Package repository is the stored format: how snapshots of workspaces lie in an object store, how they are written so that
// none is ever half there, and how they are read back and checked. docs/format.md specifies every byte.
//
// It knows nothing of PostgreSQL connections: what it stores of a database are records of package catalog and streams of
// row text by block. Package backup reads a database into it, package restore puts one back from it.
package repository

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"crypto/rand"

	"github.com/hourvault/hourvault/crypto"
	"github.com/hourvault/hourvault/internal/objectstore"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrNoRepository says that the store holds no repository.
	ErrNoRepository = errors.New("no repository here; hourvault init makes one")
	// ErrRepositoryExists says that Create found a repository.
	ErrRepositoryExists = errors.New("there is a repository already")
	// ErrWrongRootKey says that the repository's keys are wrapped under other root keys.
	ErrWrongRootKey = errors.New("wrong root key")
)

// description is repository.json: in the clear, without secrets, and not believed: what matters is authenticated elsewhere.
type description struct {
	Format   int       `json:"format"`
	ID       string    `json:"id"`
	Created  time.Time `json:"created"`
	Features []string  `json:"features"`
}

// wrap is a key object: a key of a workspace, or of the repository, wrapped under one root key.
type wrap struct {
	Format  int    `json:"format"`
	Key     uint32 `json:"key"`
	RootKey string `json:"root_key"`
	Wrapped []byte `json:"wrapped"`
}

// maxSmallObject bounds repository.json and wraps, in bytes.
const maxSmallObject = 64 << 10

// Repository is an opened repository. It is safe for concurrent use.
type Repository struct {
	store objectstore.Store
	root  crypto.RootKey
	id    crypto.ID
	key   *crypto.Key // the repository's own key, number 1: seals claims and names them
	codec *codec
}

// repositoryKeyNumber is the number of the repository's own key; names of claims depend on it for ever.
const repositoryKeyNumber = 1

// Create makes a new repository in store, with a key of its own wrapped under root. ErrRepositoryExists when there is one.
func Create(ctx context.Context, store objectstore.Store, root crypto.RootKey, now time.Time) (*Repository, error) {
	var id crypto.ID
	rand.Read(id[:])
	key := crypto.NewKey()
	// The key comes first: repository.json makes the repository exist, and must never exist without its key. A key
	// that was left behind by a Create that died, or that lost the race, is never read, because its wrap is bound to
	// an id that no repository has.
	if _, err := store.Stat(ctx, descriptionKey); !errors.Is(err, objectstore.ErrNotFound) {
		if err == nil {
			err = ErrRepositoryExists
		}
		return nil, fmt.Errorf("create repository in %s: %w", store.Location(), err)
	}
	place := crypto.WrapPlace{Repository: id, KeyNumber: repositoryKeyNumber}
	if err := putWrap(ctx, store, root, key, place, repositoryKeyPrefix(repositoryKeyNumber)+hex.EncodeToString(id[:])+"/"+root.ID()); err != nil {
		return nil, fmt.Errorf("create repository in %s: %w", store.Location(), err)
	}
	content, err := json.Marshal(description{Format: crypto.FormatVersion, ID: hex.EncodeToString(id[:]), Created: now.UTC().Truncate(time.Second), Features: []string{}})
	if err != nil {
		return nil, err
	}
	if _, err := store.PutIfAbsent(ctx, descriptionKey, content); err != nil {
		if errors.Is(err, objectstore.ErrExists) {
			err = ErrRepositoryExists
		}
		return nil, fmt.Errorf("create repository in %s: %w", store.Location(), err)
	}
	return newRepository(store, root, id, key)
}

// Open opens the repository in store. ErrNoRepository, ErrWrongRootKey, or crypto.ErrNewerFormat.
func Open(ctx context.Context, store objectstore.Store, root crypto.RootKey) (*Repository, error) {
	content, _, err := objectstore.ReadAll(ctx, store, descriptionKey, maxSmallObject)
	if errors.Is(err, objectstore.ErrNotFound) {
		return nil, fmt.Errorf("open repository in %s: %w", store.Location(), ErrNoRepository)
	}
	if err != nil {
		return nil, fmt.Errorf("open repository in %s: %w", store.Location(), err)
	}
	var about description
	var id crypto.ID
	if err := json.Unmarshal(content, &about); err != nil {
		return nil, fmt.Errorf("open repository in %s: %s is damaged: %w", store.Location(), descriptionKey, err)
	}
	if about.Format > crypto.FormatVersion {
		return nil, fmt.Errorf("open repository in %s: %s: format version %d: %w", store.Location(), descriptionKey, about.Format, crypto.ErrNewerFormat)
	}
	if err := decodeHex(id[:], about.ID); err != nil || about.Format < 1 {
		return nil, fmt.Errorf("open repository in %s: %s is damaged: format %d, id %q", store.Location(), descriptionKey, about.Format, about.ID)
	}
	if err := checkFeatures(about.Features); err != nil {
		return nil, fmt.Errorf("open repository in %s: %s: %w", store.Location(), descriptionKey, err)
	}
	prefix := repositoryKeyPrefix(repositoryKeyNumber) + about.ID + "/"
	key, err := getWrap(ctx, store, root, crypto.WrapPlace{Repository: id, KeyNumber: repositoryKeyNumber}, prefix)
	if errors.Is(err, objectstore.ErrNotFound) {
		err = fmt.Errorf("%w: it was removed, or the id in %s was changed", err, descriptionKey)
	}
	if err != nil {
		return nil, fmt.Errorf("open repository in %s: %w", store.Location(), err)
	}
	return newRepository(store, root, id, key)
}

func newRepository(store objectstore.Store, root crypto.RootKey, id crypto.ID, key *crypto.Key) (*Repository, error) {
	codec, err := newCodec()
	if err != nil {
		return nil, err
	}
	return &Repository{store: store, root: root, id: id, key: key, codec: codec}, nil
}

// Close releases memory and clears the repository's key. Nothing opened from it may be used afterwards.
func (r *Repository) Close() {
	r.key.Wipe()
	r.codec.close()
}

// ID is the repository's identifier: 32 hexadecimal digits.
func (r *Repository) ID() string { return hex.EncodeToString(r.id[:]) }

// Location says where the repository is, without secrets.
func (r *Repository) Location() string { return r.store.Location() }

// keys returns the repository's own key by number, for openObject.
func (r *Repository) keys(number uint32) (*crypto.Key, error) {
	if number != repositoryKeyNumber {
		return nil, fmt.Errorf("repository key %d is unknown: %w", number, crypto.ErrNotAuthentic)
	}
	return r.key, nil
}

func (r *Repository) place(workspace WorkspaceID, key string) crypto.Place {
	return crypto.Place{Repository: r.id, Workspace: crypto.ID(workspace), Object: key}
}

// supportedFeatures are the names of the required features that this version understands.
var supportedFeatures = map[string]bool{}

// UnknownFeatureError says that something was stored in a way that this version cannot read.
type UnknownFeatureError struct{ Features []string }

func (e *UnknownFeatureError) Error() string {
	return fmt.Sprintf("needs features that this version of hourvault does not have: %s; use a newer version", strings.Join(e.Features, ", "))
}

func checkFeatures(features []string) error {
	var unknown []string
	for _, feature := range features {
		if !supportedFeatures[feature] {
			unknown = append(unknown, feature)
		}
	}
	if len(unknown) > 0 {
		return &UnknownFeatureError{Features: unknown}
	}
	return nil
}

// putWrap stores a key, wrapped under root, at object.
func putWrap(ctx context.Context, store objectstore.Store, root crypto.RootKey, key *crypto.Key, place crypto.WrapPlace, object string) error {
	wrapped, err := crypto.WrapKey(ctx, root, key, place)
	if err != nil {
		return fmt.Errorf("wrap key %d under root key %s: %w", place.KeyNumber, root.ID(), err)
	}
	content, err := json.Marshal(wrap{Format: crypto.FormatVersion, Key: place.KeyNumber, RootKey: root.ID(), Wrapped: wrapped})
	if err != nil {
		return err
	}
	_, err = store.PutIfAbsent(ctx, object, content)
	return err
}

// getWrap reads the key below prefix that is wrapped under root.
func getWrap(ctx context.Context, store objectstore.Store, root crypto.RootKey, place crypto.WrapPlace, prefix string) (*crypto.Key, error) {
	object := prefix + root.ID()
	content, _, err := objectstore.ReadAll(ctx, store, object, maxSmallObject)
	if errors.Is(err, objectstore.ErrNotFound) {
		var others []string
		for info, err := range store.List(ctx, prefix) {
			if err != nil {
				return nil, err
			}
			others = append(others, path.Base(info.Key))
		}
		if len(others) == 0 {
			return nil, fmt.Errorf("key %s is missing: %w", strings.TrimSuffix(prefix, "/"), objectstore.ErrNotFound)
		}
		return nil, fmt.Errorf("%w: the configured one is %s, the keys are wrapped under %s", ErrWrongRootKey, root.ID(), strings.Join(others, ", "))
	}
	if err != nil {
		return nil, err
	}
	var stored wrap
	if err := json.Unmarshal(content, &stored); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", object, err)
	}
	if stored.Format > crypto.FormatVersion {
		return nil, fmt.Errorf("%s: format version %d: %w", object, stored.Format, crypto.ErrNewerFormat)
	}
	key, err := crypto.UnwrapKey(ctx, root, stored.Wrapped, place)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", object, err)
	}
	return key, nil
}
