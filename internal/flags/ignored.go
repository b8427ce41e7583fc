package flags

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/pflag"
)

// AcceptIgnored declares flags which upstream has and we do not need. Each
// takes a value (--name=value or --name value) and warns once when it is used.
func AcceptIgnored(fs *pflag.FlagSet, names ...string) {
	for _, name := range names {
		fs.Var(&ignored{name: name, warnings: os.Stderr}, name, "accepted for upstream's sake; has no effect here")
	}
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
}

func (v *ignored) String() string { return v.last }

func (v *ignored) Type() string {
	if v.kind == "" {
		return "string"
	}
	return v.kind
}

func (v *ignored) Set(s string) error {
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
