//! What a pod's end waits for, and what tells probes from everybody else.

use std::io::Write;
use std::time::Duration;

use super::machine::*;
use super::*;

#[test]
fn a_connection_to_a_pod_is_in_use_until_it_is_closed() {
    on_a_host(|_| async {
        let network = network().await;
        let a = network.attach("a", &[]).await.unwrap();
        let b = network.attach("b", &[]).await.unwrap();
        // No time at all: one look.
        let is_quiet = async || network.drained(a.address, Duration::ZERO).await;
        assert!(is_quiet().await, "nobody has talked to it yet");

        // What the pod itself opens, and datagrams, hold it back no more than other pods' connections do.
        let server = listen(&b, 80);
        let mut own = inside(&a, || connect((v4(&b), 80))).unwrap();
        let (mut accepted, _) = server.accept().unwrap();
        say(&mut own, &mut accepted).unwrap();
        let receiver = bound(&a, 53);
        let sender = bound(&b, 5353);
        assert!(heard(&receiver, || sender.send_to(b"x", (v4(&a), 53)).map(drop)).is_some());
        assert!(is_quiet().await);

        for from_pod in [true, false] {
            let server = listen(&a, 80);
            let mut client = match from_pod {
                true => inside(&b, || connect((v4(&a), 80))).unwrap(),
                false => connect((v4(&a), 80)).unwrap(),
            };
            let (mut served, _) = server.accept().unwrap();
            say(&mut client, &mut served).unwrap();
            assert!(!is_quiet().await, "somebody talks to it");
            drop(client);
            // The pod may still answer.
            assert!(!is_quiet().await, "its own side is open");
            drop(served);
            assert!(network.drained(a.address, ARRIVES).await, "both sides are closed");
        }
    });
}

#[test]
fn a_probe_carries_its_mark_on_every_packet_and_nothing_else_does() {
    on_a_host(|_| async {
        let network = network().await;
        let a = network.attach("a", &[]).await.unwrap();
        let server = listen(&a, 80);
        sh("nft 'add table inet seen; add chain inet seen out { type filter hook output priority 0; }
            add counter inet seen marked; add counter inet seen other
            add rule inet seen out ip daddr 10.42.0.0/16 tcp dport 80 meta mark 0x2a counter name marked
            add rule inet seen out ip daddr 10.42.0.0/16 tcp dport 80 meta mark != 0x2a counter name other'");
        let seen = |name: &str| -> u64 {
            let text = sh(&format!("nft list counter inet seen {name}"));
            let number = text.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
            number.unwrap().parse().unwrap()
        };
        let stream = dial_as_probe((v4(&a), 80).into()).await.unwrap();
        let (served, _) = server.accept().unwrap();
        drop((stream, served));
        eventually("marked packets", || seen("marked") >= 3);
        assert_eq!(seen("other"), 0);
        let marked = seen("marked");
        talk(&server, connect((v4(&a), 80))).unwrap();
        assert!(seen("other") >= 3);
        assert_eq!(seen("marked"), marked);
    });
}

#[test]
fn flows_of_a_pod_that_is_gone_are_forgotten_before_anybody_gets_its_address() {
    on_a_host(|_| async {
        let first = network().await;
        let a = first.attach("a", &[]).await.unwrap();
        let b = first.attach("b", &[]).await.unwrap();
        let kept = first.attach("kept", &[]).await.unwrap();
        let receiver = bound(&kept, 53);
        let flow_from = |pod: &Attached| {
            let sender = bound(pod, 5353);
            heard(&receiver, || sender.send_to(b"x", (v4(&kept), 53)).map(drop)).unwrap();
            assert_eq!(limits::tracked(pod), 1);
        };
        let host = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        heard(&receiver, || host.send_to(b"x", (v4(&kept), 53)).map(drop)).unwrap();
        flow_from(&a);
        first.detach("a").await.unwrap();
        eventually("its flow is forgotten", || limits::tracked(&a) == 0);

        // The daemon dies after it has given the address back, and before it forgets.
        flow_from(&b);
        drop(first);
        let journal =
            std::fs::OpenOptions::new().append(true).open("/tmp/abc123/data/network/pods.journal");
        journal.unwrap().write_all(b"{\"free\":{\"pod\":\"b\"}}\n").unwrap();
        let _again = network().await;
        assert_eq!(limits::tracked(&b), 0, "nobody holds the address");
        let from_host = Attached { address: kept.gateway, ..kept.clone() };
        assert_ne!(limits::tracked(&from_host), 0, "the host's address is not free");
    });
}
