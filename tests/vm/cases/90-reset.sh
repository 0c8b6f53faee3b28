# joey reset leaves the host as it was: mounts, links, routes, rules, cgroups, sysctls and files are compared.
# vm: seconds 300
. /lane/cases/steps.sh
joey_is_up

pod last kangaroo-backend:1.14.2 '{"ports": [{"containerPort": 80, "hostPort": 8080}], "volumeMounts": [{"name": "v", "mountPath": "/v"}]}' \
    '{"volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]}'
is_ready last
systemctl disable --now joey.service
joey reset --yes
rm -f /usr/local/bin/joey /etc/systemd/system/joey.service
systemctl daemon-reload
host_state >"$keep/after"
diff "$keep/before" "$keep/after" >"$keep/difference" || fail "the host is not as it was:
$(cat "$keep/difference")"
rm "$keep/before"
