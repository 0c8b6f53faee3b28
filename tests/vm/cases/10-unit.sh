# As a systemd unit Joey tells when it is ready, serves the API, and comes back when it is killed.
# vm: seconds 600
. /lane/cases/steps.sh
joey_is_up

is "the unit" "$(systemctl show -p ActiveState,SubState --value joey.service | paste -sd' ')" "active running"
# Type=notify: `systemctl start` has returned, so the API must answer at once.
is "readyz" "$(k get --raw /readyz)" ok
k wait --for=condition=Ready node --all --timeout=300s

main=$(systemctl show -p MainPID --value joey.service)
kill -9 "$main"
restarted() {
    local now
    now=$(systemctl show -p MainPID --value joey.service)
    [ "$now" != 0 ] && [ "$now" != "$main" ] && systemctl is-active --quiet joey.service
}
within 60 "systemd starts a killed Joey again" restarted
is "readyz after the kill" "$(k get --raw /readyz)" ok

# The watchdog is fed: a daemon that hangs is noticed and replaced.
main=$(systemctl show -p MainPID --value joey.service)
has "the watchdog's limit" "$(systemctl show -p WatchdogUSec --value joey.service)" '^30s$'
sleep_past_watchdog() { [ $((SECONDS - began)) -ge 35 ]; }
began=$SECONDS
within 60 "the watchdog's limit passes" sleep_past_watchdog
is "the main process" "$(systemctl show -p MainPID --value joey.service)" "$main"
has "the journal" "$(journalctl -u joey.service --no-pager -o cat)" .
