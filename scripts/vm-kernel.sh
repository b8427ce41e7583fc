#!/bin/sh
# Downloads Debian's kernel for virtual machines and unpacks it into the folder that is named; nothing is installed.
# Its modules are listed as `depmod` lists them, so that the kernel can ask for what it needs.
set -eu
folder=$1
"$(dirname "$0")/deps.sh" vm

package() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image-.*-cloud-amd64/ {print $2; exit}'; }
[ -n "$(package)" ] || apt-get update -q
rm -rf "$folder" && mkdir -p "$folder/download"
(cd "$folder/download" && { apt-get download -q "$(package)" 2>/dev/null || { apt-get update -q && apt-get download -q "$(package)"; }; })
dpkg-deb -x "$folder"/download/*.deb "$folder"
rm -rf "$folder/download" "$folder/usr"
depmod -b "$folder" "$(ls "$folder/lib/modules")"
