# systemctl stop, start and kill of Joey leave pods running: the same processes, addresses and limits.
# vm: core
# vm: seconds 600
. /lane/cases/steps.sh
joey_is_fresh

pod one kangaroo-backend:1.14.2 '{"resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}}'
pod two kangaroo-backend:1.14.2
is_ready one
is_ready two
before="$(identity one) $(identity two)"
address=$(field one '{.status.podIP}')
group=$(container_cgroup one)

systemctl stop joey.service
is "the unit" "$(systemctl is-active joey.service || true)" inactive
has "the pods' place" "$group" '^/sys/fs/cgroup/joey-[0-9a-f]{6}\.scope/pods/'
left=$(find /sys/fs/cgroup/joey.service -name cgroup.procs -exec cat {} + 2>/dev/null || true)
is "processes in the unit's own cgroup" "$left" ""
# systemd goes over the whole tree when it loads units; what is ours stays ours.
systemctl daemon-reload
systemd-run --quiet --wait -p CPUWeight=50 true
is "cpu.max while Joey is down" "$(cat "$group/cpu.max")" "50000 100000"
is "memory.max while Joey is down" "$(cat "$group/memory.max")" $((64 << 20))
curl -sSf --max-time 30 "http://$address/" | grep -q kangaroo-backend || fail "the pod does not answer while Joey is down"

systemctl start joey.service
is "both pods" "$(identity one) $(identity two)" "$before"
systemctl restart joey.service
is "both pods after a restart" "$(identity one) $(identity two)" "$before"
systemctl kill -s KILL --kill-whom=main joey.service
within 60 "Joey is back" joey_answers
is_ready one
is "both pods after a kill" "$(identity one) $(identity two)" "$before"

# Clients that come while it restarts wait for it instead of being refused.
ask() { until [ -e "$keep/enough" ]; do curl -sSk --max-time 60 -o /dev/null https://127.0.0.1:6443/readyz 2>>"$keep/refused"; done; }
rm -f "$keep/enough" "$keep/refused"
ask &
for how in "restart joey.service" "kill -s KILL --kill-whom=main joey.service" "restart joey.service"; do
    # shellcheck disable=SC2086
    systemctl $how
    within 60 "Joey is back" joey_answers
done
touch "$keep/enough"
wait
! grep -q 'Failed to connect' "$keep/refused" || fail "connections were refused: $(cat "$keep/refused")"

# What happens meanwhile is told afterwards, with its true code.
systemctl stop joey.service
curl -sS --max-time 30 "http://$address/crash?code=7" >/dev/null 2>&1 || true
systemctl start joey.service
within 60 "the exit is told" field_is one '{.status.containerStatuses[0].lastState.terminated.exitCode}' 7
is_ready one
