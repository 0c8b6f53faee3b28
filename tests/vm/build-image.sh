#!/usr/bin/env bash
# Builds the Debian 12 machine that the VM lane boots and prints its directory: tests/vm/build-image.sh [lane|walls|box]
#
#   lane    the bare machine
#   walls   the same with firewalld, ufw and Docker, all of them off
#   box     the same as Vagrant wants one: with ssh and the user vagrant, and without the console's agent
#
# The directory holds root.ext4 (systemd and what Joey asks of a host, nothing of Joey), vmlinuz (Debian's own
# cloud kernel) and initrd (busybox, which mounts the disk and leaves: Debian's generic one takes ten seconds more
# under emulation). It is cached by the content of this script and of guest/; with the cache nothing is fetched.
# JOEY_VM_CACHE is where it is kept (vm-cache/ at the top of the tree).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${JOEY_VM_CACHE:-$here/../../vm-cache}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
PATH=$PATH:/usr/sbin:/sbin

suite=bookworm
kind=${1:-lane}
# What a host needs for Joey, then what the cases look with.
packages=(linux-image-cloud-amd64 systemd systemd-sysv udev dbus kmod iproute2 nftables procps ca-certificates
    busybox-static bash-static strace curl jq)
walls=(firewalld ufw docker.io)
case $kind in
    lane) ;;
    walls) packages+=("${walls[@]}" iptables) ;;
    box) packages+=(openssh-server sudo) ;;
    *) echo "$kind: must be lane, walls or box" >&2 && exit 1 ;;
esac
units_off=(apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service
    fstrim.timer getty@tty1.service serial-getty@ttyS0.service systemd-timesyncd.service)

exec 3>&1 >&2
missing=()
for need in mmdebstrap:mmdebstrap mke2fs:e2fsprogs busybox:busybox-static setpriv:util-linux \
    qemu-system-x86_64:qemu-system-x86; do
    command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "missing: ${missing[*]}; install them and try again"
        exit 1
    fi
    echo "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

key=$(cd "$here" && cat build-image.sh guest/* | sha256sum | cut -c1-16)
image=$cache/$kind-$key
if [ -d "$image" ]; then
    echo "$image" >&3
    exit
fi

if [ "$(id -u)" != 0 ]; then
    echo "building the machine's disk makes device nodes: run this as root"
    exit 1
fi
part=$(mktemp -d "$cache/building-XXXXXX")
trap 'rm -rf --one-file-system "$part"' EXIT
root=$part/root
echo "building the machine's disk from Debian $suite (once; about two minutes)"
mmdebstrap --quiet --mode=root --format=directory --variant=minbase \
    --include="$(IFS=,; echo "${packages[*]}")" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$suite" "$root"

if [ "$kind" = box ]; then
    # What Vagrant expects of a box: this user, this well-known key (it replaces it), sudo without questions.
    chroot "$root" useradd --create-home --shell /bin/bash vagrant
    install -D -m 440 /dev/stdin "$root/etc/sudoers.d/vagrant" <<<'vagrant ALL=(ALL) NOPASSWD: ALL'
    install -d -m 700 "$root/home/vagrant/.ssh"
    install -m 600 "$here/guest/vagrant.pub" "$root/home/vagrant/.ssh/authorized_keys"
    chroot "$root" chown -R vagrant:vagrant /home/vagrant/.ssh
    install -m 644 "$here/guest/eth0.network" "$root/etc/systemd/network/"
else
    # The person at the console: a root program that runs what the lane tells it.
    install -D -m 755 "$here/guest/agent.sh" "$root/usr/local/lib/vm-lane/agent"
    install -m 644 "$here/guest/vm-lane.service" "$root/etc/systemd/system/vm-lane.service"
    ln -s ../vm-lane.service "$root/etc/systemd/system/multi-user.target.wants/vm-lane.service"
    install -m 644 "$here/guest/lan0.netdev" "$here/guest/lan0.network" "$root/etc/systemd/network/"
fi
# Each case raises its own.
[ "$kind" != walls ] || chroot "$root" systemctl --quiet disable \
    firewalld.service ufw.service docker.service docker.socket containerd.service
ln -s /lib/systemd/system/systemd-networkd.service \
    "$root/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"
for unit in "${units_off[@]}"; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
mkdir -p "$root/var/log/journal" # the journal of the boot before a power cut is evidence
printf '/dev/vda / ext4 defaults 0 1\n' >"$root/etc/fstab"
printf 'bare\n' >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 bare\n' >"$root/etc/hosts"
printf 'nameserver 192.0.2.1\n' >"$root/etc/resolv.conf"
: >"$root/etc/machine-id"

kernel=$(basename "$root"/lib/modules/*)
cp "$root/boot/vmlinuz-$kernel" "$part/vmlinuz"

# The initrd: busybox, and the modules between the kernel and its disk.
small=$part/small
mkdir -p "$small"/{bin,dev,proc,sys,modules,root}
cp "$root/bin/busybox" "$small/bin/busybox"
install -m 755 "$here/guest/initrd-init.sh" "$small/init"
chroot "$root" /sbin/modprobe -S "$kernel" --show-depends -a virtio_pci virtio_blk |
    awk '$1 == "insmod" && !seen[$2]++ { print $2 }' |
    while read -r module; do
        cp "$root$module" "$small/modules/"
        basename "$module" >>"$small/modules/order"
    done
(cd "$small" && find . | busybox cpio -o -H newc) >"$part/initrd"

mke2fs -q -t ext4 -d "$root" -E lazy_itable_init=1 "$part/root.ext4" 3G
rm -rf --one-file-system "$root" "$small"
mv -T "$part" "$image"
chmod 755 "$image"
echo "$image" >&3
