package flags

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/pflag"
)

// Logging is what klog's flags left behind: how much to say, and in what form.
type Logging struct {
	// Verbosity is klog's -v. Upstream's level 4 is where "we looked" begins,
	// which is our Debug; everything below means "the world changed".
	Verbosity int
	// Format is text or json.
	Format string
}

// AddLogging declares -v/--v and --logging-format, and accepts the rest of
// klog's family without effect.
//
// Upstream: kubernetes/component-base logs/api/v1 AddFlags
func AddLogging(fs *pflag.FlagSet) *Logging {
	l := &Logging{Format: "text"}
	fs.IntVarP(&l.Verbosity, "v", "v", 0, "log verbosity; 4 and more show every look, not only every change")
	fs.Var((*format)(&l.Format), "logging-format", "log format: text or json")
	AcceptIgnored(fs, "vmodule", "log-flush-frequency", "log-text-info-buffer-size", "log-json-info-buffer-size")
	AcceptIgnoredBool(fs, "log-text-split-stream", "log-json-split-stream", "logtostderr", "alsologtostderr")
	return l
}

// format is one of the forms that upstream has.
type format string

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "string" }
func (f *format) Set(s string) error {
	if s != "text" && s != "json" {
		return fmt.Errorf("format: Invalid value: %q: Unsupported log format", s)
	}
	*f = format(s)
	return nil
}

// Logger is the logger these flags ask for, writing to stderr, where
// `kubectl logs` and journald expect it.
func (l *Logging) Logger(component string) *slog.Logger {
	level := slog.LevelInfo
	if l.Verbosity >= 4 {
		level = slog.LevelDebug
	}
	if l.Format == "json" {
		h := slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level})
		return slog.New(h).With("component", component)
	}
	return Logger(os.Stderr, component, level)
}

// Logger writes one line per record, made to be read in a terminal:
//
//	10:04:05.678 INFO  scheduler: Bound pod key=default/web node=node-1
func Logger(w io.Writer, component string, level slog.Level) *slog.Logger {
	return slog.New(&lineHandler{out: &lockedWriter{w: w}, component: component, level: level})
}

// lockedWriter keeps lines whole when several goroutines (and several handlers
// derived by With) share one stream.
type lockedWriter struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}

// lineHandler formats records. Attributes given by With are rendered once.
type lineHandler struct {
	out       io.Writer
	component string
	level     slog.Level
	prefix    string // group names, each followed by a dot
	attrs     string // already rendered, each with a leading space
}

func (h *lineHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %-5s %s: %s%s", r.Time.Format("15:04:05.000"), r.Level, h.component, r.Message, h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(render(h.prefix, a))
		return true
	})
	b.WriteByte('\n')
	_, err := h.out.Write(b.Bytes())
	return err
}

func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	for _, a := range attrs {
		// The component stands before the message, so it is not an attribute.
		if a.Key == "component" && h.prefix == "" {
			next.component = a.Value.String()
			continue
		}
		next.attrs += render(h.prefix, a)
	}
	return &next
}

func (h *lineHandler) WithGroup(name string) slog.Handler {
	next := *h
	next.prefix += name + "."
	return &next
}

// render is " key=value", quoted when a bare word would be ambiguous.
func render(prefix string, a slog.Attr) string {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		var b strings.Builder
		for _, sub := range v.Group() {
			b.WriteString(render(prefix+a.Key+".", sub))
		}
		return b.String()
	}
	s := v.String()
	if s == "" || strings.ContainsAny(s, " \t\n\"=") {
		s = strconv.Quote(s)
	}
	return " " + prefix + a.Key + "=" + s
}
