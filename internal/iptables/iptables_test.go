package iptables

import (
	"context"
	"reflect"
	"testing"

	"tinykube/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func TestVersion(t *testing.T) {
	for line, want := range map[string]struct {
		Version
		random bool
	}{
		"iptables v1.8.9 (nf_tables)\n": {Version{Text: "1.8.9"}, true},
		"iptables v1.8.10 (legacy)\n":   {Version{"1.8.10", true}, true},
		"iptables v1.6.1\n":             {Version{"1.6.1", true}, false},
		"iptables v1.6.2\n":             {Version{"1.6.2", true}, true},
		"ip6tables v2.0 (nf_tables)":    {Version{Text: "2.0"}, true},
	} {
		got, err := parseVersion(line)
		if err != nil || got != want.Version || got.RandomFully() != want.random {
			t.Errorf("%q: %+v random %v, %v", line, got, got.RandomFully(), err)
		}
	}
	if _, err := parseVersion("command not found"); err == nil {
		t.Error("nonsense was read as a version")
	}
}

func TestParse(t *testing.T) {
	got := Parse("# c\n*nat\n:PREROUTING ACCEPT [0:0]\n:X - [0:0]\n-A PREROUTING -m comment --comment \"a b\" -j X\n-A X -j RETURN\nCOMMIT\n*filter\n:INPUT DROP [1:2]\nCOMMIT\n")
	want := map[string]Table{
		"nat":    {"PREROUTING": {`-m comment --comment "a b" -j X`}, "X": {"-j RETURN"}},
		"filter": {"INPUT": nil},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	if !got["nat"].Jumps("PREROUTING", "X") || got["nat"].Jumps("X", "PREROUTING") {
		t.Error("jumps are wrong")
	}
}

// The real command, from our own root and through a chroot, in both families.
func TestRun(t *testing.T) {
	ctx := context.Background()
	ns := nstest.New(t, "a")
	ns.Must(func() error {
		for _, r := range []Runner{{}, {Root: "/"}, {Family: IPv6}} {
			if _, err := r.Detect(ctx); err != nil {
				return err
			}
			if err := r.Restore(ctx, []byte("*nat\n:MINE - [0:0]\n-A MINE -j RETURN\nCOMMIT\n")); err != nil {
				return err
			}
			for range 2 {
				if err := r.Ensure(ctx, "-I", "nat", "OUTPUT", "-j", "MINE"); err != nil {
					return err
				}
			}
			text, err := r.Save(ctx, "nat")
			if err != nil {
				return err
			}
			if got := Parse(text)["nat"]["OUTPUT"]; len(got) != 1 {
				t.Errorf("OUTPUT holds %q, want one rule", got)
			}
			for range 2 {
				if err := r.Remove(ctx, "nat", "OUTPUT", "-j", "MINE"); err != nil {
					return err
				}
			}
			if !r.Has(ctx, "nat", "MINE") || r.Has(ctx, "nat", "YOURS") || r.Has(ctx, "nat", "OUTPUT", "-j", "MINE") {
				t.Error("Has is wrong")
			}
		}
		if err := (Runner{}).Restore(ctx, []byte("*nat\n-A NOSUCH -j RETURN\nCOMMIT\n")); err == nil {
			t.Error("a rule in a chain that is not there was accepted")
		}
		return nil
	})
	if _, err := (Runner{Root: t.TempDir()}).Detect(ctx); err != ErrMissing {
		t.Errorf("an empty root: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m comment --comment \"a b\" -j X\n-I X -g Y\nCOMMIT\n", "iptables v1.8.9 (nf_tables)")
	f.Fuzz(func(t *testing.T, save, version string) {
		for _, table := range Parse(save) {
			for chain := range table {
				table.Jumps(chain, chain)
			}
		}
		if v, err := parseVersion(version); err == nil {
			v.RandomFully()
		}
	})
}
