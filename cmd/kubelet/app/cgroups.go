package app

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"tinykube/kubelet"
)

// newCgroups makes the command that shows what QoS classes, requests and limits
// become on a node. It needs no node.
func newCgroups() *cobra.Command {
	var file, memory string
	cmd := &cobra.Command{
		Use: "cgroups -f FILE", Short: "Print into which cgroup a pod would go, and with which values, in v1 and in v2", Args: cobra.NoArgs, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			bytesOfNode, err := resource.ParseQuantity(memory)
			if err != nil {
				return err
			}
			raw, err := os.ReadFile(file)
			if file == "-" {
				raw, err = io.ReadAll(cmd.InOrStdin())
			}
			if err != nil {
				return err
			}
			documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(raw)))
			for {
				one, err := documents.Read()
				if errors.Is(err, io.EOF) {
					return nil
				}
				var pod corev1.Pod
				if err == nil {
					err = yaml.UnmarshalStrict(one, &pod)
				}
				if err == nil {
					err = kubelet.ShowCgroups(cmd.OutOrStdout(), &pod, bytesOfNode.Value())
				}
				if err != nil {
					return err
				}
			}
		},
	}
	cmd.Flags().StringVarP(&file, "filename", "f", "-", "pods in YAML; - is standard input")
	cmd.Flags().StringVar(&memory, "node-memory", "16Gi", "of the node, which oom_score_adj is a share of")
	return cmd
}
