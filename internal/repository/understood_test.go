package repository

import (
	"errors"
	"strings"
	"testing"

	"github.com/hourvault/hourvault/internal/catalog"
)

func TestTableOfAnUnknownKindIsRefusedByName(t *testing.T) {
	workspace := newTestWorkspace(t, newTestRepository(t))
	writer, err := workspace.BeginSnapshot(t.Context(), SnapshotOptions{Holder: "test"})
	if err != nil {
		t.Fatal(err)
	}
	blocks := writer.NewBlockWriter()
	writeTable(t, t.Context(), writer, blocks, catalog.Table{OID: 7, Kind: "columnar", AccessMethod: catalog.HeapAccessMethod, Blocks: 1}, heap{0: "row\n"})
	if err := blocks.Close(); err != nil {
		t.Fatal(err)
	}
	snapshot, err := writer.Commit(t.Context(), Ending{})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range snapshot.Tables(t.Context()) {
		var unknown *UnknownFeatureError
		if !errors.As(err, &unknown) || !strings.Contains(err.Error(), `"columnar"`) {
			t.Errorf("read: got %v, want an error that names the kind", err)
		}
	}
	report, err := workspace.repository.Verify(t.Context(), VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Problems) == 0 || !strings.Contains(report.Problems[0].Message, `"columnar"`) {
		t.Errorf("verify: got %v, want a problem that names the kind", report.Problems)
	}
}
