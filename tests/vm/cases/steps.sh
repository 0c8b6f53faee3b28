# What the cases say in one word. Sourced by each of them; runs nothing by itself but the strict mode.
set -Eeuo pipefail
export PATH=/usr/local/bin:/lane/bin:$PATH KUBECONFIG=/var/lib/joey/admin.kubeconfig
# The transcript of a failing case shows this trace.
exec 9>>/run/vm-trace
BASH_XTRACEFD=9
PS4='+ $SECONDS s ${BASH_SOURCE##*/}:$LINENO: '
set -x
trap 'echo "line $LINENO of ${0##*/} ended with $?: $BASH_COMMAND" >&2' ERR
keep=/var/lib/vm-lane # what one case leaves for a later one, also across a power cut
mkdir -p "$keep"

fail() {
    trap - ERR
    echo "$*" >&2
    exit 1
}

# is WHAT GOT WANT
is() { [ "$2" = "$3" ] || fail "$1 is '$2', not '$3'"; }

# has WHAT TEXT PATTERN (of grep -E)
has() { grep -Eq -- "$3" <<<"$2" || fail "$1 has no '$3': $2"; }

# How many times longer is waited than a machine with its processors to itself would need: this one is emulated, and
# the emulator may share them. Waiting longer costs only where something has failed.
patience=3

# within SECONDS WHAT COMMAND…: until the command succeeds.
within() {
    local end=$((SECONDS + $1 * patience)) what=$2
    shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || fail "not in time: $what"
        sleep 0.2
    done
}

k() { kubectl "$@"; }

joey_answers() { k get --raw /readyz >/dev/null 2>&1; }

# Which pods there are, by name and uid.
uids() { k get pods -o 'jsonpath={range .items[*]}{.metadata.name} {.metadata.uid}{"\n"}{end}' | sort; }

# field POD JSONPATH
field() { k get pod "$1" -o "jsonpath=$2"; }
field_is() { [ "$(field "$1" "$2" 2>/dev/null)" = "$3" ]; }

# What a stay of Joey must leave as it was.
host_state() {
    echo "== mounts"; awk '{ print $5, $9, $10 }' /proc/self/mountinfo | grep -v '^/run/credentials' | sort
    echo "== links"; ip -o link | awk '{ print $2, $NF }' | sort
    echo "== routes"; ip route show table all | sort; ip -6 route show table all | sort; ip rule; ip -6 rule
    echo "== namespaces"; ip netns; lsns -n -o TYPE,COMMAND | grep -v systemd | sort | uniq -c
    echo "== nft"; nft list ruleset
    echo "== cgroups"; find /sys/fs/cgroup -type d -not -path '*.slice/*' -not -path '*.slice' | sort
    echo "== sysctls"; grep -rs . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf /proc/sys/net/ipv4/ip_forward \
        /proc/sys/kernel/core_pattern /proc/sys/fs/inotify | sort || true # some can only be written
    echo "== files"; find / -xdev \( -path /var/log -o -path "$keep" -o -path /var/lib/systemd -o -path /tmp \) -prune -o -printf '%p %m %u %g %l\n' |
        grep -vE '^/var/tmp/systemd-private-' | sort
    echo "== units"; systemctl list-unit-files --no-legend --plain; systemctl list-units --all --no-legend --plain '*joey*'
}

# Joey as a user has it: installed by its own command, with the sample images; nothing when it is there already.
joey_is_up() {
    if [ ! -e "$keep/before" ]; then
        host_state >"$keep/before.part"
        mv "$keep/before.part" "$keep/before"
    fi
    if [ ! -e /etc/joey/installed.json ]; then
        /lane/bin/joey install
        local archive
        for archive in /lane/images/kangaroo-backend-1.14.2.oci.tar /lane/images/toolbox.oci.tar; do
            joey image import "$archive" >/dev/null
        done
    fi
    systemctl is-active --quiet joey.service || systemctl start joey.service
}

# Joey is up and has no pod of an earlier case.
joey_is_fresh() {
    joey_is_up
    rm -f /etc/joey/manifests/* # a case that failed half-way left them
    k delete pods --all --grace-period=0 --force --wait=true >/dev/null 2>&1
}

# pod NAME IMAGE [FIELDS-OF-THE-CONTAINER-AS-JSON [FIELDS-OF-THE-SPEC-AS-JSON]]: applies it.
pod() {
    local empty="{}"
    jq -n --arg name "$1" --arg image "$2" --argjson more "${3:-$empty}" --argjson spec "${4:-$empty}" '{
        apiVersion: "v1", kind: "Pod", metadata: {name: $name},
        spec: ({containers: [{name: "main", image: $image, imagePullPolicy: "IfNotPresent"} + $more]} + $spec)
    }' | k apply -f - >/dev/null
}

# is_ready POD [SECONDS]
is_ready() { k wait --for=condition=Ready "pod/$1" --timeout="$((${2:-60} * patience))s" >/dev/null || fail "$1 is not Ready: $(k get pod "$1" -o wide)"; }

# The cgroup directories of a pod and of its container `main`.
pod_cgroup() { find /sys/fs/cgroup/joey-* -type d -name "pod$(field "$1" '{.metadata.uid}')"; }
container_cgroup() { find "$(pod_cgroup "$1")" -mindepth 1 -maxdepth 1 -type d -name 'main*' | tail -n 1; }

# The host's pids of the processes in a container, the first one first.
pids() { cat "$(container_cgroup "$1")/cgroup.procs"; }

# One line that changes when the container's first process is another one.
identity() {
    local pid
    pid=$(pids "$1" | head -n 1)
    echo "$pid $(awk '{ print $22 }' "/proc/$pid/stat") $(field "$1" '{.status.podIP} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].containerID}')"
}

# answers POD: over the pod network.
answers() { curl -sSf --max-time $((10 * patience)) "http://$(field "$1" '{.status.podIP}')/" | grep -q kangaroo-backend; }
