package app

import (
	"crypto/tls"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"tinykube/apiserver"
)

// addServingFlags declares the flags about TLS, and about how much at a time.
//
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/server/options/serving.go, server_run_options.go
func (o *options) addServingFlags(fs *pflag.FlagSet) {
	c := &o.cfg
	fs.StringVar(&o.tlsMinVersion, "tls-min-version", "", "oldest TLS version: VersionTLS12 or VersionTLS13")
	fs.StringSliceVar(&o.cipherSuites, "tls-cipher-suites", nil, "cipher suites of TLS 1.2; Go's choice if empty")
	fs.Int32SliceVar(&o.curves, "tls-curve-preferences", nil, "numbers of the key exchanges, the best first; Go's choice if empty")
	fs.BoolVar(&c.Profiling, "profiling", true, "serve profiles of this program at /debug/pprof/")
	fs.BoolVar(&c.DisableHTTP2, "disable-http2-serving", false, "serve HTTP/1.1 only")
	fs.StringSliceVar(&c.HSTS, "strict-transport-security-directives", nil, "what the header Strict-Transport-Security says; none if empty")
	fs.StringArrayVar(&o.sni, "tls-sni-cert-key", nil, "certificate,key[:name,…]: a certificate for clients that call us by one of the names; can be repeated")
	fs.Uint32Var(&c.MaxStreams, "http2-max-streams-per-connection", 0, "requests in progress on one HTTP/2 connection; 100 if 0")
	fs.Float64Var(&c.GoawayChance, "goaway-chance", 0, "chance, up to 0.02, that a request makes its HTTP/2 client connect anew, to balance several servers")
	fs.DurationVar(&c.RequestTimeout, "request-timeout", time.Minute, "time a request has, unless it is a watch or a stream")
	fs.IntVar(&o.minRequestTimeout, "min-request-timeout", 1800, "shortest life, in seconds, of a watch that asks for none")
	fs.DurationVar(&c.ShutdownDelay, "shutdown-delay-duration", 0, "time to go on serving after the signal to stop, while /readyz fails")
	fs.IntVar(&c.MaxInFlight, "max-requests-inflight", 400, "with --max-mutating-requests-inflight, the requests in progress at a time; 0 for no limit")
	fs.IntVar(&c.MaxMutatingInFlight, "max-mutating-requests-inflight", 200, "see --max-requests-inflight")
	fs.BoolVar(&o.fair, "enable-priority-and-fairness", true, "deal the requests in progress to priority levels; if false, reads and writes are just counted")
}

// maxGoawayChance is upstream's bound: more would be a way of not serving.
const maxGoawayChance = 0.02

// addAuditFlags declares the flags of the audit log.
//
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/server/options/audit.go
func addAuditFlags(fs *pflag.FlagSet, c *apiserver.AuditConfig) {
	fs.StringVar(&c.PolicyFile, "audit-policy-file", "", "audit.k8s.io/v1 Policy: what is written down")
	fs.StringVar(&c.LogPath, "audit-log-path", "", "file that it is written to; - is standard output")
	fs.IntVar(&c.MaxAge, "audit-log-maxage", 0, "days that an old file is kept; 0 for ever")
	fs.IntVar(&c.MaxBackups, "audit-log-maxbackup", 0, "old files that are kept; 0 for all")
	fs.IntVar(&c.MaxSize, "audit-log-maxsize", 0, "megabytes after which a file is put aside; 100 if 0")
	fs.Var(&only{"json"}, "audit-log-format", "only json")
	fs.Var(&only{"blocking"}, "audit-log-mode", "only blocking")
	fs.Var(&only{"audit.k8s.io/v1"}, "audit-log-version", "only audit.k8s.io/v1")
}

// only is a flag of which we know one value.
type only struct{ value string }

func (v *only) String() string { return v.value }
func (v *only) Type() string   { return "string" }
func (v *only) Set(s string) error {
	if s != v.value {
		return fmt.Errorf("only %s is supported", v.value)
	}
	return nil
}

// checkServing completes what addServingFlags declared.
func (o *options) checkServing() error {
	c := &o.cfg
	switch o.tlsMinVersion {
	case "", "VersionTLS12":
	case "VersionTLS13":
		c.TLSMinVersion = tls.VersionTLS13
	default:
		return fmt.Errorf("--tls-min-version %q is neither VersionTLS12 nor VersionTLS13", o.tlsMinVersion)
	}
	for _, name := range o.cipherSuites {
		id, ok := cipherSuite(name)
		if !ok {
			return fmt.Errorf("--tls-cipher-suites: cipher suite %s not supported or doesn't exist", name)
		}
		c.CipherSuites = append(c.CipherSuites, id)
	}
	for _, id := range o.curves {
		c.Curves = append(c.Curves, tls.CurveID(id))
	}
	for _, text := range o.sni {
		one, err := parseSNI(text)
		if err != nil {
			return fmt.Errorf("--tls-sni-cert-key: %w", err)
		}
		c.SNI = append(c.SNI, one)
	}
	if c.GoawayChance < 0 || c.GoawayChance > maxGoawayChance {
		return fmt.Errorf("--goaway-chance can not be less than 0 or greater than %v", maxGoawayChance)
	}
	if c.RequestTimeout < 0 || c.ShutdownDelay < 0 || o.minRequestTimeout < 0 {
		return fmt.Errorf("--request-timeout, --min-request-timeout and --shutdown-delay-duration can not be negative values")
	}
	if c.MaxInFlight < 0 || c.MaxMutatingInFlight < 0 {
		return fmt.Errorf("--max-requests-inflight and --max-mutating-requests-inflight can not be negative values")
	}
	for name, value := range map[string]int{"maxage": c.Audit.MaxAge, "maxbackup": c.Audit.MaxBackups, "maxsize": c.Audit.MaxSize} {
		if value < 0 {
			return fmt.Errorf("--audit-log-%s %d can't be a negative number", name, value)
		}
	}
	c.MinRequestTimeout = time.Duration(o.minRequestTimeout) * time.Second
	c.NoPriorityAndFairness = !o.fair
	return nil
}

// cipherSuite finds a suite by its name. Insecure ones may be asked for.
func cipherSuite(name string) (uint16, bool) {
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if suite.Name == name {
			return suite.ID, true
		}
	}
	return 0, false
}

// parseSNI takes "certificate,key:name,name" apart.
func parseSNI(text string) (apiserver.NamedCert, error) {
	files, names, named := strings.Cut(text, ":")
	cert, key, ok := strings.Cut(files, ",")
	if !ok || cert == "" || key == "" || strings.Contains(key, ",") {
		return apiserver.NamedCert{}, fmt.Errorf("expected comma separated certificate and key file paths, got %q", files)
	}
	one := apiserver.NamedCert{CertFile: strings.TrimSpace(cert), KeyFile: strings.TrimSpace(key)}
	if named {
		one.Names = strings.Split(names, ",")
	}
	return one, nil
}
