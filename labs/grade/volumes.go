package grade

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/api/claims"
	"tinykube/client"
)

// volumes judges the two decisions of lab 22: which volume a claim gets, and
// which volumes are to be attached to a node. There is no driver and no kubelet:
// checks play them. The second half has a manager of its own, since one whose
// first half is not written may have ended by then.
var volumes = suite{
	programs: []string{"kube-controller-manager"},
	open:     withManager("--controllers=persistentvolume-binder-controller"),
	checks:   slices.Concat(choiceChecks, attachChecks),
}

var choiceChecks = []Check{
	{
		Name: bound, Points: 1, run: shelved("fits", fits),
		Hint: "a volume that is Available, nobody's, of the claim's class, and large enough",
	},
	{
		Name: "of those that are large enough the smallest is taken", Points: 2, Needs: []string{bound}, run: shelved("smallest", smallest),
		Hint: "claims.Large, and better",
	},
	{
		Name: "it can do what the claim wants, and no more than needs be", Points: 2, Needs: []string{bound}, run: shelved("modes", accessModes),
		Hint: "claims.Modes; better puts the one with fewer access modes first",
	},
	{
		Name: "it is of the kind that is wanted: class, volume mode, labels", Points: 2, Needs: []string{bound}, run: shelved("kind", ofKind),
		Hint: "claims.VolumeClass and Class, Mode, Selected",
	},
	{
		Name: "what is somebody else's is not taken, and neither is what goes or is kept", Points: 2, Needs: []string{bound}, run: shelved("taken", taken),
		Hint: "ClaimRef, DeletionTimestamp, Status.Phase",
	},
	{
		Name: "what was reserved for the claim comes first", Points: 1, Needs: []string{bound}, run: shelved("reserved", reservedFirst),
		Hint: "claims.Promised ends the search",
	},
	{
		Name: "a claim that waits for a pod gets what was reserved, and nothing else", Points: 2, Needs: []string{bound}, run: shelved("waits", waitsForPod),
		Hint: "waits",
	},
}

const bound = "a claim gets a volume that fits"

// shelf is a class of its own, with volumes of the sort that each check makes,
// in which one claim after the other is served.
type shelf struct {
	*bench
	class   string
	volumes *client.Resource[*corev1.PersistentVolume]
	claims  *client.Resource[*corev1.PersistentVolumeClaim]
	markers int
}

func shelved(class string, check func(context.Context, *shelf) error) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		return check(ctx, &shelf{b, class, client.For(b.straight, client.PersistentVolumes), client.For(b.straight, client.PersistentVolumeClaims), 0})
	}
}

// volume makes a volume, and waits until it is Available, or says what it is.
func (s *shelf) volume(ctx context.Context, name, size string, change func(*corev1.PersistentVolume)) error {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: s.class + "-" + name}, Spec: corev1.PersistentVolumeSpec{StorageClassName: s.class,
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/nowhere"}}}}
	if change != nil {
		change(v)
	}
	if _, err := s.volumes.Create(ctx, v); err != nil {
		return err
	}
	return s.until(ctx, func() error {
		v, err := s.volumes.Get(ctx, "", v.Name)
		if err == nil && v.Status.Phase == "" || v.Status.Phase == corev1.VolumePending {
			err = fmt.Errorf("volume %s is %q", v.Name, v.Status.Phase)
		}
		return err
	})
}

// claim makes a claim for 4Gi.
func (s *shelf) claim(ctx context.Context, name string, change func(*corev1.PersistentVolumeClaim)) error {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: s.class + "-" + name}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: &s.class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("4Gi")}}}}
	if change != nil {
		change(c)
	}
	_, err := s.claims.Create(ctx, c)
	return err
}

// seen waits until the binder has seen all volumes as they are: one that is made
// later, and asked for by name, is bound. To choose is no part of that.
func (s *shelf) seen(ctx context.Context) error {
	s.markers++
	marker := fmt.Sprintf("marker-%d", s.markers)
	err := s.volume(ctx, marker, "4Gi", func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: namespace, Name: v.Name}
	})
	if err == nil {
		err = s.claim(ctx, marker, func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = c.Name })
	}
	if err != nil {
		return err
	}
	_, err = s.got(ctx, marker)
	return err
}

// got is the volume that a claim is bound to, once it is.
func (s *shelf) got(ctx context.Context, claim string) (volume string, err error) {
	err = s.until(ctx, func() error {
		c, err := s.claims.Get(ctx, namespace, s.class+"-"+claim)
		if err != nil {
			return err
		}
		if volume = c.Spec.VolumeName; c.Status.Phase != corev1.ClaimBound {
			return fmt.Errorf("claim %s is not bound", c.Name)
		}
		return nil
	})
	return volume, err
}

// gets makes a claim, and waits until it is bound to a volume.
func (s *shelf) gets(ctx context.Context, volume string, change func(*corev1.PersistentVolumeClaim)) error {
	if err := s.seen(ctx); err != nil {
		return err
	}
	if err := s.claim(ctx, volume, change); err != nil {
		return err
	}
	got, err := s.got(ctx, volume)
	if err == nil && got != s.class+"-"+volume {
		err = fmt.Errorf("the claim got volume %s, and should have got %s", got, s.class+"-"+volume)
	}
	return err
}

// offered are volumes by name and size.
func (s *shelf) offered(ctx context.Context, change func(*corev1.PersistentVolume), volumes ...string) error {
	for _, v := range volumes {
		name, size, _ := strings.Cut(v, " ")
		if err := s.volume(ctx, name, size, change); err != nil {
			return err
		}
	}
	return nil
}

func fits(ctx context.Context, s *shelf) error {
	if err := s.offered(ctx, nil, "one 5Gi"); err != nil {
		return err
	}
	return s.gets(ctx, "one", nil)
}

func smallest(ctx context.Context, s *shelf) error {
	if err := s.offered(ctx, nil, "a-large 9Gi", "b-small 3Gi", "c-right 5Gi", "d-larger 6Gi", "e-exact 4Gi"); err != nil {
		return err
	}
	for _, want := range []string{"e-exact", "c-right", "d-larger"} {
		if err := s.gets(ctx, want, nil); err != nil {
			return err
		}
	}
	return nil
}

func accessModes(ctx context.Context, s *shelf) error {
	err := s.offered(ctx, func(v *corev1.PersistentVolume) {
		v.Spec.AccessModes = append(v.Spec.AccessModes, corev1.ReadWriteMany)
	}, "both 4Gi")
	if err == nil {
		err = s.offered(ctx, nil, "once 7Gi")
	}
	if err != nil {
		return err
	}
	err = s.gets(ctx, "both", func(c *corev1.PersistentVolumeClaim) {
		c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
	})
	if err == nil {
		err = s.offered(ctx, func(v *corev1.PersistentVolume) { v.Spec.AccessModes = append(v.Spec.AccessModes, corev1.ReadOnlyMany) }, "more 4Gi")
	}
	if err != nil {
		return err
	}
	return s.gets(ctx, "once", nil)
}

func ofKind(ctx context.Context, s *shelf) error {
	block := corev1.PersistentVolumeBlock
	ssd := map[string]string{"disk": "ssd"}
	for name, change := range map[string]func(*corev1.PersistentVolume){
		"a-class": func(v *corev1.PersistentVolume) { v.Spec.StorageClassName, v.Labels = "another", ssd },
		"b-block": func(v *corev1.PersistentVolume) { v.Spec.VolumeMode, v.Labels = &block, ssd },
		"c-plain": nil,
		"d-right": func(v *corev1.PersistentVolume) {
			v.Labels, v.Spec.Capacity = ssd, corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("8Gi")}
		},
	} {
		if err := s.volume(ctx, name, "5Gi", change); err != nil {
			return err
		}
	}
	if err := s.gets(ctx, "d-right", func(c *corev1.PersistentVolumeClaim) { c.Spec.Selector = &metav1.LabelSelector{MatchLabels: ssd} }); err != nil {
		return err
	}
	return s.gets(ctx, "b-block", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = &block })
}

func taken(ctx context.Context, s *shelf) error {
	for name, change := range map[string]func(*corev1.PersistentVolume){
		"a-promised": func(v *corev1.PersistentVolume) {
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: namespace, Name: "nobody-yet"}
		},
		"b-kept": func(v *corev1.PersistentVolume) {
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: namespace, Name: s.class + "-d-right", UID: "its-predecessor"}
		},
		"c-going": func(v *corev1.PersistentVolume) { v.Finalizers = []string{"example.com/keeps"} },
	} {
		if err := s.volume(ctx, name, "4Gi", change); err != nil {
			return err
		}
	}
	if err := s.volumes.Delete(ctx, "", s.class+"-c-going", metav1.DeleteOptions{}); err != nil {
		return err
	}
	// One that is made after it has been seen by all before it is.
	if err := s.offered(ctx, nil, "d-right 8Gi"); err != nil {
		return err
	}
	return s.gets(ctx, "d-right", nil)
}

func reservedFirst(ctx context.Context, s *shelf) error {
	if err := s.offered(ctx, nil, "a-free 4Gi", "z-free 4Gi"); err != nil {
		return err
	}
	err := s.offered(ctx, func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: namespace, Name: s.class + "-m-reserved"}
	}, "m-reserved 9Gi")
	if err != nil {
		return err
	}
	return s.gets(ctx, "m-reserved", nil)
}

func waitsForPod(ctx context.Context, s *shelf) error {
	wait := storagev1.VolumeBindingWaitForFirstConsumer
	_, err := client.For(s.straight, client.StorageClasses).Create(ctx, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: s.class}, Provisioner: claims.NoProvisioner, VolumeBindingMode: &wait})
	if err == nil {
		err = s.offered(ctx, nil, "free 4Gi")
	}
	if err == nil {
		err = s.offered(ctx, func(v *corev1.PersistentVolume) {
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: namespace, Name: s.class + "-reserved"}
		}, "reserved 4Gi")
	}
	if err == nil {
		err = s.seen(ctx)
	}
	if err == nil {
		err = s.claim(ctx, "waits", nil)
	}
	// The binder serves one claim after the other.
	if err == nil {
		err = s.gets(ctx, "reserved", nil)
	}
	if err != nil {
		return err
	}
	c, err := s.claims.Get(ctx, namespace, s.class+"-waits")
	if err == nil && c.Spec.VolumeName != "" {
		err = fmt.Errorf("claim %s waits for a pod, and got volume %s", c.Name, c.Spec.VolumeName)
	}
	return err
}
