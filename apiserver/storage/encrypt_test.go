package storage

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const key32 = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

// encryption makes a configuration with the providers for configmaps.
func encryption(t *testing.T, providers ...string) *Encryption {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	text := "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n- resources: [configmaps]\n  providers:\n"
	for _, p := range providers {
		if p == "identity" {
			text += "  - identity: {}\n"
			continue
		}
		text += fmt.Sprintf("  - %s: {keys: [{name: k1, secret: %s}]}\n", p, key32)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := ReadEncryption(file)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEncryption(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	raw := func(name string) string {
		return string(must(w.client.Get(ctx, "/registry/configmaps/default/"+name))(t).Kvs[0].Value)
	}
	must(w.Table(mapsRow).Create(ctx, "default/plain", configMap("plain", "visible")))(t)
	for _, name := range []string{"aescbc", "aesgcm", "secretbox"} {
		s := w.open(t, func(c *Config) { c.Encryption = encryption(t, name, "identity") })
		maps := s.Table(mapsRow)
		must(maps.Create(ctx, "default/"+name, configMap(name, "visible")))(t)
		if got := raw(name); !strings.HasPrefix(got, "k8s:enc:"+name+":v1:k1:") || strings.Contains(got, "visible") {
			t.Errorf("stored %q", got)
		}
		item := must(maps.Get(ctx, "default/"+name, ""))(t)
		if !strings.Contains(string(item.JSON()), `"v":"visible"`) {
			t.Errorf("read %s", item.JSON())
		}
	}
	t.Run("rotation", func(t *testing.T) {
		s := w.open(t, func(c *Config) { c.Encryption = encryption(t, "aesgcm", "aescbc", "identity") })
		for _, name := range []string{"plain", "aescbc"} {
			must(s.Table(mapsRow).Update(ctx, "default/"+name, set("visible")))(t)
			if got := raw(name); !strings.HasPrefix(got, "k8s:enc:aesgcm:") {
				t.Errorf("an update that changes nothing left %q", got)
			}
		}
	})
	t.Run("a value in another's place", func(t *testing.T) {
		must(w.client.Put(ctx, "/registry/configmaps/default/moved", raw("aesgcm")))(t)
		s := w.open(t, func(c *Config) { c.Encryption = encryption(t, "aesgcm") })
		if item := s.Table(mapsRow).Cached("default/moved"); item != nil {
			t.Errorf("read %s", item.JSON())
		}
		must(w.client.Delete(ctx, "/registry/configmaps/default/moved"))(t)
	})
	t.Run("without the key", func(t *testing.T) {
		if item := w.Table(mapsRow).Cached("default/secretbox"); item != nil {
			t.Errorf("read %s", item.JSON())
		}
		must(w.client.Get(ctx, "/registry/configmaps/", clientv3.WithPrefix(), clientv3.WithCountOnly()))(t)
	})
}

func FuzzUnseal(f *testing.F) {
	aescbc, _ := newAESCBC([]byte("0123456789abcdef"))
	aesgcm, _ := newAESGCM([]byte("0123456789abcdef"))
	box, _ := newSecretbox([]byte("0123456789abcdef0123456789abcdef"))
	for _, p := range []provider{aescbc, aesgcm, box} {
		sealed, _ := p.encrypt([]byte("text"), nil)
		f.Add(sealed)
	}
	f.Add([]byte("short"))
	f.Fuzz(func(_ *testing.T, sealed []byte) {
		for _, p := range []provider{aescbc, aesgcm, box} {
			p.decrypt(sealed, []byte("key")) // may fail, may not panic
		}
	})
}
