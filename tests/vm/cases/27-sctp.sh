# Where the kernel speaks SCTP, Services lead it, and a policy for one protocol opens no other: SCTP, TCP and UDP on one port.
# vm: seconds 900
. /lane/cases/steps.sh
joey_is_fresh

pod server kangaroo-backend:1.14.2
pod friend toolbox '{"command": ["/bin/bash", "-c", "exec sleep 2000"]}'
pod stranger toolbox '{"command": ["/bin/bash", "-c", "exec sleep 2000"]}'
for name in server friend stranger; do
    is_ready "$name"
    k label pod "$name" name="$name" >/dev/null
done
# in_pod POD COMMAND…: with its network; nothing in the images speaks SCTP.
in_pod() { nsenter --net="/proc/$(pids "$1" | head -n 1)/ns/net" "${@:2}"; }
# One-to-one sockets of SCTP (protocol 132) are used as TCP's are. It answers with the address of who has come.
in_pod server perl -MSocket -e '
    socket(ALL, PF_INET, SOCK_STREAM, 132) && bind(ALL, sockaddr_in(80, INADDR_ANY)) && listen(ALL, 16) or die $!;
    while ($who = accept(ONE, ALL)) { syswrite(ONE, inet_ntoa((sockaddr_in($who))[1])); close ONE }' &
in_pod server perl -MSocket -e '
    socket(ALL, PF_INET, SOCK_DGRAM, 17) && bind(ALL, sockaddr_in(80, INADDR_ANY)) or die $!;
    while ($who = recv(ALL, $said, 64, 0)) { send(ALL, $said, 0, $who) }' &
# ADDRESS PORT
sctp='alarm 20; socket(TO, PF_INET, SOCK_STREAM, 132) && connect(TO, sockaddr_in($ARGV[1], inet_aton($ARGV[0]))) or exit 1; sysread(TO, $said, 64); print $said'
udp='alarm 5; socket(TO, PF_INET, SOCK_DGRAM, 17) && connect(TO, sockaddr_in($ARGV[1], inet_aton($ARGV[0]))) && send(TO, "hello", 0) && recv(TO, $said, 64, 0); exit($said ne "hello")'
comes_through() {
    local from=$1 protocol=$2
    shift 2
    case $protocol in
        TCP) in_pod "$from" curl -sSf --max-time 20 -o /dev/null "http://$1:$2/" ;;
        SCTP) in_pod "$from" perl -MSocket -e "$sctp" "$@" ;;
        UDP) in_pod "$from" perl -MSocket -e "$udp" "$@" ;;
    esac >/dev/null 2>&1
}
address=$(field server '{.status.podIP}')
opened() {
    local protocol all=
    for protocol in TCP SCTP UDP; do
        if comes_through "$1" "$protocol" "$address" 80; then all+="$protocol "; fi
    done
    echo "$all"
}
opens() { [ "$(opened "$1")" = "$2" ]; }
within 30 "without a policy everything is open" opens friend "TCP SCTP UDP "
is "what SCTP sees as the caller" "$(in_pod friend perl -MSocket -e "$sctp" "$address" 80)" "$(field friend '{.status.podIP}')"

policy() {
    k apply -f - >/dev/null <<END
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: one-protocol}
spec:
  podSelector: {matchLabels: {name: server}}
  ingress:
  - from: [{podSelector: {matchLabels: {name: friend}}}]
    ports: [{protocol: $1, port: 80}]
END
}
for protocol in SCTP TCP UDP; do
    policy "$protocol"
    within 60 "a policy for $protocol opens $protocol and nothing else" opens friend "$protocol "
    is "what it opens to others" "$(opened stranger)" ""
    lower=${protocol,,}
    joey why friend --to "pod/server:80/$lower" >"$keep/why" || fail "joey why: $(cat "$keep/why")"
    ! joey why stranger --to "pod/server:80/$lower" >"$keep/why" || fail "joey why: $(cat "$keep/why")"
done
policy SCTP
within 60 "SCTP is open again" opens friend "SCTP "
joey why friend --to pod/server:80/sctp --live >"$keep/why" || fail "a real packet: $(cat "$keep/why")"
! joey why friend --to pod/server:80/tcp >"$keep/why" || fail "joey why: $(cat "$keep/why")"

# Services: translated like everything else, and policies see who it really is.
k apply -f - >/dev/null <<'END'
apiVersion: v1
kind: Service
metadata: {name: led}
spec:
  type: NodePort
  selector: {name: server}
  ports: [{name: calls, protocol: SCTP, port: 5060, targetPort: 80}]
END
service() { k get service led -o "jsonpath=$1"; }
node=$(k get node -o 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}')
cluster=$(service '{.spec.clusterIP}') port=$(service '{.spec.ports[0].nodePort}')
within 60 "SCTP through the ClusterIP" comes_through friend SCTP "$cluster" 5060
within 60 "SCTP through the NodePort" comes_through friend SCTP "$node" "$port"
! comes_through stranger SCTP "$cluster" 5060 || fail "a Service leads around the policy"
! comes_through stranger SCTP "$node" "$port" || fail "a NodePort leads around the policy"
k delete networkpolicy one-protocol >/dev/null
within 60 "without the policy it is led, too" comes_through stranger SCTP "$cluster" 5060
is "what SCTP sees through a Service" "$(in_pod stranger perl -MSocket -e "$sctp" "$cluster" 5060)" "$(field stranger '{.status.podIP}')"
k delete service led >/dev/null
