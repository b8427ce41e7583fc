package app

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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
	var o offline
	cmd := &cobra.Command{
		Use:          "render -f FILE",
		Short:        "Print the rules for Services and EndpointSlices in files; touch nothing",
		Example:      "  kubectl get services,endpointslices -A -o yaml | kube-proxy render --proxy-mode nftables -f - --node node-1",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(o.files) == 0 {
				return errors.New("no --filename: which Services and EndpointSlices?")
			}
			text, err := o.text(cmd.InOrStdin())
			if err == nil {
				_, err = io.WriteString(cmd.OutOrStdout(), text)
			}
			return err
		},
	}
	o.add(cmd.Flags())
	return cmd
}

// offline is a node that exists only in flags and files.
type offline struct {
	files, addresses          []string
	mode, name, zone, podCIDR string
	masqueradeAll             bool
	node                      proxy.Node
	options                   proxy.Options
}

func (o *offline) add(fs *pflag.FlagSet) {
	fs.StringSliceVarP(&o.files, "filename", "f", nil, "YAML or JSON files with Services and EndpointSlices; - is standard input")
	fs.StringVar(&o.mode, "proxy-mode", "iptables", strings.Join(proxy.Modes, ", "))
	fs.StringVar(&o.name, "node", "", "the node to render for: decides which endpoints are local")
	fs.StringVar(&o.zone, "zone", "", "its zone")
	fs.StringSliceVar(&o.addresses, "node-ip", nil, "its addresses; an IPv6 one makes rules for IPv6")
	fs.StringVar(&o.podCIDR, "cluster-cidr", "10.244.0.0/16", "addresses of the cluster's pods")
	fs.BoolVar(&o.masqueradeAll, "masquerade-all", false, "masquerade everything that goes to a Service")
}

// text is the rules for the files' objects.
func (o *offline) text(stdin io.Reader) (string, error) {
	var objects objects
	for _, file := range o.files {
		if err := objects.read(stdin, file); err != nil {
			return "", fmt.Errorf("%s: %w", file, err)
		}
	}
	o.node = proxy.Node{Name: o.name, Zone: o.zone}
	o.options = proxy.Options{MasqueradeBit: 14, RandomFully: true, AllAddresses: true, MasqueradeAll: o.masqueradeAll}
	for _, text := range o.addresses {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return "", fmt.Errorf("--node-ip: %w", err)
		}
		o.options.NodePortAddresses = append(o.options.NodePortAddresses, ip)
		if ip.Is6() {
			o.node.Family = proxy.IPv6
		}
	}
	if o.podCIDR != "" {
		cidr, err := netip.ParsePrefix(o.podCIDR)
		if err != nil {
			return "", fmt.Errorf("--cluster-cidr: %w", err)
		}
		if cidr.Addr().Is6() == (o.node.Family == proxy.IPv6) {
			o.options.Local.CIDR = cidr
		}
	}
	backend, err := proxy.NewBackend(o.mode, "", o.node.Family, slog.New(slog.DiscardHandler))
	if err != nil {
		return "", fmt.Errorf("--proxy-mode: %w", err)
	}
	return backend.Text(proxy.NewState(o.node, objects.services, objects.slices), o.options), nil
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
