#!/usr/bin/env bash
# The life of a pod, shown on this machine: tests/demo/run.sh JOEY IMAGES
#
# Everything happens in network and mount namespaces of its own and in one temporary directory, so that nothing
# of the machine changes. HOST=1 uses the real network instead.
set -euo pipefail

joey=$(readlink -f "$1")
images=$(readlink -f "$2")
here=$(cd "$(dirname "$0")/../.." && pwd)

if [ "$(id -u)" != 0 ]; then
    exec sudo HOST="${HOST:-}" "$0" "$joey" "$images"
fi
if [ -z "${HOST:-}" ] && [ -z "${JOEY_DEMO_INSIDE:-}" ]; then
    JOEY_DEMO_INSIDE=1 exec unshare --net --mount --propagation private "$0" "$joey" "$images"
fi
[ -n "${HOST:-}" ] || ip link set lo up

if [ -t 1 ]; then
    bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
else
    bold='' dim='' green='' red='' plain=''
fi

scratch=$(mktemp -d /tmp/joey-demo-XXXXXX)
export JOEY_DATA_DIR=$scratch/data JOEY_RUN_DIR=$scratch/run JOEY_MANIFESTS_DIR=$scratch/manifests JOEY_LISTEN=127.0.0.1:${PORT:-6443}
export HOME=$scratch KUBECONFIG=$scratch/data/admin.kubeconfig
kubectl=$here/.tools/kubectl
daemon=

finish() {
    code=$?
    trap - EXIT
    if [ "$code" != 0 ]; then
        printf '%s\n' "${red}The demo failed. The daemon said:${plain}"
        tail -n 40 "$scratch/daemon.log" 2>/dev/null || true
    fi
    if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
        kill "$daemon"
        wait "$daemon" 2>/dev/null || true
    fi
    "$joey" reset --yes >"$scratch/reset.log" 2>&1 || { cat "$scratch/reset.log"; code=1; }
    rm -rf "$scratch"
    exit "$code"
}
trap finish EXIT

chapter() { printf '\n%s\n' "${bold}$*${plain}"; }
# Shows a command and its output, indented.
show() {
    printf '%s\n' "${dim}\$ $*${plain}"
    "$@" 2>&1 | sed 's/^/  /'
}
k() { "$kubectl" "$@"; }
# Waits until a JSONPath of the pod has a value; the third argument is how long in seconds.
until_is() {
    local path=$1 want=$2 end=$((SECONDS + ${3:-30}))
    until [ "$(k get pod kangaroo-backend -o jsonpath="$path" 2>/dev/null)" = "$want" ]; do
        if [ "$SECONDS" -ge "$end" ]; then
            printf '%s\n' "${red}$path is not $want${plain}"
            k describe pod kangaroo-backend || true
            return 1
        fi
        sleep 0.05
    done
}
start_daemon() {
    "$joey" serve >>"$scratch/daemon.log" 2>&1 &
    daemon=$!
    local end=$((SECONDS + 30))
    until k get --raw /readyz >/dev/null 2>&1; do
        if ! kill -0 "$daemon" 2>/dev/null || [ "$SECONDS" -ge "$end" ]; then
            printf '%s\n' "${red}Joey did not start${plain}"
            return 1
        fi
        sleep 0.05
    done
}

chapter "Images: three versions of the story's backend, built from scratch"
for archive in "$images"/*.oci.tar; do
    "$joey" image import "$archive" >/dev/null
done
show "$joey" image list

chapter "Joey starts"
begin=$(date +%s%N)
start_daemon
printf '  ready after %s ms\n' $((($(date +%s%N) - begin) / 1000000))
show k get nodes -o wide

chapter "I want to run a container"
cat >"$scratch/pod.yaml" <<'YAML'
apiVersion: v1
kind: Pod
metadata:
  name: kangaroo-backend
spec:
  containers:
  - name: kangaroo-backend
    image: kangaroo-backend:1.14.2
    ports:
    - containerPort: 80
YAML
show k apply -f "$scratch/pod.yaml"
until_is '{.status.phase}' Running
show k get pods -o wide

chapter "What is my pod doing?"
address=$(k get pod kangaroo-backend -o jsonpath='{.status.podIP}')
show curl -sS --max-time 5 "http://$address/"
show k logs kangaroo-backend
show k exec kangaroo-backend -- /bin/bash -c 'echo "I am PID $$ of $HOSTNAME"; ls /'

chapter "The daemon is killed; the pod does not notice"
before=$(k get pod kangaroo-backend -o jsonpath='{.status.containerStatuses[0].containerID}')
kill -9 "$daemon"
wait "$daemon" 2>/dev/null || true
show curl -sS --max-time 5 "http://$address/"
start_daemon
after=$(k get pod kangaroo-backend -o jsonpath='{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}')
[ "$after" = "$before 0" ]
printf '  the same container, no restart\n'

chapter "I want my container to restart when it crashes"
curl -sS --max-time 5 "http://$address/crash?code=3" >/dev/null 2>&1 || true
until_is '{.status.containerStatuses[0].restartCount}' 1 60
until_is '{.status.containerStatuses[0].ready}' true 60
show k get pods
show k get pod kangaroo-backend -o 'jsonpath=last exit code: {.status.containerStatuses[0].lastState.terminated.exitCode}{"\n"}'
show curl -sS --max-time 5 "http://$address/"

show k delete pod kangaroo-backend
show k get events --sort-by=.lastTimestamp

chapter "The whole story, from one pod to metrics that outlive their service"
"$joey" learn --all --kubectl "$kubectl"
printf '\n%s\n' "${green}The demo is complete.${plain}"
