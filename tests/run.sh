#!/usr/bin/env bash
# Everything that `make test` promises, in an order that fails early.
set -euo pipefail
cd "$(dirname "$0")/.."
# What is missing is a failure here, never a test that was skipped.
export REQUIRE_ROOT=1 REQUIRE_KUBECTL=1 REQUIRE_IMAGES=1

if [ "$(id -u)" != 0 ]; then
    echo "the tests make namespaces, mounts and rules of their own: run them as root" >&2
    exit 1
fi

step() { printf '\n== %s ==\n' "$*"; }
target=${CARGO_TARGET_DIR:-target}/x86_64-unknown-linux-gnu

step "formatting and lints"
cargo fmt --all --check
cargo clippy --locked --all-targets -- -D warnings

step "build"
cargo build --locked

step "sample images"
export JOEY_TEST_IMAGES=$PWD/images/out
images/build.sh "$target/debug/joey" images/out

step "tests"
cargo test --locked --no-fail-fast

step "demo"
tests/demo/run.sh "$target/debug/joey" images/out

step "a bare Debian in a virtual machine: install, limits, the unit, power cut, reboot, uninstall"
tests/vm/run.py "$target/debug/joey" images/out --core
