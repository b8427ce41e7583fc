// Package nstest lets a test use the real kernel's network and leave no trace.
//
// A test package that wants it says so once:
//
//	func TestMain(m *testing.M) { nstest.Main(m) }
//
// Main runs the test binary a second time inside namespaces of its own: network,
// mount and PID, and for anyone but root also user, in which the caller is root.
//
//	go test ──▶ test binary ──clone(NEWNET|NEWNS|NEWPID[|NEWUSER])──▶ test binary
//	                                │
//	                                ├─ PID 1: when it ends, all it started ends
//	                                ├─ /run, /var/lib, /var/log: fresh tmpfs, private
//	                                ├─ New(t, "node-0") ─▶ /run/netns/node-0
//	                                └─ New(t, "pod")    ─▶ /run/netns/pod
//
// Inside, New makes as many network namespaces as a test needs: nodes, pods, a
// client outside. They are kept alive by bind mounts in the private /run and by
// nothing else, so when the test binary ends, even by kill -9, the kernel takes
// processes, mounts, namespaces, links and rules back. There is no clean-up code to trust.
//
// Invariant: a goroutine never changes namespace and lives on. NS.Do runs its
// function on a thread of its own and lets that thread die (see NS.Do), because
// Go may otherwise run anything on a thread that is somewhere else.
//
// /sys is left as it is: it shows the namespace of the one who mounted it, and
// remounting it hides /sys/fs/cgroup from whoever comes later. Ask netlink.
package nstest
