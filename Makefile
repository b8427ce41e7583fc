# tinykube's build. `make help` lists what there is to do; each group of targets has its own section below.
#
#   payload modules ──go build──▶ bin/payload/* ──pack──▶ internal/payload/data/* ──go:embed──▶ bin/tinykube
#
# Everything a target makes lies in bin/ and internal/payload/data/, both ignored by git. Files are real targets with
# real prerequisites, so an unchanged part is never built again; Go's own cache does the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := build

GO      ?= go
BIN     := bin
PARTS   := $(BIN)/payload
DATA    := internal/payload/data
UPSTREAM := containerd containerd-shim-runc-v2 runc coredns podinfo podcli podinfo.vue.html tools tools.commands
OURS    := pause $(if $(wildcard cmd/cni/main.go),cni)

# One way to call the compiler: no symbol tables, no paths and no times of this machine, no version control.
# Tests and lint use the same settings, so that all share what Go's cache has compiled.
export GOFLAGS := -buildvcs=false -trimpath
export CGO_ENABLED := 0
LDFLAGS := -s -w -buildid=
# The embedded kubectl says of what release it is.
KUBECTL_VERSION := $(shell awk '$$1 == "k8s.io/kubectl" {sub("v0", "v1", $$2); print $$2}' go.mod)
KUBECTL_LDFLAGS := $(addprefix -X k8s.io/component-base/version.,gitVersion=$(KUBECTL_VERSION) gitMajor=1 gitMinor=$(word 2,$(subst ., ,$(KUBECTL_VERSION))) gitCommit= gitTreeState=)
# $(call go-build,FOLDER): a static program out of the Go module in FOLDER; -o is then relative to it.
go-build = $(GO) build -C $(1) -ldflags '$(LDFLAGS)'

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9A-Z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##---- Build ----------------------------------------------------------------------------------------------------------

.PHONY: deps build payload clean
deps: ## install the system packages that are missing (Debian, Ubuntu; as root)
	@scripts/deps.sh

# What of the main module has changed is Go's to know, so it is asked every time.
# The payload's modules are built two at a time: one downloads or links while another compiles.
build: ## build bin/tinykube with everything in it
	@$(MAKE) --no-print-directory -j2 payload
	$(GO) build -ldflags '$(LDFLAGS) $(KUBECTL_LDFLAGS)' -o $(BIN)/tinykube ./cmd/tinykube
	@ls -l $(BIN)/tinykube | awk '{printf "bin/tinykube: %.1f MB\n", $$5/1e6}'

clean: ## remove what was built
	rm -rf $(BIN)
	find $(DATA) -mindepth 1 ! -name README.md ! -name .gitignore -delete

##---- Payload --------------------------------------------------------------------------------------------------------
# Each folder payload/NAME is a Go module of its own: its go.mod pins what we carry, its go.sum what that is made of.

payload: $(DATA)/built ## build only what travels inside bin/tinykube

# Built programs depend on the compiler's version too: this file changes only when that does.
$(PARTS)/go-version: FORCE
	@mkdir -p $(PARTS)
	@$(GO) env GOVERSION GOARCH | cmp -s - $@ || $(GO) env GOVERSION GOARCH > $@
.PHONY: FORCE
FORCE:

# The shim and runc start anew for every pod and container: what is not in them need not be initialized each time. The
# shim speaks ttrpc, never gRPC, and nobody asks runc for a checkpoint.
TAGS-containerd := no_btrfs,no_devmapper,no_zfs,no_aufs
TAGS-containerd-shim-runc-v2 := no_grpc
TAGS-runc := seccomp,netgo,osusergo,urfave_cli_no_docs,runc_nocriu
$(PARTS)/tags: FORCE $(PARTS)/go-version
	@echo '$(TAGS-containerd-shim-runc-v2) $(TAGS-runc)' | cmp -s - $@ || echo '$(TAGS-containerd-shim-runc-v2) $(TAGS-runc)' > $@
$(PARTS)/containerd-shim-runc-v2 $(PARTS)/runc: $(PARTS)/tags

$(PARTS)/containerd $(PARTS)/containerd-shim-runc-v2: $(PARTS)/%: payload/containerd/go.mod payload/containerd/go.sum $(PARTS)/go-version
	$(call go-build,payload/containerd) -tags $(TAGS-$*) -o $(CURDIR)/$@ github.com/containerd/containerd/v2/cmd/$*

# runc enters namespaces in C, before Go's threads exist, and filters system calls with libseccomp: cgo, linked statically.
$(PARTS)/runc: payload/runc/go.mod payload/runc/go.sum $(PARTS)/go-version
	CGO_ENABLED=1 $(GO) build -C payload/runc -tags $(TAGS-runc) -ldflags '$(LDFLAGS) -extldflags -static' \
		-o $(CURDIR)/$@ github.com/opencontainers/runc

$(PARTS)/coredns: $(wildcard payload/coredns/*) $(PARTS)/go-version
	$(call go-build,payload/coredns) -o $(CURDIR)/$@ .

$(PARTS)/podinfo $(PARTS)/podcli: $(PARTS)/%: payload/podinfo/go.mod payload/podinfo/go.sum $(PARTS)/go-version
	$(call go-build,payload/podinfo) -o $(CURDIR)/$@ github.com/stefanprodan/podinfo/cmd/$*

# What else podinfo brings: the page it serves, and the manifests that the demo applies. $(call podinfo-files) is its
# folder in Go's module cache, where files are read-only; on a new machine nobody may have asked for it yet.
podinfo-files = $$($(GO) mod download -C payload/podinfo github.com/stefanprodan/podinfo && \
	$(GO) list -C payload/podinfo -m -f '{{.Dir}}' github.com/stefanprodan/podinfo)
$(PARTS)/podinfo.vue.html: payload/podinfo/go.mod payload/podinfo/go.sum
	@mkdir -p $(PARTS)
	install -m 644 $(podinfo-files)/ui/vue.html $@
$(DATA)/manifests/podinfo: payload/podinfo/go.mod payload/podinfo/go.sum
	rm -rf $@
	mkdir -p $@
	cp -R --no-preserve=mode,ownership $(podinfo-files)/deploy/webapp $@/
	touch $@

# The shell and its tools in one program: makebb turns commands' mains into functions of one main. Which commands of
# u-root's is said by the tool directives in payload/tools/go.mod; ours lie beside it.
TOOLS_OURS := $(patsubst payload/tools/%/main.go,%,$(wildcard payload/tools/*/main.go))
TOOLS_SOURCES := $(filter-out %_test.go,$(wildcard payload/tools/go.* payload/tools/aliases payload/tools/*/*.go))
$(PARTS)/tools.commands: $(TOOLS_SOURCES)
	@mkdir -p $(PARTS)
	{ awk '$$1 ~ /u-root\/cmds\// {print $$1}' payload/tools/go.mod; printf '%s\n' $(TOOLS_OURS); cat payload/tools/aliases; } > $@
# makebb only writes the source, outside of any module; its own way of building it compiles Go's whole library anew.
$(PARTS)/tools: $(PARTS)/tools.commands $(TOOLS_SOURCES) $(PARTS)/go-version
	rm -rf $@.src
	cd payload/tools && $(GO) tool makebb -g -o $(CURDIR)/$@ -gen-dir $(CURDIR)/$@.src \
		$$(awk '$$1 ~ /u-root\/cmds\// {print $$1}' go.mod) $(addprefix ./,$(TOOLS_OURS)) > $(CURDIR)/$@.log 2>&1 || { cat $(CURDIR)/$@.log; exit 1; }
	cd $@.src/src/bb.u-root.com/bb && GO111MODULE=off GOPATH=$(CURDIR)/$@.src $(GO) build -ldflags '$(LDFLAGS)' -o $(CURDIR)/$@ .
	rm -rf $@.src

# Our own programs: Go knows better than make when they change, so they are always asked for and replaced only by
# something different.
$(addprefix $(PARTS)/,$(OURS)): $(PARTS)/%: FORCE $(PARTS)/go-version
	@$(call go-build,.) -o $@.new ./cmd/$*
	@cmp -s $@.new $@ && rm $@.new || mv -v $@.new $@

# The order of files matters: those that share code should be near each other.
PACKER := internal/payload/pack/main.go internal/payload/format.go
$(DATA)/upstream.tar.zst: $(addprefix $(PARTS)/,$(UPSTREAM)) $(PACKER)
# One after the other: the packer is compiled with the package that embeds what is being packed.
$(DATA)/ours.tar.zst: $(addprefix $(PARTS)/,$(OURS)) $(PACKER) | $(DATA)/upstream.tar.zst
$(DATA)/%.tar.zst:
	$(GO) run ./internal/payload/pack $@ $(filter $(PARTS)/%,$^)

$(DATA)/built: $(DATA)/upstream.tar.zst $(DATA)/ours.tar.zst $(DATA)/manifests/podinfo
	@touch $@

##---- A cluster ------------------------------------------------------------------------------------------------------

.PHONY: demo demo-down
demo: deps build ## bring up three nodes and run a real application on them
	@scripts/demo.sh

demo-down: ## remove the demo without a trace, and show it
	@scripts/demo-down.sh

##---- Test -----------------------------------------------------------------------------------------------------------

# kwok is a fake kubelet of others, and the stages that its nodes and pods go through, from its pinned Go module.
.PHONY: kwok
kwok: $(BIN)/kwok $(BIN)/kwok-stages.yaml
$(BIN)/kwok: test/kwok/go.mod test/kwok/go.sum $(PARTS)/go-version
	$(call go-build,test/kwok) -o $(CURDIR)/$@ sigs.k8s.io/kwok/cmd/kwok
KWOK_STAGES := node/fast/node-initialize node/heartbeat-with-lease/node-heartbeat-with-lease pod/fast/pod-ready pod/fast/pod-complete pod/fast/pod-delete
$(BIN)/kwok-stages.yaml: test/kwok/go.mod $(BIN)/kwok
	for stage in $(KWOK_STAGES); do echo ---; cat "$$($(GO) list -C test/kwok -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage/$$stage.yaml"; done > $@

.PHONY: test test-all fuzz sizes lint e2e e2e-containerd labs vm bench smoke-swap
test: lint build kwok e2e labs ## all that must be true of every commit: vet, staticcheck, unit tests, a whole cluster
	TINYKUBE_MUST_RUN=1 $(GO) test ./...
	$(GO) test -C payload/tools ./...
	$(GO) test -C test ./informers/... ./hollow/... ./csi/...

SWAP_NAMES := KUBE_SCHEDULER KUBE_CONTROLLER_MANAGER KUBECTL KUBE_APISERVER KUBELET KUBE_PROXY FLANNELD CNI_BIN CSI_DRIVER CSI_SIDECARS METRICS_SERVER
SWAP_PROGRAMS := $(strip $(foreach name,$(SWAP_NAMES),$($(name))))
test-all: test fuzz e2e-containerd vm $(if $(SWAP_PROGRAMS),smoke-swap,no-swap) $(if $(CRITEST),critest) ## what takes longer: fuzzing, the race detector, mistakes in exercises, another runtime, another kernel, smoke-swap and critest if a program is given
	$(GO) test -tags mutants -timeout 60m ./labs/grade
	$(GO) test -count=1 -v -timeout 60m ./controllers -run '^TestMatrix$$' -every-write
	$(GO) test -C test -count=1 -v -timeout 30m ./swap -run '^Test(VolumesFollowPods|RoomDecides)$$'
	FAULTS=3m $(GO) test -count=1 -v -timeout 20m ./apiserver/faults
	$(GO) test -C test -count=1 -v -timeout 120m ./swap -run '^TestStartOrders$$' -orders 120
	$(GO) test -count=1 -v -timeout 60m ./cmd/kubelet/app -run '^TestKillSoak$$' -kills 2000
	CGO_ENABLED=1 $(GO) test -race ./client/... ./scheduler/... ./controllers/... ./apiserver/... ./kubelet/... ./cri/... ./proxy/... ./flannel/...

FUZZTIME ?= 10s
fuzz: ## every fuzz test for FUZZTIME
	@grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z]*' . | sed 's|/[^/]*:func | |' | sort | while read -r package name; do \
		echo "$$package $$name"; $(GO) test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) "$$package"; done

sizes: ## lines of each folder beside its budget
	@$(GO) test ./internal/lint -count=1 -run '^TestSizes$$' -v | grep -v -e '^=' -e '^-' -e '^ok' -e PASS

lint: ## vet and staticcheck, pinned; the rules of the code guide are tests in internal/lint
	$(GO) vet ./...
	$(GO) build -C internal/lint/tools -o $(CURDIR)/$(BIN)/staticcheck honnef.co/go/tools/cmd/staticcheck
	$(BIN)/staticcheck ./...
	for module in payload/tools payload/coredns; do $(GO) vet -C $$module ./...; (cd $$module && $(CURDIR)/$(BIN)/staticcheck ./...); done

e2e: build ## a cluster under faults, as its users see it, and one that starts in the wrong order
	$(GO) test -C test -count=1 -v -timeout 25m ./e2e/...
	$(GO) test -C test -count=1 -v -timeout 25m ./swap -run '^TestStartOrders$$'

labs: build ## every lab of the course on one cluster; make lab-01 is one, on the running cluster
	$(GO) test -C test -count=1 -v -timeout 15m ./labs/...

lab-%: build
	$(BIN)/tinykube lab run $*

e2e-containerd: build ## the same with the CRI plugin of containerd in the place of our CRI server
	TINYKUBE_E2E_UP='--container-runtime-endpoint unix:///run/containerd/containerd.sock' \
		$(GO) test -C test -count=1 -v -timeout 25m ./e2e/... -skip '^Test(Kill|OtherRuntime)'

# Another kernel, for what this machine's may lack: IPVS, cgroup v2. It is emulated, and so takes minutes.
vm: build $(BIN)/vm/boot $(BIN)/critest-nginx ## tests in a virtual machine (QEMU, without KVM and without root)
	$(GO) test -C test -count=1 -v -timeout 100m ./vm/...
$(BIN)/vm/boot: scripts/vm-kernel.sh
	scripts/vm-kernel.sh $(BIN)/vm

bench: build $(BIN)/critest-nginx ## figures of this machine, in one run
	@scripts/bench.sh

# cri-tools' suite for container runtimes, built by `make critest` in its own repository.
.PHONY: critest
critest: build $(BIN)/critest-nginx ## the suite for container runtimes on our CRI server and on containerd's: CRITEST=path
	@test -x "$(CRITEST)" || { echo "usage: make critest CRITEST=path (of cri-tools v1.36)" >&2; exit 1; }
	@scripts/deps.sh critest
	CRITEST=$(abspath $(CRITEST)) $(GO) test -C test -count=1 -v -timeout 40m ./critest

$(BIN)/critest-nginx: test/critest/nginx/main.go $(PARTS)/go-version
	$(GO) build -C test -ldflags '$(LDFLAGS)' -o $(CURDIR)/$@ ./critest/nginx

# Each program that is given has its tests.
SWAP_TESTS := $(if $(KUBE_SCHEDULER),RealScheduler CompareScheduler) $(if $(KUBE_CONTROLLER_MANAGER),RealControllerManager) $(if $(KUBECTL),RealKubectl) $(if $(KUBE_APISERVER),TradingPlaces) \
	$(if $(KUBELET),RealKubelet) $(if $(KUBE_PROXY),RealKubeProxy) $(if $(FLANNELD),RealFlanneld) $(if $(CNI_BIN),RealPlugins) $(if $(CSI_DRIVER),RealCSI) $(if $(METRICS_SERVER),RealMetricsServer)
smoke-swap: swap-programs build ## real programs in the place of ours, those that are given: KUBE_SCHEDULER=path KUBECTL=path … (see its usage)
	$(if $(strip $(SWAP_TESTS)),$(foreach name,$(SWAP_NAMES),$(name)=$(abspath $($(name)))) \
		$(GO) test -C test -count=1 -v -timeout 25m ./swap/... -run '^Test($(subst $() ,|,$(strip $(SWAP_TESTS))))')
	$(if $(KUBECTL),KUBECTL=$(abspath $(KUBECTL)) $(GO) test -C test -count=1 -v -timeout 15m ./e2e -run '^TestKubectl$$/^installed$$')
	$(if $(CNI_BIN),CNI_BIN=$(abspath $(CNI_BIN)) $(GO) test -count=1 -v ./cni)
# Programs of others that can be built from their Go modules: flanneld without the cloud's backends, whose modules may be
# out of reach, the reference CNI plugins, and the metrics-server that kubectl top asks.
.PHONY: upstream
upstream: $(BIN)/upstream/flanneld $(BIN)/upstream/cni/bridge $(BIN)/upstream/metrics-server ## build them: FLANNELD=bin/upstream/flanneld CNI_BIN=bin/upstream/cni METRICS_SERVER=bin/upstream/metrics-server
# The images that flannel's own manifest names, for `tinykube node load`; PLUGIN is the CNI plugin flannel, FLANNELD the daemon.
.PHONY: flannel-images
flannel-images: $(if $(FLANNELD),,$(BIN)/upstream/flanneld) $(PARTS)/cni ## archives in bin/images of what kube-flannel.yml names: [FLANNELD=path] [PLUGIN=path]
	$(GO) build -C test -ldflags '$(LDFLAGS)' -o $(CURDIR)/$(BIN)/upstream/ ./upstream/cp
	$(GO) run -C test ./upstream/images -flanneld $(abspath $(or $(FLANNELD),$(BIN)/upstream/flanneld)) \
		-plugin $(abspath $(or $(PLUGIN),$(PARTS)/cni)) -cp $(CURDIR)/$(BIN)/upstream/cp $(CURDIR)/$(BIN)/images
flannel-source = $$($(GO) mod download -C test/upstream/flanneld github.com/flannel-io/flannel && $(GO) list -C test/upstream/flanneld -m -f '{{.Dir}}' github.com/flannel-io/flannel)
$(BIN)/upstream/flanneld: test/upstream/flanneld/go.mod test/upstream/flanneld/go.sum $(PARTS)/go-version
	rm -rf $@.src && mkdir -p $@.src && cp test/upstream/flanneld/go.mod test/upstream/flanneld/go.sum $@.src
	sed -E '/pkg\/backend\/(alivpc|awsvpc|gce|tencentvpc)"/d' $(flannel-source)/main.go > $@.src/main.go
	CGO_ENABLED=1 $(GO) build -C $@.src -tags netgo,osusergo -ldflags '$(LDFLAGS) -extldflags -static' -o $(CURDIR)/$@ . # its udp backend is C
$(BIN)/upstream/cni/bridge: test/upstream/cni/go.mod test/upstream/cni/go.sum $(PARTS)/go-version
	for plugin in main/bridge main/loopback ipam/host-local meta/portmap; do \
		$(call go-build,test/upstream/cni) -o $(CURDIR)/$(@D)/ github.com/containernetworking/plugins/plugins/$$plugin; done
$(BIN)/upstream/metrics-server: test/upstream/metrics-server/go.mod test/upstream/metrics-server/go.sum $(PARTS)/go-version
	$(call go-build,test/upstream/metrics-server) -o $(CURDIR)/$@ sigs.k8s.io/metrics-server/cmd/metrics-server
# What the real scheduler decided is replayed by the tests of scheduler/simulate; RECORD=1 records it anew.
SCHEDULER_RECORD := $(CURDIR)/scheduler/simulate/testdata/real-v1.36.json.gz
.PHONY: compare-scheduler
compare-scheduler: ## a real scheduler beside ours over 1,000 random clusters: KUBE_SCHEDULER=path [CLUSTERS=1000] [RECORD=1]
	@test -x "$(KUBE_SCHEDULER)" || { echo "usage: make compare-scheduler KUBE_SCHEDULER=path (of Kubernetes v1.36)" >&2; exit 1; }
	KUBE_SCHEDULER=$(abspath $(KUBE_SCHEDULER)) $(GO) test -C test -count=1 -v -timeout 60m ./swap -run '^TestCompareScheduler$$' \
		-clusters $(or $(CLUSTERS),1000) $(if $(RECORD),-record $(SCHEDULER_RECORD))

.PHONY: swap-programs no-swap
SWAP_USAGE := make smoke-swap [KUBE_SCHEDULER=path] [KUBE_CONTROLLER_MANAGER=path] [KUBECTL=path] [KUBE_APISERVER=path] [KUBELET=path] [KUBE_PROXY=path] [FLANNELD=path] [CNI_BIN=folder] [CSI_DRIVER=path CSI_SIDECARS=folder] [METRICS_SERVER=path] (programs of Kubernetes v1.36, of flannel, of the CNI project, of kubernetes-csi and of its SIG for instrumentation, one of them at least; make upstream builds FLANNELD, CNI_BIN and METRICS_SERVER)
swap-programs:
	@test -n "$(SWAP_PROGRAMS)" || { echo "usage: $(SWAP_USAGE)" >&2; exit 1; }
	@for program in $(SWAP_PROGRAMS); do test -x "$$program" || { echo "$$program is not a program" >&2; exit 1; }; done
no-swap:
	@echo "left out, since no program is given: $(SWAP_USAGE)"
