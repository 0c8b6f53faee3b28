//! Does the host let pods' packets through? Asked with packets; rules of others are read, never changed.
//!
//! Two namespaces, wired exactly like pods, exchange a datagram with each other and with the host, from either side, and
//! as through a Service: firewalls let answers through, so who begins matters, and some let translated packets. What does not arrive becomes a sentence with its cure.
//! Reading rules alone would not do: too many programs can drop a packet.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::attach::Prepared;
use crate::events::{self, Kind, Note, Recorder};
use crate::model::cidr::Cidr;
use crate::sys::netns;

/// A datagram between namespaces of one host takes microseconds; this is for a host that is starting up.
const PATIENCE: Duration = Duration::from_millis(150);
const ATTEMPTS: usize = 2;

/// Which way packets went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    pub between_pods: bool,
    /// The host began.
    pub to_pods: bool,
    /// A pod began.
    pub to_host: bool,
    /// A pod began, and was led there as by a Service: firewalld lets translated packets in.
    pub led_to_host: bool,
}

impl Passed {
    pub fn is_everything(self) -> bool {
        self.between_pods && self.to_pods && self.to_host && self.led_to_host
    }
}

/// The host's end, at the address where pods know it.
pub fn host_end(gateway: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((gateway, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Sends the packets; the addresses are those the two have, both may reach `host`, and what goes to `led` is translated
/// to it.
pub fn run(
    one: (&Prepared, Ipv4Addr),
    other: (&Prepared, Ipv4Addr),
    host: &UdpSocket,
    led: SocketAddr,
) -> io::Result<Passed> {
    let bind = |(prepared, address): (&Prepared, Ipv4Addr)| {
        let socket = netns::enter(prepared.namespace().as_fd(), || UdpSocket::bind((address, 0)))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        io::Result::Ok(socket)
    };
    let (first, second) = (bind(one)?, bind(other)?);
    // From a port of its own: translated, the second's would be the same connection as what it has sent straight.
    let third = bind(other)?;
    let straight =
        |from: &UdpSocket, to: &UdpSocket| io::Result::Ok(exchange(from, to, to.local_addr()?));
    Ok(Passed {
        between_pods: straight(&first, &second)?,
        to_pods: straight(host, &first)?,
        // Of the other: the first's packets to the host would be answers by now.
        to_host: straight(&second, host)?,
        led_to_host: exchange(&third, host, led),
    })
}

/// There, to an address that leads to `to`, and back.
fn exchange(from: &UdpSocket, to: &UdpSocket, address: SocketAddr) -> bool {
    let attempt = || {
        let mut buffer = [0; 8];
        from.send_to(b"joey", address)?;
        let (_, back) = to.recv_from(&mut buffer)?;
        to.send_to(b"joey", back)?;
        from.recv_from(&mut buffer)
    };
    (0..ATTEMPTS).any(|_| attempt().is_ok())
}

/// What stands in the way, in words (pure).
pub fn explain(passed: Passed, pods: Cidr, culprit: &Culprit) -> Vec<String> {
    let host = match (passed.to_pods, passed.to_host, passed.led_to_host) {
        (true, true, true) => None,
        (false, true, true) => Some("between the host and its pods, so probes and host ports fail"),
        (true, false, true) => Some(
            "that pods send to the host, so they reach what listens there only through Services",
        ),
        (false, false, true) => Some(
            "between the host and its pods, so probes and host ports fail, and pods reach what listens on the host only through Services",
        ),
        (true, _, false) => {
            Some("that pods send to the host, so they resolve no names and reach no API")
        }
        (false, _, false) => Some(
            "between the host and its pods, so probes and host ports fail, and pods resolve no names and reach no API",
        ),
    };
    let forward = (!passed.between_pods)
        .then_some("that the host forwards, so pods reach neither each other nor the outside");
    let dropped: Vec<(&str, String)> = [(forward, "forward"), (host, "input")]
        .into_iter()
        .filter_map(|(what, hook)| what.map(|what| (what, culprit.cure(pods, hook))))
        .collect();
    let sentence = |what: &str, cure: &str| {
        format!("{} drops packets {what}; to let them through: {cure}", culprit.name())
    };
    match dropped.as_slice() {
        // One rule for both is told once.
        [(forward, cure), (host, same)] if cure == same => {
            vec![sentence(&format!("{forward}; and those {host}"), cure)]
        }
        all => all.iter().map(|(what, cure)| sentence(what, cure)).collect(),
    }
}

/// Who probably drops the packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Culprit {
    Docker,
    Ufw,
    Firewalld,
    /// A base chain whose policy is to drop: family, table and chain.
    Chain(String, String, String),
    /// Rules of the old interface, which nft does not show.
    Legacy,
    Unknown,
}

impl Culprit {
    /// Reads `listing`, the answer to `nft -j list ruleset` (pure).
    pub fn find(listing: &Value, pods: Cidr, has_legacy_rules: bool) -> Culprit {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let range = json!({"prefix": {"addr": pods.address().to_string(), "len": pods.prefix()}});
        let mut dropping = None;
        let (mut docker, mut ufw, mut firewalld, mut is_told) = (false, false, false, false);
        for object in listing["nftables"].as_array().into_iter().flatten() {
            firewalld |= object["table"]["name"] == "firewalld";
            let rule = &object["rule"];
            // ufw leaves its chains and the jumps to them when it is switched off, with nothing in them.
            ufw |= rule["chain"].as_str().unwrap_or_default().starts_with("ufw-");
            for part in rule["expr"].as_array().into_iter().flatten() {
                docker |= part["jump"]["target"] == "DOCKER-USER";
                is_told |= rule["table"] == "firewalld" && part["match"]["right"] == range;
            }
            let chain = &object["chain"];
            if chain["policy"] == "drop"
                && matches!(word(&chain["hook"]).as_str(), "forward" | "input")
            {
                let names = [&chain["family"], &chain["table"], &chain["name"]].map(word);
                let [family, table, name] = names;
                dropping = Some(Culprit::Chain(family, table, name));
            }
        }
        match dropping {
            _ if ufw => Culprit::Ufw,
            // One that knows the pods already is not the one in the way.
            _ if firewalld && !is_told => Culprit::Firewalld,
            _ if docker => Culprit::Docker,
            Some(chain) => chain,
            None if has_legacy_rules => Culprit::Legacy,
            None => Culprit::Unknown,
        }
    }

    fn name(&self) -> String {
        match self {
            Culprit::Docker => "Docker's firewall".to_owned(),
            Culprit::Ufw => "ufw".to_owned(),
            Culprit::Firewalld => "firewalld".to_owned(),
            Culprit::Chain(family, table, chain) => {
                format!("chain {chain} of nftables table {family} {table}")
            }
            Culprit::Legacy => "an iptables (legacy) rule".to_owned(),
            Culprit::Unknown => "a rule of this host".to_owned(),
        }
    }

    /// One line for a shell, by the pods' range rather than by links, which come and go.
    fn cure(&self, pods: Cidr, hook: &str) -> String {
        let is_forward = hook == "forward";
        let iptables = |program: &str, chain: &str| {
            format!(
                "{program} -I {chain} -s {pods} -j ACCEPT && {program} -I {chain} -d {pods} -j ACCEPT"
            )
        };
        match self {
            Culprit::Docker if is_forward => iptables("iptables", "DOCKER-USER"),
            Culprit::Ufw if is_forward => {
                format!("ufw route allow from {pods} && ufw route allow to {pods}")
            }
            Culprit::Ufw => format!("ufw allow from {pods}"),
            Culprit::Firewalld => format!(
                "firewall-cmd --permanent --zone=trusted --add-source={pods} && firewall-cmd --reload"
            ),
            Culprit::Chain(family, table, chain) => format!(
                "nft insert rule {family} {table} {chain} ip saddr {pods} accept && nft insert rule {family} {table} {chain} ip daddr {pods} accept"
            ),
            Culprit::Legacy => {
                iptables("iptables-legacy", if is_forward { "FORWARD" } else { "INPUT" })
            }
            Culprit::Docker | Culprit::Unknown => {
                iptables("iptables", if is_forward { "FORWARD" } else { "INPUT" })
            }
        }
    }
}

/// In the run directory: the problems, one a line, for `joey doctor`.
pub const PROBLEMS: &str = "network-problems";

/// Leaves the problems where `joey doctor` finds them.
pub fn note(run_dir: &Path, problems: &[String]) -> io::Result<()> {
    for problem in problems {
        tracing::warn!("{problem}");
    }
    fs::write(run_dir.join(PROBLEMS), problems.join("\n"))
}

/// Tells of problems that come and go while the daemon runs, until cancelled. Those of its start the node tells.
pub async fn tell(
    mut problems: watch::Receiver<Vec<String>>,
    recorder: Recorder,
    node: String,
    run_dir: PathBuf,
    stop: CancellationToken,
) {
    let work = async {
        while problems.changed().await.is_ok() {
            let now = problems.borrow_and_update().clone();
            if now.is_empty() {
                tracing::info!("nothing of the host stands in the way of pod traffic any more");
            }
            if let Err(error) = note(&run_dir, &now) {
                tracing::warn!(%error, "joey doctor will not know of it");
            }
            for message in now {
                recorder.note(Note {
                    // A node's uid in references is its name, as the kubelet has it.
                    about: events::about("Node", None, &node, Some(node.clone())),
                    kind: Kind::Warning,
                    reason: "NetworkObstructed".into(),
                    message,
                });
            }
        }
    };
    stop.run_until_cancelled(work).await;
}

/// Whether the old interface has tables in this namespace.
pub fn has_legacy_rules() -> bool {
    fs::read_to_string("/proc/thread-self/net/ip_tables_names")
        .is_ok_and(|tables| tables.lines().any(|table| table == "filter"))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_program_behind_a_rule_is_named_before_the_rule() {
        let pods = || "10.42.0.0/16".parse::<Cidr>().unwrap();
        let find =
            |objects: Vec<Value>| Culprit::find(&json!({ "nftables": objects }), pods(), false);
        let chain = |policy: &str| json!({"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": policy}});
        let jump = |target: &str| json!({"rule": {"table": "filter", "chain": "FORWARD", "expr": [{"counter": {}}, {"jump": {"target": target}}]}});
        let within = |name: &str| json!({"rule": {"table": "filter", "chain": name, "expr": [{"counter": {}}, {"drop": null}]}});
        let firewalld = || json!({"table": {"name": "firewalld"}});
        let told = json!({"rule": {"table": "firewalld", "expr": [{"match": {"op": "==", "right": {"prefix": {"addr": "10.42.0.0", "len": 16}}}}]}});
        let forward = Culprit::Chain("ip".into(), "filter".into(), "FORWARD".into());
        let off = || jump("ufw-before-forward");
        assert_eq!(find(vec![chain("drop"), off()]), forward);
        assert_eq!(find(vec![chain("drop"), jump("DOCKER-USER")]), Culprit::Docker);
        assert_eq!(find(vec![chain("drop"), off(), jump("DOCKER-USER")]), Culprit::Docker);
        let on = || within("ufw-before-forward");
        assert_eq!(find(vec![chain("drop"), off(), on()]), Culprit::Ufw);
        assert_eq!(find(vec![chain("drop"), jump("DOCKER-USER"), off(), on()]), Culprit::Ufw);
        assert_eq!(find(vec![firewalld()]), Culprit::Firewalld);
        assert_eq!(find(vec![firewalld(), chain("drop"), jump("DOCKER-USER")]), Culprit::Firewalld);
        assert_eq!(
            find(vec![firewalld(), told, chain("drop"), jump("DOCKER-USER")]),
            Culprit::Docker
        );
        assert_eq!(find(vec![chain("accept")]), Culprit::Unknown);
        assert_eq!(Culprit::find(&Value::Null, pods(), true), Culprit::Legacy);
    }

    #[test]
    fn a_rule_that_cures_everything_is_told_once() {
        let pods: Cidr = "10.42.0.0/16".parse().unwrap();
        let told = |between_pods, to_pods, to_host, led_to_host, culprit| {
            let passed = Passed { between_pods, to_pods, to_host, led_to_host };
            explain(passed, pods, &culprit).join("\n")
        };
        let check = |found: String, expected: expect_test::Expect| expected.assert_eq(&found);
        check(told(true, true, true, true, Culprit::Ufw), expect![[""]]);
        check(
            told(false, true, false, true, Culprit::Firewalld),
            expect![
                "firewalld drops packets that the host forwards, so pods reach neither each other nor the outside; and those that pods send to the host, so they reach what listens there only through Services; to let them through: firewall-cmd --permanent --zone=trusted --add-source=10.42.0.0/16 && firewall-cmd --reload"
            ],
        );
        check(
            told(false, true, false, false, Culprit::Ufw),
            expect![[r#"
            ufw drops packets that the host forwards, so pods reach neither each other nor the outside; to let them through: ufw route allow from 10.42.0.0/16 && ufw route allow to 10.42.0.0/16
            ufw drops packets that pods send to the host, so they resolve no names and reach no API; to let them through: ufw allow from 10.42.0.0/16"#]],
        );
        check(
            told(false, true, true, true, Culprit::Docker),
            expect![
                "Docker's firewall drops packets that the host forwards, so pods reach neither each other nor the outside; to let them through: iptables -I DOCKER-USER -s 10.42.0.0/16 -j ACCEPT && iptables -I DOCKER-USER -d 10.42.0.0/16 -j ACCEPT"
            ],
        );
        check(
            told(true, false, true, true, Culprit::Unknown),
            expect![
                "a rule of this host drops packets between the host and its pods, so probes and host ports fail; to let them through: iptables -I INPUT -s 10.42.0.0/16 -j ACCEPT && iptables -I INPUT -d 10.42.0.0/16 -j ACCEPT"
            ],
        );
    }
}
