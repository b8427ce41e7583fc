package cni

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultDataDir is where host-local keeps one directory per network.
const defaultDataDir = "/var/lib/cni/networks"

// owner is who an address belongs to.
type owner struct{ containerID, ifName string }

// text is a file's content. The line break is upstream's, and part of the
// format: tools and a real host-local read it.
func (o owner) text() string { return o.containerID + "\r\n" + o.ifName }

func parseOwner(text string) owner {
	id, ifName, _ := strings.Cut(strings.TrimSpace(text), "\r\n")
	return owner{strings.TrimSpace(id), strings.TrimSpace(ifName)}
}

// store is a network's directory, locked for us alone.
type store struct {
	dir  string
	lock *os.File
}

// openStore waits for the lock. The network's name has been checked by skel: it
// cannot leave the directory.
func openStore(dataDir, network string) (*store, error) {
	dir := filepath.Join(dataDir, network)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("address store: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("address store: %w", err)
	}
	for {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	return &store{dir, lock}, nil
}

// close gives the lock back; the kernel does it too if we die.
func (s *store) close() { s.lock.Close() }

// fileOf names an address's file. Colons are upstream's for IPv6 on Linux too.
func (s *store) fileOf(ip netip.Addr) string { return filepath.Join(s.dir, ip.String()) }

// reserve gives ip to the owner, unless somebody has it.
//
// The file appears with its content or not at all (rename), so that no crash
// can leave an address that nobody owns and nobody can free.
func (s *store) reserve(o owner, index int, ip netip.Addr) (bool, error) {
	if _, err := os.Lstat(s.fileOf(ip)); err == nil {
		return false, nil
	} else if !os.IsNotExist(err) {
		return false, err
	}
	if err := s.write(s.fileOf(ip), o.text()); err != nil {
		return false, fmt.Errorf("reserve %s: %w", ip, err)
	}
	// A crash here only makes the next search begin one address earlier.
	if err := s.write(s.lastFile(index), ip.String()); err != nil {
		return false, fmt.Errorf("reserve %s: %w", ip, err)
	}
	return true, nil
}

func (s *store) write(path, content string) error {
	temporary := filepath.Join(s.dir, "new") // one is enough: we hold the lock
	if err := os.WriteFile(temporary, []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

func (s *store) lastFile(index int) string {
	return filepath.Join(s.dir, "last_reserved_ip."+strconv.Itoa(index))
}

// lastReserved is where the last search ended; the zero Addr if unknown.
func (s *store) lastReserved(index int) netip.Addr {
	data, _ := os.ReadFile(s.lastFile(index))
	ip, _ := netip.ParseAddr(strings.TrimSpace(string(data)))
	return ip
}

// each calls fn with every address that has an owner.
func (s *store) each(fn func(path string, ip netip.Addr, o owner) error) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		ip, err := netip.ParseAddr(entry.Name())
		if err != nil {
			continue // lock, last_reserved_ip.N, somebody's notes
		}
		path := filepath.Join(s.dir, entry.Name())
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := fn(path, ip, parseOwner(string(data))); err != nil {
			return err
		}
	}
	return nil
}

func (s *store) owned(o owner) (ips []netip.Addr, err error) {
	err = s.each(func(_ string, ip netip.Addr, have owner) error {
		if have == o {
			ips = append(ips, ip)
		}
		return nil
	})
	return ips, err
}

func (s *store) release(o owner) error {
	return s.keep(func(have owner) bool { return have != o })
}

// keep frees every address whose owner is not to stay.
func (s *store) keep(stays func(owner) bool) error {
	return s.each(func(path string, _ netip.Addr, o owner) error {
		if stays(o) {
			return nil
		}
		return os.Remove(path)
	})
}
