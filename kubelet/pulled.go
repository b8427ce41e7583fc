package kubelet

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

// An image that one pod's secret has brought is there for everybody, unless the
// kubelet remembers whose secret it was. A pod that cannot show one of those
// must pull, and the registry decides. What is remembered:
//
//	image_manager/pulling/sha256-…   a pull has begun. If it is found with its
//	                                 image after a crash, nobody knows who paid.
//	image_manager/pulled/sha256-…    the secrets that an image came with, or that
//	                                 it came without: then it is anybody's.
//
// Files and names are upstream's. An image without either was there before the
// kubelet ("preloaded"); the policy says what that means.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/images/pullmanager.
type pullRecords struct {
	dir    string // empty: nothing is remembered and nothing verified
	policy kubeletv1beta1.ImagePullCredentialsVerificationPolicy
	allow  []string // NeverVerifyAllowlistedImages: names, or beginnings that end in /*

	mu      sync.Mutex // guards the files and what follows
	pulling map[string]int
}

// maxWriteWhileMatching bounds how many secrets are added to a record because
// their content was known already.
const maxWriteWhileMatching = 100

func (r *pullRecords) file(kind, of string) string {
	return filepath.Join(r.dir, kind, fmt.Sprintf("sha256-%x", sha256.Sum256([]byte(of))))
}

func (r *pullRecords) write(path string, record any) error {
	raw, err := json.Marshal(record)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return replaceFile(path, append(raw, '\n'))
}

func recordType(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: kubeletv1beta1.SchemeGroupVersion.String(), Kind: kind}
}

// begin remembers that an image is being pulled.
func (r *pullRecords) begin(image string) error {
	if r.dir == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.write(r.file("pulling", image), kubeletv1beta1.ImagePullIntent{TypeMeta: recordType("ImagePullIntent"), Image: image}); err != nil {
		return fmt.Errorf("failed to record image pull intent: %w", err)
	}
	r.pulling[image]++
	return nil
}

// end remembers what became of the pull: with an ID, that it came, and by whose
// secret, or by nobody's.
func (r *pullRecords) end(image, id string, secret *kubeletv1beta1.ImagePullSecret) error {
	if r.dir == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if id != "" {
		credentials := kubeletv1beta1.ImagePullCredentials{NodePodsAccessible: secret == nil}
		if secret != nil {
			credentials.KubernetesSecrets = []kubeletv1beta1.ImagePullSecret{*secret}
		}
		if err := r.add(image, id, credentials); err != nil {
			return err // the intent stays: it still says that this image is somebody's
		}
	}
	if r.pulling[image]--; r.pulling[image] > 0 {
		return nil
	}
	delete(r.pulling, image)
	return ignoreMissing(os.Remove(r.file("pulling", image)))
}

// read returns what is remembered of an image, or nil.
func (r *pullRecords) read(id string) (*kubeletv1beta1.ImagePulledRecord, error) {
	raw, err := os.ReadFile(r.file("pulled", id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	record := &kubeletv1beta1.ImagePulledRecord{}
	if err == nil {
		err = json.Unmarshal(raw, record)
	}
	return record, err
}

// add adds credentials to an image's record, under the name by which it was
// asked for: another name may be another registry's. The caller holds mu.
func (r *pullRecords) add(image, id string, more kubeletv1beta1.ImagePullCredentials) error {
	record, err := r.read(id)
	if record == nil || err != nil {
		record = &kubeletv1beta1.ImagePulledRecord{TypeMeta: recordType("ImagePulledRecord"), ImageRef: id}
	}
	if record.CredentialMapping == nil {
		record.CredentialMapping = map[string]kubeletv1beta1.ImagePullCredentials{}
	}
	name := withoutTag(image)
	has := record.CredentialMapping[name]
	switch {
	case more.NodePodsAccessible:
		has = more
	case has.NodePodsAccessible: // more than anybody cannot be said
	default:
		for _, s := range more.KubernetesSecrets {
			has.KubernetesSecrets = append(slices.DeleteFunc(slices.Clone(has.KubernetesSecrets), func(old kubeletv1beta1.ImagePullSecret) bool {
				return sameSecret(old, s)
			}), s)
		}
		slices.SortFunc(has.KubernetesSecrets, func(a, b kubeletv1beta1.ImagePullSecret) int {
			return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
		})
	}
	if has.NodePodsAccessible || len(has.KubernetesSecrets) > 0 {
		record.CredentialMapping[name] = has
	}
	record.LastUpdatedTime = metav1.NewTime(time.Now())
	return r.write(r.file("pulled", id), record)
}

func sameSecret(a, b kubeletv1beta1.ImagePullSecret) bool {
	a.CredentialHash = b.CredentialHash
	return a == b
}

// mayUse says whether a pod may use an image that is there. credentials are
// those that the pod could pull it with.
func (r *pullRecords) mayUse(image, id string, credentials func() []pullCredential) bool {
	if r.dir == "" {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	record, err := r.read(id)
	if err != nil {
		return false
	}
	ours := record != nil || r.pulling[image] > 0
	if !ours {
		_, err := os.Stat(r.file("pulling", image))
		ours = err == nil
	}
	if !r.mustVerify(image, ours) {
		return true
	}
	if record == nil {
		return false
	}
	known := record.CredentialMapping[withoutTag(image)]
	if known.NodePodsAccessible || len(known.KubernetesSecrets) == 0 {
		return known.NodePodsAccessible
	}
	for _, c := range credentials() {
		if c.secret == nil {
			continue
		}
		shown := *c.secret
		for _, s := range known.KubernetesSecrets {
			hash, secret := s.CredentialHash != "" && s.CredentialHash == shown.CredentialHash, sameSecret(s, shown)
			if !hash && !secret {
				continue
			}
			room := len(known.KubernetesSecrets) < maxWriteWhileMatching
			if hash != secret && room {
				// Known by its content or by its name: both count from now on. What
				// cannot be written now will be known by the same again.
				_ = r.add(image, id, kubeletv1beta1.ImagePullCredentials{KubernetesSecrets: []kubeletv1beta1.ImagePullSecret{shown}})
			}
			if hash || room {
				return true
			}
		}
	}
	return false
}

// mustVerify is the policy. ours are images that the kubelet has pulled.
func (r *pullRecords) mustVerify(image string, ours bool) bool {
	switch r.policy {
	case kubeletv1beta1.NeverVerify:
		return false
	case kubeletv1beta1.AlwaysVerify:
		return true
	case kubeletv1beta1.NeverVerifyAllowlistedImages:
		name := withoutTag(image)
		return !slices.ContainsFunc(r.allow, func(pattern string) bool {
			prefix, wild := strings.CutSuffix(pattern, "*")
			return name == pattern || wild && strings.HasPrefix(name, prefix)
		})
	}
	return ours
}

// restore turns pulls that a crash has cut off into records without
// credentials, where the image came nevertheless: whoever uses it must ask the
// registry.
func (r *pullRecords) restore(images []*runtimeapi.Image) error {
	files, _ := filepath.Glob(filepath.Join(r.dir, "pulling", "sha256-*")) // never a bad pattern
	for _, file := range files {
		var intent kubeletv1beta1.ImagePullIntent
		raw, err := os.ReadFile(file)
		if err != nil || json.Unmarshal(raw, &intent) != nil {
			continue
		}
		for _, image := range images {
			if slices.Contains(slices.Concat(image.RepoTags, image.RepoDigests), intent.Image) {
				err := r.add(intent.Image, image.Id, kubeletv1beta1.ImagePullCredentials{})
				if err := errors.Join(err, os.Remove(file)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// prune forgets the images that are gone.
func (r *pullRecords) prune(images []*runtimeapi.Image, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	files, _ := filepath.Glob(filepath.Join(r.dir, "pulled", "sha256-*"))
	for _, file := range files {
		info, err := os.Stat(file)
		there := slices.ContainsFunc(images, func(i *runtimeapi.Image) bool { return r.file("pulled", i.Id) == file })
		if err == nil && !there && info.ModTime().Before(now) {
			os.Remove(file) // else next time
		}
	}
}

// withoutTag is an image's name without tag and digest.
func withoutTag(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if slash, colon := strings.LastIndex(image, "/"), strings.LastIndex(image, ":"); colon > slash {
		image = image[:colon]
	}
	return image
}

// credentialHash tells secrets of the same content.
func credentialHash(auth *runtimeapi.AuthConfig) string {
	raw, _ := json.Marshal(struct {
		Username string `json:"username,omitempty"`
		Password string `json:"password,omitempty"`
	}{auth.Username, auth.Password})
	return fmt.Sprintf("%x", sha256.Sum256(raw))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// restorePulls is done once, before anything is pulled.
func (k *Kubelet) restorePulls(ctx context.Context) error {
	if k.pulled.dir == "" {
		return nil
	}
	images, err := k.runtime.images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return err
	}
	return k.pulled.restore(images.Images)
}

// badPattern says what is wrong with a pattern of images that anybody may use.
func badPattern(pattern string) string {
	prefix, wild := strings.CutSuffix(pattern, "/*")
	switch {
	case pattern != strings.TrimSpace(pattern):
		return "leading/trailing spaces are not allowed: " + pattern
	case pattern == "":
		return "the supplied pattern is too short: " + pattern
	case strings.Contains(prefix, "*"):
		return "not a valid wildcard pattern, only patterns ending with '/*' are allowed: " + pattern
	case wild && prefix == "":
		return "at least registry hostname is required"
	case !wild && withoutTag(pattern) != pattern:
		return "neither tag nor digest is accepted in an image reference: " + pattern
	}
	return ""
}
