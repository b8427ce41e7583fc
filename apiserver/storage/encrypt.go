package storage

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/nacl/secretbox"
	"sigs.k8s.io/yaml"

	"tinykube/apiserver/resources"
)

// Encryption at rest hides objects from who can read etcd's disk or backups.
// A value says by its prefix which provider and key can read it:
//
//	k8s:enc:aescbc:v1:key1:<IV><ciphertext>
//
// The first provider of a resource writes, all of them read; a value that the
// first one did not write is stale, and written anew even by an update that
// changes nothing. That is how keys are rotated.
//
// Spec: Kubernetes, EncryptionConfiguration apiserver.config.k8s.io/v1.

// encryptionFile is the configuration file.
type encryptionFile struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Resources  []struct {
		Resources []string         `json:"resources"`
		Providers []providerConfig `json:"providers"`
	} `json:"resources"`
}

type providerConfig struct {
	AESCBC    *keyList  `json:"aescbc"`
	AESGCM    *keyList  `json:"aesgcm"`
	Secretbox *keyList  `json:"secretbox"`
	Identity  *struct{} `json:"identity"`
	KMS       *struct{} `json:"kms"`
}

type keyList struct {
	Keys []struct {
		Name   string `json:"name"`
		Secret string `json:"secret"`
	} `json:"keys"`
}

// provider encrypts and decrypts with one key. The etcd key is authenticated
// where the algorithm can, so that values cannot be swapped.
type provider struct {
	prefix  string // "" is identity
	encrypt func(plain, etcdKey []byte) ([]byte, error)
	decrypt func(sealed, etcdKey []byte) ([]byte, error)
}

// Encryption is a parsed configuration.
type Encryption struct {
	sections []encryptionSection
}

type encryptionSection struct {
	resources []string
	providers []provider
}

// ReadEncryption reads an EncryptionConfiguration file.
func ReadEncryption(file string) (*Encryption, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var parsed encryptionFile
	if err := yaml.UnmarshalStrict(data, &parsed); err != nil {
		return nil, err
	}
	// The Hard Way's file predates the group: its apiVersion is "v1".
	if parsed.Kind != "EncryptionConfiguration" && parsed.Kind != "EncryptionConfig" {
		return nil, fmt.Errorf("kind %q is not EncryptionConfiguration", parsed.Kind)
	}
	e := &Encryption{}
	for _, section := range parsed.Resources {
		out := encryptionSection{resources: section.Resources}
		for _, p := range section.Providers {
			providers, err := p.providers()
			if err != nil {
				return nil, err
			}
			out.providers = append(out.providers, providers...)
		}
		if len(out.providers) == 0 {
			return nil, fmt.Errorf("resources %v have no provider", section.Resources)
		}
		e.sections = append(e.sections, out)
	}
	return e, nil
}

func (p providerConfig) providers() ([]provider, error) {
	switch {
	case p.Identity != nil:
		return []provider{identity}, nil
	case p.AESCBC != nil:
		return p.AESCBC.providers("aescbc", newAESCBC)
	case p.AESGCM != nil:
		return p.AESGCM.providers("aesgcm", newAESGCM)
	case p.Secretbox != nil:
		return p.Secretbox.providers("secretbox", newSecretbox)
	}
	return nil, errors.New("a provider is none of aescbc, aesgcm, secretbox and identity (kms is not supported)")
}

func (l *keyList) providers(name string, make func(key []byte) (provider, error)) ([]provider, error) {
	var out []provider
	for _, k := range l.Keys {
		key, err := base64.StdEncoding.DecodeString(k.Secret)
		if err != nil {
			return nil, fmt.Errorf("%s key %q: %w", name, k.Name, err)
		}
		p, err := make(key)
		if err != nil {
			return nil, fmt.Errorf("%s key %q: %w", name, k.Name, err)
		}
		p.prefix = "k8s:enc:" + name + ":v1:" + k.Name + ":"
		out = append(out, p)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s has no keys", name)
	}
	return out, nil
}

// providersFor returns the providers of a row; nil means plain.
func (e *Encryption) providersFor(row *resources.Row) []provider {
	if e == nil {
		return nil
	}
	names := []string{row.GVR().GroupResource().String(), "*." + row.Group, "*.*"}
	for _, section := range e.sections {
		if slices.ContainsFunc(section.resources, func(r string) bool { return slices.Contains(names, r) }) {
			return section.providers
		}
	}
	return nil
}

// seal makes what is stored of a value.
func seal(providers []provider, value, etcdKey []byte) ([]byte, error) {
	if len(providers) == 0 {
		return value, nil
	}
	sealed, err := providers[0].encrypt(value, etcdKey)
	if err != nil {
		return nil, err
	}
	return append([]byte(providers[0].prefix), sealed...), nil
}

const encryptedPrefix = "k8s:enc:"

// unseal makes the value of what is stored, and says whether it should be
// sealed anew.
func unseal(providers []provider, stored, etcdKey []byte) (value []byte, stale bool, err error) {
	if !bytes.HasPrefix(stored, []byte(encryptedPrefix)) {
		return stored, len(providers) > 0 && providers[0].prefix != "", nil
	}
	for i, p := range providers {
		if p.prefix == "" || !bytes.HasPrefix(stored, []byte(p.prefix)) {
			continue
		}
		value, err = p.decrypt(stored[len(p.prefix):], etcdKey)
		return value, i > 0, err
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(string(stored[:min(len(stored), 64)]), encryptedPrefix), ":")
	return nil, false, fmt.Errorf("no configured key can read this value, which %s encrypted", name)
}

var identity = provider{
	encrypt: func(plain, _ []byte) ([]byte, error) { return plain, nil },
	decrypt: func(sealed, _ []byte) ([]byte, error) { return sealed, nil },
}

var errDamaged = errors.New("the encrypted value is damaged")

// newAESCBC is AES-CBC with PKCS #7 padding. It does not authenticate.
func newAESCBC(key []byte) (provider, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return provider{}, err
	}
	return provider{
		encrypt: func(plain, _ []byte) ([]byte, error) {
			padding := aes.BlockSize - len(plain)%aes.BlockSize
			out := make([]byte, aes.BlockSize, aes.BlockSize+len(plain)+padding)
			if _, err := io.ReadFull(rand.Reader, out); err != nil {
				return nil, err
			}
			out = append(append(out, plain...), bytes.Repeat([]byte{byte(padding)}, padding)...)
			cipher.NewCBCEncrypter(block, out[:aes.BlockSize]).CryptBlocks(out[aes.BlockSize:], out[aes.BlockSize:])
			return out, nil
		},
		decrypt: func(sealed, _ []byte) ([]byte, error) {
			if len(sealed) < 2*aes.BlockSize || len(sealed)%aes.BlockSize != 0 {
				return nil, errDamaged
			}
			out := make([]byte, len(sealed)-aes.BlockSize)
			cipher.NewCBCDecrypter(block, sealed[:aes.BlockSize]).CryptBlocks(out, sealed[aes.BlockSize:])
			padding := int(out[len(out)-1])
			if padding == 0 || padding > aes.BlockSize || padding > len(out) {
				return nil, errDamaged
			}
			for _, b := range out[len(out)-padding:] {
				if int(b) != padding {
					return nil, errDamaged
				}
			}
			return out[:len(out)-padding], nil
		},
	}, nil
}

// newAESGCM is AES-GCM with a random nonce before the ciphertext.
func newAESGCM(key []byte) (provider, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return provider{}, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return provider{}, err
	}
	return provider{
		encrypt: func(plain, etcdKey []byte) ([]byte, error) {
			nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
			if _, err := io.ReadFull(rand.Reader, nonce); err != nil {
				return nil, err
			}
			return aead.Seal(nonce, nonce, plain, etcdKey), nil
		},
		decrypt: func(sealed, etcdKey []byte) ([]byte, error) {
			if len(sealed) < aead.NonceSize() {
				return nil, errDamaged
			}
			return aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], etcdKey)
		},
	}, nil
}

// newSecretbox is XSalsa20 with Poly1305.
func newSecretbox(key []byte) (provider, error) {
	if len(key) != 32 {
		return provider{}, fmt.Errorf("the key has %d bytes and must have 32", len(key))
	}
	secret := [32]byte(key)
	return provider{
		encrypt: func(plain, _ []byte) ([]byte, error) {
			var nonce [24]byte
			if _, err := io.ReadFull(rand.Reader, nonce[:]); err != nil {
				return nil, err
			}
			return secretbox.Seal(nonce[:], plain, &nonce, &secret), nil
		},
		decrypt: func(sealed, _ []byte) ([]byte, error) {
			if len(sealed) < 24 {
				return nil, errDamaged
			}
			nonce := [24]byte(sealed[:24])
			plain, ok := secretbox.Open(nil, sealed[24:], &nonce, &secret)
			if !ok {
				return nil, errDamaged
			}
			return plain, nil
		},
	}, nil
}
