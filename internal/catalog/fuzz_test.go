package catalog

import (
	"encoding/json"
	"testing"

	"github.com/hourvault/hourvault/internal/testenv/allocation"
)

// FuzzText holds that every byte string comes back as it was, and that whatever is read is written in a form that reads as the same.
func FuzzText(f *testing.F) {
	f.Add([]byte(`"a\u00e9\ud800"`))
	f.Add([]byte(`{"base64":"Y2Fm6Q=="}`))
	f.Add([]byte(`{"base64":"Y2Fm6R=="}`))
	f.Add([]byte("caf\xe9"))
	f.Fuzz(func(t *testing.T, data []byte) {
		written, err := json.Marshal(Text(data))
		var again Text
		if err != nil || json.Unmarshal(written, &again) != nil || string(again) != string(data) {
			t.Errorf("%q is written %s and read as %q, %v", data, written, again, err)
		}
		var text Text
		allocation.Bound(t, 32*uint64(len(data)), func() { err = json.Unmarshal(data, &text) })
		if err != nil {
			return
		}
		written, err = json.Marshal(text)
		if err != nil || json.Unmarshal(written, &again) != nil || again != text {
			t.Errorf("%s is %q, and then %q, %v", data, text, again, err)
		}
	})
}

func FuzzNumbers(f *testing.F) {
	f.Add("16/B374D848")
	f.Add("0/0")
	f.Add("+1/2")
	f.Add("18446744073709551615")
	f.Fuzz(func(t *testing.T, text string) {
		if lsn, err := ParseLSN(text); err == nil {
			if again, err := ParseLSN(lsn.String()); err != nil || again != lsn || len(text) < 3 {
				t.Errorf("%q is %s, and then %s, %v", text, lsn, again, err)
			}
		}
		var xid XID
		if xid.UnmarshalText([]byte(text)) == nil {
			written, err := xid.MarshalText()
			var again XID
			if err != nil || again.UnmarshalText(written) != nil || again != xid {
				t.Errorf("%q is %s, and then %d, %v", text, written, again, err)
			}
		}
	})
}

// FuzzDatabase reads the largest record outside of tables.
func FuzzDatabase(f *testing.F) {
	f.Add([]byte(`{"system_identifier":"7","oid":5,"name":"d","grants":[],"roles":[{"name":"r","member_of":["s"],"valid_until":"infinity"}],"settings":[{"name":"work_mem","value":"1MB"}],"user_mappings":[{"server":"s","options":["a=b"]}],"extensions":[{"name":"e","version":"1","schema":"x"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var database Database
		var err error
		allocation.Bound(t, 500*uint64(len(data)), func() { err = json.Unmarshal(data, &database) })
		if err != nil {
			return
		}
		first, err := json.Marshal(database)
		var again Database
		if err != nil || json.Unmarshal(first, &again) != nil {
			t.Fatalf("%s cannot be read: %v", first, err)
		}
		if second, err := json.Marshal(again); err != nil || string(second) != string(first) {
			t.Errorf("%s is written as %s the next time, %v", first, second, err)
		}
	})
}
