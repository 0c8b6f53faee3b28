# After an orderly reboot every declared pod is back by itself, and nothing of the last boot is in its way.
# vm: core
# vm: reboot
# vm: seconds 600
. /lane/cases/steps.sh

within 60 "Joey answers" joey_answers
is "the pods" "$(uids)" "$(cat "$keep/uids")"
within 90 "kept is restarted once more" field_is kept '{.status.containerStatuses[0].restartCount}' 2
is_ready kept
# Unlike with a power cut, pods were asked to end and given their grace, before systemd stopped anything of theirs.
is_ready polite
is "its last words" "$(k logs polite --previous | tail -n 1)" bye
journalctl -b -1 -u joey.service --no-pager -o cat >"$keep/last-boot"
has "the journal of the last boot" "$(cat "$keep/last-boot")" 'every pod has ended'
within 20 "kept answers" answers kept
is "a pod that was done" "$(field done '{.status.phase} {.status.containerStatuses[0].restartCount}')" "Succeeded 0"
