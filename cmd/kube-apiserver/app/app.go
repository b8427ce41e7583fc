// Package app is kube-apiserver's command line: upstream's flags on the way to
// apiserver.Config, and an etcd inside when none is named.
package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"tinykube/api/version"
	"tinykube/apiserver"
	"tinykube/apiserver/storage"
	"tinykube/apiserver/storage/embedded"
	"tinykube/internal/flags"
	"tinykube/internal/heapfloor"
)

// options are the values of the flags.
type options struct {
	cfg               apiserver.Config
	etcdDataDir       string
	runtimeConfig     map[string]string
	tlsMinVersion     string
	cipherSuites      []string
	curves            []int32
	sni               []string
	minRequestTimeout int
	fair              bool
	encryptionConfig  string
	logging           *flags.Logging
}

// NewCommand is the kube-apiserver command.
func NewCommand() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "kube-apiserver",
		Short: "Serve the Kubernetes API, and keep it in etcd",
		Long: `Serves the Kubernetes API over HTTPS and keeps its objects in etcd. It takes
upstream's flags.

Started alone, without --etcd-servers and without certificates, it runs an etcd
of its own and makes its own certificates; the way in is then the kubeconfig
<etcd-data-dir>/pki/admin.conf.`,
		Args:          cobra.NoArgs,
		Version:       version.Git,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(*cobra.Command, []string) error { return o.run(flags.SignalContext()) },
	}
	o.addFlags(cmd.Flags())
	return cmd
}

// addFlags declares upstream's flags.
//
// Upstream: kubernetes@v1.36 pkg/controlplane/apiserver/options
func (o *options) addFlags(fs *pflag.FlagSet) {
	c := &o.cfg
	fs.StringVar(&c.BindAddress, "bind-address", "", "address to serve on; all if empty")
	fs.IntVar(&c.SecurePort, "secure-port", 6443, "port to serve HTTPS on")
	fs.StringVar(&c.AdvertiseAddress, "advertise-address", "", "address at which pods reach this server")
	fs.StringVar(&c.ExternalHostname, "external-hostname", "", "host name for URLs of this server that strangers use")
	fs.StringVar(&c.CertFile, "tls-cert-file", "", "serving certificate")
	fs.StringVar(&c.KeyFile, "tls-private-key-file", "", "its key")
	fs.StringVar(&c.CertDir, "cert-dir", "", "where self-made certificates go if there is no --tls-cert-file")
	fs.StringVar(&c.ClientCAFile, "client-ca-file", "", "CA whose client certificates are believed")
	fs.StringVar(&c.TokenAuthFile, "token-auth-file", "", "CSV file of static tokens")
	fs.BoolVar(&c.AnonymousAuth, "anonymous-auth", true, "let strangers in as system:anonymous")
	fs.BoolVar(&c.BootstrapToken, "enable-bootstrap-token-auth", false, "believe bootstrap tokens")
	fs.StringSliceVar(&c.AuthorizationModes, "authorization-mode", nil, "Node, RBAC or AlwaysAllow")
	fs.StringSliceVar(&c.DisabledAdmission, "disable-admission-plugins", nil, "admission plugins to leave out")
	fs.StringSliceVar(&c.EnabledAdmission, "enable-admission-plugins", nil, "admission plugins to have beside those that are on by default: "+apiserver.AdmissionPlugins())
	o.addStorageFlags(fs)
	o.addIdentityFlags(fs)
	fs.BoolVar(&c.AllowPrivileged, "allow-privileged", false, "let pods have privileged containers")
	fs.Int64Var(&c.NotReadySeconds, "default-not-ready-toleration-seconds", 300, "how long pods that do not say it stay on a node that is not ready")
	fs.Int64Var(&c.UnreachableSeconds, "default-unreachable-toleration-seconds", 300, "how long pods that do not say it stay on a node that cannot be reached")
	fs.StringVar(&c.ServiceCIDR, "service-cluster-ip-range", "10.0.0.0/24", "range of the Services' addresses")
	fs.StringVar(&c.NodePortRange, "service-node-port-range", "30000-32767", "range of the Services' node ports")
	o.addServingFlags(fs)
	addAuditFlags(fs, &c.Audit)
	fs.StringToStringVar(&o.runtimeConfig, "runtime-config", nil, "group versions to serve; all we have are on")
	o.logging = flags.AddLogging(fs)

	addOtherFlags(fs)
}

func (o *options) addStorageFlags(fs *pflag.FlagSet) {
	s := &o.cfg.Storage
	fs.StringSliceVar(&s.Endpoints, "etcd-servers", nil, "etcd's endpoints; an embedded etcd if empty")
	fs.StringVar(&o.etcdDataDir, "etcd-data-dir", "", "where the embedded etcd keeps its data")
	fs.StringVar(&s.CAFile, "etcd-cafile", "", "CA of etcd's certificate")
	fs.StringVar(&s.CertFile, "etcd-certfile", "", "client certificate for etcd")
	fs.StringVar(&s.KeyFile, "etcd-keyfile", "", "its key")
	fs.StringVar(&s.Prefix, "etcd-prefix", "/registry", "prefix of all keys")
	fs.StringVar(&s.MediaType, "storage-media-type", "application/json", "form of stored objects; application/vnd.kubernetes.protobuf is the other")
	fs.DurationVar(&s.CompactionInterval, "etcd-compaction-interval", 5*time.Minute, "how often to compact etcd; 0 for never")
	fs.DurationVar(&s.EventTTL, "event-ttl", time.Hour, "how long Events are kept")
	fs.StringVar(&o.encryptionConfig, "encryption-provider-config", "", "EncryptionConfiguration for what is stored")
}

func (o *options) addIdentityFlags(fs *pflag.FlagSet) {
	g := &o.cfg.Aggregator
	fs.StringVar(&g.CertFile, "proxy-client-cert-file", "", "client certificate for other API servers")
	fs.StringVar(&g.KeyFile, "proxy-client-key-file", "", "its key")
	fs.BoolVar(&g.Endpoints, "enable-aggregator-routing", false, "reach other API servers by the endpoints of their Services")
	a, r, k := &o.cfg.ServiceAccount, &o.cfg.RequestHeader, &o.cfg.Kubelet
	fs.StringSliceVar(&a.Issuers, "service-account-issuer", nil, "issuer of service-account tokens; the first signs")
	fs.StringSliceVar(&a.KeyFiles, "service-account-key-file", nil, "keys that verify service-account tokens")
	fs.StringVar(&a.SigningKey, "service-account-signing-key-file", "", "key that signs them")
	fs.StringSliceVar(&a.Audiences, "api-audiences", nil, "audiences of tokens for this server")
	fs.DurationVar(&a.MaxExpiry, "service-account-max-token-expiration", 0, "longest life of a token")
	fs.StringVar(&a.KeysURI, "service-account-jwks-uri", "", "where others find the public keys, if not at this server")
	fs.StringVar(&r.CAFile, "requestheader-client-ca-file", "", "CA of front proxies")
	fs.StringSliceVar(&r.AllowedNames, "requestheader-allowed-names", nil, "common names of front proxies")
	fs.StringSliceVar(&r.UsernameHeaders, "requestheader-username-headers", nil, "headers that name the user")
	fs.StringSliceVar(&r.UIDHeaders, "requestheader-uid-headers", nil, "headers that name the user's UID")
	fs.StringSliceVar(&r.GroupHeaders, "requestheader-group-headers", nil, "headers that name groups")
	fs.StringSliceVar(&r.ExtraPrefixes, "requestheader-extra-headers-prefix", nil, "prefixes of headers that say more")
	fs.StringVar(&k.CertFile, "kubelet-client-certificate", "", "client certificate for kubelets")
	fs.StringVar(&k.KeyFile, "kubelet-client-key", "", "its key")
	fs.StringVar(&k.CAFile, "kubelet-certificate-authority", "", "CA of the kubelets' certificates; unchecked if empty")
	fs.StringSliceVar(&k.AddressTypes, "kubelet-preferred-address-types",
		[]string{"Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"}, "which of a node's addresses to use")
}

// leastHeap is what the server of a small cluster may use before it is
// collected; that of a large one keeps more than this anyway.
const leastHeap = 32 << 20

// run is the whole program.
func (o *options) run(ctx context.Context) error {
	log := o.logging.Logger("kube-apiserver")
	if err := o.check(log); err != nil {
		return err
	}
	heapfloor.Set(leastHeap)
	group, ctx := errgroup.WithContext(ctx)
	if len(o.cfg.Storage.Endpoints) == 0 {
		etcd, err := embedded.Start(ctx, embedded.Config{Dir: filepath.Join(o.etcdDataDir, "etcd")})
		if err != nil {
			return err
		}
		defer etcd.Close()
		o.cfg.Storage.Endpoints = []string{etcd.Endpoint}
		group.Go(func() error {
			select {
			case err := <-etcd.Failed():
				return fmt.Errorf("etcd: %w", err)
			case <-ctx.Done():
				return nil
			}
		})
	}
	server, err := apiserver.New(o.cfg, log)
	if err != nil {
		return err
	}
	group.Go(func() error { return server.Run(ctx) })
	return group.Wait()
}

// check completes the options, and refuses what we could not keep.
func (o *options) check(log *slog.Logger) error {
	missing, err := apiserver.CheckAdmissionPlugins(o.cfg.EnabledAdmission, o.cfg.DisabledAdmission)
	if err != nil {
		return err
	}
	for _, name := range missing {
		log.Warn("Admission plugin is not implemented and has no effect", "key", name)
	}
	if err := o.checkServing(); err != nil {
		return err
	}
	if o.encryptionConfig != "" {
		var err error
		if o.cfg.Storage.Encryption, err = storage.ReadEncryption(o.encryptionConfig); err != nil {
			return fmt.Errorf("--encryption-provider-config: %w", err)
		}
	}
	if len(o.cfg.AuthorizationModes) == 0 {
		o.cfg.AuthorizationModes = []string{"Node", "RBAC"}
		if nodes := "NodeRestriction"; !slices.Contains(o.cfg.DisabledAdmission, nodes) && !slices.Contains(o.cfg.EnabledAdmission, nodes) {
			o.cfg.EnabledAdmission = append(o.cfg.EnabledAdmission, nodes) // the other half of Node
		}
	}
	if o.etcdDataDir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			home = os.TempDir()
		}
		o.etcdDataDir = filepath.Join(home, ".tinykube", "apiserver")
	}
	if o.cfg.CertFile == "" && o.cfg.CertDir == "" {
		o.cfg.CertDir = filepath.Join(o.etcdDataDir, "pki")
	}
	if slices.ContainsFunc(o.cfg.Storage.Endpoints, func(e string) bool { return strings.TrimSpace(e) == "" }) {
		return fmt.Errorf("--etcd-servers has an empty entry")
	}
	return nil
}
