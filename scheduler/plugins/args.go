package plugins

import (
	"errors"
	"fmt"
	"strings"

	sigsjson "sigs.k8s.io/json"

	"k8s.io/apimachinery/pkg/runtime"
	configv1 "k8s.io/kube-scheduler/config/v1"
)

// decodeArgs reads a plugin's arguments strictly: a misspelt field would
// silently leave a default in force, so it is an error.
func decodeArgs(raw []byte, into any) error {
	if len(raw) == 0 {
		return nil
	}
	strict, err := sigsjson.UnmarshalStrict(raw, into)
	if err != nil {
		return err
	}
	if len(strict) > 0 {
		return runtime.NewStrictDecodingError(strict)
	}
	return nil
}

// cpuAndMemory is what is scored when a file does not say.
func cpuAndMemory() []configv1.ResourceSpec {
	return []configv1.ResourceSpec{{Name: "cpu", Weight: 1}, {Name: "memory", Weight: 1}}
}

// checkResources fills in and checks the resources of a scoring strategy.
func checkResources(path string, resources []configv1.ResourceSpec) ([]configv1.ResourceSpec, error) {
	if len(resources) == 0 {
		return cpuAndMemory(), nil
	}
	var errs []error
	for i := range resources {
		r := &resources[i]
		if r.Weight == 0 {
			r.Weight = 1
		}
		if r.Weight < 1 || r.Weight > 100 {
			errs = append(errs, fmt.Errorf("%s[%d].weight: Invalid value: %d: resource weight of %s not in valid range (0, 100]", path, i, r.Weight, r.Name))
		}
		if r.Name == "" {
			errs = append(errs, fmt.Errorf("%s[%d].name: required", path, i))
		}
	}
	return resources, errors.Join(errs...)
}

// checkShape checks that a shape is a function: utilizations rise from 0 to
// 100, scores stay within 0..10.
func checkShape(path string, shape []configv1.UtilizationShapePoint) error {
	if len(shape) == 0 {
		return fmt.Errorf("%s: Required value: at least one point must be specified", path)
	}
	var problems []string
	for i, p := range shape {
		if p.Utilization < 0 || p.Utilization > 100 {
			problems = append(problems, fmt.Sprintf("%s[%d].utilization: Invalid value: %d: not in valid range [0, 100]", path, i, p.Utilization))
		}
		if i > 0 && p.Utilization <= shape[i-1].Utilization {
			problems = append(problems, fmt.Sprintf("%s[%d].utilization: Invalid value: %d: values must be sorted in increasing order", path, i, p.Utilization))
		}
		if p.Score < 0 || p.Score > maxShapeScore {
			problems = append(problems, fmt.Sprintf("%s[%d].score: Invalid value: %d: not in valid range [0, %d]", path, i, p.Score, maxShapeScore))
		}
	}
	if problems != nil {
		return errors.New(strings.Join(problems, "; "))
	}
	return nil
}
