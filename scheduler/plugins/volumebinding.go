package plugins

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"tinykube/api/claims"
	"tinykube/scheduler/framework"
)

// VolumeBinding brings pod and volumes together on one node.
//
//	claim is bound                 the node must reach its volume
//	class says Immediate           the volume controller binds it; the pod waits
//	class says WaitForFirstConsumer, which is to say, for us:
//	    a volume that exists fits  it is set aside (Reserve) and given the
//	                               claim's name (PreBind)
//	    none does                  one can be made if the class has a
//	                               provisioner and the node is among its
//	                               topologies: the claim is told the node
//
// In both of the last cases PreBind then waits until the volume controller, or
// a provisioner, has finished; only then is the pod bound.
//
// Simplified: a PersistentVolume of a kind that was once built into Kubernetes
// is not translated to its CSI driver. Upstream does so for the disks of five
// clouds; here their limits are not counted.
//
// Upstream: kubernetes pkg/scheduler/framework/plugins/volumebinding
type VolumeBinding struct {
	objects framework.Objects
	writer  framework.VolumeWriter
	timeout time.Duration

	mu sync.Mutex // guards what follows
	// What was decided and the watch does not show yet: which claim gets a
	// volume, and which node a claim waits for.
	takenBy  map[string]claimKey
	selected map[claimKey]string
}

type claimKey struct{ namespace, name string }

func keyOf(claim *corev1.PersistentVolumeClaim) claimKey {
	return claimKey{claim.Namespace, claim.Name}
}

// The verdicts on a node.
const (
	volumeElsewhere = "node(s) didn't match PersistentVolume's node affinity"
	noVolume        = "node(s) didn't find available persistent volumes to bind"
	noSpace         = "node(s) did not have enough free storage"
	volumeGone      = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
)

const defaultBindTimeoutSeconds = 600

func newVolumeBinding(raw []byte, handle framework.Handle) (framework.Plugin, error) {
	var args configv1.VolumeBindingArgs
	if err := decodeArgs(raw, &args); err != nil {
		return nil, err
	}
	seconds := int64(defaultBindTimeoutSeconds)
	if args.BindTimeoutSeconds != nil {
		seconds = *args.BindTimeoutSeconds
	}
	if seconds < 0 {
		return nil, fmt.Errorf("bindTimeoutSeconds: Invalid value: %d: invalid BindTimeoutSeconds, should not be a negative value", seconds)
	}
	if len(args.Shape) > 0 {
		return nil, errors.New("shape: Forbidden: unexpected field, remove it or turn on the feature gate StorageCapacityScoring")
	}
	return &VolumeBinding{objects: handle.Known(), writer: handle.Volumes, timeout: time.Duration(seconds) * time.Second,
		takenBy: map[string]claimKey{}, selected: map[claimKey]string{}}, nil
}

// Name is the plugin's name in configuration files.
func (*VolumeBinding) Name() string { return "VolumeBinding" }

// podClaims are a pod's claims, and per node what binding them there takes.
type podClaims struct {
	bound, waiting []*corev1.PersistentVolumeClaim
	plans          map[string]*bindingPlan
}

// bindingPlan is what is left to do for the claims on one node.
type bindingPlan struct {
	matches   []match
	provision []*corev1.PersistentVolumeClaim
}

// match is a claim and the volume that it gets.
type match struct {
	claim  *corev1.PersistentVolumeClaim
	volume *corev1.PersistentVolume
}

// PreFilter sorts the claims.
func (p *VolumeBinding) PreFilter(c *framework.Cycle) (map[string]bool, *framework.Status) {
	if len(claims.Names(c.Pod.Pod)) == 0 {
		return nil, skip
	}
	s := &podClaims{plans: map[string]*bindingPlan{}}
	immediate := false
	wanted, err := p.claimsOf(c.Pod.Pod)
	if err != nil {
		return nil, framework.NewStatus(framework.UnschedulableAndUnresolvable, err.Error())
	}
	for _, claim := range wanted {
		switch {
		case claims.Bound(claim):
			s.bound = append(s.bound, claim)
		case claim.Spec.VolumeName == "" && claims.WaitsForPod(p.objects.StorageClass(claims.Class(claim))):
			s.waiting = append(s.waiting, claim)
		default:
			immediate = true
		}
	}
	if immediate {
		return nil, unboundImmediate
	}
	slices.SortStableFunc(s.waiting, bySize) // so that the smallest volume that fits is taken
	c.Set(p.Name(), s)
	return nil, nil
}

var unboundImmediate = framework.NewStatus(framework.UnschedulableAndUnresolvable, "pod has unbound immediate PersistentVolumeClaims")

// claimsOf returns the pod's claims if all of them can be used.
func (p *VolumeBinding) claimsOf(pod *corev1.Pod) (found []*corev1.PersistentVolumeClaim, err error) {
	for i := range pod.Spec.Volumes {
		name, ephemeral := claims.Of(pod, &pod.Spec.Volumes[i])
		if name == "" {
			continue
		}
		claim := p.objects.Claim(pod.Namespace, name)
		switch {
		case claim == nil && ephemeral:
			return nil, fmt.Errorf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
		case claim == nil:
			return nil, fmt.Errorf("persistentvolumeclaim %q not found", name)
		case claim.Status.Phase == corev1.ClaimLost:
			return nil, fmt.Errorf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
		case claim.DeletionTimestamp != nil:
			return nil, fmt.Errorf("persistentvolumeclaim %q is being deleted", name)
		case ephemeral:
			if err := claims.Own(pod, claim); err != nil {
				return nil, err
			}
		}
		found = append(found, claim)
	}
	return found, nil
}

// Filter looks for a volume on the node for each claim, or for a way to one.
func (p *VolumeBinding) Filter(c *framework.Cycle, n *framework.NodeInfo) *framework.Status {
	s := c.Get(p.Name()).(*podClaims)
	reasons := p.checkBound(s.bound, n.Node)
	plan, reason, err := p.plan(s.waiting, n.Node)
	if err != nil {
		return framework.AsStatus(err)
	}
	if reason != "" {
		reasons = append(reasons, reason)
	}
	if len(reasons) > 0 {
		return framework.NewStatus(framework.UnschedulableAndUnresolvable, reasons...)
	}
	s.plans[n.Node.Name] = plan
	return nil
}

func (p *VolumeBinding) checkBound(bound []*corev1.PersistentVolumeClaim, node *corev1.Node) []string {
	for _, claim := range bound {
		volume := p.objects.Volume(claim.Spec.VolumeName)
		if volume == nil {
			return []string{volumeGone}
		}
		if !claims.Reachable(volume, node) {
			return []string{volumeElsewhere}
		}
	}
	return nil
}

// plan decides for each claim between a volume that exists and a new one.
func (p *VolumeBinding) plan(claims []*corev1.PersistentVolumeClaim, node *corev1.Node) (plan *bindingPlan, reason string, err error) {
	plan = &bindingPlan{}
	var unmatched []*corev1.PersistentVolumeClaim
	taken := map[string]bool{}
	for _, claim := range claims {
		if on := p.selectedNode(claim); on == node.Name {
			plan.provision = append(plan.provision, claim)
			continue
		} else if on != "" {
			return nil, noVolume, nil
		}
		volume := p.smallest(claim, node, taken)
		if volume == nil {
			unmatched = append(unmatched, claim)
			continue
		}
		taken[volume.Name] = true
		plan.matches = append(plan.matches, match{claim, volume})
	}
	plan.provision = append(plan.provision, unmatched...)
	for _, claim := range plan.provision {
		if reason, err := p.canProvision(claim, node); reason != "" || err != nil {
			return nil, reason, err
		}
	}
	return plan, "", nil
}

// selectedNode is the node for which the claim's volume is being made.
func (p *VolumeBinding) selectedNode(claim *corev1.PersistentVolumeClaim) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if node := p.selected[keyOf(claim)]; node != "" {
		return node
	}
	return claim.Annotations[claims.SelectedNode]
}

// Reserve sets the volumes aside.
func (p *VolumeBinding) Reserve(c *framework.Cycle, node string) *framework.Status {
	p.reserve(c, node, func(m match) { p.takenBy[m.volume.Name] = keyOf(m.claim) },
		func(claim *corev1.PersistentVolumeClaim) { p.selected[keyOf(claim)] = node })
	return nil
}

// Unreserve frees them.
func (p *VolumeBinding) Unreserve(c *framework.Cycle, node string) {
	p.reserve(c, node, func(m match) { delete(p.takenBy, m.volume.Name) },
		func(claim *corev1.PersistentVolumeClaim) { delete(p.selected, keyOf(claim)) })
}

func (p *VolumeBinding) reserve(c *framework.Cycle, node string, take func(match), choose func(*corev1.PersistentVolumeClaim)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s, ok := c.Get(p.Name()).(*podClaims); ok && s.plans[node] != nil {
		for _, m := range s.plans[node].matches {
			take(m)
		}
		for _, claim := range s.plans[node].provision {
			choose(claim)
		}
	}
}

// PreScore stands aside: to prefer nodes whose storage has more room is, at
// upstream, a feature (StorageCapacityScoring) that is off.
func (*VolumeBinding) PreScore(*framework.Cycle, []*framework.NodeInfo) *framework.Status {
	return skip
}

// Score is never asked; files may name the plugin among those that score.
func (*VolumeBinding) Score(*framework.Cycle, *framework.NodeInfo) (int64, *framework.Status) {
	return 0, nil
}

// Slow says whether PreBind will wait for others.
func (p *VolumeBinding) Slow(c *framework.Cycle, node string) bool {
	s, ok := c.Get(p.Name()).(*podClaims)
	return ok && s.plans[node] != nil && len(s.plans[node].matches)+len(s.plans[node].provision) > 0
}

// PreBind tells the volume controller what was decided and waits for it.
func (p *VolumeBinding) PreBind(ctx context.Context, c *framework.Cycle, node string) *framework.Status {
	if !p.Slow(c, node) {
		return nil
	}
	plan := c.Get(p.Name()).(*podClaims).plans[node]
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	// What the watch shows may be older than what was just written.
	written := map[claimKey]string{}
	for _, m := range plan.matches {
		version, err := p.writer.UpdateVolume(ctx, given(m.volume, m.claim))
		if err != nil {
			return framework.AsStatus(err)
		}
		written[keyOf(m.claim)] = version
	}
	for _, claim := range plan.provision {
		told := claim.DeepCopy()
		if told.Annotations == nil {
			told.Annotations = map[string]string{}
		}
		told.Annotations[claims.SelectedNode] = node
		if maps.Equal(told.Annotations, claim.Annotations) {
			written[keyOf(claim)] = claim.ResourceVersion // told in an earlier attempt
			continue
		}
		version, err := p.writer.UpdateClaim(ctx, told)
		if err != nil {
			return framework.AsStatus(err)
		}
		written[keyOf(claim)] = version
	}
	err := p.writer.Await(ctx, func() (bool, error) { return p.bindingDone(plan, node, written) })
	if err != nil {
		return framework.AsStatus(fmt.Errorf("binding volumes: %w", err))
	}
	p.Unreserve(c, node) // the watch shows it now
	return nil
}

// given is the volume with the claim's name on it.
func given(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolume {
	volume = volume.DeepCopy()
	if volume.Spec.ClaimRef == nil {
		if volume.Annotations == nil {
			volume.Annotations = map[string]string{}
		}
		volume.Annotations[claims.BoundByController] = "yes"
	}
	volume.Spec.ClaimRef = &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name,
		UID: claim.UID, ResourceVersion: claim.ResourceVersion}
	return volume
}

// bindingDone looks at what the watch shows. An error ends the wait: the pod
// is decided anew.
//
// Upstream: kubernetes pkg/scheduler/framework/plugins/volumebinding checkBindings
func (p *VolumeBinding) bindingDone(plan *bindingPlan, node string, written map[claimKey]string) (bool, error) {
	done := true
	for _, m := range plan.matches {
		claim, volume := p.objects.Claim(m.claim.Namespace, m.claim.Name), p.objects.Volume(m.volume.Name)
		switch {
		case claim == nil:
			return false, fmt.Errorf("failed to check binding: persistentvolumeclaim %q not found", m.claim.Name)
		case volume == nil:
			return false, fmt.Errorf("failed to check binding: persistentvolume %q not found", m.volume.Name)
		case older(volume.ResourceVersion, written[keyOf(m.claim)]):
			return false, nil
		case volume.Spec.ClaimRef == nil || volume.Spec.ClaimRef.UID == "":
			return false, fmt.Errorf("ClaimRef got reset for pv %q", volume.Name)
		}
		done = done && claims.Bound(claim)
	}
	for _, provisioned := range plan.provision {
		claim := p.objects.Claim(provisioned.Namespace, provisioned.Name)
		switch {
		case claim == nil:
			return false, fmt.Errorf("failed to check provisioning pvc: persistentvolumeclaim %q not found", provisioned.Name)
		case older(claim.ResourceVersion, written[keyOf(claim)]):
			return false, nil
		case claim.Annotations[claims.SelectedNode] != node:
			// The provisioner gave up and asks for another node.
			return false, fmt.Errorf("provisioning failed for PVC %q", claim.Name)
		}
		done = done && claims.Bound(claim)
	}
	return done, nil
}

// older compares resourceVersions, which are numbers.
func older(a, b string) bool {
	x, _ := strconv.ParseUint(a, 10, 64)
	y, _ := strconv.ParseUint(b, 10, 64)
	return x < y
}
