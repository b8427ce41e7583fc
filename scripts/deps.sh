#!/bin/sh
# Installs the system packages that building and running tinykube needs, if any is missing. `make deps` calls it.
# With the argument vm or critest also those that tests in a virtual machine, or critest's images, need.
#
# What is looked for is the thing itself (a command, a header), not the package: a gcc or iptables from elsewhere is as
# good. apt's lists are fetched only when the first try to install fails, as it does when they are missing or stale.
set -eu

missing=""
need() { missing="$missing $1"; }
need_command() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 || need "$2"; }

need_command make make
need_command gcc gcc
need_command git git
need_command pkg-config pkg-config
need_command iptables iptables
need_command nft nftables
need_command conntrack conntrack
need_command ip iproute2
need_command curl curl
need_command openssl openssl
need_command nsenter util-linux
need_command mount mount
[ -e /etc/ssl/certs/ca-certificates.crt ] || need ca-certificates
# The header and the static library alone are no use without libc's own headers, which gcc only recommends.
[ -e /usr/include/stdio.h ] || need libc6-dev
[ -e /usr/include/seccomp.h ] || need libseccomp-dev
case "${1:-}" in vm | critest) need_command busybox busybox-static ;; esac # a virtual machine's first process, what critest's images are made of
if [ "${1:-}" = vm ]; then
	need_command qemu-system-x86_64 qemu-system-x86
	need_command ipset ipset
	need_command ipvsadm ipvsadm
	need_command depmod kmod
	[ -e /etc/protocols ] || need netbase
fi

if ! command -v go >/dev/null 2>&1; then
	echo "deps: there is no go in PATH; install Go 1.26 or newer from https://go.dev/dl" >&2
	exit 1
fi
[ -n "$missing" ] || exit 0
echo "deps: missing packages:$missing"
if ! command -v apt-get >/dev/null 2>&1; then
	echo "deps: this is neither Debian nor Ubuntu: please install what these packages hold by other means" >&2
	exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "deps: run as root:  apt-get install$missing" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=120 $missing; }
install >/dev/null 2>&1 || { apt-get update -q && install; }
