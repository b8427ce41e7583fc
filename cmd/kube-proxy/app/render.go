package app

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"tinykube/proxy"
)

// newRenderCommand prints what a node would have, without a cluster, a kernel or
// root: Services and EndpointSlices in, rules out.
func newRenderCommand() *cobra.Command {
	var files []string
	var mode, node, zone string
	options := proxy.RuleOptions{MasqueradeBit: 14, RandomFully: true}
	clusterCIDR := ""
	cmd := &cobra.Command{
		Use:          "render -f FILE",
		Short:        "Print the rules for Services and EndpointSlices in files; touch nothing",
		Example:      "  kubectl get services,endpointslices -A -o yaml | kube-proxy render -f - --node node-1",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if mode != "iptables" {
				return fmt.Errorf("--proxy-mode %s is not built yet: use iptables", mode)
			}
			if len(files) == 0 {
				return errors.New("no --filename: which Services and EndpointSlices?")
			}
			var objects objects
			for _, file := range files {
				if err := objects.read(cmd.InOrStdin(), file); err != nil {
					return fmt.Errorf("%s: %w", file, err)
				}
			}
			if clusterCIDR != "" {
				options.LocalMatch = "-s " + clusterCIDR
			}
			state := proxy.NewState(proxy.Node{Name: node, Zone: zone}, objects.services, objects.slices)
			_, err := io.WriteString(cmd.OutOrStdout(), proxy.FirstRestore(proxy.Render(state, options)))
			return err
		},
	}
	fs := cmd.Flags()
	fs.StringSliceVarP(&files, "filename", "f", nil, "YAML or JSON files; - is standard input")
	fs.StringVar(&mode, "proxy-mode", "iptables", "iptables")
	fs.StringVar(&node, "node", "", "the node to render for: decides which endpoints are local")
	fs.StringVar(&zone, "zone", "", "its zone")
	fs.StringVar(&clusterCIDR, "cluster-cidr", "10.244.0.0/16", "addresses of the cluster's pods")
	fs.BoolVar(&options.MasqueradeAll, "masquerade-all", false, "masquerade everything that goes to a Service")
	return cmd
}

// objects are what the files hold that we understand.
type objects struct {
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
}

func (o *objects) read(stdin io.Reader, file string) error {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	decoder := utilyaml.NewYAMLOrJSONDecoder(in, 4096)
	for {
		var raw runtime.RawExtension
		err := decoder.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if raw = (runtime.RawExtension{Raw: bytes.TrimSpace(raw.Raw)}); len(raw.Raw) == 0 || string(raw.Raw) == "null" {
			continue
		}
		if err := o.add(raw.Raw); err != nil {
			return err
		}
	}
}

// add takes Services, EndpointSlices and lists of them, and leaves other kinds
// alone: a file is often an application's whole manifest.
func (o *objects) add(raw []byte) error {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(raw, &kind); err != nil {
		return err
	}
	switch kind.Kind {
	case "Service":
		service := &corev1.Service{}
		if err := yaml.Unmarshal(raw, service); err != nil {
			return fmt.Errorf("read Service: %w", err)
		}
		defaultNamespace(&service.ObjectMeta)
		o.services = append(o.services, service)
	case "EndpointSlice":
		slice := &discoveryv1.EndpointSlice{}
		if err := yaml.Unmarshal(raw, slice); err != nil {
			return fmt.Errorf("read EndpointSlice: %w", err)
		}
		defaultNamespace(&slice.ObjectMeta)
		o.slices = append(o.slices, slice)
	case "List", "ServiceList", "EndpointSliceList":
		var list struct {
			Items []runtime.RawExtension `json:"items"`
		}
		if err := yaml.Unmarshal(raw, &list); err != nil {
			return err
		}
		for _, item := range list.Items {
			if err := o.add(item.Raw); err != nil {
				return err
			}
		}
	}
	return nil
}

func defaultNamespace(m *metav1.ObjectMeta) {
	if m.Namespace == "" {
		m.Namespace = metav1.NamespaceDefault
	}
}
