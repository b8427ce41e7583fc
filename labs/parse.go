package labs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// Lab is one README, parsed.
type Lab struct {
	Number string // "01"
	Name   string // "01-etcd"
	Path   string // of the README, for messages
	Title  string
	Header
	Steps []Step
}

// Header is the front matter.
type Header struct {
	// Needs is what must run before the lab can: one of the names in places.
	Needs string `json:"needs"`
	// Alone labs break so much that they get a cluster of their own.
	Alone bool `json:"alone,omitempty"`
	// Seconds is about how long it takes on a running cluster.
	Seconds int `json:"seconds"`
}

// Step is either prose, or a block that is executed.
type Step struct {
	Prose string
	Block *Block
}

// Block is what happens in one terminal.
type Block struct {
	Line     int    // of its first line, counted from 1
	Terminal string // "" is the first one
	Within   time.Duration
	Fails    bool
	Always   bool // also after a block that did not hold
	Turns    []Turn
}

// Turn is one command and what must come back.
type Turn struct {
	Line      int
	Command   string // "" if the one before is still running
	Interrupt bool   // ^C after the output
	Expected  []Line
}

// Line is a line of expected output and its place in the README.
type Line struct {
	Number int
	Text   string
}

// All parses every lab of a tree, in the order of their numbers.
func All(tree fs.FS) ([]*Lab, error) {
	names, err := fs.Glob(tree, "[0-9][0-9]-*/README.md")
	if err != nil {
		return nil, err
	}
	var labs []*Lab
	for _, name := range names {
		content, err := fs.ReadFile(tree, name)
		if err != nil {
			return nil, err
		}
		lab, err := Parse(path.Join("labs", name), string(content))
		if err != nil {
			return nil, err
		}
		labs = append(labs, lab)
	}
	return labs, nil
}

// Parse reads one README. filename ends in NN-name/README.md.
func Parse(filename, content string) (*Lab, error) {
	lab := &Lab{Path: filename, Name: path.Base(path.Dir(filename))}
	lab.Number, _, _ = strings.Cut(lab.Name, "-")
	p := parser{lab: lab, lines: strings.Split(content, "\n")}
	if err := p.parse(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", filename, p.at, err)
	}
	return lab, nil
}

type parser struct {
	lab   *Lab
	lines []string
	at    int // lines read so far: the number of the current line
	known []string
}

func (p *parser) next() (string, bool) {
	if p.at >= len(p.lines) {
		return "", false
	}
	p.at++
	return p.lines[p.at-1], true
}

func (p *parser) parse() error {
	if err := p.header(); err != nil {
		return err
	}
	var prose []string
	endProse := func() {
		if text := strings.Trim(strings.Join(prose, "\n"), "\n"); text != "" {
			p.lab.Steps = append(p.lab.Steps, Step{Prose: text})
		}
		prose = nil
	}
	for line, ok := p.next(); ok; line, ok = p.next() {
		if title, isTitle := strings.CutPrefix(line, "# "); isTitle && p.lab.Title == "" {
			p.lab.Title = title
		}
		info, isFence := strings.CutPrefix(line, "```")
		if words := strings.Fields(info); !isFence || len(words) == 0 || words[0] != "console" {
			prose = append(prose, line)
			continue
		}
		endProse()
		block, err := p.block(strings.Fields(info)[1:])
		if err != nil {
			return err
		}
		p.lab.Steps = append(p.lab.Steps, Step{Block: block})
	}
	endProse()
	if p.lab.Title == "" {
		return errors.New("there is no title")
	}
	return nil
}

func (p *parser) header() error {
	if line, _ := p.next(); line != "---" {
		return errors.New("a lab begins with what it needs: ---, needs: nothing, ---")
	}
	var header []string
	for line, ok := p.next(); line != "---"; line, ok = p.next() {
		if !ok {
			return errors.New("the header does not end")
		}
		header = append(header, line)
	}
	if err := yaml.UnmarshalStrict([]byte(strings.Join(header, "\n")), &p.lab.Header); err != nil {
		return err
	}
	if _, ok := places[p.lab.Needs]; !ok {
		return fmt.Errorf("needs: %q is none of %s", p.lab.Needs, strings.Join(placeNames(), ", "))
	}
	return nil
}

// block reads to the closing fence.
func (p *parser) block(options []string) (*Block, error) {
	block := &Block{Line: p.at}
	if err := block.options(options); err != nil {
		return nil, err
	}
	for line, ok := p.next(); ; line, ok = p.next() {
		if !ok {
			return nil, fmt.Errorf("the block of line %d does not end", block.Line)
		}
		if line == "```" {
			return block, p.captures(block)
		}
		if err := block.add(p.at, line); err != nil {
			return nil, err
		}
	}
}

func (b *Block) options(options []string) error {
	for _, option := range options {
		name, value, _ := strings.Cut(option, "=")
		var err error
		switch name {
		case "terminal":
			b.Terminal = value
		case "within":
			b.Within, err = time.ParseDuration(value)
		case "fails":
			b.Fails = true
		case "always":
			b.Always = true
		default:
			err = errors.New("it is none of terminal=NAME, within=TIME, fails, always")
		}
		if err != nil {
			return fmt.Errorf("console %s: %w", option, err)
		}
	}
	return nil
}

// add takes one line of the block.
func (b *Block) add(number int, line string) error {
	last := len(b.Turns) - 1
	if command, ok := strings.CutPrefix(line, "$ "); ok {
		b.Turns = append(b.Turns, Turn{Line: number, Command: command})
		return nil
	}
	if more, ok := strings.CutPrefix(line+" ", "> "); ok && last >= 0 && b.Turns[last].Command != "" && b.Turns[last].Expected == nil {
		b.Turns[last].Command += "\n" + strings.TrimSuffix(more, " ")
		return nil
	}
	if last < 0 {
		if b.Terminal == "" {
			return fmt.Errorf("output without a command: %q", line)
		}
		b.Turns, last = append(b.Turns, Turn{Line: number}), 0
	}
	if line == "^C" {
		if b.Terminal == "" {
			return errors.New("in the first terminal every command ends by itself")
		}
		b.Turns[last].Interrupt = true
		return nil
	}
	b.Turns[last].Expected = append(b.Turns[last].Expected, Line{number, line})
	return nil
}

// placeholder is a value that was captured, or is about to be.
var placeholder = regexp.MustCompile(`<<([a-z][a-z0-9]*)>>`)

// captures finds values that are used in a command before any output could
// have given them.
func (p *parser) captures(block *Block) error {
	for _, turn := range block.Turns {
		for _, match := range placeholder.FindAllStringSubmatch(turn.Command, -1) {
			if !slices.Contains(p.known, match[1]) {
				return fmt.Errorf("the command of line %d uses %s before it is seen anywhere", turn.Line, match[0])
			}
		}
		for _, line := range turn.Expected {
			for _, match := range placeholder.FindAllStringSubmatch(line.Text, -1) {
				p.known = append(p.known, match[1])
			}
		}
	}
	return nil
}
