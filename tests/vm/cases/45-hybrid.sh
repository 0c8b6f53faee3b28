# On a host whose controllers belong to cgroup v1, what asks for a limit is refused by its name, the rest runs, and joey doctor says how to boot.
# vm: hybrid
# vm: seconds 600
. /lane/cases/steps.sh

is "the hierarchy" "$(stat -f -c %T /sys/fs/cgroup)" tmpfs
grep -q ' - cgroup cgroup .*memory' /proc/self/mountinfo || fail "memory belongs to nobody"
joey_is_fresh

ready() { k get node -o 'jsonpath={.items[0].status.conditions[?(@.type=="Ready")].status}' | grep -qx True; }
within 60 "the node is Ready" ready
doctor=$(joey doctor) || fail "doctor finds this host bad: $doctor"
has "doctor" "$doctor" 'has no cpu, memory, pids: pods that ask for such a limit are refused'
has "doctor's cure" "$doctor" 'systemd.unified_cgroup_hierarchy=1'
has "the node" "$(k describe node)" 'cgroup v2 controllers are missing: cpu, memory, pids'

pod plain kangaroo-backend:1.14.2 '{"resources": {"requests": {"cpu": "100m", "memory": "32Mi"}}}'
is_ready plain
for limit in cpu=500m memory=64Mi; do
    resource=${limit%=*}
    pod "wants-$resource" kangaroo-backend:1.14.2 "{\"resources\": {\"limits\": {\"$resource\": \"${limit#*=}\"}}}" '{"restartPolicy": "Never"}'
    told() { field "wants-$resource" '{.status}' | grep -q "limits.$resource, but this host has no cgroup v2 .*$resource.* controller"; }
    within 60 "the limit of $resource is refused by its name" told
    is "processes of wants-$resource" "$(field "wants-$resource" '{.status.containerStatuses[0].state.running}')" ""
done

# Pods run on here, too, when the daemon does not.
plain_pid() { cat /sys/fs/cgroup/unified/joey-*/pods/burstable/pod"$(field plain '{.metadata.uid}')"/main*/cgroup.procs; }
before=$(plain_pid)
[ -n "$before" ] || fail "the pod is in no group"
systemctl restart joey.service
within 60 "Joey is back" joey_answers
is "the pod's process after a restart" "$(plain_pid)" "$before"
is_ready plain
within 20 "it answers" answers plain
k delete pods --all --grace-period=1 --wait=true --timeout=180s >/dev/null
