#!/bin/bash
# Runs what arrives on the virtio port, one command after the other, as root.
#
#   in   ID BASE64-OF-A-BASH-SCRIPT
#   out  |a line of its output, as it comes          (any number)
#        =ID EXIT-CODE                               (once, when the script itself has ended)
#
# Output goes through a file, so that a process which the script leaves behind cannot hold the answer back.
port=/dev/virtio-ports/org.joey.lane
work=/run/vm-lane
mkdir -p "$work" /lane
mountpoint -q /lane || mount -o ro /dev/vdb /lane
exec 3<>"$port"
printf '\n=ready 0\n' >&3
while read -r id code <&3; do
    printf '%s' "$code" | base64 -d >"$work/script"
    : >"$work/output"
    bash "$work/script" </dev/null >"$work/output" 2>&1 3>&- &
    script=$!
    tail -c +1 -f --pid="$script" -s 0.1 "$work/output" | sed -u 's/^/|/' >&3
    wait "$script"
    printf '\n=%s %s\n' "$id" "$?" >&3
done
