package app

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"sigs.k8s.io/yaml"

	"tinykube/client"
	"tinykube/kubelet"
)

// connect makes the client of the API server, or none. Three ways lead to an
// identity:
//
//	--kubeconfig that works          it is used, and renewed if rotateCertificates
//	--kubeconfig that does not, and  a certificate is asked for, and a kubeconfig
//	--bootstrap-kubeconfig           written that points to it
//	neither                          no API server: static pods only
//
// The kubelet starts at once in any case: its static pods need no identity, and
// may be what the identity waits for.
//
// Upstream: kubernetes@v1.36 cmd/kubelet/app/server.go buildKubeletClientConfig.
func (o *options) connect(cfg kubelet.Config, rotate bool, log *slog.Logger) (*client.Client, *kubelet.ClientCertificates, error) {
	if o.kubeconfig == "" {
		log.Info("no --kubeconfig: running static pods only")
		return nil, nil, nil
	}
	config, own, err := loadIdentity(o.kubeconfig)
	var bootstrap *client.Client
	if err != nil && o.bootstrapKubeconfig != "" {
		log.Info("asking for a client certificate", "kubeconfig", o.bootstrapKubeconfig, "err", err)
		first, err := client.LoadKubeconfig(o.bootstrapKubeconfig)
		if err != nil {
			return nil, nil, fmt.Errorf("unable to load bootstrap kubeconfig: %w", err)
		}
		if bootstrap, err = client.New(first); err != nil {
			return nil, nil, err
		}
		certificate := filepath.Join(cfg.CertDir, "kubelet-client-current.pem")
		if err := writeKubeconfig(o.kubeconfig, first, certificate); err != nil {
			return nil, nil, err
		}
		config, own = &client.Config{Host: first.Host, ServerName: first.ServerName, Insecure: first.Insecure,
			CAFile: first.CAFile, CAData: first.CAData}, nil
	} else if err != nil {
		return nil, nil, err
	}
	config.UserAgent = "kubelet"
	var certificates *kubelet.ClientCertificates
	if bootstrap != nil || rotate && own != nil {
		certificates = kubelet.NewClientCertificates(cfg.CertDir, cfg.NodeName, own, bootstrap, rotate, log)
		config.GetCertificate = certificates.Get
	}
	c, err := client.New(config)
	return c, certificates, err
}

// loadIdentity reads a kubeconfig and its certificate, if it has one, and says
// whether both are still good.
func loadIdentity(path string) (*client.Config, *tls.Certificate, error) {
	config, err := client.LoadKubeconfig(path)
	if err != nil {
		return nil, nil, err
	}
	var pair tls.Certificate
	switch {
	case len(config.CertData) > 0:
		pair, err = tls.X509KeyPair(config.CertData, config.KeyData)
	case config.CertFile != "":
		pair, err = tls.LoadX509KeyPair(config.CertFile, config.KeyFile)
	default:
		return config, nil, nil // a token, perhaps
	}
	if err == nil && time.Now().After(pair.Leaf.NotAfter) {
		err = errors.New("its certificate has expired")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	return config, &pair, nil
}

// writeKubeconfig writes how to reach the same server with the certificate.
func writeKubeconfig(path string, like *client.Config, certificate string) error {
	cluster := map[string]any{"server": like.Host}
	switch {
	case len(like.CAData) > 0:
		cluster["certificate-authority-data"] = base64.StdEncoding.EncodeToString(like.CAData)
	case like.CAFile != "":
		cluster["certificate-authority"] = like.CAFile
	}
	if like.ServerName != "" {
		cluster["tls-server-name"] = like.ServerName
	}
	if like.Insecure {
		cluster["insecure-skip-tls-verify"] = true
	}
	named := func(name, kind string, value any) []any { return []any{map[string]any{"name": name, kind: value}} }
	raw, err := yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "default-context",
		"clusters": named("default-cluster", "cluster", cluster),
		"contexts": named("default-context", "context", map[string]any{"cluster": "default-cluster", "namespace": "default", "user": "default-auth"}),
		"users":    named("default-auth", "user", map[string]any{"client-certificate": certificate, "client-key": certificate}),
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o600)
}

// powerFailure is closed by SIGPWR, which is how a kubelet without systemd
// learns that its machine goes down.
func powerFailure(ctx context.Context) <-chan struct{} {
	signals, out := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGPWR)
	context.AfterFunc(ctx, func() { signal.Stop(signals); close(signals) })
	go func() { // ends with ctx
		if _, arrived := <-signals; arrived {
			close(out)
		}
	}()
	return out
}
