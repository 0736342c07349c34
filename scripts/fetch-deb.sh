#!/usr/bin/env bash
# usage: fetch-deb.sh <suite> <dir> <package>...
# Unpacks Debian packages of a suite (trixie, sid …) below <dir>, without installing them or what they depend on.
# The mirror is the one this machine's apt uses. Trust: the archive's signed InRelease (by Debian's keyring) vouches for the
# package index, the index for each .deb. <dir> is there only when all of it is.
set -euo pipefail
suite=${1:?suite, e.g. trixie} dir=${2:?target directory}
shift 2

fail() { echo "fetch-deb.sh: $*" >&2; exit 1; }
for tool in curl xz dpkg-deb gpgv sha256sum awk; do
  command -v "$tool" >/dev/null || fail "needs $tool (apt-get install curl xz-utils dpkg gpgv coreutils mawk)"
done

# The first Debian archive in apt's sources, in either format; the security archive has no kubectl.
mirror=$(cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null | awk '
  /^URIs:/ { for (i = 2; i <= NF; i++) print $i }
  /^deb /  { for (i = 2; i <= NF; i++) if ($i ~ /^https?:/) { print $i; break } }' |
  grep -E '/debian/?$' | head -n 1 || true)
[ -n "$mirror" ] || fail "the apt sources of this machine name no Debian archive (…/debian)"
mirror=${mirror%/}
arch=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
get() { curl -fsSL --retry 3 --connect-timeout 20 -o "$2" "$mirror/$1" || fail "cannot download $mirror/$1"; }
check() { echo "$1  $2" | sha256sum -c --status - || fail "$3 does not have the SHA-256 $1 that the archive states"; }

get "dists/$suite/InRelease" "$work/InRelease"
keyrings=()
for k in /usr/share/keyrings/debian-archive-*keyring.* /etc/apt/trusted.gpg.d/debian-*.gpg; do
  case $k in *.gpg | *.pgp) [ -f "$k" ] && keyrings+=(--keyring "$k") ;; esac
done
[ ${#keyrings[@]} -gt 0 ] || fail "no Debian keyring here (apt-get install debian-archive-keyring)"
# Several keys sign a suite; one that this machine knows is enough, as for apt.
gpgv "${keyrings[@]}" --status-fd 3 --output "$work/Release" "$work/InRelease" 3>"$work/status" 2>/dev/null || true
if grep -q 'BADSIG' "$work/status" || ! grep -q 'VALIDSIG' "$work/status"; then
  fail "no valid signature by a known Debian key on $mirror/dists/$suite/InRelease"
fi

index=main/binary-$arch/Packages.xz
sum=$(awk -v f="$index" '/^SHA256:/ { on = 1; next } /^[^ ]/ { on = 0 } on && $3 == f { print $1; exit }' "$work/Release")
[ -n "$sum" ] || fail "$suite has no $index"
get "dists/$suite/$index" "$work/Packages.xz"
check "$sum" "$work/Packages.xz" "$index"

for package in "$@"; do
  read -r file sum < <(xz -dc "$work/Packages.xz" | awk -v p="$package" '
    /^Package: / { on = ($2 == p); file = sum = "" }
    on && /^Filename: / { file = $2 }
    on && /^SHA256: / { sum = $2 }
    on && /^$/ && file { print file, sum; on = 0 }' | sort | tail -n 1) || true
  [ -n "${file:-}" ] || fail "$suite has no package $package for $arch"
  get "$file" "$work/package.deb"
  check "$sum" "$work/package.deb" "$file"
  dpkg-deb -x "$work/package.deb" "$work/root"
  file=
done
mkdir -p "$(dirname "$dir")"
rm -rf "$dir"
cp -a "$work/root" "$dir.$$"
mv "$dir.$$" "$dir"
