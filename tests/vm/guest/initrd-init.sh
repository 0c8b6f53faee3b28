#!/bin/busybox sh
# Loads the way to the disk, mounts it, hands over to systemd.
/bin/busybox mount -t devtmpfs devtmpfs /dev
while read -r module; do
    /bin/busybox insmod "/modules/$module"
done </modules/order
tries=0
until [ -b /dev/vda ] || [ "$tries" -ge 100 ]; do
    tries=$((tries + 1))
    /bin/busybox usleep 50000
done
/bin/busybox mount -t ext4 -o rw /dev/vda /root || exec /bin/busybox sh
exec /bin/busybox switch_root /root /sbin/init
