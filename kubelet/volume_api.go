package kubelet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// volumeFile is one file of a volume that the kubelet writes.
type volumeFile struct {
	data []byte
	mode int32
	user *int64 // owner, when it is not root
}

// payload is the whole content of a volume, by path.
type payload map[string]volumeFile

const defaultFileMode = 0o644

// payload collects what a configMap, secret, downwardAPI or projected volume
// holds right now.
func (v *volumes) payload(ctx context.Context, f podFacts, volume *corev1.Volume) (payload, error) {
	out := payload{}
	switch source := volume.VolumeSource; {
	case source.ConfigMap != nil:
		s := source.ConfigMap
		return out, v.addConfigMap(ctx, out, f.pod.Namespace, s.Name, s.Items, mode(s.DefaultMode), s.Optional)
	case source.Secret != nil:
		s := source.Secret
		return out, v.addSecret(ctx, out, f.pod.Namespace, s.SecretName, s.Items, mode(s.DefaultMode), s.Optional)
	case source.DownwardAPI != nil:
		return out, addDownward(out, f, source.DownwardAPI.Items, mode(source.DownwardAPI.DefaultMode))
	}
	// Later sources win where paths collide; the API forbids most of that.
	s := volume.Projected
	defaultMode := mode(s.DefaultMode)
	for _, p := range s.Sources {
		var err error
		switch {
		case p.ConfigMap != nil:
			err = v.addConfigMap(ctx, out, f.pod.Namespace, p.ConfigMap.Name, p.ConfigMap.Items, defaultMode, p.ConfigMap.Optional)
		case p.Secret != nil:
			err = v.addSecret(ctx, out, f.pod.Namespace, p.Secret.Name, p.Secret.Items, defaultMode, p.Secret.Optional)
		case p.DownwardAPI != nil:
			err = addDownward(out, f, p.DownwardAPI.Items, defaultMode)
		case p.ServiceAccountToken != nil:
			err = v.addToken(ctx, out, f.pod, p.ServiceAccountToken, defaultMode)
		default:
			err = errors.New("this kind of projected source is not supported yet")
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (v *volumes) addConfigMap(ctx context.Context, out payload, namespace, name string, items []corev1.KeyToPath, mode int32, optional *bool) error {
	cm, err := v.objects.configMap(ctx, namespace, name)
	if err != nil {
		return ignoreOptional(err, optional)
	}
	data := map[string][]byte{}
	for key, value := range cm.Data {
		data[key] = []byte(value)
	}
	maps.Copy(data, cm.BinaryData)
	return addKeys(out, data, items, mode, isTrue(optional))
}

func (v *volumes) addSecret(ctx context.Context, out payload, namespace, name string, items []corev1.KeyToPath, mode int32, optional *bool) error {
	secret, err := v.objects.secret(ctx, namespace, name)
	if err != nil {
		return ignoreOptional(err, optional)
	}
	return addKeys(out, secret.Data, items, mode, isTrue(optional))
}

// addKeys adds the chosen keys under their paths, or all under their names.
func addKeys(out payload, data map[string][]byte, items []corev1.KeyToPath, mode int32, optional bool) error {
	if len(items) == 0 {
		for key, value := range data {
			out[key] = volumeFile{data: value, mode: mode}
		}
		return nil
	}
	for _, item := range items {
		value, found := data[item.Key]
		if !found {
			if optional {
				continue
			}
			return fmt.Errorf("references non-existent config key: %s", item.Key)
		}
		file := volumeFile{data: value, mode: mode}
		if item.Mode != nil {
			file.mode = *item.Mode
		}
		path, err := localPath(item.Path)
		if err != nil {
			return err
		}
		out[path] = file
	}
	return nil
}

func addDownward(out payload, f podFacts, items []corev1.DownwardAPIVolumeFile, mode int32) error {
	for _, item := range items {
		file := volumeFile{mode: mode}
		if item.Mode != nil {
			file.mode = *item.Mode
		}
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = f.field(item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			value, err = f.resourceField(item.ResourceFieldRef, "")
		}
		if err != nil {
			return err
		}
		path, err := localPath(item.Path)
		if err != nil {
			return err
		}
		file.data = []byte(value)
		out[path] = file
	}
	return nil
}

// addToken adds a service account's token. Only its user may read it: fsGroup
// opens it to the group, a common runAsUser makes it that user's.
func (v *volumes) addToken(ctx context.Context, out payload, pod *corev1.Pod, source *corev1.ServiceAccountTokenProjection, mode int32) error {
	token, err := v.tokens.get(ctx, pod, source)
	if err != nil {
		return err
	}
	path, err := localPath(source.Path)
	if err != nil {
		return err
	}
	file := volumeFile{data: []byte(token), mode: mode, user: commonUser(pod)}
	if file.user != nil || fsGroup(pod) != nil {
		file.mode = 0o600
	}
	out[path] = file
	return nil
}

// commonUser is the user that all containers run as, if they name one and the
// same.
func commonUser(pod *corev1.Pod) *int64 {
	var user *int64
	for _, c := range allContainers(pod) {
		sc := effectiveSecurity(pod, c)
		if sc.RunAsUser == nil || user != nil && *user != *sc.RunAsUser {
			return nil
		}
		user = sc.RunAsUser
	}
	return user
}

// localPath refuses paths that would leave the volume, whoever let them in.
func localPath(path string) (string, error) {
	if !filepath.IsLocal(path) || strings.HasPrefix(path, "..") {
		return "", fmt.Errorf("invalid path %q in a volume", path)
	}
	return filepath.Clean(path), nil
}

func mode(m *int32) int32 {
	if m == nil {
		return defaultFileMode
	}
	return *m
}
