package config

import (
	"strings"
	"testing"
)

func TestPatternMatch(t *testing.T) {
	cases := []struct {
		pattern Pattern
		name    string
		want    bool
	}{
		{"*", "", true}, {"*", "anything/at all", true}, {"ws_*", "ws_", true}, {"ws_*", "ws_1", true}, {"ws_*", "xws_1", false},
		{"ws_?", "ws_1", true}, {"ws_?", "ws_", false}, {"ws_?", "ws_12", false}, {"ws_?", "ws_é", true}, {"?", "日", true}, {"??", "日", false},
		{"*_prod", "acme_prod", true}, {"*_prod", "acme_prod_prod", true}, {"*_prod", "acme_prod2", false},
		{"a*b*c", "axxbyybzzc", true}, {"a*b*c", "axxc", false}, {"**", "x", true}, {"a**", "a", true},
		{"acme", "acme", true}, {"acme", "Acme", false}, {"acme", "acme2", false}, {"", "", true}, {"", "a", false},
		{`a\*`, "a*", true}, {`a\*`, "ab", false}, {`a\?c`, "a?c", true}, {`\[x]`, "[x]", true}, {`a\\`, `a\`, true}, {`*\**`, "x*y", true}, {`*\**`, "xy", false},
		{"?", "\xff", true}, {"a?", "a\n", true}, {"é", "é", true}, {`\é`, "é", true}, {"*é", "aéé", true},
	}
	for _, c := range cases {
		if got := c.pattern.Match(c.name); got != c.want {
			t.Errorf("Pattern(%q).Match(%q) = %t, want %t", c.pattern, c.name, got, c.want)
		}
	}
}

func TestPatternMatchIsNotExponential(t *testing.T) {
	if Pattern(strings.Repeat("*a", 60) + "b").Match(strings.Repeat("a", 5000)) {
		t.Error("matched")
	}
}
