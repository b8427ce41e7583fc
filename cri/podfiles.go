package cri

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The files of a pod:
//
//	<root>/sandboxes/<id>/{hostname,hosts,resolv.conf}   bound into its containers
//	<root>/containers/<id>/volumes/<n>                   image VOLUMEs, filled from the image
//	<state>/sandboxes/<id>/shm                           /dev/shm, a tmpfs
//	<state>/containers/<id>/{stdin,stdout,stderr}        FIFOs

func (s *Server) sandboxDir(id string) string   { return filepath.Join(s.cfg.Root, "sandboxes", id) }
func (s *Server) sandboxState(id string) string { return filepath.Join(s.cfg.State, "sandboxes", id) }
func (s *Server) containerDir(id string) string { return filepath.Join(s.cfg.Root, "containers", id) }
func (s *Server) containerState(id string) string {
	return filepath.Join(s.cfg.State, "containers", id)
}

func (s *Server) shm(id string) string { return filepath.Join(s.sandboxState(id), "shm") }

func (s *Server) podFiles(sb *sandbox) podFiles {
	dir := s.sandboxDir(sb.ID)
	files := podFiles{
		Hostname: filepath.Join(dir, "hostname"), Hosts: filepath.Join(dir, "hosts"), ResolvConf: filepath.Join(dir, "resolv.conf"),
		Shm: s.shm(sb.ID),
	}
	if sb.namespaces().GetIpc() == runtimeapi.NamespaceMode_NODE {
		files.Shm = "/dev/shm"
	}
	return files
}

// writePodFiles fills the sandbox's directory and mounts its /dev/shm.
func (s *Server) writePodFiles(sb *sandbox) error {
	files := s.podFiles(sb)
	// The kubelet mounts a hosts file of its own; this one is for crictl.
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	resolv, err := resolvConf(sb.Config.GetDnsConfig(), "/etc/resolv.conf")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.sandboxDir(sb.ID), 0o755); err != nil {
		return err
	}
	for path, content := range map[string][]byte{files.Hostname: []byte(sb.Hostname + "\n"), files.Hosts: hosts, files.ResolvConf: resolv} {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	if files.Shm == "/dev/shm" {
		return nil
	}
	if err := mountShm(files.Shm); err != nil {
		return fmt.Errorf("mount the pod's /dev/shm: %w", err)
	}
	return nil
}

// resolvConf renders the pod's DNS settings; a pod without any gets the
// machine's.
func resolvConf(dns *runtimeapi.DNSConfig, hostFile string) ([]byte, error) {
	if dns == nil {
		data, err := os.ReadFile(hostFile)
		if os.IsNotExist(err) {
			err = nil
		}
		return data, err
	}
	var text strings.Builder
	if len(dns.GetSearches()) > 0 {
		fmt.Fprintf(&text, "search %s\n", strings.Join(dns.GetSearches(), " "))
	}
	for _, server := range dns.GetServers() {
		fmt.Fprintf(&text, "nameserver %s\n", server)
	}
	if len(dns.GetOptions()) > 0 {
		fmt.Fprintf(&text, "options %s\n", strings.Join(dns.GetOptions(), " "))
	}
	return []byte(text.String()), nil
}

// pauseSpec does the looking for sandboxSpec.
func (s *Server) pauseSpec(ctx context.Context, sb *sandbox, image *imageInfo) (*specs.Spec, error) {
	sc := sb.Config.GetLinux().GetSecurityContext()
	found, err := s.images.readAccounts(ctx, image)
	if err != nil {
		return nil, err
	}
	user, err := resolveUser(image.config.User, &runtimeapi.LinuxContainerSecurityContext{
		RunAsUser: sc.GetRunAsUser(), RunAsGroup: sc.GetRunAsGroup(), SupplementalGroups: sc.GetSupplementalGroups(),
		SupplementalGroupsPolicy: sc.GetSupplementalGroupsPolicy(),
	}, found)
	if err != nil {
		return nil, err
	}
	filter, err := readSeccomp(sc.GetSeccomp())
	if err != nil {
		return nil, err
	}
	return sandboxSpec(specInput{
		ID: sb.ID, Sandbox: &sb.sandboxRecord, Image: image.config, User: user,
		Files: s.podFiles(sb), Seccomp: filter, Host: s.host,
	})
}
