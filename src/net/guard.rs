//! A second guard, which is not nftables: while our table is gone, no packet of a pod is forwarded.
//!
//! Anybody with root may flush every table (`nft flush ruleset`, a firewall that reloads). Our chains mark what they have
//! seen (`skeleton`, `admit_hook`), and routing refuses what is not marked:
//!
//! ```text
//! 80  to pods    iif lo               goto 84     what the host itself sends passes no prerouting chain, and neither
//! 81  from pods  iif lo               goto 84     do the kernel's questions where a source would be reached (rp_filter)
//! 82  from pods  fwmark 0/GUARD_MARK  prohibit
//! 83  to pods    fwmark 0/GUARD_MARK  prohibit
//! 84  to pods                         nop
//! ```
//! The kernel takes the hooks of a table that is deleted away one by one, in the order in which they were made
//! (nf_tables_commit of net/netfilter/nf_tables_api.c). So the one that marks is the first by name: whatever goes later
//! finds no marked packets any more.
//!
//! What is between the two hooks on a processor at the moment of a flush is past the guard: a datagram of a denied flow may
//! arrive, no answer to it does.
//!
//! The priorities come after the local table and before the rules of VPNs and meshes. Two instances share them: each rule
//! names its own range, and the kernel leads a goto to whichever nop is left (fib_nl_delrule of net/core/fib_rules.c).

use std::io;
use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use nix::errno::Errno;

use super::link::{self, PROTOCOL};
use super::names::GUARD_MARK;
use super::netlink::{CREATE, EXCLUSIVE, Socket};
use crate::model::cidr::Cidr;

const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const FIRST: u32 = 80;
const END: u32 = FIRST + 4;

/// Puts the rules there; fine if they are. What leads past the prohibitions comes before them, and its end first.
pub fn set(socket: &mut Socket, pods: Cidr) -> io::Result<()> {
    let rules = rules(pods);
    let add = |place: usize| link::request(NEW_RULE, CREATE | EXCLUSIVE, &rules[place]);
    socket.exchange(&[4, 0, 1, 2, 3].map(add))?.except(&[Errno::EEXIST]).map(drop)
}

/// Takes them away, whichever are left; prohibitions first.
pub fn remove(socket: &mut Socket, pods: Cidr) -> io::Result<()> {
    let rules = rules(pods);
    let order = [2, 3, 0, 1, 4].map(|place| link::request(DELETE_RULE, 0, &rules[place]));
    socket.exchange(&order)?.except(&[Errno::ENOENT]).map(drop)
}

#[derive(Clone, Copy)]
enum End {
    From,
    To,
}

/// In the order of their priorities.
fn rules(pods: Cidr) -> [RuleMessage; 5] {
    let own = || [RuleAttribute::Iifname("lo".to_owned()), RuleAttribute::Goto(END)];
    let unmarked = || [RuleAttribute::FwMark(0), RuleAttribute::FwMask(GUARD_MARK)];
    [
        rule(pods, 0, RuleAction::Goto, End::To, own()),
        rule(pods, 1, RuleAction::Goto, End::From, own()),
        rule(pods, 2, RuleAction::Prohibit, End::From, unmarked()),
        rule(pods, 3, RuleAction::Prohibit, End::To, unmarked()),
        rule(pods, 4, RuleAction::Nop, End::To, []),
    ]
}

fn rule<const N: usize>(
    pods: Cidr,
    place: u32,
    action: RuleAction,
    end: End,
    more: [RuleAttribute; N],
) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = match pods.address() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    rule.header.action = action;
    rule.attributes = vec![
        match end {
            End::From => RuleAttribute::Source(pods.address()),
            End::To => RuleAttribute::Destination(pods.address()),
        },
        RuleAttribute::Priority(FIRST + place),
        RuleAttribute::Protocol(PROTOCOL),
    ];
    match end {
        End::From => rule.header.src_len = pods.prefix(),
        End::To => rule.header.dst_len = pods.prefix(),
    }
    rule.attributes.extend(more);
    rule
}
