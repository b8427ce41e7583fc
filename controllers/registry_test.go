package controllers

import (
	"slices"
	"testing"
)

func TestSelect(t *testing.T) {
	for _, test := range []struct {
		flag         []string
		run, notRun  string
		missing      string
		wantErr      bool
		wantExactRun []string
	}{
		{flag: nil, run: "deployment-controller"},
		{flag: []string{"*", "bootstrapsigner", "tokencleaner"}, run: "token-cleaner-controller"},
		{flag: []string{"*"}, run: "statefulset-controller", notRun: "bootstrap-signer-controller"},
		{flag: []string{"endpointslicemirroring"}, missing: "endpointslice-mirroring-controller"},
		{flag: []string{"*", "-deployment"}, run: "replicaset-controller", notRun: "deployment-controller"},
		{flag: []string{"-deployment-controller", "*"}, run: "replicaset-controller", notRun: "deployment-controller"},
		{flag: []string{"replicaset", "deployment"}, wantExactRun: []string{"deployment-controller", "replicaset-controller"}},
		{flag: []string{"*", "-deploymnet"}, wantErr: true},
	} {
		s, err := Select(test.flag)
		if (err != nil) != test.wantErr {
			t.Errorf("%v: %v", test.flag, err)
		}
		if test.run != "" && !slices.Contains(s.Run, test.run) || slices.Contains(s.Run, test.notRun) ||
			test.missing != "" && !slices.Contains(s.Missing, test.missing) || test.wantExactRun != nil && !slices.Equal(s.Run, test.wantExactRun) {
			t.Errorf("%v: %+v", test.flag, s)
		}
	}
}
