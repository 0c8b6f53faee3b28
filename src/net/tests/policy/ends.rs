//! Ends of denied flows come soon and for all of them, however many changes follow each other meanwhile.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};

use serde_json::json;

use super::scene::Scene;
use super::{is_silent, labels, rounds, seed};
use crate::net::Attached;
use crate::net::policy::tests::{Random, policy};
use crate::net::tests::machine::*;

const SERVERS: usize = 4;

/// A connection, and whether any of the policies since it began has denied it.
struct Flow {
    ends: [TcpStream; 2],
    was_denied: bool,
}

/// A client and servers, each of which a policy of its own shuts or does not.
struct Doors {
    scene: Scene,
    client: Attached,
    servers: Vec<(Attached, TcpListener)>,
    is_shut: [bool; SERVERS],
    flows: BTreeMap<usize, Flow>,
}

impl Doors {
    async fn new() -> Doors {
        let mut scene = Scene::start().await;
        scene.namespace("x", Default::default());
        let client = scene.pod("x", "client", labels("client")).await;
        let mut servers = Vec::new();
        for number in 0..SERVERS {
            let name = format!("server-{number}");
            let server = scene.pod("x", &name, labels(&name)).await;
            let listener = listen(&server, 80);
            servers.push((server, listener));
        }
        Doors { scene, client, servers, is_shut: [false; SERVERS], flows: BTreeMap::new() }
    }

    fn turn(&mut self, number: usize) {
        self.is_shut[number] ^= true;
        let shut = (0..SERVERS).filter(|number| self.is_shut[*number]).map(|number| {
            let name = format!("server-{number}");
            let spec = json!({"podSelector": {"matchLabels": {"app": name}}});
            policy("x", &name, spec)
        });
        self.scene.policies = shut.collect();
    }

    /// What the policies that are in force say of flows that run.
    fn judge(&mut self) {
        for (number, flow) in &mut self.flows {
            flow.was_denied |= self.is_shut[*number];
        }
    }

    /// Begins a flow wherever none runs and one may.
    fn connect(&mut self) {
        for (number, (server, listener)) in self.servers.iter().enumerate() {
            if self.is_shut[number] || self.flows.contains_key(&number) {
                continue;
            }
            let to = SocketAddr::new(server.address, 80);
            let client = inside(&self.client, || connect(to)).unwrap();
            let (served, _) = listener.accept().unwrap();
            let flow = Flow { ends: [client, served], was_denied: false };
            self.flows.insert(number, flow);
        }
    }
}

/// The policies of a moment decide what becomes of a flow, and not those by which somebody else's was being ended.
#[test]
fn changes_that_follow_each_other_end_what_they_deny_and_nothing_else() {
    on_a_host(|_| async {
        let mut random = Random::new(seed());
        let mut doors = Doors::new().await;
        let (mut spared, mut ended) = (0, 0);
        for round in 0..rounds(30, 500) {
            doors.connect();
            let mut over = doors.scene.enforce_at_once().await;
            for _ in 0..1 + random.below(4) {
                doors.turn(random.below(SERVERS));
                over = doors.scene.enforce_at_once().await;
                doors.judge();
                // While flows are being ended others begin.
                doors.connect();
            }
            assert!(over.wait().await);
            let Doors { flows, is_shut, .. } = &mut doors;
            flows.retain(|number, flow| {
                let [client, served] = &mut flow.ends;
                if is_shut[*number] {
                    assert!(is_silent(served, client), "round {round}: {number} still speaks");
                    ended += 1;
                } else if !flow.was_denied {
                    say(client, served).unwrap_or_else(|error| {
                        panic!("round {round}: {number} was never denied: {error}")
                    });
                    spared += 1;
                }
                // What was denied for a moment may have ended, or not.
                !flow.was_denied && !is_shut[*number]
            });
        }
        println!("{ended} ended, {spared} spared");
        assert!(ended > 0 && spared > 0);
    });
}

/// Policies change while nobody is there to end what they deny: the next daemon's first plan owes it.
#[test]
fn a_flow_that_nobody_was_there_to_end_ends_with_the_next_daemons_first_plan() {
    on_a_host(|_| async {
        let mut doors = Doors::new().await;
        for _ in 0..rounds(3, 50) {
            doors.connect();
            doors.scene.enforce().await;
            doors.scene = doors.scene.restart().await;
            doors.turn(0);
            doors.scene.enforce().await;
            let mut flow = doors.flows.remove(&0).unwrap();
            let [client, served] = &mut flow.ends;
            assert!(is_silent(served, client) && is_silent(client, served));
            for flow in doors.flows.values_mut() {
                let [client, served] = &mut flow.ends;
                say(client, served).unwrap();
            }
            doors.turn(0);
            doors.scene.enforce().await;
        }
    });
}
