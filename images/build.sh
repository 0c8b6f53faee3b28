#!/usr/bin/env bash
# Builds the sample images as OCI archives: images/build.sh JOEY OUT
#
# Each image is a context directory with a Containerfile and rootfs/, so `docker build` takes it as well;
# KEEP=DIR keeps the contexts there.
set -euo pipefail
joey=$(readlink -f "$1")
mkdir -p "$2"
out=$(readlink -f "$2")
cd "$(dirname "$0")"

target=$PWD/../target/samples
cargo build --release --quiet --locked --manifest-path src/Cargo.toml --target x86_64-unknown-linux-gnu \
    --target-dir "$target"
programs=$target/x86_64-unknown-linux-gnu/release

scratch=$(mktemp -d)
contexts=${KEEP:-$scratch/contexts}
trap 'rm -rf "$scratch"' EXIT
store=$scratch/store

# What every image has: users, a shell, busybox under its names, a temporary directory.
base() {
    local root=$1 applet
    mkdir -p "$root"/{bin,etc,tmp,root,usr/bin,var/run}
    chmod 1777 "$root/tmp"
    chmod 700 "$root/root"
    printf 'root:x:0:0:root:/root:/bin/bash\nkangaroo:x:1000:1000::/:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n' >"$root/etc/passwd"
    printf 'root:x:0:\nkangaroo:x:1000:\nnogroup:x:65534:\n' >"$root/etc/group"
    install -m 755 /bin/bash-static "$root/bin/bash"
    install -m 755 /bin/busybox "$root/bin/busybox"
    # busybox's own wget asks the C library for names, which a static program cannot.
    for applet in $(/bin/busybox --list | grep -vxE 'bash|busybox|wget|nslookup'); do
        ln -sf busybox "$root/bin/$applet"
    done
    install -m 755 "$programs/fetch" "$root/bin/fetch"
    ln -sf fetch "$root/bin/wget"
}

build() {
    local name=$1 tag=$2 context=$contexts/$1-$2
    cp "$name/Containerfile" "$context/Containerfile"
    JOEY_DATA_DIR=$store JOEY_RUN_DIR=$scratch/run "$joey" image build -t "$name:$tag" "$context" >/dev/null
    local archive=$name.oci.tar
    [ "$tag" = latest ] || archive=$name-$tag.oci.tar
    JOEY_DATA_DIR=$store JOEY_RUN_DIR=$scratch/run "$joey" image export "$name:$tag" "$out/$archive.part"
    mv "$out/$archive.part" "$out/$archive"
    echo "$out/$archive"
}

for version in 1.14.2 1.15 1.16; do
    root=$contexts/kangaroo-backend-$version/rootfs
    base "$root"
    install -m 755 "$programs/kangaroo-backend" "$root/usr/bin/kangaroo-backend"
    printf '%s\n' "$version" >"$root/etc/kangaroo-version"
    build kangaroo-backend "$version"
done

root=$contexts/kangaroo-frontend-latest/rootfs
base "$root"
install -m 755 "$programs/kangaroo-frontend" "$root/usr/bin/kangaroo-frontend"
build kangaroo-frontend latest

base "$contexts/toolbox-latest/rootfs"
build toolbox latest
