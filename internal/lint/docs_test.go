package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// What documents show comes from what runs: Go code from the symbol that the
// block cites, console output from the lab of the same number, lists of
// simplifications from the comments that confess them. Nothing is retyped, so
// nothing can rot unseen.

var (
	// chapter is docs/NN-name.md; its lab is labs/NN-….
	chapter = regexp.MustCompile(`^docs/(\d\d)-[a-z0-9-]+\.md$`)
	// taggedFolder asks for all tags of a folder: ```text {tags:apiserver/storage}
	taggedFolder = regexp.MustCompile(`\{tags:([\w./-]+)\}`)
	link         = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)
	book         = regexp.MustCompile(`// Book: (docs/\S+\.md)`)
)

// fenced is a code block of a document.
type fenced struct {
	line  int
	info  string
	lines []string
}

func fencedBlocks(content string) []fenced {
	var blocks []fenced
	open := false
	for number, line := range strings.Split(content, "\n") {
		switch info, isFence := strings.CutPrefix(line, "```"); {
		case isFence && !open:
			blocks, open = append(blocks, fenced{line: number + 1, info: info}), true
		case isFence:
			open = false
		case open:
			last := &blocks[len(blocks)-1]
			last.lines = append(last.lines, line)
		}
	}
	return blocks
}

// CheckDocs lists what chapters show that is not so.
func CheckDocs(root string, files []File) []string {
	var problems []string
	byPath := map[string]File{}
	labs := map[string]string{} // README by number
	for _, file := range files {
		byPath[file.Path] = file
		if folder, ok := strings.CutPrefix(file.Path, "labs/"); ok && strings.HasSuffix(folder, "/README.md") {
			labs[folder[:2]] = string(file.Content)
		}
	}
	for _, file := range files {
		match := chapter.FindStringSubmatch(file.Path)
		if match == nil {
			continue
		}
		for _, block := range fencedBlocks(string(file.Content)) {
			if err := checkBlock(root, block, labs[match[1]], files); err != nil {
				problems = append(problems, fmt.Sprintf("%s:%d: %v", file.Path, block.line, err))
			}
		}
	}
	return problems
}

func checkBlock(root string, block fenced, lab string, files []File) error {
	language, _, _ := strings.Cut(block.info, " ")
	if tags := taggedFolder.FindStringSubmatch(block.info); tags != nil {
		if want := tagLines(tags[1], files); !slices.Equal(want, block.lines) {
			return fmt.Errorf("the comments under %s say\n%s", tags[1], strings.Join(want, "\n"))
		}
		return nil
	}
	switch language {
	case "console":
		return quotes(block.lines, lab, "the lab")
	case "go":
		cited := citation.FindStringSubmatch(block.info)
		if cited == nil {
			return fmt.Errorf("Go code that cites nothing: write ```go {" + "code:file#Symbol}")
		}
		source, err := symbolSource(filepath.Join(root, filepath.FromSlash(cited[1])), cited[2])
		if err != nil {
			return err
		}
		return quotes(block.lines, source, cited[1]+"#"+cited[2])
	}
	return nil
}

// quotes checks that lines stand in a text, in that order. "..." leaves
// something out.
func quotes(lines []string, text, where string) error {
	text = "\n" + unindented(strings.Split(text, "\n")) + "\n"
	var piece []string
	for _, line := range append(slices.Clone(lines), "...") {
		if strings.Trim(line, "\t /") != "..." {
			piece = append(piece, line)
			continue
		}
		if quoted := "\n" + unindented(piece) + "\n"; len(piece) > 0 {
			at := strings.Index(text, quoted)
			if at < 0 {
				return fmt.Errorf("%s does not say:\n%s", where, strings.Join(piece, "\n"))
			}
			text = text[at+len(quoted)-1:]
		}
		piece = nil
	}
	return nil
}

// unindented makes lines comparable wherever they stand.
func unindented(lines []string) string {
	trimmed := make([]string, len(lines))
	for i, line := range lines {
		trimmed[i] = strings.TrimSpace(line)
	}
	return strings.Join(trimmed, "\n")
}

// symbolSource is the text of a declaration, with its comment.
func symbolSource(file, symbol string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	parsed, err := parser.ParseFile(token.NewFileSet(), file, content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return "", err
	}
	for _, declaration := range parsed.Decls {
		one := &ast.File{Decls: []ast.Decl{declaration}}
		if !declared(one)[symbol] {
			continue
		}
		begin := declaration.Pos()
		switch declaration := declaration.(type) {
		case *ast.FuncDecl:
			if declaration.Doc != nil {
				begin = declaration.Doc.Pos()
			}
		case *ast.GenDecl:
			if declaration.Doc != nil {
				begin = declaration.Doc.Pos()
			}
		}
		return string(content[begin-parsed.FileStart : declaration.End()-parsed.FileStart]), nil
	}
	return "", fmt.Errorf("there is no %s in %s", symbol, file)
}

// tagLines are the first sentences behind Simplified: and Upstream: in a
// folder's comments, or in one file's.
func tagLines(folder string, files []File) []string {
	var lines []string
	for _, file := range files {
		if !file.IsGo() || file.IsTest() || !within(file.Path, []string{folder}) {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file.Path, file.Content, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			lines = append(lines, err.Error())
			continue
		}
		for _, group := range parsed.Comments {
			text := strings.Join(strings.Fields(group.Text()), " ")
			for _, tag := range []string{"Simplified: ", "Upstream: "} {
				_, said, found := strings.Cut(text, tag)
				if sentence, _, more := strings.Cut(said, ". "); found && more {
					said = sentence + "."
				}
				if found {
					lines = append(lines, path.Base(file.Path)+"  "+tag+said)
				}
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// CheckLinks lists links to files, and chapters named in comments, that are
// not there.
func CheckLinks(root string, files []File) []string {
	var problems []string
	for _, file := range files {
		pattern, folder := link, path.Dir(file.Path)
		if file.IsGo() {
			pattern, folder = book, "."
		}
		for _, match := range pattern.FindAllStringSubmatch(string(file.Content), -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(path.Join(folder, match[1])))); err != nil {
				problems = append(problems, fmt.Sprintf("%s: no %s", file.Path, match[1]))
			}
		}
	}
	return problems
}
