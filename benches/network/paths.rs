//! What a connection through a Service costs: beside its server's own address, beside what the kernel takes for its own part, and
//! beside peers.

use std::net::SocketAddr;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::peers::{Peer, floors};
use crate::site::{Site, service, sink};
use crate::table::{Row, print};

const CONNECTIONS: usize = 200;
const SPAN: Duration = Duration::from_millis(150);

/// A way from a client to a server.
struct Way<'a> {
    name: String,
    site: &'a Site,
    /// Of the Services on it; `None`: straight to the server.
    count: Option<usize>,
}

impl Way<'_> {
    /// Services take turns, in steps that reach all of a table and not only its beginning.
    fn to(&self, number: usize) -> SocketAddr {
        match self.count {
            Some(count) => service(number * 7919 % count),
            None => self.site.server,
        }
    }

    fn sink(&self) -> SocketAddr {
        sink(match self.count {
            Some(count) => service(count - 1),
            None => self.site.server,
        })
    }
}

pub async fn measure(cluster: &Cluster, peers: &[Peer], count: usize, rounds: usize) {
    let bare = Site::routed();
    let floors = floors(count);
    let way = |name: &str, site, count| Way { name: name.to_owned(), site, count };
    let mut ways = vec![
        way("no rules at all, the server's address", &bare, None),
        way(floors[0].0, &floors[0].1, floors[0].2),
        way(floors[1].0, &floors[1].1, floors[1].2),
        way("Joey, the pod's address", &cluster.open, None),
        way("Joey, Services", &cluster.open, Some(count)),
    ];
    for peer in peers {
        match &peer.loaded {
            Ok(_) => ways.push(way(peer.name, &peer.site, Some(count))),
            Err(said) => println!("{}: {said}", peer.name),
        }
    }
    let rows = || ways.iter().map(|way| Row::new(way.name.clone())).collect::<Vec<_>>();
    let [mut connect, mut rate, mut throughput] = [rows(), rows(), rows()];
    // The first packets meet cold caches and neighbours that are yet to be found.
    for way in &ways {
        way.site.connect(|number| way.to(number), CONNECTIONS / 4);
    }
    for _ in 0..rounds {
        for (index, way) in ways.iter().enumerate() {
            connect[index].samples.extend(way.site.connect(|number| way.to(number), CONNECTIONS));
            rate[index].samples.push(way.site.rate(|number| way.to(number), SPAN));
            throughput[index].samples.push(way.site.throughput(way.sink(), SPAN));
        }
    }
    print(&format!("A connection, {count} Services"), "µs", &connect);
    print(&format!("One after the other, {count} Services"), "connections/s", &rate);
    print(&format!("One stream, {count} Services"), "Gbit/s", &throughput);
}
