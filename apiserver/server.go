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
	"k8s.io/apimachinery/pkg/runtime/schema"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
	"tinykube/internal/linger"
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
	SNI               []NamedCert
	TLSMinVersion     uint16
	CipherSuites      []uint16      // of TLS 1.2; none means Go's choice
	Curves            []tls.CurveID // key exchanges, the best first; none means Go's choice
	DisableHTTP2      bool
	HSTS              []string // directives of Strict-Transport-Security

	ClientCAFile   string
	TokenAuthFile  string
	AnonymousAuth  bool
	BootstrapToken bool
	RequestHeader  RequestHeaderConfig
	ServiceAccount ServiceAccountConfig

	AuthorizationModes []string // Node, RBAC, AlwaysAllow
	// Admission plugins to have, and not to have, beside the default ones.
	EnabledAdmission, DisabledAdmission []string
	// AllowPrivileged lets pods have privileged containers.
	AllowPrivileged bool
	// How long pods stay on a node that is not ready, or not heard of; both 0
	// mean 300 s.
	NotReadySeconds, UnreachableSeconds int64

	ServiceCIDR   string // 10.96.0.0/12
	NodePortRange string // 30000-32767

	Kubelet    KubeletConfig
	Aggregator AggregatorConfig

	// RequestTimeout bounds everything but watches and streams; 0 means a minute.
	RequestTimeout time.Duration
	// MinRequestTimeout is the shortest life of a watch that set no timeout; 0
	// means half an hour.
	MinRequestTimeout                time.Duration
	MaxInFlight, MaxMutatingInFlight int
	NoPriorityAndFairness            bool    // two counters instead of priority levels
	MaxStreams                       uint32  // of one HTTP/2 connection at a time; 0 means 100
	GoawayChance                     float64 // that a request closes its HTTP/2 connection, for balance

	Profiling bool // at /debug/pprof/
	Audit     AuditConfig

	// ShutdownDelay is how long the server goes on after it was told to stop,
	// while it is not ready: load balancers need a moment. ShutdownTimeout is
	// how long it then waits for requests; 0 means RequestTimeout.
	ShutdownDelay, ShutdownTimeout time.Duration
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
	// Dial connects to nodes, pods and Services' endpoints; nil dials.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Server is the API server.
type Server struct {
	cfg     Config
	log     *slog.Logger
	allRows []*resources.Row
	store   *storage.Store
	tables  map[schema.GroupResource]*storage.Table // of allRows; see tableOf
	served  atomic.Pointer[served]                  // see rows.go
	openAPI *openAPI                                // of the built-in rows
	paths   http.Handler                            // what is not a resource
	metrics *metrics
	flows   *flowControl
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
	audit    *auditor
	address  net.Addr

	// repaired is when addresses and ports were last looked through; owned by
	// housekeeping.
	repaired time.Time

	listening chan struct{} // closed when address is set
	seeded    atomic.Bool   // what every cluster has is there
	ready     chan struct{}
	stopping  chan struct{} // closed when shutdown begins: we are not ready any more
	draining  chan struct{} // closed when what lasts has to end
	streams   streams
	// extensions is closed when all that definitions declare is served.
	extensions chan struct{}
	// Between extend and watchOthers: there are other servers, and news of them.
	ask, learned chan struct{}
}

// New makes a server of all built-in resources. It does no I/O.
func New(cfg Config, log *slog.Logger) (*Server, error) {
	return newServer(cfg, resources.All(), log)
}

func newServer(cfg Config, rows []*resources.Row, log *slog.Logger) (*Server, error) {
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = time.Minute
	}
	if cfg.NotReadySeconds == 0 && cfg.UnreachableSeconds == 0 {
		cfg.NotReadySeconds, cfg.UnreachableSeconds = 300, 300
	}
	store, err := storage.New(cfg.Storage, append(rows[:len(rows):len(rows)], rangesRow), log)
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: log, allRows: rows, store: store, tables: map[schema.GroupResource]*storage.Table{}, openAPI: newOpenAPI(rows),
		metrics: newMetrics(), fields: newFieldTracker(),
		listening: make(chan struct{}), ready: make(chan struct{}), stopping: make(chan struct{}), draining: make(chan struct{}),
		extensions: make(chan struct{}), ask: make(chan struct{}, 1), learned: make(chan struct{}, 1),
	}
	s.metrics.registry.MustRegister(store)
	for _, row := range rows {
		if row.Stored() {
			s.tables[row.GVR().GroupResource()] = store.Table(row)
		}
	}
	s.flows = newFlowControl(s)
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
	if s.audit, err = newAuditor(s.cfg.Audit, s.metrics, s.log); err != nil {
		return err
	}
	defer s.audit.close()
	listener, err := s.listen(ctx)
	if err != nil {
		return err
	}
	server := s.httpServer(tlsConfig)
	storeContext, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.store.Run(storeContext) })
	group.Go(func() error {
		if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
		}
		return nil
	})
	kept := make(chan struct{}) // closed when we have withdrawn
	group.Go(func() error {
		defer close(kept)
		return s.housekeeping(ctx)
	})
	group.Go(func() error { return s.extend(ctx) })
	group.Go(func() error { return s.keepStatuses(ctx) })
	group.Go(func() error { return s.watchOthers(ctx) })
	group.Go(func() error {
		<-ctx.Done()
		defer stopStore()
		defer func() { <-kept }()
		s.shutDown(ctx, server)
		return nil
	})
	s.log.Info("Serving", "address", listener.Addr().String())
	return group.Wait()
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
	certificates, err := s.servingCertificates()
	if err != nil {
		return nil, err
	}
	return certificates.config(s.cfg), nil
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
	return linger.Listen(listener), nil
}

// port is the port that was really taken.
func (s *Server) port() int { return s.address.(*net.TCPAddr).Port }
