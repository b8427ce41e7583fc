#!/usr/bin/env bash
# Removes the demo's cluster and shows that nothing is left: what a cluster
# could leave on a machine, listed before and after, differs in nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
bin/tinykube down
[ -e bin/demo/traces.before ] || { echo "no list from before: the demo has not run here"; exit 0; }
bin/tinykube traces >bin/demo/traces.after
echo '$ diff bin/demo/traces.before bin/demo/traces.after'
diff bin/demo/traces.before bin/demo/traces.after
echo "(no difference: $(wc -l <bin/demo/traces.after) lines each)"
rm -rf bin/demo
