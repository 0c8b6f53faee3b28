//! Statement 15: errors that belong to an allowed flow pass whatever isolates its ends; those of a denied one, or of
//! none, do not. An echo is a peer's that is allowed on all ports.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use serde_json::json;

use super::labels;
use super::scene::Scene;
use crate::net::Attached;
use crate::net::policy::tests::policy;
use crate::net::tests::machine::*;

/// Isolates everybody both ways; the client may send to the server's UDP port 80.
fn one_way() -> Vec<k8s_openapi::api::networking::v1::NetworkPolicy> {
    let peer = |app: &str| json!([{"podSelector": {"matchLabels": {"app": app}}}]);
    let select = |app: &str| json!({"matchLabels": {"app": app}});
    let ports = json!([{"port": 80, "protocol": "UDP"}]);
    let out = json!({
        "podSelector": select("client"), "policyTypes": ["Egress"],
        "egress": [{"to": peer("server"), "ports": ports}],
    });
    let into = json!({
        "podSelector": select("server"), "ingress": [{"from": peer("client"), "ports": ports}],
    });
    let none = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    vec![policy("x", "none", none), policy("x", "out", out), policy("x", "in", into)]
}

/// Every ICMP message that comes to the pod, or goes out from it as it is written.
fn icmp(pod: &Attached) -> UdpSocket {
    let open = || {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Icmp)?)
    };
    UdpSocket::from(inside::<OwnedFd>(pod, open).unwrap())
}

fn checked(mut message: Vec<u8>, sum_at: usize) -> Vec<u8> {
    let words = message
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    message[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
    message
}

/// "Port unreachable", as whoever got a datagram with these ends would say.
fn unreachable(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 33, 0, 0, 0x40, 0, 63, 17, 0, 0];
    header.extend(from.0.octets());
    header.extend(to.0.octets());
    let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
    message.extend(checked(header, 10));
    for number in [from.1, to.1, 13, 0] {
        message.extend(number.to_be_bytes());
    }
    message.extend(b"hello");
    checked(message, 2)
}

/// Whether an error that quotes a datagram to `port` comes to `ear`, which is waited for as long as one may take.
fn hears(ear: &UdpSocket, port: u16) -> bool {
    let end = Instant::now() + NEVER * 6;
    let mut packet = [0; 128];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        ear.set_read_timeout(Some(left)).unwrap();
        let Ok(length) = ear.recv(&mut packet) else {
            return false;
        };
        // Two IP headers of 20 bytes, the ICMP header between them, and the quoted source port.
        let quoted = packet[..length].get(50..52);
        if packet[20] == 3 && quoted == Some(port.to_be_bytes().as_slice()) {
            return true;
        }
    }
}

#[test]
fn errors_of_allowed_flows_pass_and_of_denied_ones_do_not() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        scene.namespace("x", Default::default());
        let client = scene.pod("x", "client", labels("client")).await;
        let server = scene.pod("x", "server", labels("server")).await;
        scene.policies = one_way();
        scene.enforce().await;
        let (ear, liar) = (icmp(&client), icmp(&server));
        let says = |from: u16, to: u16| {
            let error = unreachable((v4(&client), from), (v4(&server), to));
            liar.send_to(&error, (v4(&client), 0)).map(drop)
        };

        // What the server's kernel says of a port on which nobody listens.
        let asker = bound(&client, 0);
        asker.connect((v4(&server), 80)).unwrap();
        asker.set_read_timeout(Some(ARRIVES)).unwrap();
        asker.send(b"hello").unwrap();
        let told = asker.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::ConnectionRefused);
        let own = asker.local_addr().unwrap().port();
        assert!(hears(&ear, 80));

        // The same again while the flow is known, from the server's own hand.
        says(own, 80).unwrap();
        assert!(hears(&ear, 80), "an error of an allowed flow");
        for (from, to, what) in
            [(own, 81, "of a port that is denied"), (own ^ 1, 80, "of a flow that never was")]
        {
            says(from, to).ok();
            assert!(!hears(&ear, to), "an error {what}");
        }

        // A flow that has been allowed has no errors once it is denied.
        scene.policies.retain(|policy| policy.metadata.name.as_deref() != Some("in"));
        scene.enforce().await;
        says(own, 80).ok();
        assert!(!hears(&ear, 80), "an error of a flow that is over");
    });
}

/// Back through the masquerade, into a pod that nobody may send to.
#[test]
fn errors_from_outside_find_the_isolated_pod_that_caused_them() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        scene.namespace("x", Default::default());
        let client = scene.pod("x", "client", labels("client")).await;
        let block = json!([{"ipBlock": {"cidr": format!("{OUTSIDE}/32")}}]);
        let out = json!({
            "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
            "egress": [{"to": block, "ports": [{"port": 80, "protocol": "UDP"}]}],
        });
        scene.policies = vec![policy("x", "out", out)];
        scene.enforce().await;
        let asks = |port: u16| {
            let asker = bound(&client, 0);
            asker.connect(SocketAddr::from((OUTSIDE, port))).unwrap();
            asker.set_read_timeout(Some(ARRIVES)).unwrap();
            asker.send(b"hello")?;
            asker.recv(&mut [0; 8])
        };
        // Nobody listens there.
        assert_eq!(asks(80).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        // Statement 40: so the host refuses, and the pod hears of that, too.
        assert_eq!(asks(81).unwrap_err().kind(), io::ErrorKind::HostUnreachable);
    });
}

#[test]
fn an_echo_is_answered_where_a_rule_allows_the_peer_on_all_ports() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        scene.namespace("x", Default::default());
        let client = scene.pod("x", "client", labels("client")).await;
        let server = scene.pod("x", "server", labels("server")).await;
        let from = json!([{"podSelector": {"matchLabels": {"app": "client"}}}]);
        for (rule, is_answered) in [
            (json!({"from": from, "ports": [{"protocol": "UDP"}, {"protocol": "TCP"}]}), false),
            (json!({"from": from}), true),
            (json!({}), true),
        ] {
            let select = json!({"matchLabels": {"app": "server"}});
            let spec = json!({"podSelector": select, "ingress": [rule]});
            scene.policies = vec![policy("x", "in", spec)];
            scene.enforce().await;
            let found = inside(&client, || match is_answered {
                true => Ok(ping(v4(&server)).is_ok()),
                false => Ok(!is_silent(v4(&server))),
            });
            assert_eq!(found.unwrap(), is_answered, "{rule}");
        }
    });
}
