#!/bin/bash
# Makes a fresh machine of any of the boxes ready: puts what was staged to /lane, where the VM lane has it, adds the few
# packages that are missing, and installs Joey unless JOEY_INSTALL=no.
set -euo pipefail

rm -rf /lane
mv /tmp/lane /lane
chown -R root:root /lane

missing=()
for need in nft:nftables curl:curl jq:jq strace:strace ip:iproute2; do
    PATH=$PATH:/usr/sbin command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing ${missing[*]}"
    if command -v apt-get >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
    else
        dnf install -y -q "${missing[@]/iproute2/iproute}"
    fi
fi

if [ "${JOEY_INSTALL:-yes}" = yes ]; then
    /lane/bin/joey install
    for archive in /lane/images/*.oci.tar; do
        /usr/local/bin/joey image import "$archive"
    done
    install -m 755 /lane/bin/kubectl /usr/local/bin/kubectl
fi
