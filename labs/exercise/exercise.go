// Package exercise makes holes in the source for a reader to fill in.
//
//	// Update replaces … an object.            // Update replaces … an object.
//	//                                          //
//	// LAB 01 update: read, try, swap.          // LAB 01 update: read, try, swap.
//	func (t *Table) Update(…) (*Item, error) { func (t *Table) Update(…) (*Item, error) {
//		current := …                       ──▶     return nil, labMissing("01 update")
//	}                                           }
//
// An exercise is one whole function body, marked in its comment. What replaces
// it compiles, and says at run time what is missing. The tree that is written
// is complete: it has a go.mod, the other packages, and the tests.
//
// It works on text, not on syntax trees, so that everything but the hole stays
// as it was, to the byte.
package exercise

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Exercise is one function to write.
type Exercise struct {
	Lab, Name string // "01", "update"
	Hint      string
	File      string // in the tree
	Function  string // Table.Update

	begin, end int // of the body, with its braces
	results    []ast.Expr
}

// ID is how the stub calls itself.
func (e Exercise) ID() string { return e.Lab + " " + e.Name }

// mark is written as the last paragraph of a function's comment.
var mark = regexp.MustCompile(`(?ms)^LAB (\d\d) ([a-z-]+): (.+)\z`)

// Find lists the exercises in a tree: of one lab, or of all if lab is "".
func Find(tree fs.FS, lab string) ([]Exercise, error) {
	var found []Exercise
	err := fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			return err
		}
		content, err := fs.ReadFile(tree, name)
		if err != nil || !bytes.Contains(content, []byte("\n// LAB ")) {
			return err
		}
		exercises, err := inFile(name, content)
		for _, e := range exercises {
			if lab == "" || e.Lab == lab {
				found = append(found, e)
			}
		}
		return err
	})
	return found, err
}

func inFile(name string, content []byte) ([]Exercise, error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var found []Exercise
	for _, declaration := range file.Decls {
		function, ok := declaration.(*ast.FuncDecl)
		if !ok || function.Doc == nil {
			continue
		}
		match := mark.FindStringSubmatch(strings.TrimSpace(function.Doc.Text()))
		if match == nil {
			continue
		}
		e := Exercise{Lab: match[1], Name: match[2], Hint: strings.Join(strings.Fields(match[3]), " "), File: name, Function: function.Name.Name,
			begin: files.Position(function.Body.Lbrace).Offset, end: files.Position(function.Body.Rbrace).Offset + 1}
		if function.Recv != nil {
			receiver := content[function.Recv.List[0].Type.Pos()-file.FileStart : function.Recv.List[0].Type.End()-file.FileStart]
			e.Function = strings.TrimLeft(string(receiver), "*") + "." + e.Function
		}
		if function.Type.Results != nil {
			for _, field := range function.Type.Results.List {
				for range max(1, len(field.Names)) {
					e.results = append(e.results, field.Type)
				}
			}
		}
		found = append(found, e)
	}
	return found, nil
}

// missing is the file beside the stubs. An error that is its own name needs no
// import, so a stub never changes what a file imports.
const missing = `package %s

// labMissing is what an exercise says until it is written.
type labMissing string

func (id labMissing) Error() string { return "LAB " + string(id) + " is not written yet" }
`

const missingFile = "lab_missing.go"

// startedFile, in the tree, lists the exercises that were blanked there: what
// was never a hole is nothing that somebody wrote.
const startedFile = "lab-started.txt"

// Write puts the whole tree into dir, with the given exercises blanked. dir
// must be empty, or not there.
func Write(tree fs.FS, dir string, exercises []Exercise) error {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%s is not empty", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.CopyFS(dir, tree); err != nil {
		return err
	}
	byFile, started := map[string][]Exercise{}, ""
	for _, e := range exercises {
		byFile[e.File] = append(byFile[e.File], e)
		started += e.ID() + "\n"
	}
	if err := os.WriteFile(filepath.Join(dir, startedFile), []byte(started), 0o644); err != nil {
		return err
	}
	for name, exercises := range byFile {
		content, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		if content, err = blank(name, content, exercises); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		target := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.WriteFile(target, content, 0o644); err != nil {
			return err
		}
		packageName, err := parser.ParseFile(token.NewFileSet(), name, content, parser.PackageClauseOnly)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(target), missingFile), fmt.Appendf(nil, missing, packageName.Name.Name), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// blank replaces bodies by stubs, the last one first, so that offsets hold.
func blank(name string, content []byte, exercises []Exercise) ([]byte, error) {
	slices.SortFunc(exercises, func(a, b Exercise) int { return b.begin - a.begin })
	content = slices.Clone(content)
	for _, e := range exercises {
		content = slices.Replace(content, e.begin, e.end, []byte(e.stub())...)
	}
	return keepImports(name, content)
}

// stub returns zero values and an error, or panics if the function has no
// error to return.
func (e Exercise) stub() string {
	id := fmt.Sprintf("labMissing(%q)", e.ID())
	var values []string
	for _, result := range e.results {
		if kind, ok := result.(*ast.Ident); ok && kind.Name == "error" {
			values = append(values, id)
		} else {
			values = append(values, zero(result))
		}
	}
	if !slices.Contains(values, id) {
		return "{\n\tpanic(" + id + ")\n}"
	}
	return "{\n\treturn " + strings.Join(values, ", ") + "\n}"
}

// zero is the zero value of a type, as a person would write it.
func zero(kind ast.Expr) string {
	switch kind := kind.(type) {
	case *ast.StarExpr, *ast.MapType, *ast.FuncType, *ast.ChanType, *ast.InterfaceType:
		return "nil"
	case *ast.ArrayType:
		if kind.Len == nil {
			return "nil"
		}
	case *ast.Ident:
		switch kind.Name {
		case "bool":
			return "false"
		case "string":
			return `""`
		case "any":
			return "nil"
		case "byte", "rune", "int", "int8", "int16", "int32", "int64", "uint", "uint8", "uint16", "uint32", "uint64", "float32", "float64":
			return "0"
		}
		return "*new(" + kind.Name + ")"
	case *ast.SelectorExpr:
		return fmt.Sprintf("*new(%s.%s)", kind.X, kind.Sel)
	}
	return "*new(" + fmt.Sprint(kind) + ")"
}

// keepImports turns imports that only the removed bodies used into blank ones:
// the file compiles, and the reader sees what the author needed.
func keepImports(name string, content []byte) ([]byte, error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, content, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	ast.Inspect(file, func(node ast.Node) bool {
		if selector, ok := node.(*ast.SelectorExpr); ok {
			if packageName, ok := selector.X.(*ast.Ident); ok {
				used[packageName.Name] = true
			}
		}
		return true
	})
	for _, spec := range slices.Backward(file.Imports) {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		begin, end := files.Position(spec.Pos()).Offset, files.Position(spec.End()).Offset
		if spec.Name == nil && !used[packageName(imported)] || spec.Name != nil && spec.Name.Name != "_" && !used[spec.Name.Name] {
			content = slices.Replace(content, begin, end, []byte("_ "+spec.Path.Value)...)
		}
	}
	return content, nil
}

var version = regexp.MustCompile(`^v\d+$`)

// packageName guesses what a package calls itself. A wrong guess does not
// compile, and a test compiles every stub.
func packageName(imported string) string {
	name := path.Base(imported)
	if version.MatchString(name) {
		name = path.Base(path.Dir(imported))
	}
	return name
}

// Unwritten lists those of the exercises that are still stubs in dir. A tree
// that was started for another exercise has this one's solution in it, which is
// an error.
func Unwritten(dir string, exercises []Exercise) ([]Exercise, error) {
	started, err := os.ReadFile(filepath.Join(dir, startedFile))
	if err != nil {
		return nil, fmt.Errorf("%s is not a tree that `tinykube lab start` wrote: %w", dir, err)
	}
	var unwritten []Exercise
	for _, e := range exercises {
		if !slices.Contains(strings.Split(string(started), "\n"), e.ID()) {
			return nil, fmt.Errorf("%s was started for another lab (%s), and has our solution of this one in it: tinykube lab start %s DIR",
				dir, strings.Join(strings.Split(strings.TrimSpace(string(started)), "\n"), ", "), e.Lab)
		}
		content, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(e.File)))
		if err != nil {
			return nil, err
		}
		if bytes.Contains(content, fmt.Appendf(nil, "labMissing(%q)", e.ID())) {
			unwritten = append(unwritten, e)
		}
	}
	return unwritten, nil
}
