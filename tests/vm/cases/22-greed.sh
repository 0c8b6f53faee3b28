# Pods that take all memory, CPU, descriptors and threads they can get hurt only themselves: beside them every request is answered, the node stays Ready, and nothing is left of them.
# vm: seconds 900
. /lane/cases/steps.sh
joey_is_fresh

pod server kangaroo-backend:1.14.2 '{"resources": {"requests": {"cpu": "500m", "memory": "64Mi"}}}'
is_ready server
# All pods together end at what the node says is allocatable.
scope=$(dirname "$(dirname "$(dirname "$(pod_cgroup server)")")")
allocatable=$(k get node -o 'jsonpath={.items[0].status.allocatable.memory}')
is "the bound of all pods" "$(cat "$scope/pods/memory.max")" $((${allocatable%Ki} * 1024))
is "huge pages for pods" "$(cat "$scope/pods/hugetlb.2MB.max")" 0

for shim in $(pgrep -x joey-shim); do
    is "a shim's score for the OOM killer" "$(cat "/proc/$shim/oom_score_adj")" -999
done

# The time of 200 questions to the API, in milliseconds: of the one that only two were slower than.
k config view --raw -o 'jsonpath={.users[0].user.client-certificate-data}' | base64 -d >"$keep/client.crt"
k config view --raw -o 'jsonpath={.users[0].user.client-key-data}' | base64 -d >"$keep/client.key"
slowest_but_two() {
    curl -sSfk --max-time 120 --cert "$keep/client.crt" --key "$keep/client.key" -w '%{stderr}%{time_starttransfer} %{time_pretransfer}\n' \
        "https://127.0.0.1:6443/api/v1/namespaces/default/pods/server?n=[1-200]" 2>&1 >/dev/null |
        awk '{ printf "%d\n", ($1 - $2) * 1000 }' | sort -n | tail -n 3 | head -n 1
}
alone=$(slowest_but_two)

greedy() { pod "$1" toolbox "{\"command\": [\"/bin/bash\", \"-c\", \"$2\"]}"; }
# No limit of its own, and more wanted than all pods may have.
pod memory kangaroo-backend:1.14.2
is_ready memory
curl -sS --max-time 120 "http://$(field memory '{.status.podIP}')/memory?mb=900" >/dev/null 2>&1 &
greedy cpu 'spin() { while :; do :; done; }; for i in 1 2 3 4; do spin & done; wait'
greedy descriptors 'ulimit -n hard; while :; do exec {fd}</dev/null || break; done 2>/dev/null; echo out of descriptors at $fd; exec sleep 2000'
greedy threads 'while :; do sleep 1000 & done 2>/dev/null'
is_ready cpu
is_ready descriptors 120
# The class weighs what its pods have asked for: nothing at all.
is "the weight of all that asked for nothing" "$(cat "$scope/pods/besteffort/cpu.weight")" 1
is "the weight of those that did" "$(cat "$scope/pods/burstable/cpu.weight")" "$(cat "$(pod_cgroup server)/cpu.weight")"
[ ! -e "$scope/pods/besteffort/io.weight" ] || is "its weight at the disks" "$(cat "$scope/pods/besteffort/io.weight")" "default 1"
# What was asked for is not reclaimed, nor what shims need; which holds only when every group above says so, too.
shim_least=$((1 << 20))
whole=$(((64 << 20) + $(find "$scope/pods" -mindepth 1 -maxdepth 2 -name 'pod*' | wc -l) * shim_least))
is "memory of a pod that is not reclaimed" "$(cat "$(pod_cgroup server)/memory.min")" $(((64 << 20) + shim_least))
is "memory of a shim that is not reclaimed" "$(cat "$(pod_cgroup server)/shim/memory.min")" $shim_least
is "of its class" "$(cat "$scope/pods/burstable/memory.min")" $(((64 << 20) + shim_least))
is "of all pods" "$(cat "$scope/pods/memory.min")" $whole
is "of the scope" "$(cat "$scope/memory.min")" $whole
systemctl daemon-reload
is "of the scope, after systemd has gone over it" "$(cat "$scope/memory.min")" $whole
is "of the daemon" "$(cat /sys/fs/cgroup/joey.service/memory.min)" $((128 << 20))
for file in "$scope"/pods/*/pod*/shim/memory.current; do
    [ "$(cat "$file")" -le $shim_least ] || fail "a shim needs more: $(cat "$file")"
done

# Twice as many spin as there are processors, and the API answers nearly as before.
beside=$(slowest_but_two)
echo "99 of 100 questions to the API are answered within $alone ms alone, $beside ms beside the greedy"
[ "$beside" -le $((5 * alone > 100 ? 5 * alone : 100)) ] || fail "the API takes $beside ms beside spinners, $alone ms alone"

daemon=$(systemctl show -p MainPID --value joey.service)
address=$(field server '{.status.podIP}')
curl -sSf --fail-early --rate 100/s --max-time 60 "http://$address/?n=[1-1000]" >"$keep/answers" ||
    fail "requests failed beside the greedy: $(wc -l <"$keep/answers") answered"
is "the answers" "$(grep -c kangaroo-backend "$keep/answers")" 1000
is "the server's restarts" "$(field server '{.status.containerStatuses[0].restartCount}')" 0
is "the node" "$(k get node -o 'jsonpath={.items[0].status.conditions[?(@.type=="Ready")].status}')" True
is "the daemon" "$(systemctl show -p MainPID --value joey.service)" "$daemon"
killed() { [ "$(field memory '{.status.containerStatuses[0].lastState.terminated.reason}')" = OOMKilled ]; }
within 120 "the one without a limit is killed for its memory" killed

k delete pods memory cpu descriptors threads --grace-period=1 --wait=true --timeout=300s
is "groups left of them" "$(find "$scope/pods/besteffort" -mindepth 1 -type d | wc -l)" 0
is "sleeps left of them" "$(pgrep -c -f '^sleep (1000|2000)$' || true)" 0
