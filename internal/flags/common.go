package flags

// Metrics are upstream's flags about which figures to show. We show all of
// ours, so they change nothing.
var Metrics = []string{"allow-metric-labels", "allow-metric-labels-manifest", "disabled-metrics", "show-hidden-metrics-for-version"}
