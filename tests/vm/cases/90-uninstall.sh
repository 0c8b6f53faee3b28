# joey uninstall leaves the host as it was: files, mounts, links, routes, rules, cgroups, sysctls and units are compared.
# vm: core
# vm: seconds 600
. /lane/cases/steps.sh
joey_is_up

pod last kangaroo-backend:1.14.2 '{"ports": [{"containerPort": 80, "hostPort": 8080}], "volumeMounts": [{"name": "v", "mountPath": "/v"}]}' \
    '{"volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]}'
is_ready last
rm -rf /root/.kube/cache # kubectl's own
joey uninstall --yes
host_state >"$keep/after"
diff "$keep/before" "$keep/after" >"$keep/difference" || fail "the host is not as it was:
$(cat "$keep/difference")"
rm "$keep/before"
! /lane/bin/joey uninstall --yes 2>"$keep/refusal" || fail "there was nothing to uninstall"
has "the refusal" "$(cat "$keep/refusal")" 'has not installed anything here'
