package flags

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func TestIgnoredFlagsWarnOnce(t *testing.T) {
	fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
	AcceptIgnored(fs, "contention-profiling-dir")
	AcceptIgnoredBool(fs, "profiling")
	var out bytes.Buffer
	for _, name := range []string{"contention-profiling-dir", "profiling"} {
		fs.Lookup(name).Value.(*ignored).warnings = &out
	}
	args := []string{"--contention-profiling-dir", "/a", "--contention-profiling-dir=/b", "--profiling", "rest"}
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	if fs.NArg() != 1 {
		t.Errorf("arguments %v, want only \"rest\"", fs.Args())
	}
	want := "Warning: --contention-profiling-dir is accepted and ignored\nWarning: --profiling is accepted and ignored\n"
	if out.String() != want {
		t.Errorf("warnings:\n%s\nwant:\n%s", out.String(), want)
	}
}

func TestRefuse(t *testing.T) {
	for args, wantErr := range map[string]string{
		"--seccomp-default":       "refused: no profile would be applied",
		"--seccomp-default=true":  "refused: no profile would be applied",
		"--seccomp-default=false": "",
		"--seccomp-defualt":       "unknown flag",
	} {
		fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
		Refuse(fs, "seccomp-default", "no profile would be applied")
		err := fs.Parse([]string{args})
		if (err == nil) != (wantErr == "") || err != nil && !strings.Contains(err.Error(), wantErr) {
			t.Errorf("%s: error %v, want %q", args, err, wantErr)
		}
	}
}

func TestKlogFlags(t *testing.T) {
	for _, args := range [][]string{{"-v=4"}, {"-v", "4"}, {"--v=4"}, {"--v", "4"}} {
		fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
		l := AddLogging(fs)
		if err := fs.Parse(args); err != nil || l.Verbosity != 4 {
			t.Errorf("%v: verbosity %d, error %v", args, l.Verbosity, err)
		}
	}
}

func TestLoggerLine(t *testing.T) {
	var out bytes.Buffer
	l := Logger(&out, "kubelet", slog.LevelInfo).With("node", "node-1").WithGroup("cri")
	l.Debug("invisible")
	l.Info("Started pod", "key", "default/web", "err", errors.New("a b"))
	_, line, _ := strings.Cut(out.String(), " ")
	want := "INFO  kubelet: Started pod node=node-1 cri.key=default/web cri.err=\"a b\"\n"
	if line != want {
		t.Errorf("got %q, want %q", line, want)
	}
}

func TestTwoDashes(t *testing.T) {
	got := TwoDashes([]string{"-iface=eth0", "--ip-masq", "-v=1", "-v", "-iface", "eth1"})
	want := []string{"--iface=eth0", "--ip-masq", "-v=1", "-v", "--iface", "eth1"}
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestElectionTimes(t *testing.T) {
	for _, test := range []struct {
		lease, renew, retry time.Duration
		want                string
	}{
		{15 * time.Second, 10 * time.Second, 2 * time.Second, ""},
		{10 * time.Second, 10 * time.Second, 2 * time.Second, "leaseDuration must be greater than renewDeadline"},
		{15 * time.Second, 12 * time.Second, 10 * time.Second, "renewDeadline must be greater than retryPeriod*JitterFactor"},
		{15 * time.Second, 10 * time.Second, 0, "retryPeriod must be greater than zero"},
		{15 * time.Second, 0, -time.Second, "renewDeadline must be greater than zero"},
	} {
		got := ""
		if err := CheckElection(test.lease, test.renew, test.retry); err != nil {
			got = strings.TrimPrefix(err.Error(), "couldn't create leader elector: ")
		}
		if got != test.want {
			t.Errorf("%s %s %s: %q, want %q", test.lease, test.renew, test.retry, got, test.want)
		}
	}
}

// What is ignored is read all the same, where nonsense could not be meant.
func TestIgnoredIsRead(t *testing.T) {
	for args, want := range map[string]string{
		"--feature-gates=A=true,kube:B=false": "",
		"--feature-gates=A":                   "missing bool value for A",
		"--feature-gates=A=maybe":             "invalid value of A=maybe",
		"--concurrent-gc-syncs=20":            "",
		"--concurrent-gc-syncs=many":          `parsing "many": invalid syntax`,
		"--logging-format=json":               "",
		"--logging-format=xml":                `format: Invalid value: "xml": Unsupported log format`,
		"--leader-elect-resource-lock=leases": "",
		"--leader-elect-resource-lock=maps":   `resourceLock value must be "leases"`,
	} {
		fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
		AddLogging(fs)
		AddLeaderElection(fs, "x")
		AcceptIgnored(fs, "feature-gates")
		AcceptIgnoredInt(fs, "concurrent-gc-syncs")
		err := fs.Parse([]string{args})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}
