package storage

import (
	"strings"

	"tinykube/apiserver/resources"
)

// Keys are upstream's, so that a real kube-apiserver can take over our etcd
// and we can take over its:
//
//	/registry/<prefix>/<namespace>/<name>    /registry/pods/default/web-0
//	/registry/<prefix>/<name>                /registry/minions/node-1
//
// Everything after the prefix is the object's key inside its table; it is also
// what client.Key prints, so logs and etcdctl speak of the same thing.

// Key returns an object's key inside its table.
func Key(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

// SplitKey takes a key apart again.
func SplitKey(key string) (namespace, name string) {
	if namespace, name, ok := strings.Cut(key, "/"); ok {
		return namespace, name
	}
	return "", key
}

// tablePrefix is the etcd prefix of a row's table, with a slash at its end.
func tablePrefix(root string, row *resources.Row) string {
	return strings.TrimSuffix(root, "/") + "/" + row.Prefix + "/"
}

// prefixEnd is the key after the last one with the prefix.
func prefixEnd(prefix string) string {
	end := []byte(prefix)
	end[len(end)-1]++ // our prefixes end with '/', which never overflows
	return string(end)
}
