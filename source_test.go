package tinykube

import (
	"bytes"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// What is not embedded cannot be handed out: every Go file of the main module
// must be, as it is.
func TestSourceIsComplete(t *testing.T) {
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			_, err := os.Stat(path.Join(name, "go.mod"))
			if name != "." && (err == nil || name == "bin" || strings.HasPrefix(entry.Name(), ".")) {
				return filepath.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		there, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if embedded, err := Source.ReadFile(name); err != nil {
			t.Errorf("%s is not embedded: add it to source.go", name)
		} else if !bytes.Equal(embedded, there) {
			t.Logf("%s has changed since this test was built", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
