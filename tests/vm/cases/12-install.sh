# joey install is repeatable, refuses what is not its own, says beforehand what it would do, and replaces an older Joey under running pods.
# vm: seconds 900
. /lane/cases/steps.sh
joey_is_fresh

for file in bin/joey lib/systemd/system/joey.service share/man/man1/joey.1 share/man/man1/joey-get.1 \
    share/bash-completion/completions/joey share/zsh/site-functions/_joey share/fish/vendor_completions.d/joey.fish; do
    [ -f "/usr/local/$file" ] || fail "/usr/local/$file is missing"
done
is "the mode of manifests" "$(stat -c %a /etc/joey/manifests)" 700
is "root's context" "$(KUBECONFIG='' kubectl config current-context)" joey
is "root's kubeconfig" "$(KUBECONFIG='' kubectl get --raw /readyz)" ok

pod stays kangaroo-backend:1.14.2
is_ready stays
before=$(identity stays)
main=$(systemctl show -p MainPID --value joey.service)
has "a dry run" "$(joey install --dry-run)" '^would systemctl enable joey.service$'
joey install >"$keep/again"
has "a second installation" "$(cat "$keep/again")" '^systemctl enable joey.service$'
! grep -E '^(write|make)' "$keep/again" || fail "a second installation has written something"
is "the main process" "$(systemctl show -p MainPID --value joey.service)" "$main"

# A newer Joey: another file, the same program.
cp /usr/local/bin/joey "$keep/joey"
printf newer >>"$keep/joey"
"$keep/joey" install >"$keep/upgrade"
has "an upgrade" "$(cat "$keep/upgrade")" '^write /usr/local/bin/joey '
has "an upgrade" "$(cat "$keep/upgrade")" '^systemctl restart joey.service'
cmp "$keep/joey" /usr/local/bin/joey
rm "$keep/joey"
is "the running binary" "$(sha256sum <"/proc/$(systemctl show -p MainPID --value joey.service)/exe")" "$(sha256sum </usr/local/bin/joey)"
is "the pod after the upgrade" "$(identity stays)" "$before"

mv /etc/joey/installed.json "$keep/installed.json"
printf '%s\n' other >>/usr/local/share/man/man1/joey.1
! joey install 2>"$keep/refusal" || fail "it has overwritten what is not its own"
mv "$keep/installed.json" /etc/joey/installed.json
has "the refusal" "$(cat "$keep/refusal")" 'share/man/man1/joey.1 is there and .joey install. did not put it there'
joey install >/dev/null
! grep -qx other /usr/local/share/man/man1/joey.1 || fail "its own file was not renewed"
