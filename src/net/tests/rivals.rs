//! Statement 34: others write at the same time, and the kernel loses what it wanted to tell. What is not whole is done
//! again from what stands there, and nothing is ever in force by halves.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Command as Program, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use super::guard::{cluster, is_answered};
use super::machine::*;
use super::policy::scene::Scene;
use super::policy::{labels, rounds};
use crate::net::owner::Owner;
use crate::net::program::{Declaration, Kind};
use crate::net::ruleset::{Element, ElementChanges, Elements, Field};
use crate::net::{Attached, netlink, nfnetlink};

/// Another program that changes the rules as long as it lives, as fast as the kernel lets it.
struct Rival {
    is_over: Arc<AtomicBool>,
    writes: Option<thread::JoinHandle<usize>>,
}

impl Rival {
    fn begin(mut write: impl FnMut() + Send + 'static) -> Rival {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let writes = thread::spawn(move || {
            let mut count = 0;
            while !over.load(Ordering::SeqCst) {
                write();
                count += 1;
            }
            count
        });
        Rival { is_over, writes: Some(writes) }
    }

    fn end(mut self) -> usize {
        self.is_over.store(true, Ordering::SeqCst);
        self.writes.take().unwrap().join().unwrap()
    }
}

impl Drop for Rival {
    /// Also when the test has failed.
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
    }
}

fn addresses(count: u32) -> Elements {
    let first = Ipv4Addr::new(198, 18, 0, 0).to_bits();
    let member =
        |number| Element::member(vec![Field::Address(Ipv4Addr::from_bits(first + number).into())]);
    Elements::from([("addresses".into(), (0..count).map(member).collect::<BTreeSet<_>>())])
}

/// In goes a set of the rival's own, and out.
fn in_and_out() -> impl FnMut() + Send + 'static {
    let mut socket = nfnetlink::open().unwrap();
    let (one, none) = (addresses(1), Elements::new);
    move || {
        let add = ElementChanges { add: one.clone(), remove: none() };
        let remove = ElementChanges { add: none(), remove: one.clone() };
        for changes in [&add, &remove] {
            nfnetlink::apply(&mut socket, "rival", changes).unwrap();
        }
    }
}

const RIVALS_SET: &str =
    "nft 'add table inet rival; add set inet rival addresses { type ipv4_addr; }'";

/// A client and its servers, the first of which ignores it.
struct Talk {
    client: Attached,
    denied: UdpSocket,
    allowed: UdpSocket,
}

impl Talk {
    async fn begin(scene: &mut Scene) -> Talk {
        let [client, denied, allowed] = cluster(scene).await;
        Talk { denied: bound(&denied, 80), allowed: bound(&allowed, 80), client }
    }

    fn check(&self, when: &str) {
        assert!(is_answered(&self.client, &self.allowed), "{when}: what is allowed");
        assert!(!is_answered(&self.client, &self.denied), "{when}: what is denied");
    }
}

#[test]
fn a_rival_that_never_stops_writing_keeps_nothing_from_being_in_force() {
    on_a_host(|_| async {
        sh(RIVALS_SET);
        let rival = Rival::begin(in_and_out());
        let mut scene = Scene::start().await;
        let talk = Talk::begin(&mut scene).await;
        for round in 0..rounds(3, 30) {
            let pod = format!("pod-{round}");
            scene.pod("x", &pod, labels("other")).await;
            scene.serve().await;
            talk.check(&pod);
            scene.remove("x", &pod).await;
            scene = scene.restart().await;
            scene.enforce().await;
            talk.check("started again");
        }
        sh("nft delete table inet joey_abc123");
        eventually("the rules are put back", || is_answered(&talk.client, &talk.allowed));
        talk.check("put back");
        println!("{} transactions of the rival", 2 * rival.end());
    });
}

/// What a repair was compiled from has gone by the time it is written.
#[test]
fn a_rival_that_deletes_our_table_again_and_again_leaves_it_whole() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        let talk = Talk::begin(&mut scene).await;
        let rival =
            Rival::begin(|| drop(sh("nft delete table inet joey_abc123 2>/dev/null || true")));
        let mut restored = scene.network.restored();
        for _ in 0..rounds(3, 50) {
            restored.mark_unchanged();
            // However long that takes where the rival is faster.
            let repair = tokio::time::timeout(Duration::from_secs(60), restored.changed());
            repair.await.expect("it is put back again and again").unwrap();
        }
        println!("{} deletions", rival.end());
        eventually("the last repair", || is_answered(&talk.client, &talk.allowed));
        talk.check("at the end");
        scene = scene.restart().await;
        scene.enforce().await;
        talk.check("started again");
    });
}

/// A program that lets nobody else change the table that it has put in the place of ours (`NFT_TABLE_F_OWNER`). When it
/// ends, the kernel removes the table without telling anybody.
struct Keeper(Child);

impl Keeper {
    fn begin() -> Keeper {
        let mut nft = Program::new("nft");
        let nft = nft.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut keeper = Keeper(nft.unwrap());
        let takes = "delete table inet joey_abc123; add table inet joey_abc123 { flags owner; }\n";
        keeper.0.stdin.as_mut().unwrap().write_all(takes.as_bytes()).unwrap();
        keeper
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

/// Waits until the table is found to be broken, or not to be any more.
async fn broken(scene: &Scene, is_broken: bool) -> Option<String> {
    let mut broken = scene.network.broken();
    let change = broken.wait_for(|reason| reason.is_some() == is_broken);
    let change = tokio::time::timeout(Duration::from_secs(60), change).await;
    change.expect("it is told").unwrap().clone()
}

#[test]
fn what_cannot_be_put_back_is_put_back_when_it_can() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        let talk = Talk::begin(&mut scene).await;
        let mut restored = scene.network.restored();
        let keeper = Keeper::begin();
        println!("{:?}", broken(&scene, true).await);
        for server in [&talk.allowed, &talk.denied] {
            assert!(!is_answered(&talk.client, server), "{server:?} is reached without rules");
        }
        drop(keeper);
        broken(&scene, false).await;
        talk.check("put back");
        assert!(restored.has_changed().unwrap());
        assert_eq!(*restored.borrow_and_update(), 1, "told once");
    });
}

/// A set cannot be declared anew while the other one is there.
#[test]
fn a_table_that_cannot_become_ours_is_replaced() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        let talk = Talk::begin(&mut scene).await;
        let other = "delete table inet joey_abc123; add table inet joey_abc123;
            add set inet joey_abc123 sources { type ipv4_addr; };
            add chain inet joey_abc123 guard_hook { type filter hook input priority 0; }";
        let mut restored = scene.network.restored();
        sh(&format!("nft '{other}'"));
        let repair = tokio::time::timeout(Duration::from_secs(60), restored.changed());
        repair.await.expect("it is put back").unwrap();
        talk.check("put back");
        scene = scene.restart().await;
        scene.enforce().await;
        talk.check("started again");
    });
}

/// The daemon begins, and what it has just read is not there any more.
#[test]
fn a_start_amid_deletions_of_its_table_succeeds() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        let talk = Talk::begin(&mut scene).await;
        for _ in 0..rounds(3, 30) {
            let stopped = scene.stop();
            let mut left = 2;
            let rival = Rival::begin(move || {
                let is_there = "nft list table inet joey_abc123 >/dev/null 2>&1";
                if left > 0 && sh(&format!("{is_there} && echo yes || true")) == "yes\n" {
                    left -= 1;
                    sh("nft delete table inet joey_abc123 2>/dev/null || true");
                }
            });
            scene = stopped.begin().await;
            rival.end();
            scene.enforce().await;
            eventually("all is in force", || is_answered(&talk.client, &talk.allowed));
            talk.check("after a start");
        }
    });
}

#[test]
fn what_a_small_socket_loses_is_made_up_for() {
    on_a_host(|_| async {
        std::fs::write(netlink::NARROW, "").unwrap();
        let mut scene = Scene::start().await;
        let talk = Talk::begin(&mut scene).await;
        talk.check("at first");
        // More than the listener may hold, and in the middle of it our table is another, with as much in it as before.
        let map = sh("nft list map inet joey_abc123 policy_ingress4");
        let denied = talk.denied.local_addr().unwrap().ip().to_string();
        let is_of = |line: &&str| line.contains(&format!("{denied} : goto"));
        let lines = map.replace("elements = {", "").replace([',', '}'], "\n");
        let shut = lines.lines().find(is_of).unwrap_or_else(|| panic!("{denied} in {map}")).trim();
        let mut transaction = String::from("add table inet rival\n");
        for number in 0..500 {
            writeln!(transaction, "add chain inet rival c{number}").unwrap();
        }
        writeln!(transaction, "delete element inet joey_abc123 policy_ingress4 {{ {denied} }}")
            .unwrap();
        writeln!(
            transaction,
            "add element inet joey_abc123 policy_ingress4 {{ {denied} : goto policy_open }}"
        )
        .unwrap();
        for number in 500..1000 {
            writeln!(transaction, "add chain inet rival c{number}").unwrap();
        }
        std::fs::write("/tmp/rival.nft", transaction).unwrap();
        sh("nft -f /tmp/rival.nft");
        eventually("the policy holds again", || {
            sh("nft list map inet joey_abc123 policy_ingress4").contains(shut)
        });
        talk.check("after the loss");
        // And it ends: a repair whose own notices are lost is not repaired again for ever.
        scene.policies.clear();
        scene.enforce().await;
        assert!(is_answered(&talk.client, &talk.denied), "nothing is denied any more");
        scene = scene.restart().await;
        scene.enforce().await;
        assert!(is_answered(&talk.client, &talk.denied));
        scene.serve().await;
        scene.pod("x", "late", labels("late")).await;
        scene.remove("x", "late").await;
    });
}

#[test]
fn as_many_members_as_there_are_fit_through_a_small_socket() {
    on_a_host(|_| async {
        std::fs::write(netlink::NARROW, "").unwrap();
        sh(RIVALS_SET);
        let mut socket = nfnetlink::open().unwrap();
        let declaration = Declaration::set(vec![Kind::Address]);
        let count = |socket: &mut netlink::Socket| {
            nfnetlink::list(socket, "rival", "addresses", &declaration).unwrap().len()
        };
        let many = addresses(100_000);
        let add = ElementChanges { add: many.clone(), remove: Elements::new() };
        nfnetlink::apply(&mut socket, "rival", &add).unwrap();
        assert_eq!(count(&mut socket), 100_000);
        let mut wrong = ElementChanges { add: Elements::new(), remove: many.clone() };
        wrong.remove.insert("missing".into(), addresses(1).remove("addresses").unwrap());
        nfnetlink::apply(&mut socket, "rival", &wrong).unwrap_err();
        assert_eq!(count(&mut socket), 100_000, "nothing of it");
        // One that is missing already does not keep the others in.
        sh("nft delete element inet rival addresses { 198.18.0.7 }");
        nfnetlink::remove(&mut socket, "rival", &many).unwrap();
        assert_eq!(count(&mut socket), 0);
    });
}

/// The kernel cuts a list short when something changes meanwhile: then it is read anew, from the beginning.
#[test]
fn a_list_that_is_read_while_others_write_is_whole_or_an_error() {
    const GET_CHAINS: u16 = 10 << 8 | 4;
    const CHAINS: usize = 2000;
    on_a_host(|_| async {
        sh(RIVALS_SET);
        let chains: String =
            (0..CHAINS).map(|number| format!("add chain inet rival c{number}\n")).collect();
        std::fs::write("/tmp/rival.nft", chains).unwrap();
        sh("nft -f /tmp/rival.nft");
        let mut socket = nfnetlink::open().unwrap();
        let rival = Rival::begin(in_and_out());
        let mut cut = 0;
        let tries = rounds(100, 1000);
        for _ in 0..tries {
            match socket.dump(GET_CHAINS, &[1, 0, 0, 0]) {
                Ok(listed) => assert_eq!(listed.len(), CHAINS),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(Errno::EINTR as i32), "{error}");
                    cut += 1;
                }
            }
        }
        println!("{cut} of {tries} cut amid {} transactions", 2 * rival.end());
        assert_eq!(socket.dump(GET_CHAINS, &[1, 0, 0, 0]).unwrap().len(), CHAINS);
    });
}

/// As much stands there as should, and it is something else.
#[test]
fn what_changed_unseen_is_written_again_and_that_once() {
    on_a_host(|_| async {
        let (commands, _inbox) = tokio::sync::mpsc::channel(64);
        let config = config("abc123", "10.42.0.0/16");
        let mut owner = Owner::start(&config, commands.downgrade()).unwrap();
        let listing = || sh("nft -s list chain inet joey_abc123 guard");
        let mut socket = nfnetlink::open().unwrap();
        let mut generation = || nfnetlink::generation(&mut socket).unwrap();
        let whole = listing();
        for _ in 0..2 {
            let accept = "; add rule inet joey_abc123 guard accept".repeat(5);
            sh(&format!("nft 'flush chain inet joey_abc123 guard{accept}'"));
            assert_ne!(listing(), whole);
            owner.changed(None);
            assert_eq!(listing(), whole);
            // What is lost next may be what this repair has told.
            let repaired = generation();
            owner.changed(None);
            assert_eq!(generation(), repaired);
        }
    });
}
