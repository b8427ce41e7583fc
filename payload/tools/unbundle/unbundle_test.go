package main

import (
	"strings"
	"testing"
)

func TestUnbundle(t *testing.T) {
	for _, test := range []struct{ valued, ignored, arguments, want string }{
		{"okt", "", "-rn file", "-r -n file"},
		{"okt", "", "-rk2 file", "-r -k 2 file"},
		{"okt", "", "-rk 2 file", "-r -k 2 file"},
		{"cw", "n", "-nc1 -w 2 -n host -x", "-c 1 -w 2 host -x"},
		{"", "", "--all -la", "--all -la"},
		{"", "", "-- -la", "-- -la"},
		{"", "", "- -la", "- -la"},
		{"c", "", "-c", "-c "},
	} {
		if got := strings.Join(unbundle(test.valued, test.ignored, strings.Fields(test.arguments)), " "); got != test.want {
			t.Errorf("%q became %q, want %q", test.arguments, got, test.want)
		}
	}
}
