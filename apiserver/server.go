package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

// Config is everything a person can choose about an API server. Paths name PEM
// files, as upstream's flags do.
type Config struct {
	Storage storage.Config

	BindAddress      string // "" means all addresses
	SecurePort       int    // 0 means any free port
	AdvertiseAddress string // where pods reach us; "" guesses
	ExternalHostname string // where strangers reach us; "" means as pods do

	CertFile, KeyFile string // of the serving certificate
	CertDir           string // where a self-made PKI goes if there is none
	TLSMinVersion     uint16

	ClientCAFile   string
	TokenAuthFile  string
	AnonymousAuth  bool
	BootstrapToken bool
	RequestHeader  RequestHeaderConfig
	ServiceAccount ServiceAccountConfig

	AuthorizationModes []string // Node, RBAC, AlwaysAllow
	// Admission plugins to have, and not to have, beside the default ones.
	EnabledAdmission, DisabledAdmission []string

	ServiceCIDR   string // 10.96.0.0/12
	NodePortRange string // 30000-32767

	Kubelet KubeletConfig

	MaxInFlight, MaxMutatingInFlight int
	ShutdownTimeout                  time.Duration
}

// RequestHeaderConfig trusts another server to say who a user is.
type RequestHeaderConfig struct {
	CAFile          string
	AllowedNames    []string
	UsernameHeaders []string
	UIDHeaders      []string
	GroupHeaders    []string
	ExtraPrefixes   []string
}

// ServiceAccountConfig is how service-account tokens are signed and checked.
type ServiceAccountConfig struct {
	Issuers    []string // the first signs
	Audiences  []string // ours; empty means the issuers
	KeyFiles   []string // to verify
	SigningKey string   // to sign
	MaxExpiry  time.Duration
	KeysURI    string // where our public keys are, if not here
}

// KubeletConfig is how we reach kubelets for logs, exec and the like.
type KubeletConfig struct {
	CertFile, KeyFile, CAFile string
	AddressTypes              []string
}

// Server is the API server.
type Server struct {
	cfg     Config
	log     *slog.Logger
	allRows []*resources.Row
	store   *storage.Store
	served  atomic.Pointer[served] // see rows.go
	openAPI *openAPI               // of the built-in rows
	paths   http.Handler           // what is not a resource
	metrics *metrics
	limits  *limits
	fields  *fieldTracker

	// The REST map, of restMap.
	stored, updated verbHandlers
	named           map[string]verbHandlers

	// Set by Run before anything is served, and constant then.
	authn    *authenticator
	authz    *authorizer
	tokens   *tokenSigner
	kubelets *kubeletProxy
	services *allocator
	plugins  pluginSet
	quotas   keyedLock // by namespace
	address  net.Addr

	listening chan struct{} // closed when address is set
	seeded    atomic.Bool   // what every cluster has is there
	ready     chan struct{}
	stopping  chan struct{} // closed when shutdown begins
	// extensions is closed when all that definitions declare is served.
	extensions chan struct{}
}

// New makes a server of all built-in resources. It does no I/O.
func New(cfg Config, log *slog.Logger) (*Server, error) {
	return newServer(cfg, resources.All(), log)
}

func newServer(cfg Config, rows []*resources.Row, log *slog.Logger) (*Server, error) {
	store, err := storage.New(cfg.Storage, append(rows[:len(rows):len(rows)], rangesRow), log)
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: log, allRows: rows, store: store, openAPI: newOpenAPI(rows),
		metrics: newMetrics(), limits: newLimits(cfg), fields: newFieldTracker(),
		listening: make(chan struct{}), ready: make(chan struct{}), stopping: make(chan struct{}),
		extensions: make(chan struct{}),
	}
	s.stored, s.updated, s.named = restMap()
	s.fields.schemas = s.openAPI
	s.install(extra{})
	if s.services, err = newAllocator(s); err != nil {
		return nil, err
	}
	if s.authz, err = newAuthorizer(s); err != nil {
		return nil, err
	}
	// Where everybody may do everything, strangers had better not be let in.
	if s.authz.alwaysAllow {
		s.cfg.AnonymousAuth = false
	}
	if s.plugins, _, err = choosePlugins(cfg.EnabledAdmission, cfg.DisabledAdmission); err != nil {
		return nil, err
	}
	s.paths = s.servePaths()
	return s, nil
}

// Ready is closed when the server has everything a cluster needs to start.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Address is where the server listens; it waits until that is known.
func (s *Server) Address(ctx context.Context) (net.Addr, error) {
	select {
	case <-s.listening:
		return s.address, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Run serves until ctx ends, then lets requests finish and watches end.
//
// The store outlives the last request, so it has a context of its own.
func (s *Server) Run(ctx context.Context) error {
	tlsConfig, err := s.load()
	if err != nil {
		return err
	}
	listener, err := s.listen(ctx)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: s, TLSConfig: tlsConfig,
		ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 90 * time.Second,
		MaxHeaderBytes: 1 << 20,
		ConnContext:    withConnection,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		// Pings find clients that went away without a word, so that their
		// watches end.
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 1000, SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
	storeContext, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.store.Run(storeContext) })
	group.Go(func() error {
		if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
		}
		return nil
	})
	group.Go(func() error { return s.housekeeping(ctx) })
	group.Go(func() error { return s.extend(ctx) })
	group.Go(func() error {
		<-ctx.Done()
		defer stopStore()
		return s.shutDown(ctx, server)
	})
	s.log.Info("Serving", "address", listener.Addr().String())
	return group.Wait()
}

// shutDown ends watches, waits for other requests, and then closes.
func (s *Server) shutDown(ctx context.Context, server *http.Server) error {
	close(s.stopping)
	patience := s.cfg.ShutdownTimeout
	if patience == 0 {
		patience = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		server.Close() // proxied streams may last for ever
	}
	return nil
}

// load reads keys and certificates.
func (s *Server) load() (*tls.Config, error) {
	if s.cfg.CertFile == "" {
		if err := selfSigned(&s.cfg); err != nil {
			return nil, fmt.Errorf("make certificates: %w", err)
		}
	}
	var err error
	if s.tokens, err = newTokenSigner(s.cfg.ServiceAccount); err != nil {
		return nil, err
	}
	if s.authn, err = newAuthenticator(s); err != nil {
		return nil, err
	}
	if s.kubelets, err = newKubeletProxy(s); err != nil {
		return nil, err
	}
	certificate := &reloader{certFile: s.cfg.CertFile, keyFile: s.cfg.KeyFile}
	if _, err := certificate.get(nil); err != nil {
		return nil, fmt.Errorf("serving certificate: %w", err)
	}
	return &tls.Config{
		MinVersion:     max(s.cfg.TLSMinVersion, tls.VersionTLS12),
		GetCertificate: certificate.get,
		// Who is not known by certificate may be by token: ask, never insist,
		// and verify in authenticate, where refusing is an answer.
		ClientAuth: tls.RequestClientCert,
		ClientCAs:  s.authn.hintCAs(),
		NextProtos: []string{"h2", "http/1.1"},
	}, nil
}

func (s *Server) listen(ctx context.Context) (net.Listener, error) {
	var config net.ListenConfig
	address := net.JoinHostPort(s.cfg.BindAddress, strconv.Itoa(s.cfg.SecurePort))
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	s.address = listener.Addr()
	close(s.listening)
	return listener, nil
}

// port is the port that was really taken.
func (s *Server) port() int { return s.address.(*net.TCPAddr).Port }
