//! Names and hardware addresses of everything that an instance owns in the kernel (pure).
//!
//! All of them carry the instance's six hex digits, so two instances in one namespace never meet, and all fit
//! IFNAMSIZ (15 bytes). Hardware addresses follow from the address, so they survive restarts unrecorded.

use std::net::Ipv4Addr;

/// What links of any instance of ours begin with.
pub const LINKS_OF_ALL: &str = "jy";

/// The mark (SO_MARK, skb->mark) of what the node itself sends to a pod to learn whether it is well, and of what the
/// ingress sends once policies have been asked for its client: rules that keep everybody out let exactly this pass. Its bits are none that kube-proxy, Calico, Cilium,
/// Tailscale or CNI plugins test.
pub const PROBE_MARK: u32 = 0x2a;

/// The mark of connections to pods that the ingress and the API's proxy make: they have asked policies for their client
/// before they connect (D13).
pub const PROXY_MARK: u32 = 0x2b;

/// What forwarded packets of pods carry when our chains have seen them; routing refuses others (`guard`). The bit is
/// none that kube-proxy, Calico, Cilium, Tailscale or CNI plugins test.
pub const GUARD_MARK: u32 = 0x1000;

/// The names of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    instance: String,
    number: u32,
}

impl Names {
    /// `None` unless `instance` is six lower-case hex digits.
    pub fn new(instance: &str) -> Option<Names> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (instance.len() == 6 && instance.bytes().all(is_hex)).then(|| Names {
            instance: instance.to_owned(),
            number: u32::from_str_radix(instance, 16).expect("six hex digits are a number"),
        })
    }

    pub fn table(&self) -> String {
        format!("joey_{}", self.instance)
    }

    /// The link that holds the gateway's address and carries nothing.
    pub fn anchor(&self) -> String {
        format!("{LINKS_OF_ALL}{}", self.instance)
    }

    /// What the names of the host's ends of this instance's pods begin with.
    pub fn ports(&self) -> String {
        format!("{LINKS_OF_ALL}{}-", self.instance)
    }

    /// The host's end of the pod at `offset` of the range.
    pub fn port(&self, offset: u32) -> String {
        format!("{}{offset:x}", self.ports())
    }

    /// The place in the range of the pod behind a port's name.
    pub fn offset(&self, port: &str) -> Option<u32> {
        u32::from_str_radix(port.strip_prefix(&self.ports())?, 16).ok()
    }

    /// Of every port, so that the neighbour entries of pods need no record. Locally administered.
    pub fn gateway_mac(&self) -> [u8; 6] {
        let [_, a, b, c] = self.number.to_be_bytes();
        [0x0e, a, b, c, 0, 0]
    }

    /// Where rules log denied packets to (NFLOG): another than another instance's, nearly always, and above those that
    /// administrators number by hand.
    pub fn log_group(&self) -> u16 {
        0x4000 | (self.number & 0x3fff) as u16
    }

    /// Tells this instance's catch-all route from another's; beyond any metric in use.
    pub fn route_metric(&self) -> u32 {
        0x7f00_0000 | self.number
    }
}

/// The hardware address of the pod that holds `address`; locally administered.
pub fn pod_mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_an_interface_whatever_the_offset() {
        let names = Names::new("abc123").unwrap();
        assert_eq!(names.anchor(), "jyabc123");
        assert_eq!(names.port(2), "jyabc123-2");
        assert_eq!(names.offset("jyabc123-ff"), Some(255));
        assert_eq!(names.offset("jydef456-ff"), None);
        assert!(names.port(0xff_ffff).len() <= 15);
    }

    #[test]
    fn an_instance_is_six_hex_digits() {
        for wrong in ["", "abc12", "abc1234", "ABC123", "abc12-", "abc12/"] {
            assert_eq!(Names::new(wrong), None, "{wrong}");
        }
    }
}
