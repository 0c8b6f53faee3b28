# Beside ufw Joey changes nothing of it, tells that it cuts pods off, and the commands that joey doctor names let them through.
# vm: machine walls
# vm: seconds 1200
. /lane/cases/walls.sh

name=ufw
blocks="each_other api"
# It writes the ends of its chains for limits only when a rule is added or taken away (user6.rules), whoever does.
raise() {
    ufw --force enable >/dev/null
    ufw allow from 192.0.2.1 >/dev/null
    ufw delete allow from 192.0.2.1 >/dev/null
}
raze() { ufw disable >/dev/null; }
undo() { sed -E 's/ufw (route )?allow/ufw \1delete allow/g' "$keep/cures" | bash -e; }
beside
