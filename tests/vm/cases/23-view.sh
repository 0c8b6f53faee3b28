# A pod sees its own limits and pressure and can change neither, the API tells what the kernel counts; what is frozen by hand is thawed, what is killed by hand comes back, and a frozen pod can be deleted.
# vm: seconds 600
. /lane/cases/steps.sh
joey_is_fresh

pod seen toolbox '{
    "command": ["/bin/bash", "-c", "while :; do sleep 1; done"],
    "resources": {"requests": {"cpu": "250m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}},
    "env": [
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
        {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}}
    ]
}'
is_ready seen
inside() { k exec seen -- /bin/bash -c "$1"; }
group=$(container_cgroup seen)
is "its cpu.max" "$(inside 'cat /sys/fs/cgroup/cpu.max')" "50000 100000"
is "its memory.max" "$(inside 'cat /sys/fs/cgroup/memory.max')" $((64 << 20))
is "its memory.min" "$(inside 'cat /sys/fs/cgroup/memory.min')" $((32 << 20))
is "its environment" "$(inside 'echo $CPU $MEMORY')" "500 $((64 << 20))"
for resource in cpu memory io; do
    has "its pressure" "$(inside "cat /sys/fs/cgroup/$resource.pressure")" '^some avg10='
done
for attempt in 'echo max >/sys/fs/cgroup/memory.max' 'mkdir /sys/fs/cgroup/more' 'echo 1 >/sys/fs/cgroup/cgroup.kill' 'echo $$ >/sys/fs/cgroup/cgroup.procs'; do
    is "$attempt" "$(inside "( $attempt ) 2>/dev/null && echo done || echo refused")" refused
done
is "memory.max after that" "$(cat "$group/memory.max")" $((64 << 20))
has "the only groups that it sees" "$(inside 'ls -d /sys/fs/cgroup/*/ 2>/dev/null | wc -l')" '^0$'

# What the API tells of its use is what the kernel counts: memory without what a reclaim would take first, CPU over the
# last seconds, here the whole of its limit.
k exec seen -- /bin/bash -c 'while :; do :; done' >/dev/null 2>&1 &
usage() { k get --raw /apis/metrics.k8s.io/v1beta1/namespaces/default/pods/seen | jq -r ".containers[0].usage.$1"; }
in_millis() { local n; n=$(usage cpu); case $n in *n) echo $((${n%n} / 1000000)) ;; *u) echo $((${n%u} / 1000)) ;; *m) echo "${n%m}" ;; *) echo $((n * 1000)) ;; esac; }
whole_limit() { local n; n=$(in_millis 2>/dev/null) && [ "$n" -ge 400 ] && [ "$n" -le 600 ]; }
within 90 "the API tells some 500m of CPU" whole_limit
close_by() {
    local told counted
    told=$(usage memory) counted=$(($(cat "$group/memory.current") - $(awk '$1 == "inactive_file" { print $2 }' "$group/memory.stat")))
    told=$((${told%Ki} * 1024))
    [ $((told - counted)) -lt $((2 << 20)) ] && [ $((counted - told)) -lt $((2 << 20)) ]
}
within 60 "the API tells the memory that the kernel counts" close_by

# Frozen by hand: thawed, and told.
echo 1 >"$group/cgroup.freeze"
thawed() { [ "$(cat "$group/cgroup.freeze")" = 0 ]; }
within 60 "the node thaws it" thawed
told() { k get events -o 'jsonpath={.items[*].reason}' | grep -qw Thawed; }
within 30 "an Event tells of it" told

# Killed by hand, the whole group: restarted, in its place.
echo 1 >"$group/cgroup.kill"
within 60 "one restart" field_is seen '{.status.containerStatuses[0].restartCount}' 1
is_ready seen
is "its memory.max again" "$(cat "$(container_cgroup seen)/memory.max")" $((64 << 20))

# Whatever is frozen, deletion ends it.
whole=$(pod_cgroup seen)
echo 1 >"$(container_cgroup seen)/cgroup.freeze"
k delete pod seen --grace-period=2 --wait=true --timeout=180s >/dev/null
[ ! -e "$whole" ] || fail "a group is left: $whole"
