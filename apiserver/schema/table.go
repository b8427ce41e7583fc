package schema

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
)

//go:generate go run ./generate -o markers.txt

//go:embed markers.txt
var markersText string

// marks are the markers of one type or field.
type marks struct {
	listType           string
	listMapKeys        []any
	mapType            string // of a map or, as structType, of a struct
	value              any    // +default
	optional, required bool
	words              string
}

// markTable is markers.txt, by "package.Type" and "package.Type.field".
var markTable = sync.OnceValue(func() map[string]*marks {
	table := map[string]*marks{}
	pkg := ""
	for line := range strings.Lines(markersText) {
		line = strings.TrimSuffix(line, "\n")
		entry, indented := strings.CutPrefix(line, "\t")
		if !indented {
			pkg = line
			continue
		}
		entry, words, _ := strings.Cut(entry, " # ")
		fields := strings.Fields(entry)
		m := parseMarks(fields[1:])
		m.words = words
		table[pkg+"."+fields[0]] = m
	}
	return table
})

func parseMarks(fields []string) *marks {
	m := &marks{}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, "=")
		switch name {
		case "listType":
			m.listType = value
		case "listMapKey":
			m.listMapKeys = append(m.listMapKeys, value)
		case "mapType", "structType":
			m.mapType = value
		case "optional":
			m.optional = true
		case "required":
			m.required = true
		case "default":
			if err := json.Unmarshal([]byte(value), &m.value); err != nil {
				panic(fmt.Sprintf("markers.txt: default %s: %v", value, err))
			}
		}
	}
	return m
}

// marksOf never returns nil.
func marksOf(key string) *marks {
	if m, ok := markTable()[key]; ok {
		return m
	}
	return &marks{}
}
