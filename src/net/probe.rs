//! Does the host let pods' packets through? Asked with packets, at start; rules of others are read, never changed.
//!
//! Two namespaces, wired exactly like pods, exchange a datagram with each other and with the host. What does not arrive
//! becomes a sentence with its cure. Reading rules alone would not do: too many programs can drop a packet.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::Value;

use super::attach::Prepared;
use crate::model::cidr::Cidr;
use crate::sys::netns;

/// A datagram between namespaces of one host takes microseconds; this is for a host that is starting up.
const PATIENCE: Duration = Duration::from_millis(150);
const ATTEMPTS: usize = 2;

/// Which way packets went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    pub between_pods: bool,
    pub with_host: bool,
}

/// Sends the packets; the addresses are those the two have.
pub fn run(one: (&Prepared, Ipv4Addr), other: (&Prepared, Ipv4Addr)) -> io::Result<Passed> {
    let bind = |(prepared, address): (&Prepared, Ipv4Addr)| {
        let socket = netns::enter(prepared.namespace().as_fd(), || UdpSocket::bind((address, 0)))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        io::Result::Ok(socket)
    };
    let (first, second) = (bind(one)?, bind(other)?);
    let host = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    host.set_read_timeout(Some(PATIENCE))?;
    Ok(Passed { between_pods: exchange(&first, &second), with_host: exchange(&host, &first) })
}

/// There and back.
fn exchange(from: &UdpSocket, to: &UdpSocket) -> bool {
    let attempt = || {
        let mut buffer = [0; 8];
        from.send_to(b"joey", to.local_addr()?)?;
        let (_, back) = to.recv_from(&mut buffer)?;
        to.send_to(b"joey", back)?;
        from.recv_from(&mut buffer)
    };
    (0..ATTEMPTS).any(|_| attempt().is_ok())
}

/// What stands in the way, in words (pure).
pub fn explain(passed: Passed, pods: Cidr, culprit: &Culprit) -> Vec<String> {
    let mut problems = Vec::new();
    if !passed.between_pods {
        problems.push(format!(
            "{} drops packets that the host forwards, so pods reach neither each other nor the outside; to let them through: {}",
            culprit.name(),
            culprit.cure(pods, "forward"),
        ));
    }
    if !passed.with_host {
        problems.push(format!(
            "{} drops packets between the host and its pods, so probes, logs of the API and host ports fail; to let them through: {}",
            culprit.name(),
            culprit.cure(pods, "input"),
        ));
    }
    problems
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
    pub fn find(listing: &Value, has_legacy_rules: bool) -> Culprit {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut dropping = None;
        let (mut docker, mut ufw, mut firewalld) = (false, false, false);
        for object in listing["nftables"].as_array().into_iter().flatten() {
            firewalld |= object["table"]["name"] == "firewalld";
            let chain = &object["chain"];
            let name = word(&chain["name"]);
            docker |= name == "DOCKER-USER";
            ufw |= name.starts_with("ufw-");
            if chain["policy"] == "drop"
                && matches!(word(&chain["hook"]).as_str(), "forward" | "input")
            {
                dropping =
                    Some(Culprit::Chain(word(&chain["family"]), word(&chain["table"]), name));
            }
        }
        match dropping {
            _ if ufw => Culprit::Ufw,
            _ if firewalld => Culprit::Firewalld,
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

/// Whether the old interface has tables in this namespace.
pub fn has_legacy_rules() -> bool {
    fs::read_to_string("/proc/thread-self/net/ip_tables_names")
        .is_ok_and(|tables| tables.lines().any(|table| table == "filter"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_program_behind_a_rule_is_named_before_the_rule() {
        let chain = |name: &str, policy: &str| json!({"chain": {"family": "ip", "table": "filter", "name": name, "hook": "forward", "policy": policy}});
        let find = |objects: Vec<Value>| Culprit::find(&json!({"nftables": objects}), false);
        let forward = || Culprit::Chain("ip".into(), "filter".into(), "FORWARD".into());
        assert_eq!(find(vec![chain("FORWARD", "drop")]), forward());
        assert_eq!(find(vec![chain("FORWARD", "drop"), chain("DOCKER-USER", "")]), Culprit::Docker);
        assert_eq!(
            find(vec![chain("FORWARD", "drop"), chain("ufw-before-forward", "")]),
            Culprit::Ufw
        );
        assert_eq!(find(vec![json!({"table": {"name": "firewalld"}})]), Culprit::Firewalld);
        assert_eq!(find(vec![chain("FORWARD", "accept")]), Culprit::Unknown);
        assert_eq!(Culprit::find(&Value::Null, true), Culprit::Legacy);
    }
}
