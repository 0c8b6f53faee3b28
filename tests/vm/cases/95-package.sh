# The Debian package installs, starts and upgrades Joey, ends every pod when it is removed, and leaves nothing when it is purged.
# vm: seconds 900
. /lane/cases/steps.sh

(cd /lane/dist && sha256sum --check --quiet SHA256SUMS)
dpkg -i /lane/dist/joey_*.deb
export PATH=/usr/bin:$PATH
is "the unit" "$(systemctl is-active joey.service)" active
is "readyz" "$(k get --raw /readyz)" ok
joey image import /lane/images/kangaroo-backend-1.14.2.oci.tar >/dev/null
pod packaged kangaroo-backend:1.14.2
is_ready packaged
before=$(identity packaged)
dpkg -i /lane/dist/joey_*.deb
within 60 "Joey is back after an upgrade" joey_answers
is "the pod after an upgrade" "$(identity packaged)" "$before"

dpkg --remove joey
is "processes left" "$(pgrep -c '^joey' || true)" 0
is "links left" "$(ip -o link | grep -c 'jy' || true)" 0
[ -e /var/lib/joey/instance ] || fail "removal has taken the data, too"
dpkg --purge joey
left=$(find / -xdev \( -path /proc -o -path /lane -o -path /var/log -o -path "$keep" \) -prune -o -name '*joey*' -print)
is "files left" "$left" ""
