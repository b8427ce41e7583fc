package framework

import "strings"

// Code is the kind of a plugin's answer.
type Code int

// Upstream: kubernetes/kube-scheduler framework Code
const (
	// Success: the pod may go on. A nil *Status says the same.
	Success Code = iota
	// Error: the plugin itself failed; the pod is retried with backoff.
	Error
	// Unschedulable: not now, but evicting other pods from the node may help.
	Unschedulable
	// UnschedulableAndUnresolvable: no eviction can change this.
	UnschedulableAndUnresolvable
	// Skip: the plugin has nothing to say about this pod, at this point and
	// at those that follow from it (PreFilter → Filter, PreScore → Score), or
	// leaves binding to the next plugin.
	Skip
	// Wait, from Permit: not yet.
	Wait
)

// Status is a plugin's answer. Statuses are shared between nodes and cycles:
// never change one.
type Status struct {
	Code    Code
	Reasons []string
	// Plugin is who answered; the framework fills it in.
	Plugin string
}

// NewStatus makes an answer with reasons a person can read.
func NewStatus(code Code, reasons ...string) *Status {
	return &Status{Code: code, Reasons: reasons}
}

// AsStatus turns an error into an answer.
func AsStatus(err error) *Status {
	if err == nil {
		return nil
	}
	return &Status{Code: Error, Reasons: []string{err.Error()}}
}

// IsSuccess says whether the pod may go on.
func (s *Status) IsSuccess() bool { return s == nil || s.Code == Success }

// IsSkip says whether the plugin stands aside.
func (s *Status) IsSkip() bool { return s != nil && s.Code == Skip }

// IsRejected says whether the pod was turned down, as opposed to an error.
func (s *Status) IsRejected() bool {
	return s != nil && (s.Code == Unschedulable || s.Code == UnschedulableAndUnresolvable)
}

// Message joins the reasons.
func (s *Status) Message() string {
	if s == nil {
		return ""
	}
	return strings.Join(s.Reasons, ", ")
}

// from returns the status with its author's name.
func (s *Status) from(plugin string) *Status {
	if s == nil || s.Plugin == plugin {
		return s
	}
	signed := *s
	signed.Plugin = plugin
	return &signed
}
