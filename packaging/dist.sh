#!/usr/bin/env bash
# Packs a release into a directory: packaging/dist.sh JOEY OUT
#
# A tarball for any distribution (`sudo ./joey install` does the rest), a Debian package, and SHA256SUMS. The same
# binary and commit give the same bytes, wherever and whenever it is packed: names are sorted, owners are root, times
# are the commit's. It packs twice, under another mask, place and time zone, and says so if that made a difference.
set -euo pipefail
self=$(realpath "${BASH_SOURCE[0]}")
cd "$(dirname "$self")/.."
[ $# = 2 ] || { sed -n '2,/^set/s/^# \?//p' "$0" >&2; exit 2; }
joey=$(realpath "$1") out=$(realpath -m "$2")
[ -n "${JOEY_DIST_AGAIN:-}" ] || export LC_ALL=C TZ=UTC
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.lock)}
export SOURCE_DATE_EPOCH
version=$("$joey" --version | cut -d ' ' -f 2)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
rm -rf "$out"
mkdir -p "$out"

# Sets all times below a directory to the commit's.
settle() { find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +; }

name=joey-$version-x86_64-linux
mkdir "$scratch/$name"
chmod 755 "$scratch/$name"
install -m 755 "$joey" "$scratch/$name/joey"
install -m 644 README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT docs/install.md "$scratch/$name/"
tar -C "$scratch" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" --format=gnu \
    -cf - "$name" | gzip -9n >"$out/$name.tar.gz"

# The package lays out the same files as `joey install`, from the same list.
root=$scratch/deb
mkdir -p "$root/DEBIAN"
"$joey" --config /dev/null install --package-root "$root"
find "$root/usr/share/man" -name '*.1' -exec gzip -9n {} +
install -D -m 644 packaging/debian/copyright "$root/usr/share/doc/joey/copyright"
install -m 755 packaging/debian/postinst packaging/debian/prerm packaging/debian/postrm "$root/DEBIAN/"
size=$(find "$root" -path "$root/DEBIAN" -prune -o -type f -printf '%s\n' | awk '{ n += int(($1 + 1023) / 1024) } END { print n }')
sed -e "s/@VERSION@/$version/" -e "s/@SIZE@/$size/" packaging/debian/control >"$root/DEBIAN/control"
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
# Directories have the mode that they have in an installation, whatever the mask is here.
find "$root" -type d ! -path "$root/etc/joey/manifests" -exec chmod 755 {} +
find "$root" -type f -name '*.gz' -exec chmod 644 {} +
chmod 644 "$root/DEBIAN/control" "$root/DEBIAN/md5sums"
settle "$root"
dpkg-deb --root-owner-group -Z"${JOEY_DIST_COMPRESSION:-xz}" --build "$root" "$out/joey_${version}_amd64.deb" >/dev/null

(cd "$out" && sha256sum -- * >SHA256SUMS)
[ -z "${JOEY_DIST_AGAIN:-}" ] || exit 0
(umask 077 && JOEY_DIST_AGAIN=1 TZ=Pacific/Apia LC_ALL=C.UTF-8 "$self" "$joey" "$scratch/again")
diff "$out/SHA256SUMS" "$scratch/again/SHA256SUMS" >&2 || { echo "packing again gave other bytes" >&2; exit 1; }
cat "$out/SHA256SUMS"
