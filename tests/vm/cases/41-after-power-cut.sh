# After a power cut every declared pod is back by itself, counted as one restart more; what was answered is kept.
# vm: core
# vm: power-cut
# vm: seconds 600
. /lane/cases/steps.sh

within 60 "Joey answers" joey_answers
k get configmap answered-before-the-cut -o 'jsonpath={.data.a}' | grep -qx b || fail "an acknowledged write is lost"
is "the pods" "$(uids)" "$(cat "$keep/uids")"
within 90 "kept is restarted once" field_is kept '{.status.containerStatuses[0].restartCount}' 1
within 90 "crashed is restarted twice" field_is crashed '{.status.containerStatuses[0].restartCount}' 2
is_ready kept
is_ready crashed
within 20 "kept answers" answers kept
within 20 "crashed answers" answers crashed
is "a pod that was done" "$(field done '{.status.phase} {.status.containerStatuses[0].restartCount}')" "Succeeded 0"
is_ready polite
! k logs polite --previous | grep -qx bye || fail "a power cut gives nobody time to say goodbye"
k logs kept --previous | grep -q 'kangaroo-backend 1.14.2 listens' || fail "the log of before the cut is gone"
k delete configmap answered-before-the-cut
