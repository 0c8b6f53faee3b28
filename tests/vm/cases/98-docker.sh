# Beside Docker Joey changes nothing of it, tells that it cuts pods off, and the commands that joey doctor names let them through.
# vm: machine walls
# vm: seconds 1200
. /lane/cases/walls.sh

name="Docker's firewall"
blocks=each_other
raise() { systemctl start docker.service; }
# Its rules outlive it. It drops what is forwarded only where nothing was forwarded before it came.
raze() {
    systemctl stop docker.socket docker.service
    iptables -P FORWARD ACCEPT
    sysctl -qw net.ipv4.ip_forward=0
}
undo() { sed -E 's/-I DOCKER-USER/-D DOCKER-USER/g' "$keep/cures" | bash -e; }
beside
