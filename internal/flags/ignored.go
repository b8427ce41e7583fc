package flags

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// AcceptIgnored declares flags which upstream has and we do not need. Each
// takes a value (--name=value or --name value) and warns once when it is used.
func AcceptIgnored(fs *pflag.FlagSet, names ...string) {
	for _, name := range names {
		v := &ignored{name: name, warnings: os.Stderr}
		if name == "feature-gates" {
			v.check = checkGates
		}
		fs.Var(v, name, "accepted for upstream's sake; has no effect here")
	}
}

// AcceptIgnoredInt is AcceptIgnored for flags that upstream declares as numbers.
func AcceptIgnoredInt(fs *pflag.FlagSet, names ...string) {
	for _, name := range names {
		v := &ignored{name: name, kind: "int32", warnings: os.Stderr, check: func(s string) error {
			_, err := strconv.ParseInt(s, 0, 32)
			return err
		}}
		fs.Var(v, name, "accepted for upstream's sake; has no effect here")
	}
}

// checkGates reads what it is about to forget: what could not be meant would
// be found out only on the day the real program gets the same command line.
//
// Upstream: k8s.io/component-base featuregate Set
func checkGates(list string) error {
	for _, gate := range strings.Split(list, ",") {
		if gate = strings.TrimSpace(gate); gate == "" {
			continue
		}
		_, gate = cutComponent(gate)
		name, value, ok := strings.Cut(gate, "=")
		if !ok {
			return fmt.Errorf("missing bool value for %s", name)
		}
		if _, err := strconv.ParseBool(strings.TrimSpace(value)); err != nil {
			return fmt.Errorf("invalid value of %s=%s, err: %w", name, value, err)
		}
	}
	return nil
}

// cutComponent takes "kube:" off "kube:Gate=true".
func cutComponent(gate string) (component, rest string) {
	if component, rest, ok := strings.Cut(gate, ":"); ok {
		return component, rest
	}
	return "", gate
}

// AcceptIgnoredBool is AcceptIgnored for flags that upstream declares as
// booleans: a bare --name is complete, and the next word is not its value.
func AcceptIgnoredBool(fs *pflag.FlagSet, names ...string) {
	for _, name := range names {
		v := &ignored{name: name, kind: "bool", warnings: os.Stderr}
		fs.Var(v, name, "accepted for upstream's sake; has no effect here")
		fs.Lookup(name).NoOptDefVal = "true"
	}
}

// ignored is a pflag.Value that forgets what it is told.
type ignored struct {
	name, kind, last string
	warnings         io.Writer
	warned           bool
	check            func(string) error // may be nil
}

func (v *ignored) String() string { return v.last }

func (v *ignored) Type() string {
	if v.kind == "" {
		return "string"
	}
	return v.kind
}

func (v *ignored) Set(s string) error {
	if v.check != nil {
		if err := v.check(s); err != nil {
			return err
		}
	}
	v.last = s
	if !v.warned {
		v.warned = true
		fmt.Fprintf(v.warnings, "Warning: --%s is accepted and ignored\n", v.name)
	}
	return nil
}

// Refuse declares a flag that promises a protection we do not give. Using it
// is an error which says why, since starting anyway would be a lie; an
// explicit "=false" promises nothing and passes.
func Refuse(fs *pflag.FlagSet, name, why string) {
	fs.Var(&refused{why: why}, name, "refused: "+why)
	// A bare --name must reach Set as well, whichever type upstream gave it.
	fs.Lookup(name).NoOptDefVal = "true"
}

type refused struct{ why string }

func (v *refused) String() string { return "" }
func (v *refused) Type() string   { return "string" }

func (v *refused) Set(s string) error {
	if on, err := strconv.ParseBool(s); err == nil && !on {
		return nil
	}
	return fmt.Errorf("refused: %s", v.why)
}
