# Huge pages are a resource of the node: a pod gets as many as it has asked for, at mmap(2), and who asks for none gets none.
# vm: seconds 600
. /lane/cases/steps.sh
joey_is_fresh

put_aside() { [ "$(cat /proc/sys/vm/nr_hugepages)" = "$1" ]; }
echo 8 >/proc/sys/vm/nr_hugepages
within 20 "the kernel puts 16 MiB aside" put_aside 8
systemctl restart joey.service # as with a kubelet: they are counted at its start
within 60 "Joey is back" joey_answers
node() { k get node -o "jsonpath={.items[0].status.$1}"; }
counted() { [ "$(node 'allocatable.hugepages-2Mi')" = 16Mi ]; }
within 30 "the node has them" counted

pod huge toolbox '{"command": ["/bin/bash", "-c", "exec sleep 2000"], "resources": {"limits": {"memory": "32Mi", "hugepages-2Mi": "4Mi"}}}'
pod none toolbox '{"command": ["/bin/bash", "-c", "exec sleep 2000"]}'
pod more toolbox '{"command": ["/bin/bash", "-c", "exec sleep 2000"], "resources": {"limits": {"memory": "32Mi", "hugepages-2Mi": "14Mi"}}}'
is_ready huge
is_ready none
scope=$(dirname "$(dirname "$(dirname "$(pod_cgroup none)")")")
for file in hugetlb.2MB.max hugetlb.2MB.rsvd.max; do
    is "$file of all pods" "$(cat "$scope/pods/$file")" $((16 << 20))
    is "$file of the pod" "$(cat "$(pod_cgroup huge)/$file")" $((4 << 20))
    is "$file of the container" "$(cat "$(container_cgroup huge)/$file")" $((4 << 20))
    is "$file of who asked for none" "$(cat "$(container_cgroup none)/$file")" 0
done
# mmap(2) of so many bytes, MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB, by a process in the group of the pod's container.
map() {
    bash -c 'echo $$ >"$1/cgroup.procs"; exec perl -e "exit(syscall(9, 0, $2, 3, 0x40022, -1, 0) == -1)"' - "$(container_cgroup "$1")" "$2"
}
map huge $((4 << 20)) || fail "the pod does not get what it has asked for"
! map huge $((6 << 20)) || fail "the pod gets more than it has asked for"
! map none $((2 << 20)) || fail "a pod that asked for none gets one"
waits() { k get pod more -o 'jsonpath={.status.conditions[?(@.type=="PodScheduled")].message}' | grep -q 'Insufficient hugepages-2Mi'; }
within 30 "more than there are waits" waits
k delete pod huge --grace-period=1 --wait=true --timeout=180s >/dev/null
is_ready more

k delete pods --all --grace-period=1 --wait=true --timeout=180s >/dev/null
echo 0 >/proc/sys/vm/nr_hugepages
systemctl restart joey.service
