//! Links, addresses, routes and neighbours: requests of rtnetlink(7), and what its dumps say.
//!
//! Functions here build or read messages; the order in which they matter is `attach`'s business.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{Emitable, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use nix::sys::socket::SockProtocol;
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder,
};

use super::drift::LinkState;
use super::names::pod_mac;
use super::netlink::{ACK, CREATE, EXCLUSIVE, REPLACE, REQUEST, Request, Socket};

/// Marks our routes, so that another program's are never taken for ours (rtnetlink(7): above RTPROT_STATIC free).
pub const PROTOCOL: RouteProtocol = RouteProtocol::Other(0x4a);
/// The pod's end.
pub const POD_LINK: &str = "eth0";

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;
const MAIN_TABLE: u8 = 254;

pub fn open() -> io::Result<Socket> {
    Socket::open(SockProtocol::NetlinkRoute)
}

pub fn request(kind: u16, flags: u16, message: &impl Emitable) -> Request {
    let mut payload = vec![0; message.buffer_len()];
    message.emit(&mut payload);
    Request { kind, flags: REQUEST | ACK | flags, payload }
}

/// The link that holds the gateway's address. A bridge that never gets a port: always there where pods' kernels are,
/// unlike `dummy`.
pub fn anchor_new(name: &str) -> Request {
    let message = LinkMessageBuilder::<LinkBridge>::new(name).arp(false).build();
    request(NEW_LINK, CREATE | EXCLUSIVE, &message)
}

pub fn up(index: u32) -> Request {
    let message = LinkMessageBuilder::<LinkUnspec>::new().index(index).up().build();
    request(NEW_LINK, 0, &message)
}

pub fn up_by_name(name: &str) -> Request {
    let message = LinkMessageBuilder::<LinkUnspec>::new().name(name).up().build();
    request(NEW_LINK, 0, &message)
}

/// A veth whose other end is born in `namespace` as [`POD_LINK`]. Both are down: ours until its parameters are set, the
/// pod's because the kernel cannot open one end before it knows the other (ENOTCONN). Without ARP nobody can ask
/// or answer falsely; neighbours are entered by hand.
pub fn veth_new(
    name: &str,
    mac: [u8; 6],
    mtu: u32,
    namespace: BorrowedFd<'_>,
    pod: Ipv4Addr,
) -> Request {
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(POD_LINK)
        .address(pod_mac(pod).to_vec())
        .mtu(mtu)
        .setns_by_fd(namespace.as_raw_fd())
        .build();
    let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(name)
        .address(mac.to_vec())
        .mtu(mtu)
        .arp(false)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    request(NEW_LINK, CREATE | EXCLUSIVE, &message)
}

/// Asks for one link; the reply is read by [`index_of`].
pub fn get(name: &str) -> Request {
    let message = LinkMessageBuilder::<LinkUnspec>::new().name(name).build();
    request(GET_LINK, 0, &message)
}

pub fn index_of(reply: &[u8]) -> io::Result<u32> {
    Ok(parse::<LinkMessage>(reply)?.header.index)
}

/// Whether the link of a reply is up; `None` when the reply is not understood.
pub fn state(reply: &[u8]) -> Option<LinkState> {
    let message = parse::<LinkMessage>(reply).ok()?;
    let flags = message.header.flags;
    Some(LinkState {
        index: message.header.index,
        is_up: flags.contains(LinkFlags::Up),
        has_carrier: flags.contains(LinkFlags::LowerUp),
    })
}

/// Whether the link of a reply takes packets to send: it is up, and the kernel has acted on that.
pub fn is_running(reply: &[u8]) -> bool {
    parse::<LinkMessage>(reply)
        .is_ok_and(|message| message.header.flags.contains(LinkFlags::Running))
}

/// A socket that hears of every change of a link of this namespace.
pub fn subscribe() -> io::Result<Socket> {
    /// `RTMGRP_LINK` of linux/rtnetlink.h.
    const LINKS: u32 = 1;
    Socket::listen(SockProtocol::NetlinkRoute, LINKS)
}

/// The link that a notice is about.
pub fn name_of(notice: &[u8]) -> Option<String> {
    let message = parse::<LinkMessage>(notice).ok()?;
    message.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None, // What else a link has does not name it.
    })
}

pub fn delete(index: u32) -> Request {
    let message = LinkMessageBuilder::<LinkUnspec>::new().index(index).build();
    request(DELETE_LINK, 0, &message)
}

pub fn address(index: u32, address: Ipv4Addr) -> Request {
    let message =
        AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address, 32).build();
    request(NEW_ADDRESS, CREATE | REPLACE, &message)
}

/// The host's way to a pod; its own packets carry the gateway's address.
pub fn route_to_pod(port: u32, pod: Ipv4Addr, gateway: Ipv4Addr) -> Request {
    let message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(pod, 32)
        .output_interface(port)
        .pref_source(gateway)
        .scope(RouteScope::Link)
        .protocol(PROTOCOL)
        .build();
    request(NEW_ROUTE, CREATE | REPLACE, &message)
}

/// By whatever port it leads.
pub fn route_to_pod_delete(pod: Ipv4Addr) -> Request {
    let message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(pod, 32)
        .scope(RouteScope::Link)
        .protocol(PROTOCOL)
        .build();
    request(DELETE_ROUTE, 0, &message)
}

fn catch_all(network: Ipv4Addr, prefix: u8, metric: u32) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(network, prefix)
        .kind(RouteType::Unreachable)
        .priority(metric)
        .protocol(PROTOCOL)
        .build()
}

/// Without it a packet for a pod that is gone would leave through the default route.
pub fn unreachable(network: Ipv4Addr, prefix: u8, metric: u32) -> Request {
    let message = catch_all(network, prefix, metric);
    request(NEW_ROUTE, CREATE | REPLACE, &message)
}

pub fn unreachable_delete(network: Ipv4Addr, prefix: u8, metric: u32) -> Request {
    request(DELETE_ROUTE, 0, &catch_all(network, prefix, metric))
}

fn range_of_services(network: Ipv4Addr, prefix: u8, metric: u32) -> RouteMessageBuilder<Ipv4Addr> {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(network, prefix)
        .scope(RouteScope::Link)
        .priority(metric)
        .protocol(PROTOCOL)
}

/// The host's way to Services: it only decides which address the host speaks with, since what has an endpoint is
/// translated, then routed anew, and what has none is refused.
pub fn route_to_services(
    anchor: u32,
    (network, prefix): (Ipv4Addr, u8),
    gateway: Ipv4Addr,
    metric: u32,
) -> Request {
    let message =
        range_of_services(network, prefix, metric).output_interface(anchor).pref_source(gateway);
    request(NEW_ROUTE, CREATE | REPLACE, &message.build())
}

/// By whatever link it leads.
pub fn route_to_services_delete((network, prefix): (Ipv4Addr, u8), metric: u32) -> Request {
    request(DELETE_ROUTE, 0, &range_of_services(network, prefix, metric).build())
}

/// The pod's ways out: to the gateway directly, to everything else through it.
pub fn routes_of_pod(index: u32, gateway: Ipv4Addr) -> [Request; 2] {
    let direct = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(gateway, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .build();
    let default = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(gateway)
        .output_interface(index)
        .onlink()
        .build();
    [direct, default].map(|message| request(NEW_ROUTE, CREATE | REPLACE, &message))
}

/// Who answers for `address`, for ever: no ARP, so nobody else can claim it.
pub fn neighbour(index: u32, address: Ipv4Addr, mac: [u8; 6]) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
        NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
    ];
    request(NEW_NEIGHBOUR, CREATE | REPLACE, &message)
}

/// A link of this namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
}

pub fn links(socket: &mut Socket) -> io::Result<Vec<Link>> {
    let question = emit(&LinkMessage::default());
    socket
        .dump(GET_LINK, &question)?
        .iter()
        .map(|reply| {
            let message = parse::<LinkMessage>(reply)?;
            let mut link = Link { index: message.header.index, name: String::new(), mtu: 1500 };
            for attribute in message.attributes {
                match attribute {
                    LinkAttribute::IfName(name) => link.name = name,
                    LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                    _ => {} // Some fifty others.
                }
            }
            Ok(link)
        })
        .collect()
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub destination: Ipv4Addr,
    pub prefix: u8,
    pub output: Option<u32>,
    pub source: Option<Ipv4Addr>,
    pub metric: u32,
    pub is_ours: bool,
}

pub fn routes(socket: &mut Socket) -> io::Result<Vec<Route>> {
    let question = emit(&RouteMessageBuilder::<Ipv4Addr>::new().build());
    let mut routes = Vec::new();
    for reply in socket.dump(GET_ROUTE, &question)? {
        let message = parse::<RouteMessage>(&reply)?;
        if message.header.table != MAIN_TABLE
            || message.header.address_family != AddressFamily::Inet
        {
            continue;
        }
        let mut route = Route {
            destination: Ipv4Addr::UNSPECIFIED,
            prefix: message.header.destination_prefix_length,
            output: None,
            source: None,
            metric: 0,
            is_ours: message.header.protocol == PROTOCOL,
        };
        for attribute in message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                    route.destination = address;
                }
                RouteAttribute::Oif(index) => route.output = Some(index),
                RouteAttribute::PrefSource(RouteAddress::Inet(address)) => {
                    route.source = Some(address);
                }
                RouteAttribute::Priority(metric) => route.metric = metric,
                RouteAttribute::MultiPath(hops) => {
                    route.output = hops.first().map(|hop| hop.interface_index);
                }
                _ => {} // Nothing else decides where a packet leaves.
            }
        }
        routes.push(route);
    }
    Ok(routes)
}

/// A global IPv4 address of a link; primary ones come first, as the kernel lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    pub address: Ipv4Addr,
}

pub fn addresses(socket: &mut Socket) -> io::Result<Vec<Address>> {
    let mut question = AddressMessage::default();
    question.header.family = AddressFamily::Inet;
    let mut addresses = Vec::new();
    for reply in socket.dump(GET_ADDRESS, &emit(&question))? {
        let message = parse::<AddressMessage>(&reply)?;
        let link = message.header.index;
        for attribute in message.attributes {
            if let AddressAttribute::Local(IpAddr::V4(address)) = attribute
                && !address.is_loopback()
                && !address.is_link_local()
            {
                addresses.push(Address { link, address });
            }
        }
    }
    Ok(addresses)
}

fn emit(message: &impl Emitable) -> Vec<u8> {
    let mut payload = vec![0; message.buffer_len()];
    message.emit(&mut payload);
    payload
}

fn parse<T: Parseable<[u8]>>(reply: &[u8]) -> io::Result<T> {
    T::parse(reply).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}
