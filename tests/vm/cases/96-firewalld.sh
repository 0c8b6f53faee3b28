# Beside firewalld Joey changes nothing of it, tells that it cuts pods off, and the command that joey doctor names lets them through.
# vm: machine walls
# vm: seconds 1200
. /lane/cases/walls.sh

name=firewalld
blocks="each_other api"
raise() { systemctl start firewalld.service; }
raze() { systemctl stop firewalld.service; }
undo() {
    sed 's/--add-source/--remove-source/' "$keep/cures" | bash -e
    rm -f /etc/firewalld/zones/trusted.xml* # an empty one is left
}
beside
