package console

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Printable returns a name for people to read on a terminal: as it is when every character of it is visible,
// else as a quoted Go string in which control characters, escape sequences, line breaks, characters that
// reverse the direction of writing, and bytes that are not UTF-8 are escaped. A name that begins with a
// double quote, begins or ends with a space, or is empty is quoted too: so what is printed tells apart what
// is different, and strconv.Unquote restores whatever is printed in quotes.
func Printable(name string) string {
	if name == "" || name[0] == '"' || name[0] == ' ' || name[len(name)-1] == ' ' || !visible(name) {
		return strconv.Quote(name)
	}
	return name
}

// Cell is Printable for a column of a table, where an empty text stays empty.
func Cell(text string) string {
	if text == "" {
		return ""
	}
	return Printable(text)
}

// Text makes a whole message safe for a terminal: like Printable it escapes what is not visible, but it adds
// no quotes and keeps line breaks. It is for error texts, which may hold what a server answered.
func Text(message string) string {
	if visible(strings.ReplaceAll(message, "\n", "")) {
		return message
	}
	lines := strings.Split(message, "\n")
	for i, line := range lines {
		if !visible(line) {
			quoted := strconv.Quote(line)
			lines[i] = strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
		}
	}
	return strings.Join(lines, "\n")
}

func visible(text string) bool {
	if !utf8.ValidString(text) {
		return false
	}
	for _, r := range text {
		// IsPrint is false for controls, for formatting characters such as U+202E and for all spaces but
		// the ordinary one.
		if !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}
