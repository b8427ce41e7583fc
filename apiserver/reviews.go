package apiserver

import (
	"fmt"
	"net/http"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

// Reviews are questions in the form of objects: POST one, and it comes back
// with its status filled in. Kubelets ask them about who calls, and kubectl
// auth can-i about yourself.

// review decodes a review of the row's kind.
func review[T resources.Object](q *request) (T, error) {
	obj, err := q.decodeBody()
	if err != nil {
		var none T
		return none, err
	}
	return obj.(T), nil
}

func (q *request) answerReview(obj resources.Object) error {
	return q.sendObject(http.StatusCreated, obj, q.row.GVK())
}

// reviewToken says whose token it is.
func (s *Server) reviewToken(q *request) error {
	review, err := review[*authenticationv1.TokenReview](q)
	if err != nil {
		return err
	}
	if review.Spec.Token == "" {
		return apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	audiences := review.Spec.Audiences
	if len(audiences) == 0 {
		audiences = s.tokens.audiences
	}
	u, granted, err := s.authn.token(q.Context(), review.Spec.Token, audiences)
	if err != nil {
		review.Status = authenticationv1.TokenReviewStatus{Error: "invalid bearer token"}
		return q.answerReview(review)
	}
	review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: userInfo(u), Audiences: granted}
	return q.answerReview(review)
}

func userInfo(u *user) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.name, UID: u.uid, Groups: u.groups}
	for key, values := range u.extra {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[key] = values
	}
	return info
}

// reviewSelf says who you are.
func (s *Server) reviewSelf(q *request) error {
	review, err := review[*authenticationv1.SelfSubjectReview](q)
	if err != nil {
		return err
	}
	review.CreationTimestamp = metav1.Now()
	review.Status.UserInfo = userInfo(q.user)
	return q.answerReview(review)
}

// createToken answers POST serviceaccounts/{name}/token: a TokenRequest.
func (s *Server) createToken(q *request) error {
	data, err := q.readBody()
	if err != nil {
		return err
	}
	asked := &authenticationv1.TokenRequest{}
	kind := authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
	if err := q.decodeAs(data, bodyMediaType(q.Request), asked, kind); err != nil {
		return err
	}
	account, ok := current[*corev1.ServiceAccount](q.Context(), s, "", "serviceaccounts", q.key())
	if !ok {
		return apierrors.NewNotFound(corev1.Resource("serviceaccounts"), q.name)
	}
	claims := &tokenClaims{}
	claims.Kubernetes.Namespace = account.Namespace
	claims.Kubernetes.ServiceAccount = claimRef{account.Name, string(account.UID)}
	if err := s.bindClaims(q, claims, asked, account); err != nil {
		return err
	}
	lifetime := defaultExpiry
	if asked.Spec.ExpirationSeconds != nil {
		lifetime = time.Duration(*asked.Spec.ExpirationSeconds) * time.Second
	}
	if lifetime < minExpiry || lifetime > maxExpiry {
		return apierrors.NewInvalid(kind.GroupKind(), "", field.ErrorList{field.Invalid(field.NewPath("spec", "expirationSeconds"),
			int64(lifetime.Seconds()), "may not specify a duration less than 10 minutes")})
	}
	if s.tokens.maxExpiry > 0 {
		lifetime = min(lifetime, s.tokens.maxExpiry)
	}
	if len(asked.Spec.Audiences) == 0 {
		asked.Spec.Audiences = s.tokens.audiences
	}
	token, expires, err := s.tokens.sign(claims, asked.Spec.Audiences, lifetime)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	seconds := int64(lifetime.Seconds())
	asked.Spec.ExpirationSeconds = &seconds
	asked.Name, asked.Namespace, asked.CreationTimestamp = account.Name, account.Namespace, metav1.Now()
	asked.Status = authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(expires)}
	return q.sendObject(http.StatusCreated, asked, kind)
}

// bindClaims binds a token to the pod, node or secret it is asked for.
func (s *Server) bindClaims(q *request, claims *tokenClaims, asked *authenticationv1.TokenRequest, account *corev1.ServiceAccount) error {
	if err := (&admission{server: s, request: q, obj: account}).restrictToken(asked); err != nil {
		return err
	}
	ref := asked.Spec.BoundObjectRef
	if ref == nil {
		return nil
	}
	var obj resources.Object
	var ok bool
	switch ref.Kind {
	case "Pod":
		var pod *corev1.Pod
		if pod, ok = current[*corev1.Pod](q.Context(), s, "", "pods", storage.Key(account.Namespace, ref.Name)); ok {
			obj = pod
			if pod.Spec.ServiceAccountName != account.Name {
				return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", account.Name))
			}
			claims.Kubernetes.Pod = &claimRef{pod.Name, string(pod.UID)}
			if host, found := cached[*corev1.Node](s, "", "nodes", pod.Spec.NodeName); found {
				claims.Kubernetes.Node = &claimRef{host.Name, string(host.UID)}
			}
		}
	case "Secret":
		var secret *corev1.Secret
		if secret, ok = current[*corev1.Secret](q.Context(), s, "", "secrets", storage.Key(account.Namespace, ref.Name)); ok {
			obj, claims.Kubernetes.Secret = secret, &claimRef{secret.Name, string(secret.UID)}
		}
	case "Node":
		var host *corev1.Node
		if host, ok = current[*corev1.Node](q.Context(), s, "", "nodes", ref.Name); ok {
			obj, claims.Kubernetes.Node = host, &claimRef{host.Name, string(host.UID)}
		}
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", ref.Kind))
	}
	if !ok {
		return apierrors.NewNotFound(corev1.Resource(ref.Kind+"s"), ref.Name)
	}
	if ref.UID != "" && ref.UID != obj.GetUID() {
		return apierrors.NewConflict(corev1.Resource(ref.Kind), ref.Name, fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return nil
}
