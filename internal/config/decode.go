package config

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/hourvault/hourvault/internal/timeexpr"
)

// textValue is a type that reads itself from one YAML text. The error is a clause behind the key's name.
type textValue interface{ fromText(text string) error }

// defaulted is a struct that has values for the keys that a file leaves out.
type defaulted interface{ setDefaults() }

type place struct{ line, column int }

// decoder fills a Config from a YAML tree. The library's own decoder stops at the first problem; this one
// walks the tree to find them all, and remembers where each value stood, for the checks that follow.
type decoder struct {
	problems []Problem
	places   map[string]place    // by path, of everything that was given
	failed   map[string]struct{} // paths whose value could not be decoded: checking them would report twice
	broken   bool                // the file as a whole could not be read
}

// decode returns the configuration as far as it could be decoded. The decoder holds the problems.
func decode(content []byte) (*Config, *decoder) {
	d := &decoder{places: map[string]place{}, failed: map[string]struct{}{}}
	config := new(Config)
	setDefaults(reflect.ValueOf(config).Elem())

	content = bytes.TrimPrefix(content, []byte("\ufeff"))
	if at := invalidUTF8(content); at >= 0 {
		d.breakAt(place{1 + bytes.Count(content[:at], []byte("\n")), 0}, "is not valid UTF-8 here: save the file as UTF-8")
		return config, d
	}
	file, err := parseYAML(content)
	if err != nil {
		d.syntaxError(content, err)
		return config, d
	}
	var body ast.Node
	for _, document := range file.Docs {
		if document.Body == nil {
			continue
		}
		if body != nil {
			d.breakAt(nodePlace(document.Body), "begins a second document: the file must be one document, without ---")
			return config, d
		}
		body = document.Body
	}
	d.places[""] = place{1, 1}
	if body != nil && !isNull(body) {
		d.value(body, "", reflect.ValueOf(config).Elem())
	}
	if _, failed := d.failed[""]; failed {
		d.broken = true
	}
	return config, d
}

func invalidUTF8(content []byte) int {
	for i := 0; i < len(content); {
		r, size := utf8.DecodeRune(content[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

// parseYAML keeps a panic of the library's parser, of which fuzzers have found several over the years, from
// becoming a stack trace for whoever mistyped a line.
func parseYAML(content []byte) (file *ast.File, err error) {
	defer func() {
		if recover() != nil {
			file, err = nil, errors.New("cannot be read as YAML: the parser gave up")
		}
	}()
	tokens := lexer.Tokenize(string(content))
	if err := checkTokens(tokens); err != nil {
		return nil, err
	}
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

// Bounds on what the library's parser is given. The deepest place of a configuration is four levels down, and a thousand
// servers with all their keys are some forty thousand tokens.
const (
	// maxNesting bounds the brackets that are open at once, and what opens a level, or decorates a value, on one line.
	maxNesting = 32
	maxTokens  = 100_000
)

// checkTokens refuses what the library's parser cannot bear: it writes down the path of every level, so a few thousand
// brackets that open one inside the other take all memory there is, and its time grows with the square of the number of keys.
func checkTokens(tokens token.Tokens) error {
	if len(tokens) > maxTokens {
		return &tooMuchError{token: tokens[maxTokens], problem: fmt.Sprintf("more than %d words and signs stand before this line", maxTokens)}
	}
	open, onLine, line := 0, 0, 0
	for _, tk := range tokens {
		if tk.Position != nil && tk.Position.Line != line {
			line, onLine = tk.Position.Line, 0
		}
		switch tk.Type {
		case token.SequenceStartType, token.MappingStartType:
			open++
		case token.SequenceEndType, token.MappingEndType:
			open = max(open-1, 0)
		case token.AnchorType, token.AliasType, token.TagType:
			onLine++
		case token.SequenceEntryType, token.MappingKeyType, token.MappingValueType:
			if open == 0 { // in brackets they open no level
				onLine++
			}
		}
		if open > maxNesting || onLine > maxNesting {
			return &tooMuchError{token: tk, problem: "is nested too deeply"}
		}
	}
	return nil
}

// tooMuchError says where checkTokens gave up.
type tooMuchError struct {
	token   *token.Token
	problem string
}

func (e *tooMuchError) Error() string { return e.problem }

func (d *decoder) syntaxError(content []byte, err error) {
	var tooMuch *tooMuchError
	if errors.As(err, &tooMuch) && tooMuch.token.Position != nil {
		d.breakAt(place{tooMuch.token.Position.Line, tooMuch.token.Position.Column}, tooMuch.problem+": this is no configuration of hourvault")
		return
	}
	var syntax yaml.Error
	if !errors.As(err, &syntax) || syntax.GetToken() == nil || syntax.GetToken().Position == nil {
		d.breakAt(place{}, "is not valid YAML: "+oneLine(err.Error()))
		return
	}
	position := syntax.GetToken().Position
	message := "is not valid YAML: " + oneLine(syntax.GetMessage())
	lines := bytes.Split(content, []byte("\n"))
	if n := position.Line; n >= 1 && n <= len(lines) {
		line := lines[n-1]
		switch indent := line[:len(line)-len(bytes.TrimLeft(line, " \t"))]; {
		case bytes.ContainsRune(indent, '\t'):
			message = "is indented with a tab: use spaces"
		case bytes.ContainsRune(line, '*'):
			message += ` (a pattern that begins with * must be in quotes: "*")`
		}
	}
	d.breakAt(place{position.Line, position.Column}, message)
}

func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r < ' ' }), " ")
}

func (d *decoder) breakAt(at place, message string) {
	d.broken = true
	d.problems = append(d.problems, Problem{Line: at.line, Column: at.column, Message: message})
}

// report adds a problem at the place of path, or of the nearest enclosing key that was given.
func (d *decoder) report(path, format string, arguments ...any) {
	at := d.locate(path)
	at.Message = fmt.Sprintf(format, arguments...)
	d.problems = append(d.problems, at)
}

// locate returns a Problem without a message for path.
func (d *decoder) locate(path string) Problem {
	for outer := path; ; {
		if at, given := d.places[outer]; given {
			return Problem{Line: at.line, Column: at.column, Key: path}
		}
		cut := strings.LastIndexAny(outer, ".[")
		if cut < 0 {
			cut = 0
		}
		if outer == "" {
			return Problem{Line: 1, Column: 1, Key: path}
		}
		outer = outer[:cut]
	}
}

// given reports whether the file holds a value at path, be it good or bad.
func (d *decoder) given(path string) bool {
	_, given := d.places[path]
	return given
}

// usable reports whether what stands at path, or its default, may be checked.
func (d *decoder) usable(path string) bool {
	_, failed := d.failed[path]
	return !failed
}

func (d *decoder) fail(path, format string, arguments ...any) {
	d.failed[path] = struct{}{}
	d.report(path, format, arguments...)
}

var (
	durationType  = reflect.TypeFor[time.Duration]()
	secretType    = reflect.TypeFor[Secret]()
	textValueType = reflect.TypeFor[textValue]()
)

// value decodes node into target, whose defaults are set already.
func (d *decoder) value(node ast.Node, path string, target reflect.Value) {
	switch node.(type) {
	case *ast.AnchorNode, *ast.AliasNode:
		d.fail(path, "uses a YAML anchor or alias, which is not supported: write the value itself; a pattern that begins with * must be in quotes")
		return
	case *ast.TagNode:
		d.fail(path, "uses a YAML tag, which is not supported: write the value without it")
		return
	}
	kind := target.Kind()
	isText := target.Addr().Type().Implements(textValueType)
	switch {
	case isText || target.Type() == secretType || kind == reflect.String:
		text, ok := nodeText(node)
		switch {
		case !ok:
			d.fail(path, "must be text, is %s%s", describe(node), quoteHint(node))
		case strings.ContainsRune(text, 0):
			d.fail(path, "has a zero byte in it")
		case isText:
			if err := target.Addr().Interface().(textValue).fromText(text); err != nil {
				d.fail(path, "%v", err)
			}
		case target.Type() == secretType:
			target.Set(reflect.ValueOf(NewSecret(text)))
		default:
			target.SetString(text)
		}
	case target.Type() == durationType:
		text, ok := nodeText(node)
		if !ok {
			d.fail(path, "must be a duration such as 90s, 30m, 2h or 7d, is %s", describe(node))
			return
		}
		duration, err := timeexpr.ParseDuration(text)
		if err != nil {
			d.fail(path, "%q %v", text, err)
			return
		}
		target.SetInt(int64(duration))
	case kind == reflect.Int:
		integer, ok := node.(*ast.IntegerNode)
		if !ok {
			d.fail(path, "must be a whole number, is %s", describe(node))
			return
		}
		switch n := integer.Value.(type) {
		case int64:
			if n >= math.MinInt32 && n <= math.MaxInt32 {
				target.SetInt(n)
				return
			}
		case uint64:
			if n <= math.MaxInt32 {
				target.SetInt(int64(n))
				return
			}
		}
		d.fail(path, "is out of range")
	case kind == reflect.Bool:
		boolean, ok := node.(*ast.BoolNode)
		if !ok {
			d.fail(path, "must be true or false, is %s", describe(node))
			return
		}
		target.SetBool(boolean.Value)
	case kind == reflect.Slice:
		d.list(node, path, target)
	case kind == reflect.Struct:
		d.mapping(node, path, target)
	default:
		panic("config: internal error: no way to decode " + target.Type().String())
	}
}

func (d *decoder) list(node ast.Node, path string, target reflect.Value) {
	sequence, ok := node.(*ast.SequenceNode)
	if !ok {
		d.fail(path, "must be a list, is %s", describe(node))
		return
	}
	target.Set(reflect.MakeSlice(target.Type(), len(sequence.Values), len(sequence.Values)))
	for i, item := range sequence.Values {
		itemPath := fmt.Sprintf("%s[%d]", path, i)
		element := target.Index(i)
		setDefaults(element)
		at := nodePlace(item)
		if at.line == 0 {
			at = d.places[path]
		}
		d.places[itemPath] = at
		if isNull(item) {
			d.fail(itemPath, "is empty: give it a value or remove the dash")
			continue
		}
		d.value(item, itemPath, element)
	}
}

func (d *decoder) mapping(node ast.Node, path string, target reflect.Value) {
	var pairs []*ast.MappingValueNode
	switch m := node.(type) {
	case *ast.MappingNode:
		pairs = m.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{m}
	default:
		if path == "" {
			d.failed[path] = struct{}{}
			d.breakAt(nodePlace(node), fmt.Sprintf("must hold keys such as repository: and servers:, is %s", describe(node)))
			return
		}
		d.fail(path, "must hold keys of its own, is %s", describe(node))
		return
	}
	fields := yamlFields(target.Type())
	first := map[string]int{} // line of each key seen
	for _, pair := range pairs {
		keyAt := nodePlace(pair.Key)
		name, plain := keyName(pair.Key)
		keyPath := join(path, printableKey(name))
		problem := func(format string, arguments ...any) {
			d.problems = append(d.problems, Problem{Line: keyAt.line, Column: keyAt.column, Key: keyPath, Message: fmt.Sprintf(format, arguments...)})
		}
		if !plain {
			problem("is no plain key: anchors, aliases, merge keys and complex keys are not supported")
			continue
		}
		if line, seen := first[name]; seen {
			problem("is given twice, first in line %d", line)
			continue
		}
		first[name] = keyAt.line
		index, known := fields[name]
		if !known {
			problem("unknown key%s", unknownHint(name, fields))
			continue
		}
		field := target.Field(index)
		at := keyAt
		if valueAt := nodePlace(pair.Value); valueAt.line > 0 && field.Kind() != reflect.Slice && !isMapping(pair.Value) {
			at = valueAt
		}
		d.places[keyPath] = at
		if isNull(pair.Value) {
			// A section whose entries are all commented out is the same as one that is left out; a single
			// value that is missing is more likely forgotten.
			if field.Kind() == reflect.Slice || isSection(field) {
				delete(d.places, keyPath)
				continue
			}
			d.places[keyPath] = keyAt
			d.fail(keyPath, "has no value: give it one or remove the key")
			continue
		}
		d.value(pair.Value, keyPath, field)
	}
}

// isSection reports whether a field holds keys of its own.
func isSection(field reflect.Value) bool {
	return field.Kind() == reflect.Struct && field.Type() != secretType && !field.Addr().Type().Implements(textValueType)
}

// setDefaults sets the defaults of a struct and of the structs in it; lists get theirs element by element.
func setDefaults(target reflect.Value) {
	if target.Kind() != reflect.Struct || !isSection(target) {
		return
	}
	for _, index := range yamlFields(target.Type()) {
		setDefaults(target.Field(index))
	}
	if d, ok := target.Addr().Interface().(defaulted); ok {
		d.setDefaults()
	}
}

// yamlFields maps the keys of a struct to its fields.
func yamlFields(t reflect.Type) map[string]int {
	fields := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("yaml"); name != "" && name != "-" {
			fields[name] = i
		}
	}
	return fields
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

var plainKey = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func printableKey(name string) string {
	if plainKey.MatchString(name) {
		return name
	}
	if len(name) > 64 {
		name = name[:64]
	}
	return fmt.Sprintf("%q", name)
}

// unknownHint says what may have been meant.
func unknownHint(name string, fields map[string]int) string {
	switch name {
	case "password", "secret_access_key":
		if _, has := fields[name+"_file"]; has {
			return fmt.Sprintf(": a secret is never written in this file; use %s_file, %s_env or %s_credential", name, name, name)
		}
	}
	best, distance := "", 3
	for candidate := range fields {
		n := editDistance(name, candidate)
		if n < distance || n == distance && best != "" && candidate < best {
			best, distance = candidate, n
		}
	}
	if best != "" && distance < len(best) {
		return fmt.Sprintf(": did you mean %s?", best)
	}
	return ""
}

// editDistance counts the insertions, deletions and replacements of bytes between two keys; texts that
// cannot be alike are not compared.
func editDistance(a, b string) int {
	if len(a) > 64 || len(a)-len(b) > 2 || len(b)-len(a) > 2 {
		return math.MaxInt
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func isNull(node ast.Node) bool {
	if node == nil || reflect.ValueOf(node).IsNil() {
		return true
	}
	_, null := node.(*ast.NullNode)
	return null
}

func isMapping(node ast.Node) bool {
	switch node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return true
	}
	return false
}

// keyName returns a key's text; plain is false for what is no simple scalar.
func keyName(key ast.MapKeyNode) (name string, plain bool) {
	switch key.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		if tk := key.GetToken(); tk != nil {
			return tk.Value, true
		}
	}
	if tk := key.GetToken(); tk != nil {
		return tk.Value, false
	}
	return "", false
}

// nodePlace returns where a value begins; zero when the tree does not say.
func nodePlace(node ast.Node) place {
	if node == nil || reflect.ValueOf(node).IsNil() {
		return place{}
	}
	var tk *token.Token
	switch n := node.(type) {
	case *ast.MappingNode:
		// The token of a block mapping is the first colon.
		if tk = n.Start; (tk == nil || tk.Type != token.MappingStartType) && len(n.Values) > 0 {
			return nodePlace(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return nodePlace(n.Key)
	default:
		tk = node.GetToken()
	}
	if tk == nil || tk.Position == nil {
		return place{}
	}
	return place{tk.Position.Line, tk.Position.Column}
}

func nodeText(node ast.Node) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		if n.Value != nil {
			return n.Value.Value, true
		}
	}
	return "", false
}

func describe(node ast.Node) string {
	switch n := node.(type) {
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.IntegerNode, *ast.FloatNode:
		if tk := node.GetToken(); tk != nil && len(tk.Value) <= 32 {
			return "the number " + tk.Value
		}
		return "a number"
	case *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.BoolNode:
		return fmt.Sprintf("%t", n.Value)
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a group of keys"
	case *ast.NullNode:
		return "empty"
	default:
		return "something else"
	}
}

// quoteHint helps with text that YAML takes for something else, such as a database named 2024.
func quoteHint(node ast.Node) string {
	switch node.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return ": put it in quotes"
	}
	return ""
}
