package witness

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hourvault/hourvault/internal/repository"
)

// ErrNothing says that a text holds no sighting at all.
var ErrNothing = errors.New("holds no sequence and manifest hash of any snapshot: give a JSON log of hourvault backup, documents of backup --json or verify --json, or a witness file")

// maxDocument bounds a line, and a document of many lines, in bytes.
const maxDocument = 64 << 20

// Parse returns the snapshots that a text names, each once, in the order of the text. It understands what hourvault prints: the log entry
// of a snapshot (log format json; something may stand before it in the line, as log collectors write it), the documents of backup --json and
// of verify --json, and the witness file. All else is passed over. ErrNothing when nothing was found; another error when
// an entry of those kinds is damaged, what has the field of the hash is no JSON (then it was cut), or the text cannot be read.
func Parse(in io.Reader) ([]Sighting, error) {
	var all []Sighting
	known := make(map[string]bool)
	add := func(line int, text []byte) error {
		found, err := parseText(text)
		if err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		for _, sighting := range found {
			if err := sighting.check(); err != nil {
				return fmt.Errorf("line %d: the entry of a snapshot %w", line, err)
			}
			key := fmt.Sprintf("%s %s %d %x", sighting.Repository, sighting.Workspace, sighting.Sequence, []byte(sighting.SHA256))
			if !known[key] {
				known[key] = true
				all = append(all, sighting)
			}
		}
		return nil
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxDocument)
	var document []byte // of several lines: from one that is "{", or begins a witness file, to one that is "}" or "]}"
	begun := 0
	for number := 1; lines.Scan(); number++ {
		line := bytes.TrimRight(lines.Bytes(), "\r")
		begins := bytes.Equal(line, []byte("{")) || bytes.HasPrefix(line, []byte(`{"format":`)) // inside of a document they are indented
		switch {
		case begins:
			if begun != 0 && bytes.Contains(document, hashField) {
				return nil, noEnd(begun)
			}
			begun, document = number, append(document[:0], line...)
		case begun == 0:
			if at := bytes.IndexByte(line, '{'); at >= 0 {
				if err := add(number, line[at:]); err != nil {
					return nil, err
				}
			}
		case len(document)+len(line) >= maxDocument:
			return nil, fmt.Errorf("line %d: a document of more than %d bytes begins here", begun, maxDocument)
		default:
			document = append(append(document, '\n'), line...)
			if bytes.Equal(line, []byte("}")) || bytes.Equal(line, []byte("]}")) {
				if err := add(begun, document); err != nil {
					return nil, err
				}
				begun = 0
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if begun != 0 && bytes.Contains(document, hashField) {
		return nil, noEnd(begun)
	}
	if len(all) == 0 {
		return nil, ErrNothing
	}
	return all, nil
}

func noEnd(line int) error {
	return fmt.Errorf("line %d: the document that begins here has no end", line)
}

// printed is what this package looks at in anything that hourvault prints.
type printed struct {
	Repository string     `json:"repository_id"`
	Message    string     `json:"msg"`       // of a log entry
	Witnesses  []Sighting `json:"witnesses"` // of a witness file
	// Workspaces are those of a document.
	Workspaces json.RawMessage `json:"workspaces"`
}

// LogMessage is the message of the log entry that each new snapshot has.
const LogMessage = "snapshot taken"

// printedWorkspace is an element of a document's workspaces: backup has Snapshot, verify the fields beside it.
type printedWorkspace struct {
	Workspace string          `json:"workspace_id"`
	Server    string          `json:"server"`
	Database  json.RawMessage `json:"database"`
	Snapshot  *struct {
		Snapshot repository.SnapshotID `json:"snapshot"`
		Sequence uint64                `json:"sequence"`
		SHA256   repository.HexBytes   `json:"manifest_sha256"`
	} `json:"snapshot"`
	Sequence uint64              `json:"sequence"`
	SHA256   repository.HexBytes `json:"manifest_sha256"`
}

// hashField is the field without which nothing is a sighting.
var hashField = []byte(`"manifest_sha256"`)

// parseText returns the sightings in one JSON text; none in what is something else.
func parseText(text []byte) ([]Sighting, error) {
	if !bytes.Contains(text, hashField) {
		return nil, nil // most lines of a log
	}
	text = withoutLastComma(text)
	var about printed
	if err := json.Unmarshal(text, &about); err != nil {
		return nil, fmt.Errorf("what begins here holds %s and cannot be read, perhaps because a part of it is missing: %w", hashField, err)
	}
	switch {
	case about.Message == LogMessage:
		var entry struct {
			Sighting
			Server string `json:"server"`
		}
		if err := json.Unmarshal(text, &entry); err != nil {
			return nil, fmt.Errorf("the entry of a snapshot: %w", err)
		}
		if !strings.HasPrefix(entry.Name, entry.Server+"/") {
			entry.Name = entry.Server + "/" + entry.Name
		}
		return []Sighting{entry.Sighting}, nil
	case about.Message != "":
		return nil, nil
	case len(about.Witnesses) > 0:
		return about.Witnesses, nil
	}
	var workspaces []printedWorkspace
	if len(about.Workspaces) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(about.Workspaces, &workspaces); err != nil {
		return nil, fmt.Errorf("the document that begins here: %w", err)
	}
	var found []Sighting
	for _, workspace := range workspaces {
		sighting := Sighting{Repository: about.Repository, Sequence: workspace.Sequence, SHA256: workspace.SHA256}
		if taken := workspace.Snapshot; taken != nil {
			sighting.Snapshot, sighting.Sequence, sighting.SHA256 = taken.Snapshot, taken.Sequence, taken.SHA256
		}
		if sighting.Sequence == 0 {
			continue // a backup that failed, or a workspace without snapshots
		}
		if err := sighting.Workspace.UnmarshalText([]byte(workspace.Workspace)); err != nil {
			return nil, fmt.Errorf("workspace_id: %w", err)
		}
		var database string
		if json.Unmarshal(workspace.Database, &database) == nil {
			sighting.Name = workspace.Server + "/" + database
		}
		found = append(found, sighting)
	}
	return found, nil
}
