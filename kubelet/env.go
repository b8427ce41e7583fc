package kubelet

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

// objectReader reads what pods refer to. With no API server it always fails.
type objectReader interface {
	configMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	claimed(ctx context.Context, namespace, claim string) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, error)
}

// environment builds a container's variables: envFrom first, env over it, and
// beneath both the variables of the namespace's Services.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/kubelet_pods.go makeEnvironmentVariables.
func environment(ctx context.Context, f podFacts, c *corev1.Container, objects objectReader, services []*corev1.Service) (map[string]string, error) {
	env := map[string]string{}
	for _, from := range c.EnvFrom {
		if err := addAllFrom(ctx, env, f.pod.Namespace, from, objects); err != nil {
			return nil, err
		}
	}
	fromServices := serviceEnvironment(f.pod, services)
	lookup := func(name string) (string, bool) {
		if v, found := env[name]; found {
			return v, true
		}
		v, found := fromServices[name]
		return v, found
	}
	for _, e := range c.Env {
		value := expand(e.Value, lookup)
		if e.ValueFrom != nil {
			v, found, err := valueFrom(ctx, f, c, e.ValueFrom, objects)
			if err != nil {
				return nil, err
			}
			if !found {
				continue // optional and absent
			}
			value = v
		}
		env[e.Name] = value
	}
	for name, value := range fromServices {
		if _, found := env[name]; !found {
			env[name] = value
		}
	}
	return env, nil
}

// addAllFrom adds every key of a ConfigMap or Secret.
func addAllFrom(ctx context.Context, env map[string]string, namespace string, from corev1.EnvFromSource, objects objectReader) error {
	values := map[string]string{}
	switch {
	case from.ConfigMapRef != nil:
		cm, err := objects.configMap(ctx, namespace, from.ConfigMapRef.Name)
		if err != nil {
			return ignoreOptional(err, from.ConfigMapRef.Optional)
		}
		values = cm.Data
	case from.SecretRef != nil:
		secret, err := objects.secret(ctx, namespace, from.SecretRef.Name)
		if err != nil {
			return ignoreOptional(err, from.SecretRef.Optional)
		}
		for key, value := range secret.Data {
			values[key] = string(value)
		}
	}
	for key, value := range values {
		env[from.Prefix+key] = value
	}
	return nil
}

// valueFrom resolves one reference; found is false for what is optional and
// does not exist.
func valueFrom(ctx context.Context, f podFacts, c *corev1.Container, from *corev1.EnvVarSource, objects objectReader) (value string, found bool, err error) {
	namespace := f.pod.Namespace
	switch {
	case from.FieldRef != nil:
		value, err = f.field(from.FieldRef.FieldPath)
		return value, err == nil, err
	case from.ResourceFieldRef != nil:
		value, err = f.resourceField(from.ResourceFieldRef, c.Name)
		return value, err == nil, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		cm, err := objects.configMap(ctx, namespace, ref.Name)
		if err != nil {
			return "", false, ignoreOptional(err, ref.Optional)
		}
		value, found = cm.Data[ref.Key]
		if !found && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, namespace, ref.Name)
		}
		return value, found, nil
	case from.FileKeyRef != nil:
		return f.fromFile(from.FileKeyRef)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		secret, err := objects.secret(ctx, namespace, ref.Name)
		if err != nil {
			return "", false, ignoreOptional(err, ref.Optional)
		}
		raw, found := secret.Data[ref.Key]
		if !found && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, namespace, ref.Name)
		}
		return string(raw), found, nil
	}
	return "", false, fmt.Errorf("an environment variable's valueFrom names a source that is not supported")
}

func ignoreOptional(err error, optional *bool) error {
	if isTrue(optional) && apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func isTrue(b *bool) bool { return b != nil && *b }

// serviceEnvironment is Docker's old way to find Services, still the only one
// without DNS: NAME_SERVICE_HOST, NAME_SERVICE_PORT and the link variables.
// The "kubernetes" Service is there for every pod, the others for pods of
// their namespace unless enableServiceLinks is false.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/envvars/envvars.go FromServices.
func serviceEnvironment(pod *corev1.Pod, services []*corev1.Service) map[string]string {
	env := map[string]string{}
	links := ptr.Deref(pod.Spec.EnableServiceLinks, true)
	for _, s := range services {
		isMaster := s.Namespace == corev1.NamespaceDefault && s.Name == "kubernetes"
		if !isMaster && (s.Namespace != pod.Namespace || !links) {
			continue
		}
		ip := s.Spec.ClusterIP
		if ip == "" || ip == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		prefix := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
		env[prefix+"_SERVICE_HOST"] = ip
		env[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
		for i, p := range s.Spec.Ports {
			number := strconv.Itoa(int(p.Port))
			protocol := cmp.Or(string(p.Protocol), "TCP")
			url := strings.ToLower(protocol) + "://" + net.JoinHostPort(ip, number)
			if p.Name != "" {
				env[prefix+"_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(p.Name, "-", "_"))] = number
			}
			if i == 0 {
				env[prefix+"_PORT"] = url
			}
			link := fmt.Sprintf("%s_PORT_%s_%s", prefix, number, strings.ToUpper(protocol))
			env[link] = url
			env[link+"_PROTO"] = strings.ToLower(protocol)
			env[link+"_PORT"] = number
			env[link+"_ADDR"] = ip
		}
	}
	return env
}

// sortedEnv is the environment as CRI takes it, in a stable order.
func sortedEnv(env map[string]string) []*runtimeapi.KeyValue {
	var out []*runtimeapi.KeyValue
	for name, value := range env {
		out = append(out, &runtimeapi.KeyValue{Key: name, Value: []byte(value)})
	}
	slices.SortFunc(out, func(a, b *runtimeapi.KeyValue) int { return strings.Compare(a.Key, b.Key) })
	return out
}
