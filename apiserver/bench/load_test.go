package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// limit is how long anything may take that should take a moment.
const limit = 2 * time.Minute

// measure lets some clients repeat op, for a while or, with count, so often.
func (w *world) measure(s *server, clients, count int, op func(client, i int) error) figure {
	w.Helper()
	var next, done atomic.Int64
	var group sync.WaitGroup
	if count == 0 { // the handshake is no part of it
		if err := op(0, 0); err != nil {
			w.Fatalf("%s: %v", s.name, err)
		}
	}
	cpu, start := s.cpu(), time.Now()
	until := start.Add(w.slice)
	for c := range clients {
		group.Go(func() {
			for {
				i := int(next.Add(1))
				if count > 0 && i > count || count == 0 && time.Now().After(until) {
					return
				}
				if err := op(c, i); err != nil {
					w.Errorf("%s: %v", s.name, err)
					return
				}
				done.Add(1)
			}
		})
	}
	group.Wait()
	return perOperation(time.Since(start), s.cpu()-cpu, int(done.Load()))
}

func perOperation(wall, cpu time.Duration, operations int) figure {
	n := time.Duration(max(operations, 1))
	return figure{wall: wall / n, cpu: cpu / n}
}

// memory is what the server, without its etcd, has of the machine's memory.
func memory(w *world, s *server) figure {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		w.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "VmRSS:" {
			kib, _ := strconv.Atoi(fields[1])
			return figure{size: float64(kib) / 1024}
		}
	}
	return figure{}
}

func (w *world) post(s *server, path string, body any) {
	w.Helper()
	client := s.http()
	defer client.CloseIdleConnections()
	if err := do(context.Background(), client, http.MethodPost, s.base+path, "application/json", encode(body)); err != nil {
		w.Fatal(err)
	}
}

func encode(v any) []byte {
	data, _ := json.Marshal(v)
	return data
}

// configMap is an object of about size bytes.
func configMap(name string, size int) map[string]any {
	return map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name},
		"data": map[string]string{"x": strings.Repeat("y", size)}}
}

// pod is one of about 3 KB once it is stored, as upstream's figures have them.
func pod(name string) map[string]any {
	return map[string]any{
		"metadata": map[string]any{"name": name, "labels": map[string]string{"app": "a"}, "annotations": map[string]string{"filler": strings.Repeat("z", 900)}},
		"spec":     map[string]any{"containers": []any{map[string]any{"name": "c", "image": "i"}}},
	}
}

const gotten = "/api/v1/namespaces/default/configmaps/get"

func get(query string, clients int) func(*world, *server) figure {
	return func(w *world, s *server) figure { return w.fetchAll(s, s.base+gotten+query, clients) }
}

func getBare(clients int) func(*world, *server) figure {
	return func(w *world, s *server) figure {
		w.copyBody(gotten)
		return w.fetchAll(s, s.base+"/", clients)
	}
}

func (w *world) fetchAll(s *server, url string, clients int) figure {
	client := s.http()
	defer client.CloseIdleConnections()
	return w.measure(s, clients, 0, func(int, int) error { _, err := fetch(client, url); return err })
}

// copyBody makes the bare handler answer what ours does.
func (w *world) copyBody(path string) {
	client := w.ours.http()
	defer client.CloseIdleConnections()
	response, err := client.Get(w.ours.base + path)
	if err != nil {
		w.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		w.Fatal(err)
	}
	if err := do(context.Background(), w.bare.http(), http.MethodPut, w.bare.base+"/", "application/json", body); err != nil {
		w.Fatal(err)
	}
}

var made atomic.Int64

func create(clients int) func(*world, *server) figure {
	return func(w *world, s *server) figure {
		return w.createAll(s, "maps", "configmaps", clients, 0, func(int) any { return configMap(fmt.Sprint("c", made.Add(1)), 1000) })
	}
}

func (w *world) createAll(s *server, namespace, resource string, clients, count int, object func(i int) any) figure {
	client := s.http()
	defer client.CloseIdleConnections()
	target := s.base + "/api/v1/namespaces/" + namespace + "/" + resource
	return w.measure(s, clients, count, func(_, i int) error {
		return do(context.Background(), client, http.MethodPost, target, "application/json", encode(object(i)))
	})
}

// putNew is the same transaction without an API server.
func putNew(clients int) func(*world, *server) figure {
	return func(w *world, s *server) figure {
		value := string(encode(configMap("c", 1000)))
		return w.measure(s, clients, 0, func(int, int) error {
			key := fmt.Sprintf("/bench/%d", made.Add(1))
			_, err := s.store.Txn(context.Background()).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, value)).Commit()
			return err
		})
	}
}

func fillPods(w *world, s *server) figure {
	return w.createAll(s, "list", "pods", 16, listed, func(i int) any { return pod(fmt.Sprintf("pod-%05d", i)) })
}

// filled makes the ConfigMaps 8,500 in all and measures the memory.
func filled(w *world, s *server) figure {
	w.removeAll(s, "maps", "configmaps")
	w.createAll(s, "maps", "configmaps", 16, configMaps, func(int) any { return configMap(fmt.Sprint("c", made.Add(1)), 1000) })
	return memory(w, s)
}

func (w *world) removeAll(s *server, namespace, resource string) {
	client := s.http()
	defer client.CloseIdleConnections()
	if err := do(context.Background(), client, http.MethodDelete, s.base+"/api/v1/namespaces/"+namespace+"/"+resource, "application/json", nil); err != nil {
		w.Fatal(err)
	}
}

const listedPath = "/api/v1/namespaces/list/pods"

func list(query string) func(*world, *server) figure {
	return func(w *world, s *server) figure { return w.fetchAll(s, s.base+listedPath+query, 1) }
}

func listBare(w *world, s *server) figure {
	w.copyBody(listedPath)
	return w.fetchAll(s, s.base+"/", 1)
}

// pages reads the whole list, 500 at a time.
func pages(w *world, s *server) figure {
	client := s.http()
	defer client.CloseIdleConnections()
	return w.measure(s, 4, 0, func(int, int) error {
		next := ""
		for {
			response, err := client.Get(s.base + listedPath + "?limit=500&continue=" + url.QueryEscape(next))
			if err != nil {
				return err
			}
			body, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err != nil || response.StatusCode != http.StatusOK {
				return fmt.Errorf("page: %s, %v", response.Status, err)
			}
			if next = continuation(body); next == "" {
				return nil
			}
		}
	})
}

// continuation finds the token without reading the items: it is in front of
// them.
func continuation(body []byte) string {
	_, rest, found := bytes.Cut(body[:min(len(body), 1000)], []byte(`"continue":"`))
	if !found {
		return ""
	}
	token, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(token)
}

func watch(watchers int) func(*world, *server) figure {
	return func(w *world, s *server) figure {
		const one = "/api/v1/namespaces/watched/configmaps"
		client := s.http()
		defer client.CloseIdleConnections()
		return w.watchAll(s, watchers, s.base+one+"?watch=true", func() error {
			body := fmt.Sprintf(`{"metadata":{"annotations":{"i":"%d"}}}`, made.Add(1))
			return do(context.Background(), client, http.MethodPatch, s.base+one+"/w", "application/merge-patch+json", []byte(body))
		})
	}
}

func watchBare(watchers int) func(*world, *server) figure {
	return func(w *world, s *server) figure {
		client := s.http()
		defer client.CloseIdleConnections()
		line := append(encode(map[string]any{"type": "MODIFIED", "object": configMap("w", 1300)}), '\n')
		return w.watchAll(s, watchers, s.base+"/watch", func() error {
			return do(context.Background(), client, http.MethodPost, s.base+"/", "application/json", line)
		})
	}
}

// watchAll lets watchers, each with a connection of its own, see events, one
// at a time: the next is sent when the last has reached everybody. An event
// counts once per watcher. What the write costs is part of it.
func (w *world) watchAll(s *server, watchers int, target string, send func() error) figure {
	ctx, cancel := context.WithCancel(context.Background())
	var seen atomic.Int64
	arrived := make(chan struct{}, 1)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	for range watchers {
		client := s.http()
		request, _ := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
		response, err := client.Do(request)
		if err != nil {
			w.Fatal(err)
		}
		group.Go(func() {
			defer client.CloseIdleConnections()
			defer response.Body.Close()
			countLines(response.Body, &seen, arrived)
		})
	}
	reach := func(total int) {
		for seen.Load() < int64(total) {
			select {
			case <-arrived:
			case <-time.After(limit):
				w.Fatalf("%s: %d of %d events arrived", s.name, seen.Load(), total)
			}
		}
	}
	reach(watchers) // the present state
	events := 0
	cpu, start := s.cpu(), time.Now()
	for ; time.Since(start) < w.slice; events++ {
		if err := send(); err != nil {
			w.Fatal(err)
		}
		reach(watchers * (events + 2))
	}
	return perOperation(time.Since(start), s.cpu()-cpu, events*watchers)
}

func countLines(from io.Reader, seen *atomic.Int64, arrived chan<- struct{}) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if count := bytes.Count(buffer[:n], []byte("\n")); count > 0 {
			seen.Add(int64(count))
			select {
			case arrived <- struct{}{}:
			default:
			}
		}
		if err != nil {
			return
		}
	}
}

// deleteAll is one request, and its figure the whole of it.
func deleteAll(w *world, s *server) figure {
	return w.measure(s, 1, 1, func(int, int) error {
		w.removeAll(s, "list", "pods")
		return nil
	})
}
