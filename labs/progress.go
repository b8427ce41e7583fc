package labs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Progress is how far a reader is with the course: the last result of each
// lab and of each exercise, by number. It lies in ~/.tinykube/labs.json, the
// only thing a lab leaves, and means nothing to any lab.
type Progress map[string]Entry

// Entry is the progress with one lab.
type Entry struct {
	Ran    time.Time `json:"ran,omitzero"`
	Passed bool      `json:"passed"`
	Took   float64   `json:"seconds"`

	Graded time.Time `json:"graded,omitzero"`
	Score  int       `json:"score"`
	Points int       `json:"points"`
}

func progressFile() (string, error) {
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".tinykube", "labs.json"), err
}

// LoadProgress reads what was noted; nothing yet is no error.
func LoadProgress() (Progress, error) {
	progress := Progress{}
	file, err := progressFile()
	if err != nil {
		return progress, err
	}
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return progress, nil
	}
	if err != nil {
		return progress, err
	}
	if err := json.Unmarshal(raw, &progress); err != nil {
		return Progress{}, fmt.Errorf("%s: %w; remove it to begin anew", file, err)
	}
	return progress, nil
}

// Note changes one lab's entry.
func Note(number string, change func(*Entry)) error {
	progress, err := LoadProgress()
	if err != nil {
		return err
	}
	entry := progress[number]
	change(&entry)
	progress[number] = entry
	file, err := progressFile()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(progress, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(raw, '\n'), 0o644)
}
