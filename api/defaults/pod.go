package defaults

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// podRules are the pod and its parts. A rule of Pod acts on pods alone; one of
// PodSpec also on the templates in Deployments and Jobs, and adding to it
// would change the hash of every template that exists.
func podRules(into rules) {
	rule(into, pod)
	rule(into, podSpec)
	rule(into, func(s *corev1.PodStatus) {
		ips := make([]string, 0, len(s.PodIPs))
		for _, ip := range s.PodIPs {
			ips = append(ips, ip.IP)
		}
		if followed := follow(s.PodIP, ips); len(followed) > 0 && (len(ips) == 0 || followed[0] != ips[0]) {
			s.PodIPs = []corev1.PodIP{{IP: followed[0]}}
		}
		if len(s.PodIPs) > 0 {
			s.PodIP = s.PodIPs[0].IP
		}
	})
	rule(into, func(c *corev1.Container) {
		container(&c.ImagePullPolicy, c.Image, &c.TerminationMessagePath, &c.TerminationMessagePolicy)
	})
	rule(into, func(c *corev1.EphemeralContainerCommon) {
		container(&c.ImagePullPolicy, c.Image, &c.TerminationMessagePath, &c.TerminationMessagePolicy)
	})
	rule(into, func(p *corev1.ContainerPort) { set(&p.Protocol, corev1.ProtocolTCP) })
	rule(into, func(p *corev1.Probe) {
		set(&p.TimeoutSeconds, 1)
		set(&p.PeriodSeconds, 10)
		set(&p.SuccessThreshold, 1)
		set(&p.FailureThreshold, 3)
	})
	rule(into, func(a *corev1.HTTPGetAction) {
		set(&a.Path, "/")
		set(&a.Scheme, corev1.URISchemeHTTP)
	})
	rule(into, func(a *corev1.GRPCAction) { point(&a.Service, "") })
	rule(into, func(s *corev1.ObjectFieldSelector) { set(&s.APIVersion, "v1") })
	rule(into, func(s *corev1.FileKeySelector) { point(&s.Optional, false) })
}

func pod(p *corev1.Pod) {
	for _, containers := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range containers {
			c := &containers[i]
			if c.Resources.Limits != nil && c.Resources.Requests == nil {
				c.Resources.Requests = corev1.ResourceList{}
			}
			inherit(&c.Resources.Requests, c.Resources.Limits)
			for j := range c.Ports {
				// In the node's network a container port is a node port.
				if p.Spec.HostNetwork {
					set(&c.Ports[j].HostPort, c.Ports[j].ContainerPort)
				}
			}
		}
	}
	podLevel(p)
	point(&p.Spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	if grace := p.Spec.TerminationGracePeriodSeconds; grace != nil && *grace < 0 {
		*grace = 1
	}
}

// podLevel completes requests given for the pod as a whole: a resource that it
// limits but does not request is requested as its containers do or, if they do
// not either, up to the limit.
//
// Simplified: huge-page limits of containers are not summed into the pod's.
func podLevel(p *corev1.Pod) {
	if p.Spec.Resources == nil || len(p.Spec.Resources.Limits) == 0 {
		return
	}
	sum := corev1.ResourceList{}
	for _, c := range p.Spec.Containers {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if request, ok := c.Resources.Requests[name]; ok {
				total := sum[name]
				total.Add(request)
				sum[name] = total
			}
		}
	}
	inherit(&p.Spec.Resources.Requests, sum)
	inherit(&p.Spec.Resources.Requests, p.Spec.Resources.Limits)
}

func podSpec(s *corev1.PodSpec) {
	set(&s.DNSPolicy, corev1.DNSClusterFirst)
	set(&s.RestartPolicy, corev1.RestartPolicyAlways)
	set(&s.SchedulerName, corev1.DefaultSchedulerName)
	point(&s.SecurityContext, corev1.PodSecurityContext{})
	point(&s.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)
	// serviceAccount is the old name of serviceAccountName; both are served.
	set(&s.ServiceAccountName, s.DeprecatedServiceAccount)
	s.DeprecatedServiceAccount = s.ServiceAccountName
}

func container(pull *corev1.PullPolicy, image string, path *string, policy *corev1.TerminationMessagePolicy) {
	set(pull, pullPolicy(image))
	set(path, corev1.TerminationMessagePathDefault)
	set(policy, corev1.TerminationMessageReadFile)
}

// pullPolicy is Always for what may change under its name: the tag latest,
// named or implied.
func pullPolicy(image string) corev1.PullPolicy {
	if image == "" { // no name at all, so no tag either
		return corev1.PullIfNotPresent
	}
	name, _, digested := strings.Cut(image[strings.LastIndex(image, "/")+1:], "@")
	_, tag, tagged := strings.Cut(name, ":")
	if tag == "latest" || (!tagged && !digested) {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}
