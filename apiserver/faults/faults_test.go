// Package faults shows what the API server keeps to while things break: it
// runs two API servers on an etcd of three members, all as processes, lets
// clients write and watch through both, kills, pauses and compacts, and then
// compares all that the clients were told with what etcd says happened.
//
//	writers ──┐                  ┌─▶ etcd ──┐
//	          ├─▶ 2 API servers ─┼─▶ etcd   │ every revision
//	watchers ─┘        ▲         └─▶ etcd   ▼
//	   │               └── faults ──┘     truth
//	   └───────── history ──────────────▶ checker
//
// Writes and reads must be linearizable; a write whose outcome a client was
// not told may have happened or not, but not twice; each watcher sees each
// event once and in order, over all its reconnects; no version goes back.
//
//	FAULTS=2m go test -count=1 -v ./apiserver/faults
//
// goes on for two minutes; without it, every fault happens once.
package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"tinykube/client"
	"tinykube/cmd/kube-apiserver/app"
	"tinykube/internal/etcdtest"
)

// serverVariable makes the test binary a kube-apiserver.
const serverVariable = "TINYKUBE_FAULTS_APISERVER"

func TestMain(m *testing.M) {
	if os.Getenv(serverVariable) == "" {
		etcdtest.Main(m)
		return
	}
	go func() { // the parent holds the other end: when it is gone, so are we
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	if err := app.NewCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const (
	servers, members  = 2, 3
	writers, watchers = 4, 4
	// recovery is how many writes must succeed before the next fault, few how
	// many while something hangs and takes some clients with it.
	recovery, few = 25, 5
	// limit is for a machine that is busy with other things.
	limit = 90 * time.Second
)

// world is what is broken, and who suffers.
type world struct {
	*testing.T
	dir      string
	etcd     *etcdtest.Cluster
	direct   *clientv3.Client
	programs [servers]*exec.Cmd
	clients  [servers]*client.Client
	truth    *truth
	history  *history
}

func newWorld(t *testing.T) *world {
	// Not t.TempDir: etcd may still write into it while it is removed.
	dir, err := os.MkdirTemp("", "tk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{T: t, dir: dir, etcd: etcdtest.StartCluster(t, dir, members), history: &history{began: time.Now()},
		truth: &truth{latest: map[string]state{}}}
	w.direct, err = clientv3.New(clientv3.Config{Endpoints: w.etcd.Endpoints, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.direct.Close() })
	w.eventually("etcd serves", func(ctx context.Context) error {
		_, err := w.direct.Get(ctx, "/")
		return err
	})
	for i := range servers {
		w.startServer(i)
	}
	for i := range servers {
		w.awaitServer(i)
	}
	w.eventually("a namespace", func(ctx context.Context) error {
		_, err := send(ctx, w.clients[0], client.Request{Method: "POST", Path: "/api/v1/namespaces", Body: []byte(`{"metadata":{"name":"` + namespace + `"}}`)})
		return err
	})
	return w
}

// eventually tries until it works.
func (w *world) eventually(what string, try func(ctx context.Context) error) {
	w.Helper()
	for deadline := time.Now().Add(limit); ; {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := try(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("%s: %v", what, err)
		}
		time.Sleep(betweenTries)
	}
}

// startServer runs an API server where it was before.
func (w *world) startServer(i int) {
	w.Helper()
	command := exec.Command(os.Args[0], "--bind-address="+etcdtest.Loopback(), fmt.Sprint("--secure-port=", 16443+i),
		"--etcd-servers="+fmt.Sprintf("%s,%s,%s", w.etcd.Endpoints[0], w.etcd.Endpoints[1], w.etcd.Endpoints[2]),
		"--cert-dir="+w.pki(i), "--service-cluster-ip-range=10.96.0.0/12", "--etcd-compaction-interval=0", "--v=0")
	command.Env = append(os.Environ(), serverVariable+"=yes")
	if _, err := command.StdinPipe(); err != nil {
		w.Fatal(err)
	}
	if err := command.Start(); err != nil {
		w.Fatal(err)
	}
	w.programs[i] = command
	w.Cleanup(func() { kill(command) })
}

func (w *world) pki(i int) string { return filepath.Join(w.dir, fmt.Sprint("pki", i)) }

// awaitServer waits until an API server is ready.
func (w *world) awaitServer(i int) {
	w.Helper()
	w.eventually("an API server", func(ctx context.Context) error {
		if w.clients[i] == nil {
			config, err := client.LoadKubeconfig(filepath.Join(w.pki(i), "admin.conf"))
			if err != nil {
				return err
			}
			if w.clients[i], err = client.New(config); err != nil {
				return err
			}
		}
		_, err := send(ctx, w.clients[i], client.Request{Method: "GET", Path: "/readyz"})
		return err
	})
}

// pick is one of the API servers.
func (w *world) pick(random *rand.Rand) *client.Client { return w.clients[random.IntN(servers)] }

func kill(command *exec.Cmd) {
	command.Process.Kill()
	command.Wait()
}

// faults are what can go wrong. Each ends what it began.
var faults = []struct {
	name string
	do   func(w *world, random *rand.Rand)
}{
	{"kill -9 an API server", func(w *world, random *rand.Rand) {
		i := random.IntN(servers)
		kill(w.programs[i])
		w.startServer(i)
	}},
	{"kill -9 a member of etcd", func(w *world, random *rand.Rand) {
		i := random.IntN(members)
		w.etcd.Member(i).Kill()
		w.progress(few)
		w.etcd.Restart(w.T, i)
	}},
	{"kill -9 all of etcd", func(w *world, _ *rand.Rand) { w.restartEtcd() }},
	{"compact etcd", func(w *world, _ *rand.Rand) { w.compact() }},
	// Its clock jumps, its watches are dead, and what they missed is forgotten.
	{"pause an API server, restart etcd and compact meanwhile", func(w *world, random *rand.Rand) {
		process := w.programs[random.IntN(servers)].Process
		process.Signal(syscall.SIGSTOP)
		defer process.Signal(syscall.SIGCONT)
		w.restartEtcd()
		w.progress(few)
		w.compact()
	}},
	{"pause a member of etcd, and compact", func(w *world, random *rand.Rand) {
		member := w.etcd.Member(random.IntN(members))
		member.Pause()
		defer member.Resume()
		w.progress(few)
		w.compact()
	}},
	{"lose the quorum", func(w *world, random *rand.Rand) {
		alive := random.IntN(members)
		for i := range members {
			if i != alive {
				w.etcd.Member(i).Kill()
			}
		}
		w.noAnswers(random)
		for i := range members {
			if i != alive {
				w.etcd.Restart(w.T, i)
			}
		}
	}},
}

// restartEtcd kills all members at once, so that nobody can take over, and
// starts them again.
func (w *world) restartEtcd() {
	for i := range members {
		w.etcd.Member(i).Kill()
	}
	for i := range members {
		w.etcd.Restart(w.T, i)
	}
}

// progress waits until some more writes have succeeded.
func (w *world) progress(writes int) {
	w.Helper()
	goal := w.history.successes() + writes
	for deadline := time.Now().Add(limit); w.history.successes() < goal; time.Sleep(betweenTries) {
		if time.Now().After(deadline) {
			w.Fatalf("no %d writes succeeded within %s", writes, limit)
		}
	}
}

// compact makes etcd forget all that the truth knows.
func (w *world) compact() {
	w.eventually("compact", func(ctx context.Context) error {
		revision := w.truth.revision()
		_, err := w.direct.Compact(ctx, revision)
		if err != nil && err.Error() == "etcdserver: mvcc: required revision has been compacted" {
			return nil
		}
		return err
	})
}

// noAnswers expects that without a quorum nothing is written, and nothing read
// that claims to be of now; but what asks for any version gets one.
func (w *world) noAnswers(random *rand.Rand) {
	for name, r := range map[string]client.Request{
		"a write":      {Method: "POST", Path: "/api/v1/namespaces/default/configmaps", Body: []byte(`{"metadata":{"generateName":"q-"}}`)},
		"a fresh read": {Method: "GET", Path: configMaps},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if _, err := send(ctx, w.pick(random), r); err == nil {
			w.Errorf("%s succeeded without a quorum", name)
		}
		cancel()
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if _, err := send(ctx, w.pick(random), client.Request{Method: "GET", Path: configMaps, Query: map[string][]string{"resourceVersion": {"0"}}}); err != nil {
		w.Errorf("a read of any version needs no quorum: %v", err)
	}
}

func TestFaults(t *testing.T) {
	duration, err := time.ParseDuration(os.Getenv("FAULTS"))
	if err != nil && os.Getenv("FAULTS") != "" {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := newWorld(t)
	random := rand.New(rand.NewPCG(seed, 0))

	following, stopTruth := context.WithCancel(context.Background())
	writing, stopWriters := context.WithCancel(context.Background())
	watching, stopWatchers := context.WithCancel(context.Background())
	var truthGroup, writeGroup, watchGroup sync.WaitGroup
	defer func() { // also when the test fails half-way
		stopWriters()
		stopWatchers()
		stopTruth()
		writeGroup.Wait()
		watchGroup.Wait()
		truthGroup.Wait()
	}()
	start, err := w.direct.Get(t.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	truthGroup.Go(func() {
		w.truth.follow(following, t, w.direct, "/registry/configmaps/"+namespace+"/", start.Header.Revision+1)
	})
	var all []*watcher
	for i := range watchers {
		one := &watcher{world: w, random: rand.New(rand.NewPCG(seed, uint64(100+i))), watchList: i%2 == 0}
		all = append(all, one)
		watchGroup.Go(func() { one.run(watching) })
	}
	for i := range writers {
		writeGroup.Go(func() { newWriter(i+1, w, seed).run(writing) })
	}
	count := w.breakThings(random, duration)
	stopWriters()
	writeGroup.Wait()
	w.settle(all, newWriter(writers+1, w, seed))
	stopWatchers()
	watchGroup.Wait()
	stopTruth()
	truthGroup.Wait()
	w.report(all, count)
}

// breakThings lets every fault happen once, and then any until time is up.
func (w *world) breakThings(random *rand.Rand, duration time.Duration) (count int) {
	w.progress(recovery)
	until := time.Now().Add(duration)
	for _, i := range random.Perm(len(faults)) {
		w.fault(i, random)
		count++
	}
	for ; time.Now().Before(until); count++ {
		w.fault(random.IntN(len(faults)), random)
	}
	return count
}

func (w *world) fault(i int, random *rand.Rand) {
	w.Logf("%6.2fs  %s", w.history.now().Seconds(), faults[i].name)
	faults[i].do(w, random)
	w.progress(recovery)
	for i := range servers {
		w.awaitServer(i)
	}
}

// settle writes every key once more and waits until everybody has seen that.
func (w *world) settle(all []*watcher, last *writer) {
	final := int64(0)
	for _, key := range keys {
		w.eventually("a last write", func(ctx context.Context) error {
			for _, verb := range []string{"patch", "create"} {
				o := &operation{verb: verb, key: key, field: "last"}
				if last.once(o) == ok {
					final = max(final, o.version)
					return nil
				}
			}
			return fmt.Errorf("%s: neither patched nor created", key)
		})
	}
	w.eventually("everybody is up to date", func(context.Context) error {
		if seen := w.truth.revision(); seen < final {
			return fmt.Errorf("the truth is at %d, not %d", seen, final)
		}
		for i, one := range all {
			if seen := one.position.Load(); seen < final {
				return fmt.Errorf("watcher %d is at %d, not %d", i, seen, final)
			}
		}
		return nil
	})
}

// report checks the history and says how much there was to check.
func (w *world) report(all []*watcher, count int) {
	c := newChecker(w.truth.events)
	c.moments(w.history.operations)
	c.attribute(w.history.operations)
	sessions, lists, events := 0, 0, 0
	for i, one := range all {
		c.watched(fmt.Sprint("watcher ", i), one.records)
		sessions += one.sessions
		for _, r := range one.records {
			switch r.kind {
			case "LIST":
				lists++
			case "BOOKMARK":
			default:
				events++
			}
		}
	}
	outcomes := map[outcome]int{}
	for _, o := range w.history.operations {
		outcomes[o.outcome]++
	}
	w.Logf("%d faults in %.1f s; %d clients did %d operations: %d ok, %d refused, %d of unknown outcome; etcd saw %d writes",
		count, w.history.now().Seconds(), writers, len(w.history.operations), outcomes[ok], outcomes[refused], outcomes[unknown], len(w.truth.events))
	w.Logf("%d watchers saw %d events in %d watches, after %d lists", len(all), events, sessions, lists)
	for i, problem := range c.problems {
		if i == 20 {
			w.Errorf("and %d more", len(c.problems)-i)
			break
		}
		w.Error(problem)
	}
	if !w.Failed() {
		w.Log("linearizable; no event lost, repeated or out of order; no version went back")
	}
	if w.Failed() {
		w.dump()
	}
}

// dump keeps the history of a failure for whoever wants to know more.
func (w *world) dump() {
	file, err := os.CreateTemp("", "faults-*.json")
	if err != nil {
		w.Log(err)
		return
	}
	defer file.Close()
	encoder := json.NewEncoder(file)
	for _, e := range w.truth.events {
		encoder.Encode(fmt.Sprintf("%+v", e))
	}
	for _, o := range w.history.operations {
		encoder.Encode(o.String())
	}
	w.Logf("the history is in %s", file.Name())
}
