package app

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"
	certificatesv1 "k8s.io/api/certificates/v1"

	"tinykube/controllers/certificates"
	"tinykube/controllers/serviceaccounttoken"
)

// keys are the files of the secrets that the manager signs with.
type keys struct {
	serviceAccountKey string
	ca                certificates.CA             // for every signer
	cas               map[string]*certificates.CA // for one each, by flag
}

// signers are the signers that may have a CA of their own, by the flag's name.
var signers = map[string]string{
	"kube-apiserver-client": certificatesv1.KubeAPIServerClientSignerName,
	"kubelet-client":        certificatesv1.KubeAPIServerClientKubeletSignerName,
	"kubelet-serving":       certificatesv1.KubeletServingSignerName,
	"legacy-unknown":        "kubernetes.io/legacy-unknown",
}

func (k *keys) addFlags(fs *pflag.FlagSet, signing *certificates.SigningConfig) {
	fs.StringVar(&k.serviceAccountKey, "service-account-private-key-file", "", "private key that signs the tokens in Secrets")
	fs.StringVar(&k.ca.CertFile, "cluster-signing-cert-file", "", "certificate of the CA that signs CertificateSigningRequests")
	fs.StringVar(&k.ca.KeyFile, "cluster-signing-key-file", "", "its key")
	fs.DurationVar(&signing.Duration, "cluster-signing-duration", 365*24*time.Hour, "how long signed certificates are valid at most")
	k.cas = map[string]*certificates.CA{}
	for flag, signer := range signers {
		ca := &certificates.CA{}
		k.cas[flag] = ca
		fs.StringVar(&ca.CertFile, "cluster-signing-"+flag+"-cert-file", "", "certificate of the CA for "+signer+" alone")
		fs.StringVar(&ca.KeyFile, "cluster-signing-"+flag+"-key-file", "", "its key")
	}
}

// complete checks that keys and certificates come in pairs, and reads what is
// needed now.
func (k *keys) complete(o *options) error {
	if k.serviceAccountKey != "" {
		raw, err := os.ReadFile(k.serviceAccountKey)
		if err != nil {
			return fmt.Errorf("--service-account-private-key-file: %w", err)
		}
		if o.TokenSigner, err = serviceaccounttoken.NewSigner(raw); err != nil {
			return fmt.Errorf("--service-account-private-key-file %s: %w", k.serviceAccountKey, err)
		}
	}
	half := func(ca certificates.CA) bool { return (ca.CertFile == "") != (ca.KeyFile == "") }
	if half(k.ca) {
		return errors.New("--cluster-signing-cert-file and --cluster-signing-key-file need each other")
	}
	o.Signing.CAs = map[string]certificates.CA{}
	for flag, signer := range signers {
		own := *k.cas[flag]
		switch {
		case half(own):
			return fmt.Errorf("--cluster-signing-%s-cert-file and --cluster-signing-%s-key-file need each other", flag, flag)
		case own.CertFile != "" && k.ca.CertFile != "":
			return errors.New("cannot specify --cluster-signing-{cert,key}-file and other --cluster-signing-*-file flags at the same time")
		case own.CertFile != "":
			o.Signing.CAs[signer] = own
		case k.ca.CertFile != "":
			o.Signing.CAs[signer] = k.ca
		}
	}
	return nil
}
