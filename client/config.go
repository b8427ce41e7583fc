package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"
)

// Config says where the API server is and who we are. Data wins over File.
type Config struct {
	Host       string // "https://172.30.9.1:6443"
	ServerName string // overrides the name checked in the server's certificate
	Insecure   bool   // do not check the server's certificate at all

	CAFile, CertFile, KeyFile string
	CAData, CertData, KeyData []byte // PEM
	// GetCertificate is asked at every handshake, and wins over CertFile and
	// CertData: for who gets its certificate while it runs.
	GetCertificate func() (*tls.Certificate, error)

	BearerToken     string
	BearerTokenFile string // read again every minute: bound tokens rotate
	// TokenSource is asked before every request, and wins over the others.
	TokenSource TokenSource

	UserAgent string

	// Transport replaces the network, if set: tests in virtual time have one
	// that calls a server in the same process.
	Transport http.RoundTripper
}

// TokenSource hands out bearer tokens.
type TokenSource interface {
	Token(ctx context.Context) (string, error)
	// Reject is told when the server did not accept a token.
	Reject(token string)
}

// serviceAccountDir is where the kubelet mounts a pod's token.
const serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// InCluster is the Config of a process in a pod: the API server by the
// Service's environment variables, the pod's own token.
func InCluster() (*Config, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("not in a cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; pass --kubeconfig")
	}
	return &Config{
		Host:            "https://" + net.JoinHostPort(host, port),
		CAFile:          filepath.Join(serviceAccountDir, "ca.crt"),
		BearerTokenFile: filepath.Join(serviceAccountDir, "token"),
	}, nil
}

// kubeconfig is the part of clientcmd/v1 Config that we act on.
type kubeconfig struct {
	CurrentContext string `json:"current-context"`
	Clusters       []struct {
		Name    string `json:"name"`
		Cluster struct {
			Server                   string `json:"server"`
			TLSServerName            string `json:"tls-server-name"`
			InsecureSkipTLSVerify    bool   `json:"insecure-skip-tls-verify"`
			CertificateAuthority     string `json:"certificate-authority"`
			CertificateAuthorityData string `json:"certificate-authority-data"`
		} `json:"cluster"`
	} `json:"clusters"`
	Users []struct {
		Name string `json:"name"`
		User struct {
			ClientCertificate     string `json:"client-certificate"`
			ClientCertificateData string `json:"client-certificate-data"`
			ClientKey             string `json:"client-key"`
			ClientKeyData         string `json:"client-key-data"`
			Token                 string `json:"token"`
			TokenFile             string `json:"tokenFile"`
			Exec                  any    `json:"exec"`
			AuthProvider          any    `json:"auth-provider"`
		} `json:"user"`
	} `json:"users"`
	Contexts []struct {
		Name    string `json:"name"`
		Context struct {
			Cluster string `json:"cluster"`
			User    string `json:"user"`
		} `json:"context"`
	} `json:"contexts"`
}

// LoadKubeconfig reads the current context of a kubeconfig file. Relative
// paths in it are relative to the file.
//
// Simplified: no exec or auth-provider plugins; a component's identity is a
// certificate or a token.
func LoadKubeconfig(path string) (*Config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	var k kubeconfig
	if err := yaml.Unmarshal(raw, &k); err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	cfg, err := k.current()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	for _, p := range []*string{&cfg.CAFile, &cfg.CertFile, &cfg.KeyFile, &cfg.BearerTokenFile} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(path), *p)
		}
	}
	return cfg, nil
}

func (k *kubeconfig) current() (*Config, error) {
	cluster, user, found := "", "", false
	for _, c := range k.Contexts {
		if c.Name == k.CurrentContext {
			cluster, user, found = c.Context.Cluster, c.Context.User, true
		}
	}
	if !found {
		return nil, fmt.Errorf("current-context %q is not among its contexts", k.CurrentContext)
	}
	cfg := &Config{}
	var err error
	decode := func(field, data string) []byte {
		b, e := base64.StdEncoding.DecodeString(data)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", field, e))
		}
		return b
	}
	for _, c := range k.Clusters {
		if c.Name == cluster {
			cfg.Host, cfg.ServerName, cfg.Insecure = c.Cluster.Server, c.Cluster.TLSServerName, c.Cluster.InsecureSkipTLSVerify
			cfg.CAFile, cfg.CAData = c.Cluster.CertificateAuthority, decode("certificate-authority-data", c.Cluster.CertificateAuthorityData)
		}
	}
	for _, u := range k.Users {
		if u.Name != user {
			continue
		}
		if u.User.Exec != nil || u.User.AuthProvider != nil {
			return nil, fmt.Errorf("user %q wants an exec or auth-provider plugin, which is not supported; use a client certificate or a token", user)
		}
		cfg.CertFile, cfg.CertData = u.User.ClientCertificate, decode("client-certificate-data", u.User.ClientCertificateData)
		cfg.KeyFile, cfg.KeyData = u.User.ClientKey, decode("client-key-data", u.User.ClientKeyData)
		cfg.BearerToken, cfg.BearerTokenFile = u.User.Token, u.User.TokenFile
	}
	if err == nil && cfg.Host == "" {
		err = fmt.Errorf("cluster %q has no server", cluster)
	}
	return cfg, err
}

// tlsConfig builds the client's side of mutual TLS. A certificate in a file is
// read again at every handshake, so that a rotated one is used without a
// restart.
func (c *Config) tlsConfig() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName, InsecureSkipVerify: c.Insecure}
	ca := c.CAData
	if len(ca) == 0 && c.CAFile != "" {
		var err error
		if ca, err = os.ReadFile(c.CAFile); err != nil {
			return nil, fmt.Errorf("certificate authority: %w", err)
		}
	}
	if len(ca) > 0 {
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errors.New("certificate authority: no PEM certificate in it")
		}
	}
	switch {
	case c.GetCertificate != nil:
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.GetCertificate() }
	case len(c.CertData) > 0:
		pair, err := tls.X509KeyPair(c.CertData, c.KeyData)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	case c.CertFile != "":
		key := c.KeyFile
		if key == "" {
			key = c.CertFile
		}
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.CertFile, key)
			return &pair, err
		}
		if _, err := load(); err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return t, nil
}
