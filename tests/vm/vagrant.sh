#!/usr/bin/env bash
# Runs the VM lane's cases in a machine of Vagrant: tests/vm/vagrant.sh JOEY IMAGES [arguments of run.py]
#
# libvirtd, its networks and its files live in a network and a mount namespace that this script makes, and go with it:
# this host's network, libvirt and Vagrant stay as they are. The box is our own (vagrant/own-box.sh), so no internet is
# needed. JOEY_VM_CACHE is where images are kept.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
cache=${JOEY_VM_CACHE:-$top/vm-cache}
export PATH=$PATH:/usr/sbin:/sbin

if [ -z "${JOEY_VAGRANT_INSIDE:-}" ]; then
    missing=()
    for need in vagrant:vagrant libvirtd:libvirt-daemon-system virsh:libvirt-clients dnsmasq:dnsmasq-base \
        qemu-img:qemu-utils ssh:openssh-client iptables:iptables qemu-system-x86_64:qemu-system-x86; do
        command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
    done
    compgen -G '/usr/share/vagrant-plugins/plugins.d/*libvirt*' >/dev/null || missing+=(vagrant-libvirt)
    if [ ${#missing[@]} -gt 0 ]; then
        if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
            echo "missing: ${missing[*]}; install them and try again" >&2
            exit 1
        fi
        echo "installing ${missing[*]}" >&2
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    fi
    [ "$(id -u)" = 0 ] || { echo "namespaces need root" >&2; exit 1; }
    # Built outside: building fetches packages, and inside there is no way out.
    "$here/build-image.sh" box >/dev/null
    JOEY_VAGRANT_INSIDE=1 exec unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private \
        "$0" "$(realpath "$1")" "$(realpath "$2")" "${@:3}"
fi

# From here on everything ends with this script: it is process 1 of its namespace.
scratch=$(mktemp -d "$cache/vagrant-XXXXXX")
trap 'rm -rf --one-file-system "$scratch"' EXIT
ip link set lo up
mkdir -p "$scratch"/{lib,cache,log,home,etc}
mount -t tmpfs tmpfs /run
for directory in lib cache log; do
    mkdir -p "/var/$directory/libvirt"
    mount --bind "$scratch/$directory" "/var/$directory/libvirt"
done
cp -a /etc/libvirt/. "$scratch/etc/"
mount --bind "$scratch/etc" /etc/libvirt
mkdir -p /run/libvirt /var/lib/libvirt/{images,qemu,dnsmasq,boot}
cat >/etc/libvirt/qemu.conf <<'END'
# Alone in its namespaces: no other user, no labels, no groups of processes to keep apart, no log daemon.
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
END
cat >/etc/libvirt/libvirtd.conf <<'END'
unix_sock_group = "root"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "2:stderr"
END
rm -f /etc/libvirt/qemu/networks/autostart/* /etc/libvirt/qemu/networks/*.xml
libvirtd --config /etc/libvirt/libvirtd.conf >"$scratch/libvirtd.log" 2>&1 &
libvirtd=$!
export LIBVIRT_DEFAULT_URI=qemu:///system VAGRANT_HOME=$scratch/home VAGRANT_DEFAULT_PROVIDER=libvirt JOEY_BOX=own \
    VAGRANT_CHECKPOINT_DISABLE=1 VAGRANT_NO_COLOR=1
end=$((SECONDS + 60))
until virsh --quiet list >/dev/null 2>&1; do
    if [ "$SECONDS" -ge "$end" ] || ! kill -0 "$libvirtd" 2>/dev/null; then
        echo "libvirtd does not answer:" >&2
        tail -n 20 "$scratch/libvirtd.log" >&2
        exit 1
    fi
    sleep 0.2
done
"$top/vagrant/own-box.sh"
"$here/run.py" "$1" "$2" --vagrant "${@:3}" || { code=$?; tail -n 20 "$scratch/libvirtd.log" >&2; exit "$code"; }
