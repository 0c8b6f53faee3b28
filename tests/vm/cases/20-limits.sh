# Limits are the kernel's: the files hold the manifest's numbers, too much memory ends the whole container as OOMKilled.
# vm: core
# vm: seconds 600
. /lane/cases/steps.sh
joey_is_fresh

pod hog kangaroo-backend:1.14.2 '{"resources": {"requests": {"cpu": "250m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}}}'
is_ready hog
group=$(container_cgroup hog)
is cpu.max "$(cat "$group/cpu.max")" "50000 100000"
is cpu.weight "$(cat "$group/cpu.weight")" 10
is memory.max "$(cat "$group/memory.max")" $((64 << 20))
is memory.oom.group "$(cat "$group/memory.oom.group")" 1
[ ! -e "$group/memory.swap.max" ] || is memory.swap.max "$(cat "$group/memory.swap.max")" 0
has "the pod's place" "$(pod_cgroup hog)" '/burstable/pod'
is "the pod's pids.max" "$(cat "$(pod_cgroup hog)/pids.max")" 1024

# A second process of the container: it has to go with the first.
k exec hog -- /bin/bash -c 'sleep 1000 >/dev/null 2>&1 </dev/null &'
[ "$(pids hog | wc -l)" -ge 2 ] || fail "exec did not leave its process in the container: $(pids hog)"
second=$(pgrep -f '^sleep 1000$')

# Twice the limit of CPU is asked for, half a CPU is given.
address=$(field hog '{.status.podIP}')
before=$(awk '$1 == "usage_usec" { print $2 }' "$group/cpu.stat")
curl -sSf --max-time 60 "http://$address/burn?ms=10000" >/dev/null
used=$((($(awk '$1 == "usage_usec" { print $2 }' "$group/cpu.stat") - before) / 1000))
[ "$used" -ge 3000 ] && [ "$used" -le 6500 ] || fail "10 s at 500m used $used ms of CPU"
[ "$(awk '$1 == "nr_throttled" { print $2 }' "$group/cpu.stat")" -gt 0 ] || fail "it was never throttled"

curl -sS --max-time 60 "http://$address/memory?mb=200" >/dev/null 2>&1 || true
last='{.status.containerStatuses[0].lastState.terminated.reason} {.status.containerStatuses[0].lastState.terminated.exitCode}'
within 60 "the hog's last state is OOMKilled 137" field_is hog "$last" "OOMKilled 137"
[ ! -e "/proc/$second" ] || fail "the container's second process survived the OOM kill"
within 60 "one restart" field_is hog '{.status.containerStatuses[0].restartCount}' 1
is_ready hog
within 20 "it serves again" answers hog
is "the address" "$(field hog '{.status.podIP}')" "$address"
