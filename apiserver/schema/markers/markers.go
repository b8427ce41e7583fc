// Package markers collects from Go source the comment markers that shape an
// OpenAPI schema. It is used when markers.txt is generated and by the test
// that keeps the file current, never by a running server.
//
// The table has a line per package, and below it one per type or field with something to say:
//
//	k8s.io/api/core/v1
//		Container.env listType=map listMapKey=name
//	tinykube/api/extensions
//		APIServiceSpec.caBundle listType=atomic # PEM of …
package markers

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// packages are the roots below which the API's types live.
var packages = []string{
	"k8s.io/api/...",
	"k8s.io/apimachinery/pkg/apis/meta/v1",
	"k8s.io/apimachinery/pkg/runtime",
	ownTypes,
}

// ownTypes have no SwaggerDoc: what their comments say is in the table as well.
const ownTypes = "tinykube/api/extensions"

// kept are the markers that schemas use.
var kept = []string{"listType", "listMapKey", "mapType", "structType", "default", "optional", "required"}

// Collect reads the pinned modules and returns the table.
func Collect() ([]byte, error) {
	list, err := exec.Command("go", append([]string{"list", "-f", "{{.ImportPath}} {{.Dir}}"}, packages...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("find the API packages: %w", err)
	}
	var out bytes.Buffer
	for line := range strings.Lines(string(list)) {
		path, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.Contains(path, "alpha") || strings.Contains(path, "beta") {
			continue // not served
		}
		lines, err := collectPackage(dir, path == ownTypes)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if len(lines) == 0 {
			continue
		}
		fmt.Fprintf(&out, "%s\n", path)
		for _, l := range lines {
			fmt.Fprintf(&out, "\t%s\n", l)
		}
	}
	return out.Bytes(), nil
}

// collectPackage returns the lines of one package, sorted.
func collectPackage(dir string, described bool) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := token.NewFileSet()
	var parsed []*ast.File
	constants := map[string]string{}
	for _, e := range entries {
		if !isSource(e) {
			continue
		}
		file, err := parser.ParseFile(files, filepath.Join(dir, e.Name()), nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, file)
		collectConstants(file, constants)
	}
	var lines []string
	for _, file := range parsed {
		for _, decl := range file.Decls {
			group, ok := decl.(*ast.GenDecl)
			if !ok || group.Tok != token.TYPE {
				continue
			}
			for _, spec := range group.Specs {
				lines = append(lines, collectType(spec.(*ast.TypeSpec), group.Doc, constants, described)...)
			}
		}
	}
	slices.Sort(lines)
	return lines, nil
}

func isSource(e fs.DirEntry) bool {
	name := e.Name()
	return strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") &&
		!strings.HasPrefix(name, "zz_generated") && !strings.HasSuffix(name, ".pb.go")
}

// collectConstants notes string constants, which a default may refer to.
func collectConstants(file *ast.File, into map[string]string) {
	for _, decl := range file.Decls {
		group, ok := decl.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, spec := range group.Specs {
			value := spec.(*ast.ValueSpec)
			for i, name := range value.Names {
				if i >= len(value.Values) {
					continue
				}
				if literal, ok := value.Values[i].(*ast.BasicLit); ok {
					into[name.Name] = literal.Value
				}
			}
		}
	}
}

func collectType(spec *ast.TypeSpec, groupDoc *ast.CommentGroup, constants map[string]string, described bool) []string {
	structure, ok := spec.Type.(*ast.StructType)
	if !ok || !spec.Name.IsExported() {
		return nil
	}
	doc := spec.Doc
	if doc == nil {
		doc = groupDoc
	}
	var lines []string
	if found := append(markersOf(doc, constants), words(doc, described)...); len(found) > 0 {
		lines = append(lines, spec.Name.Name+" "+strings.Join(found, " "))
	}
	for _, field := range structure.Fields.List {
		if field.Tag == nil {
			continue
		}
		tag := reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("json")
		name, options, _ := strings.Cut(tag, ",")
		found := markersOf(field.Doc, constants)
		// What the tag says already is not repeated.
		omitted := strings.Contains(options, "omitempty")
		found = slices.DeleteFunc(found, func(m string) bool { return m == "optional" && omitted || m == "required" && !omitted })
		found = append(found, words(field.Comment, described)...)
		if name != "" && len(found) > 0 {
			lines = append(lines, spec.Name.Name+"."+name+" "+strings.Join(found, " "))
		}
	}
	return lines
}

// words is a comment's first paragraph, after a "#".
func words(doc *ast.CommentGroup, described bool) []string {
	text, _, _ := strings.Cut(doc.Text(), "\n\n")
	if !described || text == "" {
		return nil
	}
	return []string{"#", strings.Join(strings.Fields(text), " ")}
}

// markersOf returns the kept markers of a comment as name or name=value.
func markersOf(doc *ast.CommentGroup, constants map[string]string) []string {
	if doc == nil {
		return nil
	}
	var found []string
	for _, comment := range doc.List {
		text := strings.TrimSpace(strings.TrimPrefix(comment.Text, "//"))
		marker, ok := strings.CutPrefix(text, "+")
		if !ok {
			continue
		}
		name, value, _ := strings.Cut(marker, "=")
		if !slices.Contains(kept, name) {
			continue
		}
		if ref, ok := strings.CutPrefix(value, "ref("); ok {
			value = constants[strings.TrimSuffix(ref, ")")]
		}
		if value != "" {
			name += "=" + value
		}
		if !slices.Contains(found, name) {
			found = append(found, name)
		}
	}
	return found
}
