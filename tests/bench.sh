#!/usr/bin/env bash
# How fast it is, beside its peers and the floor: tests/bench.sh JOEY IMAGES [pods|runtime|store|ingress|network]…
#
# Everything runs in network and mount namespaces of its own and in temporary directories. Times hold on this
# machine and in this run only; what counts is a ratio within one table. ROUNDS, PODS, IDLE,
# REPLICAS, RESTARTS and ONLY as in benches/pods; SIZES, ROUNDS and ONLY as in benches/network.
set -euo pipefail

joey=$(readlink -f "$1")
images=$(readlink -f "$2")
shift 2
which=("$@")
[ ${#which[@]} -gt 0 ] || which=(pods runtime store ingress network)
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
    exec sudo --preserve-env=PATH,ROUNDS,PODS,IDLE,REPLICAS,RESTARTS,SIZES,ONLY "$0" "$joey" "$images" "${which[@]}"
fi
if [ -z "${JOEY_BENCH_INSIDE:-}" ]; then
    # Built before the namespaces: there is no network in them.
    for name in "${which[@]}"; do
        cargo bench --locked --quiet --no-run --bench "$name"
    done
    JOEY_BENCH_INSIDE=1 exec unshare --net --mount --propagation private "$0" "$joey" "$images" "${which[@]}"
fi

ip link set lo up
# crun and runc refuse a mix of cgroup v1 and v2; in this namespace there is v2 alone.
umount -l /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup

scratch=$(mktemp -d /tmp/joey-bench-XXXXXX)
trap 'rm -rf "$scratch"' EXIT
rustc --edition 2024 -O -C target-feature=+crt-static --target x86_64-unknown-linux-gnu \
    -o "$scratch/stamp" benches/pods/stamp.rs
kubectl=$PWD/.tools/kubectl

printf '%s cores, Linux %s, %s (%s bytes)\n' "$(nproc)" "$(uname -r)" \
    "$("$joey" --version)" "$(stat -c %s "$joey")"
for name in "${which[@]}"; do
    printf '\n== %s ==\n' "$name"
    case $name in
    pods) cargo bench --locked --quiet --offline --bench pods -- "$joey" "$images" "$scratch/stamp" "$kubectl" ;;
    *) cargo bench --locked --quiet --offline --bench "$name" ;;
    esac
done
