# The demo on the real network (`make demo HOST=1`) comes to its end, and the host is as it was.
# vm: seconds 1800
. /lane/cases/steps.sh

[ ! -e /etc/joey/installed.json ] || joey uninstall --yes # by itself this case has nothing to undo
unset KUBECONFIG
tree=/run/tree # the script looks for kubectl where `make setup` puts it
mkdir -p "$tree/tests/demo" "$tree/.tools"
cp /lane/demo/run.sh "$tree/tests/demo/"
ln -sf /lane/bin/kubectl "$tree/.tools/kubectl"
host_state >"$keep/demo-before"
HOST=1 "$tree/tests/demo/run.sh" /lane/bin/joey /lane/images
host_state >"$keep/demo-after"
diff "$keep/demo-before" "$keep/demo-after" >"$keep/difference" || fail "the host is not as it was:
$(cat "$keep/difference")"
is "files left" "$(find /tmp -maxdepth 1 -name 'joey-*')" ""
is "processes left" "$(pgrep -c '^joey' || true)" 0
