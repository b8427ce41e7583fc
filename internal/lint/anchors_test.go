package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// A citation names a file and, mostly, a symbol in it: lines move, names stay.
var citation = regexp.MustCompile(`\{code:([\w./-]+)(?:#([\w.]+))?\}`)

// CheckAnchors lists the citations in files that name nothing. root is the repository's.
func CheckAnchors(root string, files []File) []string {
	var problems []string
	symbols := map[string]map[string]bool{} // by file
	for _, file := range files {
		for number, line := range strings.Split(string(file.Content), "\n") {
			for _, match := range citation.FindAllStringSubmatch(line, -1) {
				if err := Resolve(root, match[1], match[2], symbols); err != nil {
					problems = append(problems, fmt.Sprintf("%s:%d: %s: %v", file.Path, number+1, match[0], err))
				}
			}
		}
	}
	return problems
}

// Resolve looks for symbol in the Go file at path: a function, type, constant or variable, or Type.Method or
// Type.Field. Without a symbol the file alone must exist. symbols remembers files that were read before.
func Resolve(root, path, symbol string, symbols map[string]map[string]bool) error {
	name := filepath.Join(root, filepath.FromSlash(path))
	if symbol == "" {
		_, err := os.Stat(name)
		return err
	}
	if symbols[path] == nil {
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		symbols[path] = declared(parsed)
	}
	if !symbols[path][symbol] {
		return fmt.Errorf("there is no %s in that file", symbol)
	}
	return nil
}

// declared lists what a file declares at its top level, with the methods and fields of its types.
func declared(file *ast.File) map[string]bool {
	names := map[string]bool{}
	for _, declaration := range file.Decls {
		switch declaration := declaration.(type) {
		case *ast.FuncDecl:
			name := declaration.Name.Name
			if declaration.Recv != nil {
				name = receiver(declaration.Recv.List[0].Type) + "." + name
			}
			names[name] = true
		case *ast.GenDecl:
			for _, spec := range declaration.Specs {
				declareSpec(names, spec)
			}
		}
	}
	return names
}

func declareSpec(names map[string]bool, spec ast.Spec) {
	switch spec := spec.(type) {
	case *ast.ValueSpec:
		for _, name := range spec.Names {
			names[name.Name] = true
		}
	case *ast.TypeSpec:
		names[spec.Name.Name] = true
		var members *ast.FieldList
		switch kind := spec.Type.(type) {
		case *ast.StructType:
			members = kind.Fields
		case *ast.InterfaceType:
			members = kind.Methods
		default:
			return
		}
		for _, member := range members.List {
			for _, name := range member.Names {
				names[spec.Name.Name+"."+name.Name] = true
			}
		}
	}
}

// receiver names the type of a method's receiver, without its star and type parameters.
func receiver(expression ast.Expr) string {
	switch expression := expression.(type) {
	case *ast.StarExpr:
		return receiver(expression.X)
	case *ast.IndexExpr:
		return receiver(expression.X)
	case *ast.IndexListExpr:
		return receiver(expression.X)
	case *ast.Ident:
		return expression.Name
	}
	return ""
}
