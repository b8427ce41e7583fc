// Package iptables runs the machine's own iptables commands.
//
// The rules live in the kernel, but they are read and written through the
// user's program, and it must be the machine's: the "nft" and "legacy" flavours
// keep separate tables, and rules split over both are a well-known misery. So
// there is no iptables in our image. A program in a container is given the
// machine's root read-only, as Root, and the command runs chrooted there:
//
//	Root ""        our own mount namespace is the machine's (CNI plugins, tests)
//	Root "/host"   a pod with a hostPath of / (kube-proxy, flanneld)
//
// Everything else a caller does through iptables-save and iptables-restore
// text, which people can read, diff and paste.
package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Family is the address family whose tables a Runner speaks to.
type Family int

const (
	IPv4 Family = iota
	IPv6
)

// Runner runs iptables (or ip6tables) of one machine.
type Runner struct {
	Root   string // directory that is the machine's root; "" for our own
	Family Family
}

// directories are searched in the Root, in this order; PATH is for our own root
// and says nothing about another.
var directories = []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"}

// ErrMissing says that there is no iptables where we looked.
var ErrMissing = errors.New("no iptables here: install it (Debian: apt-get install iptables); in a container, mount the machine's root and name it with --host-root")

// Command prepares one of the machine's programs, chrooted to its root.
func Command(ctx context.Context, root, name string, args ...string) (*exec.Cmd, error) {
	for _, dir := range directories {
		path := filepath.Join(dir, name)
		// Lstat: on Debian iptables is a link through /etc/alternatives, absolute,
		// and it only leads somewhere once we are inside root.
		if _, err := os.Lstat(filepath.Join(root, path)); err != nil {
			continue
		}
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.Env = []string{"PATH=" + strings.Join(directories, ":"), "LC_ALL=C"}
		cmd.Dir = "/"
		if root != "" && root != "/" {
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		}
		return cmd, nil
	}
	return nil, fmt.Errorf("no %s here: install it (Debian: apt-get install %s); in a container, mount the machine's root and name it with --host-root", name, packages[name])
}

// packages are Debian's names of what holds our programs.
var packages = map[string]string{"nft": "nftables", "ipset": "ipset", "ipvsadm": "ipvsadm"}

// Run runs a prepared command and answers what it prints.
func Run(cmd *exec.Cmd, stdin []byte) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", filepath.Base(cmd.Path), strings.Join(cmd.Args[1:], " "), err, firstLines(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// run runs "iptables"+suffix; suffix is "", "-save" or "-restore".
func (r Runner) run(ctx context.Context, stdin []byte, suffix string, args ...string) ([]byte, error) {
	name := "iptables"
	if r.Family == IPv6 {
		name = "ip6tables"
	}
	cmd, err := Command(ctx, r.Root, name+suffix, args...)
	if err != nil {
		return nil, ErrMissing
	}
	return Run(cmd, stdin)
}

// firstLines keeps an error readable: iptables-restore can print a page.
func firstLines(s string) string {
	const most = 500
	s = strings.TrimSpace(s)
	if len(s) > most {
		s = s[:most] + "…"
	}
	return s
}

// lockSeconds is how long a command waits for another writer. The legacy
// flavour has one lock for all; the nft flavour accepts the option and needs
// none.
var lockSeconds = []string{"-w", "5"}

// Save answers iptables-save's text of one table, or of all for "".
func (r Runner) Save(ctx context.Context, table string) (string, error) {
	var args []string
	if table != "" {
		args = []string{"-t", table}
	}
	out, err := r.run(ctx, nil, "-save", args...)
	return string(out), err
}

// Restore applies text for iptables-restore: all of it or nothing, table by
// table. Chains that the text does not name stay as they are.
func (r Runner) Restore(ctx context.Context, text []byte) error {
	_, err := r.run(ctx, text, "-restore", append([]string{"--noflush"}, lockSeconds...)...)
	return err
}

// Run runs one iptables command.
func (r Runner) Run(ctx context.Context, args ...string) (string, error) {
	out, err := r.run(ctx, nil, "", append(append([]string{}, lockSeconds...), args...)...)
	return string(out), err
}

// Has says whether the rule, or for no rule the chain, is there.
func (r Runner) Has(ctx context.Context, table, chain string, rule ...string) bool {
	if len(rule) == 0 {
		_, err := r.Run(ctx, "-t", table, "-S", chain, "1")
		return err == nil
	}
	_, err := r.Run(ctx, append([]string{"-t", table, "-C", chain}, rule...)...)
	return err == nil
}

// Ensure adds the rule unless it is there: first in its chain (how "-I") or
// last ("-A").
func (r Runner) Ensure(ctx context.Context, how, table, chain string, rule ...string) error {
	if r.Has(ctx, table, chain, rule...) {
		return nil
	}
	_, err := r.Run(ctx, append([]string{"-t", table, how, chain}, rule...)...)
	return err
}

// Remove removes every copy of the rule; none is fine. The bound is there for a
// kernel that says "deleted" and does not.
func (r Runner) Remove(ctx context.Context, table, chain string, rule ...string) error {
	for range 100 {
		if !r.Has(ctx, table, chain, rule...) {
			return nil
		}
		if _, err := r.Run(ctx, append([]string{"-t", table, "-D", chain}, rule...)...); err != nil {
			return err
		}
	}
	return fmt.Errorf("iptables: rule in %s %s cannot be removed", table, chain)
}

// Version is what `iptables --version` says.
type Version struct {
	Text   string // "1.8.9"
	Legacy bool   // legacy flavour; else nf_tables
}

// Flavour is the word that people know.
func (v Version) Flavour() string {
	if v.Legacy {
		return "legacy"
	}
	return "nf_tables"
}

// RandomFully says whether MASQUERADE knows --random-fully (since 1.6.2), which
// makes clashes of source ports rare when many connections start at once.
func (v Version) RandomFully() bool {
	want := []int{1, 6, 2}
	for i, part := range strings.SplitN(v.Text, ".", 3) {
		n, err := strconv.Atoi(part)
		if err != nil || n < want[i] {
			return false
		}
		if n > want[i] {
			return true
		}
	}
	return true
}

// Detect asks the machine's iptables who it is.
func (r Runner) Detect(ctx context.Context) (Version, error) {
	out, err := r.run(ctx, nil, "", "--version")
	if err != nil {
		return Version{}, err
	}
	return parseVersion(string(out))
}

// parseVersion reads "iptables v1.8.9 (nf_tables)". Releases before 1.8 name no
// flavour and are what is now called legacy.
func parseVersion(line string) (Version, error) {
	fields := strings.Fields(line)
	if len(fields) < 2 || !strings.HasPrefix(fields[1], "v") {
		return Version{}, fmt.Errorf("iptables --version said %q", strings.TrimSpace(line))
	}
	return Version{Text: fields[1][1:], Legacy: !strings.Contains(line, "(nf_tables)")}, nil
}
