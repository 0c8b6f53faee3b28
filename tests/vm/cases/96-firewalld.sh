# Beside firewalld Joey changes nothing of it, tells that it cuts pods off, and the command that joey doctor names lets them through.
# vm: machine walls
# vm: seconds 1200
. /lane/cases/walls.sh

name=firewalld
blocks=each_other # what is led to the host it lets in: names and the API
# It has a name on the bus before it has rules in the kernel.
raise() {
    systemctl start firewalld.service
    within 120 "firewalld has its rules" has_rules
}
has_rules() { firewall-cmd --state >/dev/null 2>&1 && nft list table inet firewalld >/dev/null 2>&1; }
raze() { systemctl stop firewalld.service; }
undo() {
    sed 's/--add-source/--remove-source/' "$keep/cures" | bash -e
    rm -f /etc/firewalld/zones/trusted.xml* # an empty one is left
}
beside
