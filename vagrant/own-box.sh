#!/usr/bin/env bash
# Adds the box joey/bare to Vagrant: vagrant/own-box.sh
#
# The VM lane's Debian 12 as a box for libvirt: an ext4 file system without a partition table, booted by its kernel
# directly. Nothing is fetched once tests/vm/build-image.sh has its image.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
image=$("$here/../tests/vm/build-image.sh" box)
scratch=$(mktemp -d "$image.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

qemu-img convert -f raw -O qcow2 "$image/root.ext4" "$scratch/box.img"
cp "$image/vmlinuz" "$image/initrd" "$scratch/"
cat >"$scratch/metadata.json" <<'END'
{"provider": "libvirt", "format": "qcow2", "virtual_size": 3}
END
cat >"$scratch/Vagrantfile" <<'END'
Vagrant.configure("2") do |config|
  config.ssh.insert_key = false
  config.vm.provider :libvirt do |libvirt|
    libvirt.disk_bus = "virtio"
    libvirt.kernel = File.expand_path("vmlinuz", __dir__)
    libvirt.initrd = File.expand_path("initrd", __dir__)
    libvirt.cmd_line = "root=/dev/vda rw console=ttyS0 loglevel=4 mitigations=off panic=-1 net.ifnames=0 no_timer_check " \
                       "systemd.unified_cgroup_hierarchy=1"
  end
end
END
tar -C "$scratch" -cf "$scratch/bare.box" metadata.json Vagrantfile vmlinuz initrd box.img
vagrant box add --force --name joey/bare --provider libvirt "$scratch/bare.box"
