package apiserver

import (
	"context"
	"fmt"
	"reflect"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver/resources"
)

// Two kinds have no controller but us: FlowSchemas, of which we say whether
// their priority level exists, and the ServiceCIDR that our flag made.

// keepStatuses writes them when something changes, until ctx ends.
func (s *Server) keepStatuses(ctx context.Context) error {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return nil
	}
	schemas, err := s.changesOf(ctx, flowcontrolv1.GroupName, "flowschemas")
	if err != nil {
		return err
	}
	defer schemas.Stop()
	levels, err := s.changesOf(ctx, flowcontrolv1.GroupName, "prioritylevelconfigurations")
	if err != nil {
		return err
	}
	defer levels.Stop()
	for ctx.Err() == nil {
		wait := housekeepingEvery
		if err := s.publishStatuses(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("Cannot write statuses, will retry", "err", err)
			wait = seedRetry
		}
		timer := time.NewTimer(wait)
		select {
		case <-schemas.Bell():
		case <-levels.Bell():
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		schemas.Take()
		levels.Take()
	}
	return nil
}

// publishStatuses writes what has changed.
func (s *Server) publishStatuses(ctx context.Context) error {
	for _, schema := range allCached[*flowcontrolv1.FlowSchema](s, flowcontrolv1.GroupName, "flowschemas", "") {
		if err := s.writeStatus(ctx, schema, func(obj resources.Object) { s.sayDangling(obj.(*flowcontrolv1.FlowSchema)) }); err != nil {
			return err
		}
	}
	return s.writeStatus(ctx, s.services.serviceCIDR(), func(obj resources.Object) {
		if c := obj.(*networkingv1.ServiceCIDR); len(c.Status.Conditions) == 0 {
			meta.SetStatusCondition(&c.Status.Conditions, metav1.Condition{
				Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes default Service CIDR is ready",
			})
		}
	})
}

// sayDangling sets the condition Dangling.
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/util/flowcontrol/apf_controller.go
func (s *Server) sayDangling(schema *flowcontrolv1.FlowSchema) {
	level := schema.Spec.PriorityLevelConfiguration.Name
	now := flowcontrolv1.FlowSchemaCondition{
		Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionFalse, LastTransitionTime: metav1.Now(), Reason: "Found",
		Message: fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q and it exists", level),
	}
	if _, ok := cached[*flowcontrolv1.PriorityLevelConfiguration](s, flowcontrolv1.GroupName, "prioritylevelconfigurations", level); !ok {
		now.Status, now.Reason = flowcontrolv1.ConditionTrue, "NotFound"
		now.Message = fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q but there is no such object", level)
	}
	for i := range schema.Status.Conditions {
		if old := &schema.Status.Conditions[i]; old.Type == now.Type {
			if old.Status != now.Status {
				*old = now
			}
			return
		}
	}
	schema.Status.Conditions = append(schema.Status.Conditions, now)
}

// writeStatus stores what change does to an object's status, if it does
// anything, and if the object is there.
func (s *Server) writeStatus(ctx context.Context, obj resources.Object, change func(resources.Object)) error {
	q := s.internal(ctx, s.rowFor(obj), obj.GetNamespace(), obj.GetName())
	q.subresource = "status"
	item := q.table.Cached(q.key())
	if item == nil {
		return nil
	}
	old, err := item.Object()
	if err != nil {
		return err
	}
	next := old.DeepCopyObject().(resources.Object)
	if change(next); reflect.DeepEqual(old, next) {
		return nil
	}
	_, err = s.updateObject(q, func(current resources.Object) (resources.Object, error) {
		next := current.DeepCopyObject().(resources.Object)
		change(next)
		return next, nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
