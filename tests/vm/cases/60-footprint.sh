# What Joey takes of a host that leaves it alone: memory, CPU, wake-ups with no pods and with 30, and how long a boot is.
# vm: asked
# vm: reboot
# vm: seconds 1800
. /lane/cases/steps.sh
quiet=${QUIET_SECONDS:-300}

# The pod of before the boot: when it was Ready in seconds of the clock, less when the kernel began.
within 120 "Joey answers" joey_answers
is_ready first 120
ready=$(date -d "$(field first '{.status.conditions[?(@.type=="Ready")].lastTransitionTime}')" +%s)
echo "$((ready - $(awk '$1 == "btime" { print $2 }' /proc/stat))) s (whole seconds)" >"$keep/first-ready"
joey_is_fresh

cat >"$keep/footprint.md" <<END
# Footprint

Written by \`make footprint\`: Debian 12 in QEMU under software emulation (two processors, 1 GiB), the release binary, figures after
$quiet quiet seconds over the next 60. Emulated processors are some ten times slower than real ones; times and CPU are therefore an
upper bound, memory and counts are what they are.

| | no pods | 30 pods |
|---|---|---|
END

# measure: resident memory of daemon and zygote, of all shims; CPU and wake-ups of the daemon in 60 s; context switches of the shims.
daemon() { systemctl show -p MainPID --value joey.service; }
rss() { local n=0 pid; for pid in $1; do n=$((n + $(awk '/^Rss/ { n += $2 } END { print n + 0 }' "/proc/$pid/smaps_rollup"))); done; echo $n; }
pss() { local n=0 pid; for pid in $1; do n=$((n + $(awk '/^Pss:/ { print $2 }' "/proc/$pid/smaps_rollup"))); done; echo $n; }
shims() { { pgrep -x joey-shim || true; } | paste -sd' '; }
ticks() { local n=0 pid; for pid in $1; do n=$((n + $(awk '{ print $14 + $15 }' "/proc/$pid/stat"))); done; echo $n; }
wakes() { local n=0 file; for file in $(for pid in $1; do ls -d "/proc/$pid/task/"*/status; done); do n=$((n + $(awk '/^voluntary/ { print $2 }' "$file"))); done; echo $n; }
measure() {
    sleep "$quiet"
    local main all before_ticks before_wakes before_shims
    main=$(daemon)
    all=$(shims)
    before_ticks=$(ticks "$main") before_wakes=$(wakes "$main") before_shims=$(wakes "$all")
    sleep 60
    printf '%s\n' "$(rss "$main")" "$(pss "$(pgrep -x joey-zygote)")" "$(pss "$all")" \
        "$(($(ticks "$main") - before_ticks))0" "$(($(wakes "$main") - before_wakes))" "$(($(wakes "$all") - before_shims))"
}
measure >"$keep/none"
for number in $(seq 30); do
    pod "quiet-$number" toolbox '{"command": ["/bin/bash", "-c", "exec sleep 100000"]}'
done
k wait --for=condition=Ready pods --all --timeout=300s >/dev/null
measure >"$keep/thirty"
paste -d'|' <(printf '%s\n' "resident memory of the daemon, KiB" "zygote, proportional, KiB" "shims, proportional, KiB" \
    "CPU of the daemon in 60 s, ms" "wake-ups of the daemon in 60 s" "wake-ups of the shims in 60 s") "$keep/none" "$keep/thirty" |
    sed 's/|/ | /g; s/.*/| & |/' >>"$keep/footprint.md"

# This boot began with the unit; the pods of the boot before were in the way of nothing.
boot=$(systemctl show -p ActiveEnterTimestampMonotonic --value joey.service)
begun=$(systemctl show -p ExecMainStartTimestampMonotonic --value joey.service)
{
    printf '\n| | |\n|---|---|\n'
    printf '| kernel start → API ready | %d ms |\n' $((boot / 1000))
    printf '| unit start → API ready | %d ms |\n' $(((boot - begun) / 1000))
    printf '| kernel start → first pod Ready | %s |\n' "$(cat "$keep/first-ready")"
    printf '| binary | %d KiB |\n' $(($(stat -c %s /usr/local/bin/joey) / 1024))
    printf '| installed, all files | %d KiB |\n' $((($(jq -r '.files[]' /etc/joey/installed.json | xargs stat -c %s | paste -sd+) ) / 1024))
    printf '| data directory with two sample images | %d KiB |\n' "$(du -sk /var/lib/joey | cut -f 1)"
} >>"$keep/footprint.md"
k delete pods --all --grace-period=0 --force >/dev/null 2>&1
