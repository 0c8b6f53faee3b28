# What is asked of every firewall: sourced by the cases that bring one. Each defines
#   name          as Joey calls it
#   raise, raze   start and stop it
#   blocks        what pods cannot do beside it, of: each_other api
#   undo          takes away the rule that Joey has named
. /lane/cases/steps.sh

# Everything that others have in the kernel, and in files; counters count, and are nobody's change.
theirs() {
    local table
    nft list tables | sed '/ joey_/d' | while read -r _ table; do
        # shellcheck disable=SC2086
        nft list table $table 2>/dev/null # it warns of iptables' own
    done | sed -E 's/counter packets [0-9]+ bytes [0-9]+/counter/'
    for program in iptables-save ip6iptables-save ip6tables-save; do
        command -v "$program" >/dev/null || continue
        "$program" 2>/dev/null | sed -E 's/\[[0-9]+:[0-9]+\]//; /^#/d'
    done
    find /etc/firewalld /etc/ufw /etc/default/ufw /etc/docker /etc/iptables -type f -exec sha256sum {} + 2>/dev/null | sort || true # some are not there
}
is_theirs() {
    theirs >"$keep/theirs-now"
    diff "$keep/$1" "$keep/theirs-now" >"$keep/difference" || fail "$2: $name has other rules or files now:
$(cat "$keep/difference")"
}

condition() { k get node -o 'jsonpath={.items[0].status.conditions[?(@.type=="NetworkObstructed")].'"$1"'}'; }
obstructed_is() { [ "$(condition status)" = "$1" ]; }
each_other() { k exec asks -- timeout 5 fetch "http://$(field answers '{.status.podIP}')/" 2>/dev/null | grep -q kangaroo-backend; }
api() { k exec asks -- timeout 5 /bin/bash -c 'exec 3<>"/dev/tcp/$KUBERNETES_SERVICE_HOST/443"' 2>/dev/null; }
names() { k exec asks -- timeout 10 fetch http://named/ 2>/dev/null | grep -q kangaroo-backend; }
everything() { each_other && api && names; }
# What Joey says that is to be run, one line each.
cures() { condition message | grep -oP 'to let them through: \K.*?(?= (?:Docker.s firewall|ufw|firewalld) drops packets|$)'; }

beside() {
    [ ! -e /etc/joey/installed.json ] || joey uninstall --yes
    # A case that failed has left its own.
    systemctl stop firewalld.service docker.socket docker.service
    ufw disable >/dev/null
    iptables -P FORWARD ACCEPT
    raise
    theirs >"$keep/theirs-before"
    joey_is_fresh
    pod asks toolbox '{"command": ["/bin/bash", "-c", "exec sleep 2000"]}'
    pod answers kangaroo-backend:1.14.2
    is_ready asks
    is_ready answers
    k label pod answers app=answers >/dev/null
    k expose pod answers --name named --port 80 >/dev/null
    is_theirs theirs-before "Joey has come"

    # What is cut off is told, and who does it, and what would help; what is not, is not.
    within 60 "the node tells of $name" obstructed_is True
    has "the condition" "$(condition message)" "^$name drops packets"
    doctor=$(joey doctor) || fail "doctor finds this host bad: $doctor"
    has "doctor" "$doctor" "limited +network +$name drops packets"
    has "the Events" "$(k get events -o 'jsonpath={.items[*].reason}')" '\bNetworkObstructed\b'
    local what
    for what in each_other api; do
        case " $blocks " in
            *" $what "*) ! "$what" || fail "$what works beside $name, which Joey says blocks it" ;;
            *) within 30 "$what works beside $name" "$what" ;;
        esac
    done

    # The rule that it names is the one that is missing, and is noticed.
    cures >"$keep/cures"
    [ -s "$keep/cures" ] || fail "no cure is named: $(condition message)"
    while read -r cure; do
        bash -c "$cure" >/dev/null || fail "the cure does not work: $cure"
    done <"$keep/cures"
    within 60 "pods reach everything with the rule of the doctor" everything
    within 60 "the node tells that $name is no obstacle any more" obstructed_is False
    has "doctor" "$(joey doctor)" 'ok +network +nothing of the host'

    # And so is its going, without a restart.
    undo >/dev/null
    within 90 "the node tells of $name again" obstructed_is True
    is_theirs theirs-before "Joey has been there for long"
    joey uninstall --yes >/dev/null
    is_theirs theirs-before "Joey has gone"

    # A firewall that comes when pods run already.
    raze
    joey_is_fresh
    within 60 "nothing is in the way" obstructed_is False
    raise
    within 90 "$name has come, and the node tells of it" obstructed_is True
    joey uninstall --yes >/dev/null
    raze
}
