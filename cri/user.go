package cri

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// accounts are an image's /etc/passwd and /etc/group: a stranger's files.
type accounts struct {
	passwd, group []byte
}

// maxAccountFile is more than any honest passwd file.
const maxAccountFile = 1 << 20

// readInRoot reads a file of an image as if the image were the root, so that
// symbolic links, even absolute ones, end inside. A missing file is empty.
func readInRoot(root, path string) ([]byte, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, // a FIFO must not block us
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open %s in the image: %w", path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s in the image is not a regular file: %w", path, errdefs.ErrInvalidArgument)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxAccountFile+1))
	if len(data) > maxAccountFile {
		return nil, fmt.Errorf("%s in the image is larger than %d bytes: %w", path, maxAccountFile, errdefs.ErrInvalidArgument)
	}
	return data, err
}

// rows yields the colon-separated lines of a passwd or group file that have at
// least n fields.
func rows(file []byte, n int, yield func(fields []string) (more bool)) {
	lines := bufio.NewScanner(bytes.NewReader(file))
	lines.Buffer(nil, maxAccountFile+1)
	for lines.Scan() {
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) >= n && !strings.HasPrefix(fields[0], "#") && !yield(fields) {
			return
		}
	}
}

// parseID accepts what the kernel accepts. Larger numbers must not wrap round
// to 0, which is root.
func parseID(text string) (uint32, bool) {
	id, err := strconv.ParseInt(text, 10, 32)
	return uint32(id), err == nil && id >= 0
}

type passwdEntry struct {
	name     string
	uid, gid uint32
}

// user finds an entry by name or, if it is a number, by uid.
func (a *accounts) user(nameOrUID string) (entry passwdEntry, found bool) {
	rows(a.passwd, 4, func(f []string) bool {
		uid, ok1 := parseID(f[2])
		gid, ok2 := parseID(f[3])
		if !ok1 || !ok2 || (f[0] != nameOrUID && f[2] != nameOrUID) {
			return true
		}
		entry, found = passwdEntry{name: f[0], uid: uid, gid: gid}, true
		return f[0] != nameOrUID // an exact name beats a number
	})
	return entry, found
}

func (a *accounts) groupID(nameOrGID string) (gid uint32, found bool) {
	if gid, ok := parseID(nameOrGID); ok {
		return gid, true
	}
	rows(a.group, 3, func(f []string) bool {
		if f[0] == nameOrGID {
			gid, found = parseID(f[2])
		}
		return !found
	})
	return gid, found
}

// groupsOf lists the groups that name a user as a member.
func (a *accounts) groupsOf(name string) []uint32 {
	var gids []uint32
	rows(a.group, 4, func(f []string) bool {
		if gid, ok := parseID(f[2]); ok && name != "" && slices.Contains(strings.Split(f[3], ","), name) {
			gids = append(gids, gid)
		}
		return true
	})
	return gids
}

// resolveUser decides who the first process is: the pod's choice, else the
// image's USER, else root. (HOME is runc's to set, from the same file.)
func resolveUser(image string, sc *runtimeapi.LinuxContainerSecurityContext, a *accounts) (specs.User, error) {
	invalid := func(format string, args ...any) (specs.User, error) {
		return specs.User{}, fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	who, group, _ := strings.Cut(image, ":")
	switch {
	case sc.GetRunAsUser() != nil:
		who, group = strconv.FormatInt(sc.GetRunAsUser().GetValue(), 10), ""
	case sc.GetRunAsUsername() != "":
		who, group = sc.GetRunAsUsername(), ""
	case sc.GetRunAsGroup() != nil:
		return invalid("user group is specified without user")
	}
	if g := sc.GetRunAsGroup(); g != nil {
		group = strconv.FormatInt(g.GetValue(), 10)
	}
	if who == "" {
		who = "0"
	}
	entry, known := a.user(who)
	if !known {
		uid, isNumber := parseID(who)
		if !isNumber {
			return invalid("no user %.64q in the image", who)
		}
		entry.uid = uid // no entry: group 0, as docker and runc do
	}
	user := specs.User{UID: entry.uid, GID: entry.gid}
	if group != "" {
		gid, ok := a.groupID(group)
		if !ok {
			return invalid("no group %.64q in the image", group)
		}
		user.GID = gid
	}
	user.AdditionalGids = []uint32{user.GID}
	if sc.GetSupplementalGroupsPolicy() == runtimeapi.SupplementalGroupsPolicy_Merge {
		user.AdditionalGids = append(user.AdditionalGids, a.groupsOf(entry.name)...)
	}
	for _, gid := range sc.GetSupplementalGroups() {
		id, ok := parseID(strconv.FormatInt(gid, 10))
		if !ok {
			return invalid("supplemental group %d is out of range", gid)
		}
		user.AdditionalGids = append(user.AdditionalGids, id)
	}
	slices.Sort(user.AdditionalGids)
	user.AdditionalGids = slices.Compact(user.AdditionalGids)
	return user, nil
}
