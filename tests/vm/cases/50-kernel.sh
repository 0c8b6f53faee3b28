# On Debian's 6.1 kernel and nft 1.0.6: seccomp filters, overlay roots and rules are in force.
# vm: seconds 600
. /lane/cases/steps.sh
joey_is_fresh

pod probe toolbox '{"command": ["/bin/bash", "-c", "while :; do sleep 1; done"]}'
is_ready probe
status=$(k exec probe -- cat /proc/self/status)
has "an exec's status" "$status" '^Seccomp:[[:space:]]2$'
has "an exec's status" "$status" '^NoNewPrivs:[[:space:]]1$'
pid=$(pids probe | head -n 1)
has "the container's status" "$(cat "/proc/$pid/status")" '^Seccomp:[[:space:]]2$'
has "the container's root" "$(grep ' / / ' "/proc/$pid/mountinfo" || cat "/proc/$pid/mountinfo")" ' - overlay '
is "a mount in a pod" "$(k exec probe -- /bin/bash -c 'mount -t tmpfs none /tmp 2>/dev/null && echo done || echo refused')" refused
is "a user namespace in a pod" "$(k exec probe -- /bin/bash -c 'unshare -U true 2>/dev/null && echo done || echo refused')" refused
# What the container sees of its cgroup is its own.
is "its cgroup" "$(k exec probe -- cat /proc/self/cgroup)" "0::/"

tables=$(nft list tables)
has "the tables" "$tables" ' joey_[0-9a-f]{6}$'
rules=$(nft list ruleset)
address=$(field probe '{.status.podIP}')
has "the set of true sources" "$rules" "\"jy[0-9a-f-]+\" \. ${address//./\\.} \. "
has "the guard" "$rules" 'iifname \. ip saddr \. ether saddr != @sources .*drop'

pod server kangaroo-backend:1.14.2
is_ready server
server=$(field server '{.status.podIP}')
has "pod to pod" "$(k exec probe -- fetch "http://$server/")" kangaroo-backend
