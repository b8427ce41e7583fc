package grade

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
)

// patch judges the exercise of lab 03: four ways to say what should differ,
// and one way to make it so, whatever somebody else does meanwhile.
var patch = suite{
	programs: []string{"kube-apiserver"},
	open:     func(ctx context.Context, b *bench) error { return b.twoServers(ctx) },
	checks: []Check{
		{
			Name: merged, Points: 2, run: mergePatch,
			Hint: "patchFunc makes a function of the body; hand it the present object, and store what comes out",
		},
		{
			Name: "a strategic merge patch finds a container by its name", Points: 1, Needs: []string{merged}, run: strategicPatch,
			Hint: "which of the forms it is stands in Content-Type; patchFunc wants to know it",
		},
		{
			Name: "a JSON patch does all of its operations or, if a test fails, none", Points: 1, Needs: []string{merged}, run: operationsPatch,
			Hint: "an error of the patch is the answer, and nothing is stored",
		},
		{
			Name: "an apply patch makes what is not there, and remembers whose it is", Points: 1, run: applyPatch,
			Hint: "application/apply-patch+yaml is for Server.apply",
		},
		{
			Name: "a patch of a scale changes the replicas, one of a status the status", Points: 2, Needs: []string{merged}, run: patchSubresources,
			Hint: "a Scale is not the object: it is for patchScale",
		},
		{
			Name: "a patch that lost the race is made again, of what is there now", Points: 3, Needs: []string{merged}, run: race("again", appendOnce, accept, "1"),
			Hint: "apply the patch inside the function that you hand to updateObject, to what that is given",
		},
		{
			Name: "a patch that names an old resourceVersion is refused: 409", Points: 2, Needs: []string{merged}, run: insistingPatch,
			Hint: "what the patch says about metadata.resourceVersion is part of the new object: leave it there",
		},
		{
			Name: "a patch gives an object no other name, and moves it nowhere", Points: 2, Needs: []string{merged}, run: renamingPatch,
			Hint: "compare the patched object with the old one's name and the request's namespace (sameNamespace)",
		},
		{
			Name: "a patch that is refused leaves nothing behind, not in the cache either", Points: 2, Needs: []string{merged}, run: refusedPatch,
			Hint: "who decodes into the old object changes what every reader of the cache sees",
		},
	},
}

const merged = "a merge patch changes what it names, takes away what it calls null, and no more"

// expectData reads a record through a server's cache and compares.
func expectData(ctx context.Context, maps *client.Resource[*corev1.ConfigMap], name, want string) error {
	found, err := maps.Get(ctx, namespace, name)
	if err != nil {
		return err
	}
	if got := fmt.Sprint(found.Data); got != want {
		return fmt.Errorf("the data are %s, and should be %s", got, want)
	}
	return nil
}

func mergePatch(ctx context.Context, b *bench) error {
	maps := client.For(b.straight, client.ConfigMaps)
	made, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "merge"},
		Data: map[string]string{"kept": "1", "changed": "1", "removed": "1"}})
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	answer, err := maps.Patch(ctx, namespace, "merge", types.MergePatchType, []byte(`{"data":{"changed":"2","removed":null,"added":"2"}}`))
	if err != nil {
		return err
	}
	const want = "map[added:2 changed:2 kept:1]"
	if got := fmt.Sprint(answer.Data); got != want || answer.ResourceVersion == made.ResourceVersion {
		return fmt.Errorf("the answer has data %s at resourceVersion %s (was %s); want %s", got, answer.ResourceVersion, made.ResourceVersion, want)
	}
	if err := expectData(ctx, maps, "merge", want); err != nil {
		return err
	}
	_, err = maps.Patch(ctx, namespace, "nobody", types.MergePatchType, []byte(`{"data":{"a":"b"}}`))
	if !apierrors.IsNotFound(err) {
		return unexpected(err, "for what is not there 404 Not Found")
	}
	_, err = maps.Patch(ctx, namespace, "merge", "application/x-guess", []byte(`{"data":{"a":"b"}}`))
	return code(err, http.StatusUnsupportedMediaType, "for a form that nobody knows")
}

// code expects a request to have been refused with an HTTP status.
func code(err error, want int32, what string) error {
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Code == want {
		return nil
	}
	return unexpected(err, fmt.Sprintf("%s %d %s", what, want, http.StatusText(int(want))))
}

// deployment is a Deployment of two containers.
func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "web", Image: "web:1"}, {Name: "log", Image: "log:1"}}}},
	}}
}

func images(d *appsv1.Deployment) string {
	var all []string
	for _, c := range d.Spec.Template.Spec.Containers {
		all = append(all, c.Name+"="+c.Image)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func strategicPatch(ctx context.Context, b *bench) error {
	deployments := client.For(b.straight, client.Deployments)
	if _, err := deployments.Create(ctx, deployment("strategic")); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	body := []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"log","image":"log:2"}]}}}}`)
	for _, try := range []struct {
		form types.PatchType
		want string
	}{{types.StrategicMergePatchType, "log=log:2 web=web:1"}, {types.MergePatchType, "log=log:2"}} {
		d, err := deployments.Patch(ctx, namespace, "strategic", try.form, body)
		if err != nil {
			return err
		}
		if got := images(d); got != try.want {
			return fmt.Errorf("after a patch of the form %s the containers are %s, and should be %s", try.form, got, try.want)
		}
	}
	return nil
}

func operationsPatch(ctx context.Context, b *bench) error {
	r, _, err := b.create(ctx, "operations")
	if err != nil {
		return err
	}
	_, err = r.straight.Patch(ctx, namespace, r.name, types.JSONPatchType,
		[]byte(`[{"op":"add","path":"/data/m","value":"1"},{"op":"copy","from":"/data/m","path":"/data/n"}]`))
	if err != nil {
		return err
	}
	if err := expectData(ctx, r.straight, r.name, "map[m:1 n:1]"); err != nil {
		return err
	}
	_, err = r.straight.Patch(ctx, namespace, r.name, types.JSONPatchType,
		[]byte(`[{"op":"replace","path":"/data/n","value":"2"},{"op":"test","path":"/data/m","value":"7"}]`))
	if err := code(err, http.StatusUnprocessableEntity, "for a test that fails"); err != nil {
		return err
	}
	return expectData(ctx, r.straight, r.name, "map[m:1 n:1]")
}

// applied sends an apply patch, which needs a parameter that clients' Patch
// does not have.
func (b *bench) applied(ctx context.Context, name, manager, body string) (*corev1.ConfigMap, error) {
	maps := client.For(b.straight, client.ConfigMaps)
	object := &corev1.ConfigMap{}
	err := b.straight.DoInto(ctx, client.Request{Method: http.MethodPatch, Path: maps.Path(namespace, name), Query: map[string][]string{"fieldManager": {manager}},
		ContentType: string(types.ApplyYAMLPatchType), Body: []byte(body)}, nil, object)
	return object, err
}

func applyPatch(ctx context.Context, b *bench) error {
	const body = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied"},"data":{"n":"%s"}}`
	object, err := b.applied(ctx, "applied", "one", fmt.Sprintf(body, "1"))
	if err != nil {
		return err
	}
	if len(object.ManagedFields) != 1 || object.ManagedFields[0].Manager != "one" || object.ManagedFields[0].Operation != metav1.ManagedFieldsOperationApply {
		return fmt.Errorf("managedFields: %v; want one entry, of Apply by one", object.ManagedFields)
	}
	_, err = b.applied(ctx, "applied", "two", fmt.Sprintf(body, "2"))
	return conflict(err)
}

func patchSubresources(ctx context.Context, b *bench) error {
	deployments := client.For(b.straight, client.Deployments)
	if _, err := deployments.Create(ctx, deployment("scaled")); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	body := []byte(`{"spec":{"replicas":3},"status":{"replicas":2}}`)
	if _, err := deployments.Patch(ctx, namespace, "scaled", types.MergePatchType, body, "status"); err != nil {
		return fmt.Errorf("patch of the status: %w", err)
	}
	replicas := func(wanted, there int32) error {
		d, err := deployments.Get(ctx, namespace, "scaled")
		if err == nil && (d.Spec.Replicas == nil || *d.Spec.Replicas != wanted || d.Status.Replicas != there) {
			err = fmt.Errorf("spec.replicas %v, status.replicas %d; want %d and %d", d.Spec.Replicas, d.Status.Replicas, wanted, there)
		}
		return err
	}
	if err := replicas(1, 2); err != nil {
		return fmt.Errorf("after a patch of the status: %w", err)
	}
	scale := map[string]any{}
	err := b.straight.DoInto(ctx, client.Request{Method: http.MethodPatch, Path: deployments.Path(namespace, "scaled", "scale"),
		ContentType: string(types.MergePatchType), Body: []byte(`{"spec":{"replicas":3}}`)}, nil, &scale)
	if err != nil {
		return fmt.Errorf("patch of the scale: %w", err)
	}
	if scale["kind"] != "Scale" {
		return fmt.Errorf("the patch of the scale was answered with a %v", scale["kind"])
	}
	return replicas(3, 2)
}

func insistingPatch(ctx context.Context, b *bench) error {
	r, object, err := b.create(ctx, "insisting")
	if err != nil {
		return err
	}
	body := fmt.Appendf(nil, `{"metadata":{"resourceVersion":%q},"data":{"n":"1"}}`, object.ResourceVersion)
	if _, err := r.straight.Patch(ctx, namespace, r.name, types.MergePatchType, body); err != nil {
		return fmt.Errorf("with the right resourceVersion: %w", err)
	}
	body = []byte(strings.Replace(string(body), `"1"`, `"2"`, 1))
	_, err = r.straight.Patch(ctx, namespace, r.name, types.MergePatchType, body)
	if err := conflict(err); err != nil {
		return err
	}
	_, err = r.expect(ctx, "1")
	return err
}

func renamingPatch(ctx context.Context, b *bench) error {
	r, _, err := b.create(ctx, "named")
	if err != nil {
		return err
	}
	for _, metadata := range []string{`{"name":"other"}`, `{"namespace":"kube-system"}`} {
		_, err := r.straight.Patch(ctx, namespace, r.name, types.MergePatchType, []byte(`{"metadata":`+metadata+`,"data":{"n":"1"}}`))
		if err := code(err, http.StatusBadRequest, "for a patch with "+metadata); err != nil {
			return err
		}
	}
	_, err = r.expect(ctx, "0")
	return err
}

// refusedPatch sends a patch that does not pass validation, and then looks at
// the object as decoded: a Table's cells are made from what the cache shares.
func refusedPatch(ctx context.Context, b *bench) error {
	deployments := client.For(b.straight, client.Deployments)
	if _, err := deployments.Create(ctx, deployment("refused")); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	_, err := deployments.Patch(ctx, namespace, "refused", types.MergePatchType, []byte(`{"spec":{"replicas":-7}}`))
	if err := code(err, http.StatusUnprocessableEntity, "for -7 replicas"); err != nil {
		return err
	}
	table := metav1.Table{}
	err = b.straight.DoInto(ctx, client.Request{Method: http.MethodGet, Path: deployments.Path(namespace, "refused"),
		Accept: "application/json;as=Table;g=meta.k8s.io;v=v1"}, nil, &table)
	if err != nil {
		return err
	}
	if len(table.Rows) != 1 || len(table.Rows[0].Cells) < 2 || table.Rows[0].Cells[1] != "0/1" {
		return fmt.Errorf("kubectl get would show %v, and READY should be 0/1", table.Rows)
	}
	return nil
}
