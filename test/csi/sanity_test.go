package csi

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"

	"tinykube/cmd/csi-hostpath/app"
	"tinykube/internal/nstest"
)

// TestMain makes the test binary the driver as well, under its name. The tests run in mount and PID namespaces of their
// own: however they end, no mount and no process is left.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "csi-hostpath" {
		if err := app.NewCommand().Execute(); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	nstest.Main(m)
}

// attachLimit is small, so that the suite can exceed it.
const attachLimit = 4

// skipped are the specs that the driver cannot run, each with the suite's word for the capability that it would need.
var skipped = map[string]string{
	"NodeGetVolumeHealth should fail when no volume id is provided":                                              "NodeGetVolumeHealth not supported",
	"NodeGetVolumeHealth should return health for a valid volume":                                                "NodeGetVolumeHealth not supported",
	"NodeGetStorageHealth should return appropriate response":                                                    "NodeGetStorageHealth not supported",
	"ControllerGetVolumeHealth [Controller Server] should fail when no volume id is provided":                    "ControllerGetVolumeHealth not supported",
	"ControllerGetVolumeHealth [Controller Server] should return health for a valid volume":                      "ControllerGetVolumeHealth not supported",
	"ControllerListVolumeHealth [Controller Server] should return appropriate response":                          "ControllerListVolumeHealth not supported",
	"CreateSnapshot [Controller Server] should succeed when creating a snapshot with accessibility requirements": "SNAPSHOT_ACCESSIBILITY_CONSTRAINTS not supported",
}

// needs are these capabilities as CSI calls them.
var needs = map[string]string{
	"NodeGetVolumeHealth not supported":                "NodeServiceCapability GET_VOLUME_HEALTH (alpha)",
	"NodeGetStorageHealth not supported":               "NodeServiceCapability GET_STORAGE_HEALTH (alpha)",
	"ControllerGetVolumeHealth not supported":          "ControllerServiceCapability GET_VOLUME_HEALTH (alpha)",
	"ControllerListVolumeHealth not supported":         "ControllerServiceCapability LIST_VOLUME_HEALTH (alpha)",
	"SNAPSHOT_ACCESSIBILITY_CONSTRAINTS not supported": "PluginCapability SNAPSHOT_ACCESSIBILITY_CONSTRAINTS (alpha)",
}

// pending is a spec that the suite itself leaves out, by its own word because it is fragile.
const pending = "ListVolumes pagination should detect volumes added between pages and accept tokens when the last volume from a page is deleted"

// TestSanity runs the whole suite against the program, once with volumes that are directories and once with block
// devices. csi-sanity's own volumes are of 10 GiB; block volumes reserve what they promise, so ours are smaller.
func TestSanity(t *testing.T) {
	gomega.RegisterFailHandler(ginkgo.Fail)
	for _, access := range []string{"mount", "block"} {
		dir := t.TempDir()
		config := sanity.NewTestConfig()
		config.Address = "unix://" + start(t, dir)
		config.TargetPath, config.StagingPath = filepath.Join(dir, "mount"), filepath.Join(dir, "staging")
		config.TestVolumeAccessType = access
		config.TestVolumeSize, config.TestVolumeExpandSize = 16<<20, 32<<20
		config.TestNodeVolumeAttachLimit = true
		config.TestVolumeMutableParameters = map[string]string{"speed": "high"}
		config.SecretsFile = writeSecrets(t, dir)
		ginkgo.Describe(access, func() { sanity.GinkgoTest(&config) })
	}
	passed, listed := 0, []string{}
	ginkgo.ReportAfterSuite("skipped", func(report ginkgo.Report) {
		for _, spec := range report.SpecReports {
			name := strings.Join(append(spec.ContainerHierarchyTexts[min(1, len(spec.ContainerHierarchyTexts)):], spec.LeafNodeText), " ")
			if spec.LeafNodeType != types.NodeTypeIt {
				continue
			}
			switch spec.State {
			case types.SpecStatePassed:
				passed++
			case types.SpecStateSkipped:
				reason := find(name)
				if reason == "" || !strings.Contains(spec.Failure.Message, reason) {
					t.Errorf("skipped: %s: %s", name, spec.Failure.Message)
				}
				listed = append(listed, fmt.Sprintf("skipped, needs %s: %s", needs[reason], name))
			case types.SpecStatePending:
				if !strings.HasSuffix(name, pending) {
					t.Errorf("pending: %s", name)
				}
				listed = append(listed, "pending in the suite: "+name)
			}
		}
	})
	suite, reporter := ginkgo.GinkgoConfiguration()
	reporter.Succinct = true
	if !ginkgo.RunSpecs(t, "csi-sanity", suite, reporter) {
		t.Error("csi-sanity has failures")
	}
	slices.Sort(listed)
	t.Logf("csi-sanity: %d specs passed, half of them with directories, half with block devices\n%s", passed, strings.Join(slices.Compact(listed), "\n"))
	if passed < 2*85 {
		t.Errorf("%d specs passed", passed)
	}
}

func find(name string) string {
	for suffix, reason := range skipped {
		if strings.HasSuffix(name, suffix) {
			return reason
		}
	}
	return ""
}

// start runs the driver, with everything in dir, and answers its socket.
func start(t *testing.T, dir string) string {
	t.Helper()
	socket := filepath.Join(dir, "csi.sock")
	driver := exec.Command("/proc/self/exe", "--endpoint", "unix://"+socket, "--statedir", filepath.Join(dir, "state"), "--nodeid", "node-0",
		"--enable-attach", "--attach-limit", fmt.Sprint(attachLimit), "--enable-controller-modify-volume", "--accepted-mutable-parameter-names", "speed")
	driver.Args[0] = "csi-hostpath"
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	driver.Stdout, driver.Stderr = log, log
	if err := driver.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { finish(t, driver, dir) })
	return socket
}

// finish ends the driver and looks for what the suite may have left or should not have seen.
func finish(t *testing.T, driver *exec.Cmd, dir string) {
	_ = driver.Process.Kill()
	_ = driver.Wait()
	for _, sub := range []string{"volumes", "snapshots"} {
		if left, err := os.ReadDir(filepath.Join(dir, "state", sub)); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v %v", sub, left, err)
		}
	}
	log, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil || !strings.Contains(string(log), "stripped") || strings.Contains(string(log), secret) {
		t.Errorf("the log is not there (%v), or shows a secret, or shows none that is stripped", err)
	}
	if t.Failed() {
		t.Logf("%s", log[max(0, len(log)-10000):])
	}
	backings, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, backing := range backings {
		if file, _ := os.ReadFile(backing); strings.HasPrefix(string(file), dir) {
			t.Errorf("a loop device is left: %s is %s", backing, file)
		}
	}
}

// secret is sent with every call that can have one, and must not be seen again.
const secret = "correct-horse-battery-staple"

func writeSecrets(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "secrets.yaml")
	var text strings.Builder
	for _, call := range []string{"CreateVolume", "DeleteVolume", "ControllerPublishVolume", "ControllerUnpublishVolume", "ControllerValidateVolumeCapabilities",
		"NodeStageVolume", "NodePublishVolume", "CreateSnapshot", "DeleteSnapshot", "ControllerExpandVolume", "ControllerModifyVolume", "ListSnapshots"} {
		fmt.Fprintf(&text, "%sSecret:\n  key: %s\n", call, secret)
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
