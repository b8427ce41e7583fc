package labs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// perform runs a README that needs nothing, or what needs says.
func perform(t *testing.T, needs, readme string) (Result, string) {
	t.Helper()
	lab, err := Parse("labs/99-test/README.md", "---\nneeds: "+needs+"\nseconds: 1\n---\n# A test\n"+readme)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r := &Runner{Out: &out, Self: os.Args[0], Programs: []string{"tinykube"}}
	results, err := r.Run(t.Context(), lab)
	if err != nil {
		t.Fatal(err)
	}
	return results[0], out.String()
}

const fence = "```"

func console(words, body string) string {
	return fence + "console" + words + "\n" + body + fence + "\n"
}

func TestLabsThatHold(t *testing.T) {
	for name, readme := range map[string]string{
		"output":               console("", "$ echo hello\nhello\n"),
		"nothing printed":      console("", "$ true\n"),
		"blanks count as one":  console("", "$ printf 'NAME      AGE\\nx\\t1 \\n\\n'\nNAME   AGE\nx 1\n"),
		"dots in a line":       console("", "$ echo from here to there\nfrom ... there\n"),
		"dots for lines":       console("", "$ seq 9\n1\n...\n8\n9\n"),
		"dots for no line":     console("", "$ echo 1\n...\n1\n...\n"),
		"a shell stays":        console("", "$ mkdir d && cd d\n$ x=7\n") + "prose\n" + console("", "$ basename $PWD; echo $x\nd\n7\n"),
		"lines continued":      console("", "$ cat <<E\n> a\n>\n> b\n> E\na\n\nb\n"),
		"captured":             console("", "$ echo rev 42\nrev <<rev>>\n$ echo $((<<rev>> + 1))\n43\n$ echo rev 42\nrev <<rev>>\n"),
		"captured in a word":   console("", "$ echo '{\"rv\":\"17\"}'\n{\"rv\":\"<<rv>>\"}\n$ echo <<rv>>\n17\n"),
		"commands may fail":    console(" fails", "$ ls /nonexistent\nls: cannot access ...: No such file or directory\n$ false\n"),
		"eventually":           console("", "$ (sleep 0.3; echo done > f) &\n") + console(" within=10s", "$ cat f\ndone\n"),
		"another terminal":     console(" terminal=2", "$ touch f; tail -n +1 -f f\n") + console("", "$ echo one >> f\n") + console(" terminal=2", "one\n") + console("", "$ echo two >> f\n") + console(" terminal=2", "two\n^C\n$ echo still here\nstill here\n"),
		"the first one ends":   console(" terminal=2", "$ sleep 100\n") + console("", "$ echo x\nx\n"),
		"other blocks":         fence + "go\n$ not a command\n" + fence + "\n" + console("", "$ true\n"),
		"a home of its own":    console("", "$ test \"$(ls -A ~ | grep -v -e bin -e command)\" = \"\"\n"),
		"special characters":   console("", "$ echo '[x] (y) $z * a.b?'\n[x] (y) $z * a.b?\n"),
		"patience with a pipe": console("", "$ seq 1 20000 | tail -n 1\n20000\n"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result, out := perform(t, "nothing", readme)
			if result.Err != nil {
				t.Errorf("%v\n%s", result.Err, out)
			}
		})
	}
}

// Line numbers count from the top of the file: the header has 5 lines.
func TestLabsThatDoNotHold(t *testing.T) {
	for name, test := range map[string]struct{ readme, says string }{
		"other output":         {console("", "$ printf 'a\\nb\\n'\na\nc\n"), "README.md:9: the command of line 7 did not print: c"},
		"too much":             {console("", "$ printf 'a\\nb\\n'\na\n"), "more was printed than this"},
		"too little":           {console("", "$ echo a\na\nb\n"), "README.md:9: the command of line 7 did not print: b"},
		"wrong silence":        {console("", "$ true\na\n"), "did not print: a"},
		"failed silently":      {console("", "$ (exit 3)\n"), "the command failed with exit code 3"},
		"should have failed":   {console(" fails", "$ echo fine\nfine\n"), "the command should have failed"},
		"another value":        {console("", "$ echo 1\n<<x>>\n$ echo 2\n<<x>>\n"), "README.md:10: the command of line 9 did not print: 1"},
		"never":                {console(" within=300ms", "$ echo no\nyes\n"), "not within 300ms"},
		"not in the other":     {console(" terminal=2 within=200ms", "$ echo a\nb\n"), "not within 200ms"},
		"nobody prints":        {console(" terminal=2", "$ echo a\na\n") + console(" terminal=2", "x\n"), "README.md:11: "},
		"the shell ends":       {console("", "$ exit 4\n"), "exit code"},
		"a process left alone": {console("", "$ setsid sleep 1000 > /dev/null 2>&1 &\n"), "left a process behind: sleep 1000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result, out := perform(t, "nothing", test.readme)
			if result.Err == nil || !strings.Contains(result.Err.Error(), test.says) {
				t.Errorf("error %v, want one that says %q\n%s", result.Err, test.says, out)
			}
			if mismatch := new(Mismatch); errors.As(result.Err, &mismatch) && mismatch.Command == "" {
				t.Errorf("no command in %v", result.Err)
			}
		})
	}
}

// What was taken apart is put together again, whatever went wrong.
func TestAlways(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "f")
	result, out := perform(t, "nothing", console("", "$ touch "+file+"\n$ echo a\nb\n$ echo not reached >> "+file+"\n")+console(" always", "$ echo put back >> "+file+"\n"))
	if result.Err == nil {
		t.Error("the lab passed")
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "put back\n" {
		t.Errorf("%q, %v\n%s", content, err, out)
	}
}

// What a lab left is reported, and goes.
func TestLeftoversAreEnded(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "home")
	result, _ := perform(t, "nothing", console("", "$ echo $HOME > "+file+"\n$ setsid sleep 1001 > /dev/null 2>&1 &\n"))
	if result.Err == nil {
		t.Fatal("nothing was reported")
	}
	home, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	mark := "TINYKUBE_LAB=" + strings.TrimSpace(string(home))
	for deadline := time.Now().Add(30 * time.Second); len(survivors(mark)) > 0; time.Sleep(poll) {
		if time.Now().After(deadline) {
			t.Fatalf("still there: %v", survivors(mark))
		}
	}
}

// What is kept can be entered, as the lab left it, and taken away.
func TestKeep(t *testing.T) {
	t.Parallel()
	lab, err := Parse("labs/99-test/README.md", "---\nneeds: network\nseconds: 1\n---\n# T\n"+console("", "$ ip link add kept type veth peer name too\n$ touch \"it's\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r := &Runner{Out: &out, Keep: true, Self: os.Args[0]}
	results, err := r.Run(t.Context(), lab)
	if err != nil || results[0].Err != nil {
		t.Fatal(err, results)
	}
	match := regexp.MustCompile(`kept; (\S+)/enter`).FindStringSubmatch(out.String())
	if match == nil {
		t.Fatalf("it is not said where:\n%s", out.String())
	}
	said, err := exec.Command(match[1]+"/enter", "-c", "ls; echo $HOME; ip -o link show kept").CombinedOutput()
	for _, part := range []string{"it's", match[1], "kept@too"} {
		if !strings.Contains(string(said), part) {
			t.Errorf("%q is not in what a shell there says: %s, %v", part, said, err)
		}
	}
	if said, err := exec.Command(match[1] + "/leave").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, said)
	}
	if _, err := os.Stat(match[1]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// Who interrupts a lab is not told that the lab failed.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	lab, err := Parse("labs/99-test/README.md", "---\nneeds: nothing\nseconds: 1\n---\n# T\n"+console("", "$ sleep 1000\n"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := &Runner{Out: io.Discard, Self: os.Args[0]}
	if _, err := r.Run(ctx, lab); !errors.Is(err, ErrInterrupted) {
		t.Errorf("error %v, want %v", err, ErrInterrupted)
	}
}

// Whoever may not be root is root in a network that is nobody's.
func TestNetworkOfOnesOwn(t *testing.T) {
	t.Parallel()
	result, out := perform(t, "network", console("", "$ id -u\n0\n$ ip -o link | wc -l\n1\n$ ip link add left type veth peer name right\n$ ip -o link | wc -l\n3\n")+
		console(" terminal=2", "$ ip -o link | wc -l\n3\n"))
	if result.Err != nil {
		t.Errorf("%v\n%s", result.Err, out)
	}
}

func TestBadReadmes(t *testing.T) {
	t.Parallel()
	header := "---\nneeds: nothing\nseconds: 1\n---\n# T\n"
	for readme, says := range map[string]string{
		"# T\n":                        "README.md:1: a lab begins with what it needs",
		"---\nneeds: luck\n---\n# T\n": `needs: "luck" is none of apiserver, cluster, hollow, machine, network, nothing`,
		"---\nneeds: nothing\nwants: x\n---\n# T\n": "wants",
		"---\nneeds: nothing\n---\ntext\n":          "no title",
		header + fence + "console\n$ x\n":           "README.md:8: the block of line 6 does not end",
		header + console(" slowly", "$ x\n"):        "README.md:6: console slowly: it is none of",
		header + console(" within=soon", "$ x\n"):   "README.md:6: console within=soon",
		header + console("", "output\n"):            "README.md:7: output without a command",
		header + console("", "$ x\n^C\n"):           "README.md:8: in the first terminal",
		header + console("", "$ echo <<rev>>\n"):    "<<rev>> before it is seen",
	} {
		if _, err := Parse("labs/99-test/README.md", readme); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", readme, err, says)
		}
	}
}

// A reader sees the prose, presses Enter, sees what was really printed, and
// may stop.
func TestStepByStep(t *testing.T) {
	t.Parallel()
	lab, err := Parse("labs/99-test/README.md", "---\nneeds: nothing\nseconds: 1\n---\n# T\nLook:\n"+
		console("", "$ echo 4$((1+1))\n<<n>>\n")+"It was <<n>>.\n"+
		console(" terminal=second", "$ echo first; sleep 0.1; echo then\nfirst\n")+console(" terminal=second", "then\n^C\n")+
		console("", "$ echo never\nnever\n"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r := &Runner{Out: &out, In: strings.NewReader("\n\nq\n"), Self: os.Args[0]}
	if _, err := r.Run(t.Context(), lab); !errors.Is(err, ErrQuit) {
		t.Errorf("error %v, want %v", err, ErrQuit)
	}
	for _, part := range []string{"Look:", "$ echo 4$((1+1))\n", "42\n", "It was 42.", "$ echo first; sleep 0.1; echo then (in a terminal of its own: second)", "Meanwhile in the terminal \"second\":\n\nthen\n\n^C in the terminal \"second\".\n", "$ echo never"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q is not in\n%s", part, out.String())
		}
	}
	if strings.Contains(out.String(), "\nnever\n") {
		t.Errorf("it went on:\n%s", out.String())
	}
}
