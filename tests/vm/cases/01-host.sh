# A bare Debian 12 boots with systemd and every cgroup v2 controller.
# vm: core
. /lane/cases/steps.sh

state=$(systemctl is-system-running --wait || true)
is "the system" "$state" running
is "the hierarchy" "$(stat -f -c %T /sys/fs/cgroup)" cgroup2fs
for controller in cpuset cpu io memory hugetlb pids; do
    has "cgroup.controllers" "$(cat /sys/fs/cgroup/cgroup.controllers)" "\\b$controller\\b"
done
has "the kernel" "$(uname -r)" '^6\.1\.'
has "nft" "$(nft --version)" 'v1\.0\.6'
