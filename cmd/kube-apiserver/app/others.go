package app

import (
	"github.com/spf13/pflag"

	"tinykube/internal/flags"
)

// refusals are the flags that promise what we would not do, and what that is.
var refusals = map[string]string{
	"authorization-webhook-config-file":           "no webhook would be asked",
	"authentication-token-webhook-config-file":    "no webhook would be asked",
	"audit-webhook-config-file":                   "no webhook would hear of any event",
	"audit-log-compress":                          "old files would not be compressed",
	"audit-log-truncate-enabled":                  "large events would not be cut",
	"admission-control":                           "say --enable-admission-plugins",
	"admission-control-config-file":               "its plugins' configuration would not be applied",
	"authorization-config":                        "its rules would not be applied",
	"authorization-policy-file":                   "its rules would not be applied",
	"authentication-config":                       "its rules would not be applied",
	"egress-selector-config-file":                 "connections would not go where it says",
	"encryption-provider-config-automatic-reload": "a changed file is read at the next start",
	"etcd-servers-overrides":                      "everything is in the etcd of --etcd-servers",
	"kubernetes-service-node-port":                "the Service kubernetes has a cluster IP only",
	"max-connection-bytes-per-sec":                "connections would not be slowed down",
	"oidc-issuer-url":                             "OpenID Connect tokens would not be checked",
	"service-account-signing-endpoint":            "tokens are signed with --service-account-signing-key-file",
}

// addOtherFlags declares what we know, and refuse or do not need.
func addOtherFlags(fs *pflag.FlagSet) {
	for name, why := range refusals {
		flags.Refuse(fs, name, why)
	}
	flags.AcceptIgnored(fs, flags.Metrics...)
	flags.AcceptIgnored(fs,
		"feature-gates", "emulated-version", "min-compatibility-version", "storage-backend", "storage-initialization-timeout",
		"default-watch-cache-size", "watch-cache-sizes", "delete-collection-workers",
		"endpoint-reconciler-type", "apiserver-count", "event-ttl-jitter", "kubelet-timeout", "kubelet-port",
		"cors-allowed-origins", "debug-socket-path", "tracing-config-file",
		"etcd-count-metric-poll-period", "etcd-db-metric-poll-interval", "etcd-healthcheck-timeout", "etcd-readycheck-timeout",
		"livez-grace-period", "lease-reuse-duration-seconds", "shutdown-watch-termination-grace-period",
		"coordinated-leadership-lease-duration", "coordinated-leadership-renew-deadline", "coordinated-leadership-retry-period",
		"peer-advertise-ip", "peer-advertise-port", "peer-ca-file",
		// These say more about flags that are refused.
		"authentication-token-webhook-cache-ttl", "authentication-token-webhook-version",
		"authorization-webhook-cache-authorized-ttl", "authorization-webhook-cache-unauthorized-ttl", "authorization-webhook-version",
		"oidc-ca-file", "oidc-client-id", "oidc-groups-claim", "oidc-groups-prefix", "oidc-required-claim", "oidc-signing-algs",
		"oidc-username-claim", "oidc-username-prefix", "audit-log-truncate-max-batch-size", "audit-log-truncate-max-event-size",
		"audit-webhook-initial-backoff", "audit-webhook-mode", "audit-webhook-version",
		"audit-webhook-truncate-max-batch-size", "audit-webhook-truncate-max-event-size")
	for _, log := range []string{"audit-log-batch-", "audit-webhook-batch-"} {
		flags.AcceptIgnored(fs, log+"buffer-size", log+"max-size", log+"max-wait", log+"throttle-burst", log+"throttle-qps")
		flags.AcceptIgnoredBool(fs, log+"throttle-enable")
	}
	flags.AcceptIgnoredBool(fs, "contention-profiling", "watch-cache",
		"enable-garbage-collector", "permit-address-sharing", "permit-port-sharing",
		"service-account-lookup", "service-account-extend-token-expiration", "enable-logs-handler",
		"aggregator-reject-forwarding-redirect", "audit-webhook-truncate-enabled",
		"emulation-forward-compatible", "runtime-config-emulation-forward-compatible",
		"send-retry-after-while-not-ready-once", "shutdown-send-retry-after")
}
