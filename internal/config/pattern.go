package config

import (
	"errors"
	"unicode/utf8"
)

// Pattern chooses names: '*' stands for any run of characters, also none, '?' for exactly one character, and
// a backslash takes the next character literally. All else, '/' included, stands for itself. Letters of
// different case differ, as they do in PostgreSQL.
type Pattern string

// Match reports whether the whole of name fits. Bytes that are not UTF-8 count as one character each.
func (p Pattern) Match(name string) bool {
	pattern := string(p)
	// The classic two-pointer walk: only the last '*' seen needs to be tried again with a longer run, so the
	// time is at most len(pattern)*len(name).
	var i, j int
	star, retry := -1, 0
	for j < len(name) {
		if i < len(pattern) {
			_, size := utf8.DecodeRuneInString(name[j:])
			switch pattern[i] {
			case '*':
				star, retry = i, j
				i++
				continue
			case '?':
				i++
				j += size
				continue
			case '\\':
				if i+1 < len(pattern) && pattern[i+1] == name[j] {
					i += 2
					j++
					continue
				}
			default:
				if pattern[i] == name[j] {
					i++
					j++
					continue
				}
			}
		}
		if star < 0 {
			return false
		}
		_, size := utf8.DecodeRuneInString(name[retry:])
		retry += size
		i, j = star+1, retry
	}
	for i < len(pattern) && pattern[i] == '*' {
		i++
	}
	return i == len(pattern)
}

func matchesAny(patterns []Pattern, name string) bool {
	for _, p := range patterns {
		if p.Match(name) {
			return true
		}
	}
	return false
}

// check refuses patterns that would silently not do what they look like.
func (p Pattern) check() error {
	if p == "" {
		return errors.New("is empty")
	}
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\\':
			i++
			if i == len(p) {
				return errors.New(`ends with a backslash: write \\ for one`)
			}
		case '[':
			return errors.New(`has a character class: only * and ? are understood; write \[ for a bracket`)
		}
	}
	return nil
}
