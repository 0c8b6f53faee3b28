# A fork bomb meets its pod's cap; the pod beside it answers every request and the node stays Ready.
# vm: seconds 600
. /lane/cases/steps.sh
joey_is_fresh

pod server kangaroo-backend:1.14.2 '{"resources": {"requests": {"cpu": "500m", "memory": "32Mi"}}}'
is_ready server
# Four that spin, four that fork; the first process is none of them, so that the bomb outlives its own failures.
pod bomb toolbox '{"command": ["/bin/bash", "-c", "spin() { while :; do :; done; }; bomb() { while :; do sleep 1000 & done; }; for i in 1 2 3 4; do spin & bomb & done; exec sleep 2000"]}'
is_ready bomb
group=$(pod_cgroup bomb)
# Linux 6.1 counts a refused fork in the group that asked, not in the one whose limit refused it.
at_cap() { cat "$group"/pids.events "$group"/*/pids.events | awk '$1 == "max" { n += $2 } END { exit n == 0 }'; }
within 120 "the bomb reaches its cap" at_cap
[ "$(cat "$group/pids.current")" -le 1024 ] || fail "more than the cap: $(cat "$group/pids.current")"

address=$(field server '{.status.podIP}')
curl -sSf --fail-early --max-time 60 "http://$address/?n=[1-300]" >"$keep/answers" ||
    fail "requests failed beside the bomb: $(wc -l <"$keep/answers") answered"
is "the answers" "$(grep -c kangaroo-backend "$keep/answers")" 300
is "the server's restarts" "$(field server '{.status.containerStatuses[0].restartCount}')" 0
is "the node" "$(k get node -o 'jsonpath={.items[0].status.conditions[?(@.type=="Ready")].status}')" True

k delete pod bomb --grace-period=1 --wait=true --timeout=180s
[ ! -e "$group" ] || fail "the bomb's cgroup is left: $group"
is "sleeps left" "$(pgrep -c -f '^sleep 1000$' || true)" 0
