package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// module is the name of the main module; its packages are module + "/" + folder.
const module = "tinykube"

// File is one file of the source tree.
type File struct {
	Path    string // from the root of the repository, with slashes
	Content []byte

	// Of Go files only.
	Imports []string
	Package string    // the package's name
	Doc     bool      // it has a package comment
	Syntax  *ast.File // package clause, imports and comments, not the declarations
}

// IsGo and IsTest tell Go files, and those that only tests are built from.
func (f File) IsGo() bool   { return strings.HasSuffix(f.Path, ".go") }
func (f File) IsTest() bool { return strings.HasSuffix(f.Path, "_test.go") }

// Folder is the package's folder, "." for the root.
func (f File) Folder() string { return path.Dir(f.Path) }

// Lines counts lines as wc does.
func (f File) Lines() int { return strings.Count(string(f.Content), "\n") }

// skippedFolders hold nothing that we wrote, or nothing that is part of the main module's rules.
var skippedFolders = []string{"bin", "testdata", "node_modules", "internal/payload/data"}

// Load reads the Go and Markdown files of the main module under root. Folders with a go.mod of their own are other
// modules and are left out.
func Load(root string) ([]File, error) {
	var files []File
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		relative = filepath.ToSlash(relative)
		if entry.IsDir() {
			if relative != "." && skipFolder(name, relative) {
				return filepath.SkipDir
			}
			return nil
		}
		if extension := path.Ext(relative); extension != ".go" && extension != ".md" {
			return nil
		}
		file, err := load(name, relative)
		files = append(files, file)
		return err
	})
	return files, err
}

func skipFolder(name, relative string) bool {
	if strings.HasPrefix(path.Base(relative), ".") || slices.Contains(skippedFolders, relative) || slices.Contains(skippedFolders, path.Base(relative)) {
		return true
	}
	_, err := os.Stat(filepath.Join(name, "go.mod"))
	return err == nil
}

func load(name, relative string) (File, error) {
	content, err := os.ReadFile(name)
	if err != nil {
		return File{}, err
	}
	file := File{Path: relative, Content: content}
	if !file.IsGo() {
		return file, nil
	}
	file.Syntax, err = parser.ParseFile(token.NewFileSet(), relative, content, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return file, err
	}
	file.Package, file.Doc = file.Syntax.Name.Name, file.Syntax.Doc != nil
	for _, spec := range file.Syntax.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return file, err
		}
		file.Imports = append(file.Imports, imported)
	}
	return file, nil
}
