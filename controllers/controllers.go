package controllers

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"

	"tinykube/client"
	"tinykube/controllers/certificates"
	"tinykube/controllers/endpointslice"
	"tinykube/controllers/harness"
	"tinykube/controllers/nodeipam"
	"tinykube/controllers/nodelifecycle"
	"tinykube/controllers/serviceaccounttoken"
)

// Config says which controllers run, and how.
type Config struct {
	Controllers []string // as for --controllers; empty means "*"
	// Election is used if its Identity is set.
	Election client.ElectionConfig
	// API is how to reach the server. It is needed beside the client only for
	// controllers with identities of their own.
	API *client.Config
	// OwnIdentities makes each controller act as its own service account.
	OwnIdentities bool

	AllocateNodeCIDRs      bool
	NodeIPAM               nodeipam.Config
	NodeLifecycle          nodelifecycle.Config
	EndpointSlice          endpointslice.Config
	TerminatedPodThreshold int
	RootCA                 string // PEM; empty publishes nothing
	GarbageCollector       bool
	// TokenSigner signs tokens into Secrets; nil leaves such Secrets empty.
	TokenSigner *serviceaccounttoken.Signer
	Signing     certificates.SigningConfig
}

// Manager is the controller manager.
type Manager struct {
	cfg     Config
	client  *client.Client
	log     *slog.Logger
	harness *harness.Manager
}

// New makes a Manager.
func New(cfg Config, log *slog.Logger) (*Manager, error) {
	api, err := client.New(cfg.API)
	if err != nil {
		return nil, err
	}
	selection, err := Select(cfg.Controllers)
	if err != nil {
		return nil, err
	}
	for _, name := range selection.Missing {
		log.Warn("This controller is not there yet and does not run", "name", name)
	}
	if cfg.AllocateNodeCIDRs && slices.Contains(selection.Run, "node-ipam-controller") {
		if err := cfg.NodeIPAM.Validate(); err != nil {
			return nil, fmt.Errorf("node IPAM: %w", err)
		}
	}
	var clientFor func(string) *client.Client
	if cfg.OwnIdentities {
		clientFor = accounts{cfg.API, api}.clientFor
	}
	m := &Manager{cfg: cfg, client: api, log: log, harness: harness.New(api, clientFor, log)}
	for _, e := range registry {
		if slices.Contains(selection.Run, e.name) {
			e.register(m.harness, &cfg)
		}
	}
	return m, nil
}

// Run runs the controllers until ctx ends: at once, or while this process is
// the leader. Losing the lease is an error: only a new process can be sure not
// to act on what it believed before.
func (m *Manager) Run(ctx context.Context) error {
	if m.cfg.Election.Identity == "" {
		return m.harness.Run(ctx)
	}
	m.cfg.Election.Logger = m.log
	return client.NewElector(m.client, m.cfg.Election).Run(ctx, m.harness.Run)
}

// Ready is closed when every cache is filled and all controllers work.
func (m *Manager) Ready() <-chan struct{} { return m.harness.Ready() }

// Metrics serves metrics in Prometheus' text format.
func (m *Manager) Metrics() http.Handler { return m.harness.MetricsHandler() }
