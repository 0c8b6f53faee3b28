//! D12: a pod that opens connections without end takes nobody else's.

use std::net::{Ipv4Addr, UdpSocket};

use super::machine::*;
use super::*;
use crate::net::limits::CONNECTIONS;

/// Entries of connection tracking that begin at `pod`.
pub fn tracked(pod: &Attached) -> usize {
    let mut socket = nfnetlink::open().unwrap();
    let count = std::cell::Cell::new(0);
    let address = v4(pod);
    // Looks at every flow and ends none.
    conntrack::end(&mut socket, |flow| {
        count.set(count.get() + usize::from(flow.from == address));
        false
    })
    .unwrap();
    count.get()
}

#[test]
fn a_pod_that_opens_flows_without_end_has_its_share_and_no_more() {
    on_a_host(|host| async move {
        let network = network().await;
        let greedy = network.attach("greedy", &[]).await.unwrap();
        let modest = network.attach("modest", &[]).await.unwrap();
        let web = network.attach("web", &[]).await.unwrap();
        let _world = outside(&host, || UdpSocket::bind((OUTSIDE, 53))).unwrap();
        // On a slow machine the first would end before the last has begun.
        sh("echo 600 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout");
        let flows = if std::env::var_os("JOEY_TEST_LONG").is_some() { 300_000 } else { 40_000 };
        inside(&greedy, || {
            let mut sockets = Vec::new();
            for number in 0..flows {
                // A port for each, of one socket as far as they reach.
                if number % 60_000 == 0 {
                    sockets.push(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?);
                }
                let to = (OUTSIDE, 1 + (number % 60_000) as u16);
                // Refusals of earlier ones come back here.
                sockets.last().unwrap().send_to(b"x", to).ok();
            }
            Ok(())
        })
        .unwrap();
        let taken = tracked(&greedy);
        assert!(taken <= CONNECTIONS as usize + 1, "{taken}");
        assert!(taken > CONNECTIONS as usize / 2, "{taken}: it has what is its own");
        let server = listen(&web, 80);
        for _ in 0..200 {
            talk(&server, inside(&modest, || connect((v4(&web), 80)))).unwrap();
        }
        let refused =
            inside(&greedy, || std::net::TcpStream::connect_timeout(&(v4(&web), 80).into(), NEVER));
        assert!(refused.is_err(), "it has to wait until some of its flows have ended");
    });
}
