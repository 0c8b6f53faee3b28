# After an orderly reboot every declared pod is back by itself, and nothing of the last boot is in its way.
# vm: reboot
# vm: seconds 240
. /lane/cases/steps.sh

up() { k get --raw /readyz >/dev/null 2>&1; }
within 60 "Joey answers" up
is "the pods" "$(k get pods -o 'jsonpath={range .items[*]}{.metadata.name} {.metadata.uid}{"\n"}{end}' | sort)" "$(cat "$keep/uids")"
within 90 "kept is restarted once more" field_is kept '{.status.containerStatuses[0].restartCount}' 2
is_ready kept
within 20 "kept answers" answers kept
is "a pod that was done" "$(field done '{.status.phase} {.status.containerStatuses[0].restartCount}')" "Succeeded 0"
