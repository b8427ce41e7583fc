#!/usr/bin/env bash
# The demo: a real cluster, a real application, a rolling update under load.
# `make demo` runs it; every command it shows can be typed by hand.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=$PWD/bin/tinykube
work=bin/demo
url=http://127.0.0.1:8080
started=$SECONDS

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
# show prints a command as a user would type it, then runs it.
show() { printf '$ %s\n' "$*"; "$@"; }
tinykube() { "$bin" "$@"; }
kubectl() { "$bin" kubectl "$@"; }

mkdir -p "$work"
# What is on this machine before there is a cluster, for demo-down to compare.
[ -e "${TINYKUBE_DIR:-/var/lib/tinykube}/cluster.json" ] || tinykube traces >"$work/traces.before"

say "A cluster of three nodes"
show tinykube up --nodes 3 --publish 8080:30080

say "podinfo's webapp: a frontend that calls a backend"
rm -rf "$work/app" && cp -R examples/demo "$work/app"
cp -R internal/payload/data/manifests/podinfo/webapp "$work/app/"
show kubectl apply -k "$work/app"
show kubectl -n webapp rollout status deployment/backend --timeout=180s
show kubectl -n webapp rollout status deployment/frontend --timeout=180s
show kubectl -n webapp get pods -o wide

say "One request: NodePort -> frontend -> (DNS) -> Service backend -> backend"
answer() { curl -fsS --max-time 10 "$@"; }
for _ in $(seq 100); do answer -o /dev/null "$url/readyz" 2>/dev/null && break; sleep 0.2; done
printf "$ %s\n" "curl $url/ | head -n 12"
answer "$url/" | head -n 12
printf '$ %s\n' "curl -d 'hello from outside' $url/api/echo"
answer -d 'hello from outside' "$url/api/echo"; echo

say "The same, watched: which nodes did it cross?"
pod() { kubectl -n webapp get pods -l "app=$1" --field-selector status.phase=Running -o jsonpath="{.items[0]$2}"; }
frontend=$(pod frontend .metadata.name) frontend_node=$(pod frontend .spec.nodeName)
# A backend on the other node than the frontend, so that the call must cross.
kubectl -n webapp scale deployment/backend --replicas=2 >/dev/null
kubectl -n webapp rollout status deployment/backend --timeout=120s >/dev/null
backend_row=$(kubectl -n webapp get pods -l app=backend -o jsonpath='{range .items[*]}{.spec.nodeName} {.status.podIP} {.metadata.name}{"\n"}{end}' | awk -v n="$frontend_node" '$1 != n' | head -n 1)
if [ -n "$backend_row" ]; then
	read -r backend_node backend_ip backend <<<"$backend_row"
	echo "frontend $frontend runs on $frontend_node; backend $backend on $backend_node has the address $backend_ip."
	printf '$ %s\n' "kubectl -n webapp exec $frontend -- wget -qO- http://$backend_ip:9898/env | grep HOSTNAME"
	kubectl -n webapp exec "$frontend" -- wget -qO- "http://$backend_ip:9898/env" | grep HOSTNAME
	echo "That went $frontend_node -> flannel.1 -> vxlan -> $backend_node."
else
	echo "every backend runs on $frontend_node, beside the frontend" >&2
	exit 1
fi

say "Scale and roll while requests keep coming"
: >"$work/ok"; : >"$work/failed"
( while [ ! -e "$work/stop" ]; do
	if answer -d x "$url/api/echo" -o /dev/null 2>>"$work/errors"; then echo >>"$work/ok"; else echo >>"$work/failed"; fi
done ) &
load=$!
trap 'touch "$work/stop"; wait $load 2>/dev/null; rm -f "$work/stop"' EXIT
show kubectl -n webapp scale deployment/frontend --replicas=4
show kubectl -n webapp rollout status deployment/frontend --timeout=180s
show kubectl -n webapp rollout restart deployment/frontend deployment/backend
show kubectl -n webapp rollout status deployment/frontend --timeout=300s
show kubectl -n webapp rollout status deployment/backend --timeout=300s
touch "$work/stop"; wait $load; rm -f "$work/stop"; trap - EXIT
ok=$(wc -l <"$work/ok") failed=$(wc -l <"$work/failed")
echo "$ok requests were answered during that, $failed failed."
[ "$failed" -eq 0 ]
show kubectl -n webapp get deployments,pods -o wide

cat <<TEXT

== What just happened, in $((SECONDS - started)) s

 1. up made three nodes out of namespaces and started containerd, cri and a
    kubelet on each. The first kubelet found four manifests and started etcd,
    kube-apiserver, kube-controller-manager and kube-scheduler, before there
    was any API to ask.
 2. kubectl apply stored two Deployments. The deployment controller made
    ReplicaSets, the replicaset controller made Pods, the scheduler gave each a
    node, that node's kubelet asked cri for a sandbox and a container, and the
    CNI plugins gave it an address.
 3. The endpointslice controller listed who is ready behind each Service;
    kube-proxy on every node turned that into iptables rules; flannel had
    already told every node where the others' pods live.
 4. A request came in at a NodePort, was rewritten to a frontend pod, which
    asked CoreDNS for "backend", called its ClusterIP, and crossed the vxlan.
 5. A rolling update replaced every pod; readiness decided who got requests.

The cluster is still up. Try:

  bin/tinykube kubectl get pods -A -o wide
  bin/tinykube kubectl -n webapp logs deploy/frontend
  bin/tinykube kubectl -n webapp exec -it deploy/frontend -- sh
  bin/tinykube node shell node-1 -- iptables-save -t nat
  bin/tinykube node stop node-2        # pull the plug; watch: kubectl get nodes -w
  make demo-down                       # and nothing is left
TEXT
