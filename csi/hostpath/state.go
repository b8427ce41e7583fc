package hostpath

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What the driver knows is one small JSON file; what volumes hold lies beside it:
//
//	<statedir>/state.json       volumes, snapshots, and where each volume is attached, staged and published
//	<statedir>/volumes/<id>     a directory, or the file behind a loop device
//	<statedir>/snapshots/<id>   a copy of one
//	<statedir>/lock             held by the one driver that runs
//
// The file is replaced as a whole: a new one is written, forced to disk, and renamed over the old. So at any instant
// there is one complete state, and it only remains to order each change of it with what is done to the kernel:
//
//   - Data exists before its record and is removed after it: a record never lies. What has no record is removed by the
//     next start.
//   - A mount or a loop device is recorded before it is made and forgotten after it is gone: nothing in the kernel is
//     unknown. A record without its mount is the normal result of a kill or a reboot; the repeated call makes it.

// Volume is what is recorded about one volume. Records are never changed, only replaced.
type Volume struct {
	ID, Name   string
	Size       int64
	Block      bool              `json:",omitempty"`
	Ephemeral  bool              `json:",omitempty"` // of one pod: made by NodePublishVolume, gone with NodeUnpublishVolume
	Kind       string            `json:",omitempty"` // of the capacity it takes
	Parameters map[string]string `json:",omitempty"`
	Mutable    map[string]string `json:",omitempty"` // what ControllerModifyVolume changes
	// At most one of the two is set: what it was made from.
	SourceVolume, SourceSnapshot string `json:",omitempty"`

	Attached  *Attachment            `json:",omitempty"`
	Staged    *Usage                 `json:",omitempty"`
	Published map[string]Publication `json:",omitempty"` // by target path
}

// Attachment is what ControllerPublishVolume promised.
type Attachment struct {
	Capability string
	ReadOnly   bool
}

// Usage is where and how a volume is used.
type Usage struct{ Path, Capability string }

// Publication is how a volume is published at one target path.
type Publication struct {
	Capability string
	ReadOnly   bool `json:",omitempty"`
}

// inUse says where the volume is, or "" if it may be deleted.
func (v Volume) inUse() string {
	switch {
	case len(v.Published) > 0:
		return fmt.Sprintf("published at %s", slices.Sorted(maps.Keys(v.Published)))
	case v.Staged != nil:
		return "staged at " + v.Staged.Path
	case v.Attached != nil:
		return "attached"
	}
	return ""
}

// Snapshot is what is recorded about one snapshot.
type Snapshot struct {
	ID, Name, SourceVolume string
	Size                   int64
	Block                  bool `json:",omitempty"`
	Created                time.Time
	Group                  string `json:",omitempty"` // the ID of the group snapshot it belongs to
}

// Group is a group of snapshots that were made together.
type Group struct {
	ID, Name  string
	Snapshots []string
	Created   time.Time
}

// records is the content of state.json.
type records struct {
	Volumes   map[string]Volume
	Snapshots map[string]Snapshot
	Groups    map[string]Group `json:",omitempty"`
}

// clone copies the maps, which are never nil in a copy.
func (r records) clone() records {
	next := records{Volumes: map[string]Volume{}, Snapshots: map[string]Snapshot{}, Groups: map[string]Group{}}
	maps.Copy(next.Volumes, r.Volumes)
	maps.Copy(next.Snapshots, r.Snapshots)
	maps.Copy(next.Groups, r.Groups)
	return next
}

type state struct {
	dir  string
	lock *os.File

	mu      sync.Mutex // guards current, and the file
	current records    // never changed, only replaced
}

// openState reads the state, and makes it if there is none. Only one driver may have it open.
func openState(dir string) (*state, error) {
	for _, sub := range []string{volumesDir, snapshotsDir} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o750); err != nil {
			return nil, err
		}
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir) // as the kernel's table of mounts calls it
	}
	if err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	s := &state{dir: dir, lock: lock}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		s.close()
		return nil, fmt.Errorf("state directory %s is used by another driver: %w", dir, err)
	}
	data, err := os.ReadFile(s.file())
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &s.current)
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("read the driver's state: %s: %w", s.file(), err)
	}
	return s, nil
}

func (s *state) close()       { s.lock.Close() }
func (s *state) file() string { return filepath.Join(s.dir, "state.json") }

const volumesDir, snapshotsDir = "volumes", "snapshots"

// volumePath and snapshotPath are where data lies. IDs were checked at the door: see checkID.
func (s *state) volumePath(id string) string   { return filepath.Join(s.dir, volumesDir, id) }
func (s *state) snapshotPath(id string) string { return filepath.Join(s.dir, snapshotsDir, id) }

// read answers all records, to be looked at only.
func (s *state) read() records {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// volume answers one record, or NOT_FOUND.
func (s *state) volume(id string) (Volume, error) {
	if volume, ok := s.read().Volumes[id]; ok {
		return volume, nil
	}
	return Volume{}, status.Errorf(codes.NotFound, "volume id %s does not exist in the volumes list", id)
}

// put records a volume.
func (s *state) put(volume Volume) error {
	return s.update(func(r records) error { r.Volumes[volume.ID] = volume; return nil })
}

// update replaces the records by changed ones, on disk first. An error leaves everything as it was.
func (s *state) update(change func(records) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.current.clone()
	if err := change(next); err != nil {
		return err
	}
	data, err := json.MarshalIndent(next, "", " ")
	if err != nil {
		return err
	}
	if err := replaceFile(s.file(), data); err != nil {
		return fmt.Errorf("write the driver's state: %w", err)
	}
	s.current = next
	return nil
}

// replaceFile makes data the content of a file, such that a kill or a power cut leaves the old or the new.
func replaceFile(path string, data []byte) error {
	temporary := path + ".new"
	file, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		os.Remove(temporary) // on a full disk, every block counts
		return err
	}
	return syncPath(filepath.Dir(path))
}

// forget drops records by change and then removes data. Removing comes second, see above, unless the disk is so full
// that the new state does not fit: then nothing but removing can help.
func (s *state) forget(change func(records) error, data ...string) error {
	err := s.update(change)
	if err != nil && !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	for _, path := range data {
		if err := removeData(path); err != nil {
			return err
		}
	}
	if err != nil {
		err = s.update(change)
	}
	return err
}

// removeData removes a volume's or a snapshot's data. A mount in it is somebody else's: removing must not reach through.
func removeData(path string) error {
	if mounts, err := mountsUnder(path); err != nil || len(mounts) > 0 {
		return errors.Join(err, status.Errorf(codes.FailedPrecondition, "there are mounts in %s: %s", path, mounts))
	}
	return os.RemoveAll(path)
}

// removeOrphans removes data without a record: of calls during which a driver was killed.
func (s *state) removeOrphans(log *slog.Logger) error {
	known := map[string]bool{}
	for id := range s.current.Volumes {
		known[s.volumePath(id)] = true
	}
	for id := range s.current.Snapshots {
		known[s.snapshotPath(id)] = true
	}
	for _, sub := range []string{volumesDir, snapshotsDir} {
		entries, err := os.ReadDir(filepath.Join(s.dir, sub))
		if err != nil {
			return err
		}
		for _, entry := range entries {
			path := filepath.Join(s.dir, sub, entry.Name())
			if known[path] {
				continue
			}
			log.Info("Removing what an interrupted call left", "key", path)
			if err := removeData(path); err != nil {
				log.Warn("It stays", "key", path, "err", err)
			}
		}
	}
	return nil
}
