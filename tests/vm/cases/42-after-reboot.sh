# After an orderly reboot every declared pod is back by itself, and nothing of the last boot is in its way.
# vm: reboot
# vm: seconds 240
. /lane/cases/steps.sh

within 60 "Joey answers" joey_answers
is "the pods" "$(uids)" "$(cat "$keep/uids")"
within 90 "kept is restarted once more" field_is kept '{.status.containerStatuses[0].restartCount}' 2
is_ready kept
within 20 "kept answers" answers kept
is "a pod that was done" "$(field done '{.status.phase} {.status.containerStatuses[0].restartCount}')" "Succeeded 0"
