# Pods run, one of them with a restart behind it; then the power fails.
# vm: core
# vm: seconds 600
. /lane/cases/steps.sh
joey_is_fresh

pod kept kangaroo-backend:1.14.2
pod crashed kangaroo-backend:1.14.2
pod polite toolbox '{"command": ["/bin/bash", "-c", "trap \"echo bye; exit 0\" TERM; while :; do sleep 0.2; done"]}'
pod done toolbox '{"command": ["/bin/true"]}' '{"restartPolicy": "Never"}'
is_ready kept
is_ready crashed
is_ready polite
within 60 "done is done" field_is done '{.status.phase}' Succeeded
uids >"$keep/uids"
sync "$keep/uids" "$keep" # ours; Joey has to see to its own files

# The last that Joey answers before the cut.
curl -sS --max-time 30 "http://$(field crashed '{.status.podIP}')/crash?code=3" >/dev/null 2>&1 || true
within 60 "one restart" field_is crashed '{.status.containerStatuses[0].restartCount}' 1
is_ready crashed
k create configmap answered-before-the-cut --from-literal=a=b
