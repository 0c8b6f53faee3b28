# What the kernel counts by user or by namespace (descriptors, sockets, POSIX queues, shared memory, pending signals, dentries) runs out inside the pod that takes it, and nowhere else.
# vm: seconds 900
. /lane/cases/steps.sh
joey_is_fresh

pod server kangaroo-backend:1.14.2 '{"resources": {"requests": {"cpu": "500m", "memory": "64Mi"}}}'
pod other toolbox '{"command": ["/bin/bash", "-c", "exec sleep 2000"]}'
pod taker toolbox '{"command": ["/bin/bash", "-c", "exec sleep 2000"], "resources": {"limits": {"memory": "192Mi"}}}'
is_ready server
is_ready other
is_ready taker
group=$(container_cgroup taker)
address=$(field server '{.status.podIP}')
inside() { k exec taker -- /bin/bash -c "$1"; }
# Goes on in the pod; what it found it writes to /tmp/NAME.
takes() { inside "( $2 >/tmp/$1.part; mv /tmp/$1.part /tmp/$1; exec sleep 2000 ) >/dev/null 2>&1 </dev/null &"; }
has_taken() { inside "[ -e /tmp/$1 ]"; }
taken() {
    within 240 "the pod takes all $1" has_taken "$1"
    inside "cat /tmp/$1"
}
beside() {
    curl -sSf --fail-early --rate 100/s --max-time 60 "http://$address/?n=[1-200]" >"$keep/answers" ||
        fail "requests failed beside $1: $(wc -l <"$keep/answers") answered"
    is "the answers beside $1" "$(grep -c kangaroo-backend "$keep/answers")" 200
    is "readyz beside $1" "$(k get --raw /readyz)" ok
    is "the taker's restarts" "$(field taker '{.status.containerStatuses[0].restartCount}')" 0
}

# Descriptors and sockets: the limit is the process's own.
room='for ((fd = last; fd > last - 4; fd--)); do exec {fd}>&-; done' # to write it down
takes descriptors "while exec {fd}</dev/null; do last=\$fd; done; $room; echo \$last"
is "the last descriptor" "$(taken descriptors)" 65535
takes sockets "ulimit -n 8192; while exec {fd}<>/dev/udp/127.0.0.1/9; do last=\$fd; done; $room; echo \$last"
is "the last socket" "$(taken sockets)" 8191
awk '{ exit !($1 > 70000 && $1 < $3 / 2) }' /proc/sys/fs/file-nr || fail "open files of the host: $(cat /proc/sys/fs/file-nr)"
beside descriptors

# Memory shared by name is the pod's, in size and by whom it is counted.
inside 'dd if=/dev/zero of=/dev/shm/all bs=1M count=100 2>/dev/null; true'
is "the most in /dev/shm, KiB" "$(inside 'du -k /dev/shm/all' | cut -f 1)" 65536
shmem=$(awk '$1 == "shmem" { print $2 }' "$group/memory.stat")
[ "$shmem" -ge $((60 << 20)) ] || fail "/dev/shm is not counted as the pod's: $shmem bytes"
inside 'rm /dev/shm/all'

# What the kernel counts by user, over all namespaces of IPC: a container may take half, the host keeps the rest.
is "pending signals of a container" "$(inside 'ulimit -Hi')" $(($(ulimit -Hi) / 2))
is "bytes in its queues" "$(inside 'ulimit -Hq')" $(($(ulimit -Hq) / 2))
# in_pod POD PERL: with its namespace of IPC and its limits; tools of this kind are not in the image.
in_pod() {
    local pid
    pid=$(pids "$1" | head -n 1)
    nsenter --ipc="/proc/$pid/ns/ipc" prlimit --sigpending="$(inside 'ulimit -Hi')" --msgqueue="$(inside 'ulimit -Hq')" perl -e "$2"
}
# mq_open(2), O_RDWR|O_CREAT, as many as there may be; how many, and why no more.
queues='$n++ while $n < 1000 && syscall(240, "all-$n\0", 0102, 0600, 0) >= 0; print "$n $!"'
one_queue='my $name = "one\0"; exit(syscall(240, $name, 0102, 0600, 0) < 0 || syscall(241, $name) < 0)'
has "queues" "$(in_pod taker "$queues")" '^[1-9][0-9]* Too many open files$'
perl -e "$one_queue" || fail "the host gets no queue any more"
# shmget(2), IPC_PRIVATE, one page each.
segments='$n++ while $n < 10000 && syscall(29, 0, 4096, 01600) >= 0; print "$n $!"'
is "segments" "$(in_pod taker "$segments")" "4096 No space left on device"
is "segments that others get" "$(in_pod other 'print syscall(29, 0, 4096, 01600) >= 0')" 1
perl -e 'my $id = syscall(29, 0, 4096, 01600); exit($id < 0 || syscall(31, $id, 0, 0) < 0)' || fail "the host gets no segment any more"
is "segments on the host" "$(ipcs -m | grep -c '^0x' || true)" 0
# rt_sigqueueinfo(2) of signal 40, which is blocked (sigprocmask, 14), to itself; then it stays.
signal='my ($set, $what) = (pack("Q", 1 << 39), pack("iiix116", 40, 0, -1)); syscall(14, 0, $set, 0, 8);'
signals='$n++ while $n < 1000000 && syscall(129, $$ + 0, 40, $what) >= 0; syswrite(STDOUT, "$n $!\n"); sleep 600'
in_pod taker "$signal $signals" >"$keep/signals" &
sender=$!
told() { grep -q ' ' "$keep/signals"; }
within 60 "all pending signals are taken" told
has "pending signals" "$(cat "$keep/signals")" '^[1-9][0-9]* Resource temporarily unavailable$'
[ "$(cut -d ' ' -f 1 "$keep/signals")" -le $(($(ulimit -Hi) / 2)) ] || fail "more signals than a container may have: $(cat "$keep/signals")"
perl -e "$signal"' exit(syscall(129, $$ + 0, 40, $what) < 0)' || fail "the host gets no signal any more"
beside "queues, segments and signals"
kill "$sender"

# Names that are not there are remembered, too: as the pod's memory, and given up when it has no more.
has "a group of one's own" "$(inside 'mkdir /sys/fs/cgroup/more 2>&1; true')" 'Read-only file system'
asks='for ((i = 0; i < 200000; i++)); do [ -e "/var/a-name-that-is-longer-than-what-a-dentry-itself-has-room-for-$i" ]; done; exec sleep 2000'
pod names toolbox "$(jq -n --arg asks "$asks" '{command: ["/bin/bash", "-c", $asks], resources: {limits: {memory: "32Mi"}}}')"
is_ready names
of_names=$(container_cgroup names)
counted() { [ "$(awk '$1 == "slab" { print $2 }' "$of_names/memory.stat")" -ge $((16 << 20)) ]; }
within 240 "names that are not there are counted as the pod's memory" counted
at_limit() { [ "$(awk '$1 == "max" { print $2 }' "$of_names/memory.events")" -gt 0 ]; }
within 240 "the pod has no more memory for names" at_limit
beside "names that are not there"
done_asking() { [ "$(ps -o args= -p "$(pids names | head -n 1)")" = "sleep 2000" ]; }
within 240 "older names make room for newer ones" done_asking
is "restarts of who asked" "$(field names '{.status.containerStatuses[0].restartCount}')" 0

k delete pods taker other names --grace-period=1 --wait=true --timeout=300s >/dev/null
is "sleeps left of them" "$(pgrep -c -f '^sleep 2000$' || true)" 0
