package custom

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Path is a JSONPath, in the part of that language in which columns are
// written:
//
//	.spec.replicas                                  a field
//	.metadata.annotations.example\.com/owner        a name with a dot in it
//	.spec['example.com/owner']                      the same
//	.status.addresses[0].ip   [-1]   [*]            an item, the last, all
//	.status.conditions[?(@.type=="Ready")].status   items that match
//
// Simplified: ranges, unions and recursive descent (..) are errors; upstream
// evaluates them.
type Path struct{ steps []step }

// step goes from values to values below them.
type step struct {
	name  string
	index *int
	all   bool
	// A filter keeps items for which path of, compared by operator, holds.
	filter   *Path
	operator string
	operand  any
}

// ParsePath reads a JSONPath that begins with a dot, in braces or not.
func ParsePath(text string) (*Path, error) {
	p := &pathParser{text: strings.TrimSuffix(strings.TrimPrefix(text, "{"), "}")}
	path, err := p.path()
	if err == nil && p.text != "" {
		err = fmt.Errorf("%q is left over", p.text)
	}
	if err != nil {
		return nil, fmt.Errorf("JSONPath %s: %w", text, err)
	}
	return path, nil
}

type pathParser struct{ text string }

func (p *pathParser) path() (*Path, error) {
	path := &Path{}
	for {
		switch {
		case strings.HasPrefix(p.text, ".."):
			return nil, fmt.Errorf("recursive descent is not supported")
		case strings.HasPrefix(p.text, ".["), p.text == ".":
			p.text = p.text[1:]
		case strings.HasPrefix(p.text, "."):
			p.text = p.text[1:]
			path.steps = append(path.steps, nameStep(p.name()))
		case strings.HasPrefix(p.text, "["):
			s, err := p.bracket()
			if err != nil {
				return nil, err
			}
			path.steps = append(path.steps, s)
		default:
			return path, nil
		}
	}
}

func nameStep(name string) step {
	if name == "*" {
		return step{all: true}
	}
	return step{name: name}
}

// name reads up to what cannot be part of a name; a backslash takes the next
// letter as it is.
func (p *pathParser) name() string {
	var out strings.Builder
	for i := 0; i < len(p.text); i++ {
		switch c := p.text[i]; {
		case c == '\\' && i+1 < len(p.text):
			i++
			out.WriteByte(p.text[i])
		case c == '.' || c == '[' || c == ']' || c == '=' || c == '!' || c == '<' || c == '>' || c == ')' || unicode.IsSpace(rune(c)):
			p.text = p.text[i:]
			return out.String()
		default:
			out.WriteByte(c)
		}
	}
	p.text = ""
	return out.String()
}

func (p *pathParser) bracket() (step, error) {
	if strings.HasPrefix(p.text, "[?(@") {
		return p.filter()
	}
	inside, rest, ok := strings.Cut(p.text[1:], "]")
	if !ok {
		return step{}, fmt.Errorf("unterminated array")
	}
	p.text = rest
	if inside == "*" {
		return step{all: true}, nil
	}
	if len(inside) >= 2 && (inside[0] == '\'' || inside[0] == '"') && inside[len(inside)-1] == inside[0] {
		return step{name: strings.ReplaceAll(inside[1:len(inside)-1], `\`, "")}, nil
	}
	index, err := strconv.Atoi(inside)
	if err != nil {
		return step{}, fmt.Errorf("invalid array index %s", inside)
	}
	return step{index: &index}, nil
}

// filter reads [?(@.path operator value)].
func (p *pathParser) filter() (step, error) {
	p.text = p.text[len("[?(@"):]
	path, err := p.path()
	if err != nil {
		return step{}, err
	}
	s := step{filter: path}
	p.text = strings.TrimLeft(p.text, " ")
	for _, operator := range []string{"==", "!=", "<=", ">=", "<", ">"} {
		if rest, ok := strings.CutPrefix(p.text, operator); ok {
			s.operator, p.text = operator, rest
			break
		}
	}
	operand, rest, ok := strings.Cut(p.text, ")]")
	if !ok {
		return step{}, fmt.Errorf("unterminated filter")
	}
	p.text = rest
	operand = strings.TrimSpace(operand)
	if s.operator == "" {
		if operand != "" {
			return step{}, fmt.Errorf("unrecognized filter %q", operand)
		}
		return s, nil
	}
	if n := len(operand); n >= 2 && (operand[0] == '\'' || operand[0] == '"') && operand[n-1] == operand[0] {
		s.operand = operand[1 : n-1]
		return s, nil
	}
	if err := json.Unmarshal([]byte(operand), &s.operand); err != nil {
		return step{}, fmt.Errorf("filter value %q: %w", operand, err)
	}
	return s, nil
}

// Find returns what is at the path, in order; nothing if it leads nowhere.
func (p *Path) Find(value any) []any {
	values := []any{value}
	for _, s := range p.steps {
		var next []any
		for _, v := range values {
			next = append(next, s.from(v)...)
		}
		values = next
	}
	return values
}

func (s *step) from(value any) []any {
	list, isList := value.([]any)
	switch {
	case s.filter != nil:
		var out []any
		for _, item := range list {
			if s.keeps(item) {
				out = append(out, item)
			}
		}
		return out
	case s.all && isList:
		return list
	case s.all:
		var out []any
		object, _ := value.(map[string]any)
		for _, name := range sortedKeys(object) {
			out = append(out, object[name])
		}
		return out
	case s.index != nil:
		i := *s.index
		if i < 0 {
			i += len(list)
		}
		if i >= 0 && i < len(list) {
			return list[i : i+1]
		}
		return nil
	}
	object, _ := value.(map[string]any)
	if below, ok := object[s.name]; ok {
		return []any{below}
	}
	return nil
}

func (s *step) keeps(item any) bool {
	found := s.filter.Find(item)
	if len(found) == 0 {
		return false
	}
	if s.operator == "" {
		return true
	}
	order, comparable := compare(found[0], s.operand)
	switch s.operator {
	case "==":
		return comparable && order == 0
	case "!=":
		return !comparable || order != 0
	case "<":
		return comparable && order < 0
	case "<=":
		return comparable && order <= 0
	case ">":
		return comparable && order > 0
	}
	return comparable && order >= 0
}

// compare orders two scalars of the same kind.
func compare(a, b any) (order int, comparable bool) {
	if x, ok := number(a); ok {
		y, ok := number(b)
		return cmp.Compare(x, y), ok
	}
	switch x := a.(type) {
	case string:
		y, ok := b.(string)
		return strings.Compare(x, y), ok
	case bool:
		y, ok := b.(bool)
		if x == y {
			return 0, ok
		}
		return 1, ok
	}
	return 0, false
}

func number(value any) (float64, bool) {
	switch n := value.(type) {
	case int64:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}

func sortedKeys(object map[string]any) []string {
	return slices.Sorted(maps.Keys(object))
}

// Text is a value as a column of strings shows it.
func Text(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case nil:
		return ""
	case int64, float64, bool:
		return fmt.Sprint(v)
	}
	data, err := json.Marshal(value)
	if err != nil {
		return ""
	}
	return string(data)
}

// scalePath splits the plain path of a definition: .spec.replicas.
func scalePath(path string) []string {
	return strings.Split(strings.TrimPrefix(path, "."), ".")
}
