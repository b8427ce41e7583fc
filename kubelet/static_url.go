package kubelet

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const sourceURL = "http"

// remotePods are static pods whose manifest lies behind a URL: one Pod or one
// PodList. As with files, what cannot be read changes nothing.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/config/http.go.
type remotePods struct {
	url, nodeName string
	header        map[string][]string
	period        time.Duration
	log           *slog.Logger
	changed       func()
	podSet
}

const remoteTimeout = 10 * time.Second

// run fetches until ctx ends.
func (r *remotePods) run(ctx context.Context) error {
	complaint := ""
	for r.url != "" {
		pods, err := r.fetch(ctx)
		if err == nil {
			complaint = ""
			r.take(pods)
		} else if err.Error() != complaint && ctx.Err() == nil {
			complaint = err.Error()
			r.log.Error("static pods not read", "key", r.url, "err", err)
		}
		if !wait(ctx, r.period) {
			break
		}
	}
	return nil
}

// take replaces the pods and tells of it if they differ.
func (r *remotePods) take(pods []*corev1.Pod) {
	if r.replace(pods) {
		r.changed()
	}
}

func (r *remotePods) fetch(ctx context.Context) ([]*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, remoteTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	if err != nil {
		return nil, err
	}
	for name, values := range r.header {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	raw, err := readBounded(answer.Body)
	switch {
	case answer.StatusCode != http.StatusOK:
		return nil, errors.New(answer.Status)
	case err != nil:
		return nil, err
	case len(raw) == 0:
		return nil, errors.New("zero-length data received")
	}
	return parseRemote(raw, r.url, r.nodeName)
}

// parseRemote reads a Pod or a PodList.
func parseRemote(raw []byte, url, nodeName string) ([]*corev1.Pod, error) {
	var list struct {
		Kind  string           `json:"kind"`
		Items []map[string]any `json:"items"`
	}
	if err := yaml.Unmarshal(raw, &list); err != nil {
		return nil, err
	}
	documents := [][]byte{raw}
	if list.Kind == "PodList" {
		documents = nil
		for _, item := range list.Items {
			item["apiVersion"], item["kind"] = "v1", "Pod" // items of a list need not say it
			one, err := yaml.Marshal(item)
			if err != nil {
				return nil, err
			}
			documents = append(documents, one)
		}
	}
	var out []*corev1.Pod
	for _, document := range documents {
		pod, err := parseStaticPod(document, sourceURL, url, nodeName)
		if err != nil {
			return nil, err
		}
		out = append(out, pod)
	}
	return out, nil
}
