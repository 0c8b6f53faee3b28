//! Peers that lead Services: a chain for each, as kube-proxy writes it for nftables and for iptables.

use std::net::IpAddr;
use std::time::Duration;

use crate::site::{PORT, SERVICE_PORT, SINK_PORT, Site, feed, service, sh};

/// Who programs a host, and the host.
pub struct Peer {
    pub name: &'static str,
    pub site: Site,
    kind: Kind,
    /// How long the whole table took, or why there is none.
    pub loaded: Result<Duration, String>,
}

#[derive(Clone, Copy)]
enum Kind {
    Nft,
    /// The program that loads it.
    Iptables(&'static str),
}

/// Each on a host of its own, with `count` Services that lead to its server.
pub fn all(count: usize) -> Vec<Peer> {
    [
        ("a chain per Service, nft", Kind::Nft),
        ("iptables-nft", Kind::Iptables("iptables-nft-restore")),
        ("iptables-legacy", Kind::Iptables("iptables-legacy-restore")),
    ]
    .map(|(name, kind)| {
        let site = Site::routed();
        // As kube-proxy refuses what has no endpoint; who is told nothing asks again after a second.
        site.on_host(|| {
            sh("ip route add 10.43.0.0/16 dev server
                nft 'add table ip unserved; add chain ip unserved forward { type filter hook forward priority 0; }
                     add rule ip unserved forward ip daddr 10.43.0.0/16 reject with tcp reset'");
        });
        let text = kind.whole(&site, count);
        let loaded = site.on_host(|| kind.load(&text));
        Peer { name, site, kind, loaded }
    })
    .into()
}

/// What the kernel takes for its own part, on hosts that guard and filter nothing: below it nobody gets with nftables. One
/// keeps track of connections; the other translates, too, in one look at one map.
pub fn floors(count: usize) -> [(&'static str, Site, Option<usize>); 2] {
    let [tracks, translates] = [Site::routed(), Site::routed()];
    let tracking = "table ip floor {
        chain forward { type filter hook forward priority 0; ct state established accept; }
    }";
    let map = one_map(translates.server.ip(), count);
    for (site, text) in [(&tracks, tracking), (&translates, map.as_str())] {
        site.on_host(|| feed("nft", &["-f", "-"], text)).expect("nft takes it");
    }
    [
        ("connection tracking alone, the server's address", tracks, None),
        ("one map that translates, nothing else", translates, Some(count)),
    ]
}

fn one_map(server: IpAddr, count: usize) -> String {
    let mut text = String::from(
        "table ip floor {
        map services { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; elements = {\n",
    );
    for (number, port, to) in pairs(count) {
        let address = service(number).ip();
        text.push_str(&format!("{address} . tcp . {port} : {server} . {to},\n"));
    }
    text.push_str(
        "} }
        chain pre {
            type nat hook prerouting priority dstnat;
            dnat ip to ip daddr . meta l4proto . th dport map @services;
        }
        }\n",
    );
    text
}

/// Each Service by its number, its port and where that leads.
fn pairs(count: usize) -> impl Iterator<Item = (usize, u16, u16)> {
    // The second port of the last Service is for long streams.
    let long = (count - 1, SERVICE_PORT + 1, SINK_PORT);
    (0..count).map(|number| (number, SERVICE_PORT, PORT)).chain([long])
}

impl Peer {
    /// Gives the first Service its endpoint, or takes it away.
    ///
    /// # Errors
    /// What the program said.
    pub fn change(&self, has_endpoint: bool) -> Result<(), String> {
        let text = self.kind.change(has_endpoint);
        self.site.on_host(|| self.kind.load(&text)).map(drop)
    }
}

impl Kind {
    fn load(self, text: &str) -> Result<Duration, String> {
        match self {
            Kind::Nft => feed("nft", &["-f", "-"], text),
            Kind::Iptables(program) => feed(program, &["--noflush"], text),
        }
    }

    fn whole(self, site: &Site, count: usize) -> String {
        let server = site.server.ip();
        let mut text = String::new();
        match self {
            Kind::Nft => {
                text.push_str("table ip peer {\n");
                for (number, port, to) in pairs(count) {
                    text.push_str(&format!(
                        "chain end_{number}_{port} {{ meta l4proto tcp dnat to {server}:{to}; }}\n\
                         chain svc_{number}_{port} {{ numgen random mod 1 vmap {{ 0 : goto end_{number}_{port} }}; }}\n"
                    ));
                }
                text.push_str("map service_ips { type ipv4_addr . inet_proto . inet_service : verdict\nelements = {\n");
                for (number, port, _) in pairs(count) {
                    let address = service(number).ip();
                    text.push_str(&format!(
                        "{address} . tcp . {port} : goto svc_{number}_{port},\n"
                    ));
                }
                text.push_str(
                    "}\n}\nchain services { ip daddr . meta l4proto . th dport vmap @service_ips; }\n\
                     chain pre { type nat hook prerouting priority dstnat; jump services; }\n}\n",
                );
            }
            Kind::Iptables(_) => {
                text.push_str("*nat\n:KUBE-SERVICES - [0:0]\n");
                for (number, port, _) in pairs(count) {
                    text.push_str(&format!(
                        ":KUBE-SVC-{number}-{port} - [0:0]\n:KUBE-SEP-{number}-{port} - [0:0]\n"
                    ));
                }
                text.push_str("-A PREROUTING -j KUBE-SERVICES\n");
                for (number, port, to) in pairs(count) {
                    let address = service(number).ip();
                    text.push_str(&format!(
                        "-A KUBE-SERVICES -d {address}/32 -p tcp -m tcp --dport {port} -j KUBE-SVC-{number}-{port}\n\
                         -A KUBE-SVC-{number}-{port} -j KUBE-SEP-{number}-{port}\n\
                         -A KUBE-SEP-{number}-{port} -p tcp -m tcp -j DNAT --to-destination {server}:{to}\n"
                    ));
                }
                text.push_str("COMMIT\n");
            }
        }
        text
    }

    fn change(self, has_endpoint: bool) -> String {
        let chain = format!("0_{SERVICE_PORT}");
        match (self, has_endpoint) {
            (Kind::Nft, true) => format!(
                "flush chain ip peer svc_{chain}\n\
                 add rule ip peer svc_{chain} numgen random mod 1 vmap {{ 0 : goto end_{chain} }}\n"
            ),
            (Kind::Nft, false) => format!("flush chain ip peer svc_{chain}\n"),
            (Kind::Iptables(_), _) => {
                let name = format!("KUBE-SVC-0-{SERVICE_PORT}");
                let rule = match has_endpoint {
                    true => format!("-A {name} -j KUBE-SEP-0-{SERVICE_PORT}\n"),
                    false => String::new(),
                };
                // To name a chain there empties it.
                format!("*nat\n:{name} - [0:0]\n{rule}COMMIT\n")
            }
        }
    }
}
