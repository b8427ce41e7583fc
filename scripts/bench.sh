#!/usr/bin/env bash
# Figures of this machine, all in one run, so that they can be compared with
# each other. Absolute times of a shared machine mean little; ratios mean more.
set -euo pipefail
cd "$(dirname "$0")/.."

export TINYKUBE_DIR=${TINYKUBE_DIR:-/var/lib/tinykube-bench}
bin=$PWD/bin/tinykube
work=$(mktemp -d)
trap '"$bin" down >/dev/null; rm -rf "$work"' EXIT
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }

echo "== From nothing to a cluster (3 nodes)"
start=$(now)
"$bin" up --nodes 3 --api-port 26443 --publish 28080:30080 | grep '✓'
printf 'tinykube up, until DNS answers on every node: %s s\n' "$(since "$start")"

echo; echo "== From kubectl apply to an answer (podinfo: frontend, DNS, Service, backend)"
cp -R examples/demo "$work/app"; cp -R internal/payload/data/manifests/podinfo/webapp "$work/app/"
start=$(now)
"$bin" kubectl apply -k "$work/app" >/dev/null
printf 'kubectl apply returned after %s s\n' "$(since "$start")"
until curl -fsS --max-time 5 -d x http://127.0.0.1:28080/api/echo >/dev/null 2>&1; do sleep 0.1; done
printf 'the first answer came after %s s (podinfo declares initialDelaySeconds: 5)\n' "$(since "$start")"
"$bin" kubectl create deployment quick --image=tinykube.local/podinfo:6.9.2 --replicas=1 >/dev/null
start=$(now)
"$bin" kubectl rollout status deployment/quick --timeout=60s >/dev/null
printf 'a Deployment without probes was available after %s s\n' "$(since "$start")"
start=$(now)
"$bin" kubectl scale deployment/quick --replicas=50 >/dev/null
"$bin" kubectl rollout status deployment/quick --timeout=300s >/dev/null
printf '50 replicas of it on two workers after %s s\n' "$(since "$start")"
"$bin" kubectl delete deployment quick --cascade=foreground >/dev/null

echo; echo "== Resident memory, MiB (shared pages of the one binary count in each process)"
printf '%-34s %5s %7s %7s\n' program count RSS private
for group in $(sed -n 's/.*"CgroupRoot": "\(.*\)".*/\1/p' "$TINYKUBE_DIR"/nodes/*/spec.json); do
	for mount in /sys/fs/cgroup /sys/fs/cgroup/pids; do
		if [ -d "$mount$group" ]; then find "$mount$group" -name cgroup.procs -exec cat {} + | sort -un; fi
	done
done | while read -r pid; do
	cmdline=$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") || continue # ended meanwhile
	name=$(awk '{ n = split($1, a, "/"); p = a[n]; print (p == "tinykube" ? "tinykube " $2 : p) }' <<<"$cmdline")
	awk -v name="$name" '/^RssAnon/ { anon = $2 } /^VmRSS/ { rss = $2 } END { printf "%-34s %7.1f %7.1f\n", name, rss / 1024, anon / 1024 }' "/proc/$pid/status" 2>/dev/null || continue
done | awk '{ k = $1 (NF > 3 ? " " $2 : ""); n[k]++; r[k] += $(NF-1); a[k] += $NF }
	END { for (k in n) printf "%-34s %5d %7.1f %7.1f\n", k, n[k], r[k] / n[k], a[k] / n[k] }' | sort

"$bin" down
trap 'rm -rf "$work"' EXIT

echo; echo "== API server beside raw etcd and a bare TLS handler"
go test -run "^$" -bench . -benchtime 1x ./apiserver/bench # KUBE_APISERVER=path adds a real one
echo; echo "== Schedulers, each a process, on one API server" # KUBE_SCHEDULER=path adds a real one
if [ -n "${KUBE_SCHEDULER:-}" ]; then export KUBE_SCHEDULER=$(realpath "$KUBE_SCHEDULER"); fi
go test -C test -run '^$' -bench Schedulers -benchtime 1x -timeout 60m ./swap
echo; echo "== Scheduler, in this process"
go test -run '^$' -bench . -benchtime 1000x ./scheduler
echo; echo "== A thousand hollow nodes; controllers, each a process" # KUBE_CONTROLLER_MANAGER=path adds a real one
if [ -n "${KUBE_CONTROLLER_MANAGER:-}" ]; then export KUBE_CONTROLLER_MANAGER=$(realpath "$KUBE_CONTROLLER_MANAGER"); fi
go test -C test -run '^$' -bench . -benchtime 1x -timeout 60m ./hollow | grep -v -e '^goos' -e '^goarch' -e '^cpu'
echo; echo "== Services as rules"
go test -run '^$' -bench . -benchtime 5x ./proxy/...
echo; echo "== CNI: one pod's bridge plugin with host-local" # CNI_BIN=folder adds the reference plugins
if [ -n "${CNI_BIN:-}" ]; then export CNI_BIN=$(realpath "$CNI_BIN"); fi
go test -run '^$' -bench . -benchtime 100x ./cni/... | grep ^Benchmark
echo; echo "== The wire between pods of two nodes" # FLANNELD=path adds a real one
if [ -n "${FLANNELD:-}" ]; then export FLANNELD=$(realpath "$FLANNELD"); fi
go test -C test -run '^$' -bench Wire -benchtime 1x ./swap/flannel | grep -v -e '^goos' -e '^goarch' -e '^cpu' -e '^pkg' -e '^Benchmark' -e '^PASS'
echo; echo "== Kubelets on their runtimes: from bound to Running, 50 at once, a node with 110" # KUBELET=path adds a real one, on containerd's
if [ -n "${KUBELET:-}" ]; then export KUBELET=$(realpath "$KUBELET"); fi
go test -C test -run '^$' -bench Kubelets -benchtime 1x -timeout 30m ./critest | grep -v -e '^goos' -e '^goarch' -e '^cpu' -e '^Benchmark' -e '^PASS'
echo; echo "== kube-proxies, each a process, on one API server" # KUBE_PROXY=path adds a real one
if [ -n "${KUBE_PROXY:-}" ]; then export KUBE_PROXY=$(realpath "$KUBE_PROXY"); fi
go test -C test -run '^$' -bench Proxies -benchtime 1x -timeout 30m ./swap/proxy | grep -v -e '^goos' -e '^goarch' -e '^cpu' -e '^Benchmark' -e '^PASS'
echo; echo "== CRI servers, ours and containerd's own, beside runc and a plugin alone"
go test -C test -run '^$' -bench Runtimes -benchtime 1x ./critest | grep -v -e '^goos' -e '^goarch' -e '^cpu' -e '^Benchmark' -e '^PASS'
echo; echo "== From a claim to a running pod, beside the driver's own calls" # CSI_SIDECARS=folder adds the real sidecars
if [ -n "${CSI_SIDECARS:-}" ]; then export CSI_SIDECARS=$(realpath "$CSI_SIDECARS"); fi
go test -C test -count=1 -run '^TestSpeedOfClaims$' -timeout 30m ./swap | grep -v -e '^PASS' -e '^ok'
