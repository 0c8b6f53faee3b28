//! Flows that policies have come to deny, and datagrams that are led elsewhere now: the kernel forgets them, beside the
//! owner's thread.
//!
//! Rules decide what begins; what has begun passes until connection tracking has forgotten it. To find it takes a walk through all of
//! the kernel's table, some ten milliseconds however few flows there are. A thread of its own walks, so that no
//! change waits for the ends of another; those asked for meanwhile share the next walk. Where the daemon dies in between, the
//! next one's first plan owes the ends of everything that it denies, and its start those of what ports of the host led elsewhere.
//!
//! Whoever changes where datagrams are led is answered after the walk that found those that went there before (`led`): an
//! endpoint that is out gets none any more. When a walk fails they are told, and what they owed stays owed.
//!
//! Policies may change again meanwhile. So a flow is judged after the walk that found it, by the policies in force and by
//! those that are just being put in force: what either allows may have begun under it, and goes on. It decides
//! nothing about rules: what they have to know of ended flows is asked of their owner.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::Command;
use super::led::{Led, Wrong};
use crate::model::cidr::Cidr;
use crate::net::names::{PROBE_MARK, PROXY_MARK};
use crate::net::part;
use crate::net::policy::{Asked, Flow, World, explain};
use crate::net::ruleset::{Element, Field};
use crate::net::{NetError, Protocol, conntrack, nfnetlink, step};

/// After a walk, so that walks take half of the time at most; and never longer, so that a flow that is denied just now ends soon.
const PAUSE: Duration = Duration::from_millis(50);
/// After a failure, and twice as long after the next.
const FIRST_AGAIN: Duration = Duration::from_millis(50);
const LAST_AGAIN: Duration = Duration::from_secs(5);

/// Tells when flows are over that a plan denies.
#[derive(Debug, Clone)]
pub struct Ended {
    done: watch::Receiver<u64>,
    number: u64,
}

impl Ended {
    /// Waits until they are; false when the network has ended before.
    pub async fn wait(&mut self) -> bool {
        self.done.wait_for(|done| *done >= self.number).await.is_ok()
    }
}

/// Ends its thread when it is dropped.
pub struct Ender {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Shared {
    services: Cidr,
    /// Short sections only.
    state: Mutex<State>,
    changed: Condvar,
    /// The last request that is carried out, and with it all before.
    done: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    worlds: Worlds,
    led: Led,
    /// The last request,
    owed: u64,
    /// and the last that is about policies.
    denials: u64,
    /// Who is told when a request is carried out, or has failed. Each has sent the owner a command and waits, so that there
    /// are not many.
    waiting: Vec<(u64, Waiting)>,
    is_over: bool,
}

type Waiting = Box<dyn FnOnce(Result<(), NetError>) + Send>;

impl State {
    fn owe(&mut self) -> u64 {
        self.owed += 1;
        self.owed
    }
}

/// What rules in the kernel may follow.
#[derive(Clone, Default)]
struct Worlds {
    in_force: Arc<World>,
    /// Until it is known to be in force.
    coming: Option<Arc<World>>,
}

impl Worlds {
    /// Whether no flow like this can have begun under any of them.
    fn deny(&self, flow: &conntrack::Flow) -> bool {
        let asked = Flow {
            source: flow.from.into(),
            destination: flow.answered_by.into(),
            asked: asked(flow),
        };
        let mut worlds = [Some(&self.in_force), self.coming.as_ref()].into_iter().flatten();
        ![PROBE_MARK, PROXY_MARK].contains(&flow.mark)
            && worlds.all(|world| !explain(world, asked).is_allowed())
    }
}

impl Ender {
    /// Begins, with nothing in force and nothing to do. What the rules have to know goes through `commands`.
    pub fn start(commands: mpsc::WeakSender<Command>, services: Cidr) -> io::Result<Ender> {
        let shared = Arc::new(Shared {
            services,
            state: Mutex::default(),
            changed: Condvar::new(),
            done: watch::Sender::default(),
        });
        let also = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("joey-ends".to_owned())
            .spawn(move || work(&also, &commands))?;
        Ok(Ender { shared, thread: Some(thread) })
    }

    /// From now on flows may begin that `world` allows. To be said before the rules change.
    pub fn expect(&self, world: &Arc<World>) {
        self.shared.state().worlds.coming = Some(Arc::clone(world));
    }

    /// No flow begins any more but what `world` allows.
    pub fn enforce(&self, world: &Arc<World>) {
        self.shared.state().worlds = Worlds { in_force: Arc::clone(world), coming: None };
    }

    /// Has flows ended that the policies in force deny.
    pub fn owe(&self) {
        let mut state = self.shared.state();
        state.denials = state.owe();
        drop(state);
        self.shared.changed.notify_all();
    }

    /// From now on datagrams may be led there. To be said before the rules change.
    pub fn expect_flows(&self, new: &BTreeSet<part::Flow>) {
        self.shared.state().led.expect(new);
    }

    /// Datagrams are led to these now, and nowhere else; those that went elsewhere follow.
    pub fn lead_all(&self, flows: &BTreeSet<part::Flow>) {
        let gone = self.shared.state().led.beside(flows);
        self.lead(&gone, flows);
    }

    /// Datagrams are led to `new`, and to `gone` no more; those that went there follow.
    pub fn lead(&self, gone: &BTreeSet<part::Flow>, new: &BTreeSet<part::Flow>) {
        self.shared.state().led.change(gone, new);
        self.forget(Wrong::Gone(gone.clone()));
    }

    /// Datagrams through the ports of the pod's lease, if it has any, follow.
    pub fn forget_lease(&self, wrong: Wrong) {
        let (Wrong::Came(lease) | Wrong::Left(lease)) = &wrong else {
            return;
        };
        if lease.connectionless().next().is_some() {
            self.forget(wrong);
        }
    }

    fn forget(&self, wrong: Wrong) {
        let mut state = self.shared.state();
        let request = state.owe();
        state.led.owe(request, wrong);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Tells when datagrams follow all that was said, which may be now, or that it has failed for the moment.
    pub fn once_led(&self, tell: impl FnOnce(Result<(), NetError>) + Send + 'static) {
        let mut state = self.shared.state();
        match state.led.owes() {
            Some(request) => state.waiting.push((request, Box::new(tell))),
            None => {
                drop(state);
                tell(Ok(()));
            }
        }
    }

    /// When all is done that is owed now.
    pub fn ended(&self) -> Ended {
        Ended { done: self.shared.done.subscribe(), number: self.shared.state().owed }
    }
}

impl Drop for Ender {
    /// Waits for a walk that is under way: whoever starts the network again judges flows by other policies.
    fn drop(&mut self) {
        self.shared.state().is_over = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that ends flows panicked");
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether flows are denied, as it is when the first one is judged: that is when the walk is over.
    fn judge(&self) -> impl Fn(&conntrack::Flow) -> bool {
        let worlds = OnceCell::new();
        move |flow| worlds.get_or_init(|| self.state().worlds.clone()).deny(flow)
    }

    /// Whether flows are led where they should not be, as it is when the first one is judged.
    fn judge_led(&self) -> impl Fn(&conntrack::Flow) -> bool {
        let judgement = OnceCell::new();
        move |flow| judgement.get_or_init(|| self.state().led.judge(self.services)).ends(flow)
    }

    /// Those who have waited for `request` or one before it.
    fn waited_for(&self, request: u64) -> Vec<Waiting> {
        let mut state = self.state();
        let is_told = |(other, _): &mut (u64, Waiting)| *other <= request;
        state.waiting.extract_if(.., is_told).map(|(_, tell)| tell).collect()
    }

    /// The last request once there is one; `None` at the end.
    fn next(&self) -> Option<u64> {
        let done = *self.done.borrow();
        let idle = |state: &mut State| state.owed <= done && !state.is_over;
        let state = self.changed.wait_while(self.state(), idle);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        (!state.is_over).then_some(state.owed)
    }

    /// For `pause`, unless it ends before.
    fn rest(&self, pause: Duration) {
        let state = self.changed.wait_timeout_while(self.state(), pause, |state| !state.is_over);
        drop(state.unwrap_or_else(PoisonError::into_inner));
    }
}

fn work(shared: &Shared, commands: &mpsc::WeakSender<Command>) {
    let mut again = FIRST_AGAIN;
    while let Some(number) = shared.next() {
        let begun = Instant::now();
        match walk(shared, commands) {
            Ok(ControlFlow::Continue(())) => {
                again = FIRST_AGAIN;
                shared.state().led.settle(number);
                shared.done.send_replace(number);
                shared.waited_for(number).into_iter().for_each(|tell| tell(Ok(())));
                shared.rest(begun.elapsed().min(PAUSE));
            }
            Ok(ControlFlow::Break(())) => return,
            Err(error) => {
                tracing::warn!(%error, "flows that are denied or led elsewhere have not ended; trying again in {again:?}");
                for tell in shared.waited_for(number) {
                    tell(Err(step("have datagrams follow")(&error)));
                }
                shared.rest(again);
                again = (again * 2).min(LAST_AGAIN);
            }
        }
    }
}

/// An answer of a denied flow would pass as the beginning of a new one where the rules did not ask for the first
/// packet of a connection (`policy::plan::Chain`), and where datagrams know no first one, for `skeleton::ENDED`; with
/// that, a flow that is forgotten here is over. Breaks off when the network has ended.
fn walk(
    shared: &Shared,
    commands: &mpsc::WeakSender<Command>,
) -> Result<ControlFlow<()>, NetError> {
    let asks_policies = shared.state().denials > *shared.done.borrow();
    let (denies, is_astray) = (shared.judge(), shared.judge_led());
    let is_denied = |flow: &conntrack::Flow| asks_policies && denies(flow);
    let mut socket = nfnetlink::open().map_err(step("open nfnetlink"))?;
    let over = conntrack::those(&mut socket, |flow| is_denied(flow) || is_astray(flow))
        .map_err(step("find flows that have to end"))?;
    let (denied, astray): (Vec<_>, Vec<_>) = over.into_iter().partition(is_denied);
    conntrack::forget_all(&mut socket, &astray)
        .map_err(step("end flows that are led elsewhere"))?;
    // Before they are forgotten: from then on an answer has no flow of its own any more.
    let late: Vec<Element> = denied.iter().filter_map(answer).collect();
    if !late.is_empty() {
        let (answer, answered) = oneshot::channel();
        let Some(owner) = commands.upgrade() else {
            return Ok(ControlFlow::Break(()));
        };
        // One that is not taken is not answered either.
        let _ = owner.blocking_send(Command::KeepOut { late, answer });
        drop(owner);
        match answered.blocking_recv() {
            Ok(outcome) => outcome?,
            Err(_) => return Ok(ControlFlow::Break(())),
        }
    }
    conntrack::forget_all(&mut socket, &denied).map_err(step("end flows that policies deny"))?;
    Ok(ControlFlow::Continue(()))
}

/// How answers of a flow without beginning or end look; those of TCP are told by their flags.
fn answer(flow: &conntrack::Flow) -> Option<Element> {
    let protocol = nfnetlink::protocol(flow.protocol).filter(|other| *other != Protocol::Tcp)?;
    Some(Element::member(vec![
        Field::Protocol(protocol),
        Field::Address(flow.answered_by.into()),
        Field::Port(flow.answered_at?),
        Field::Address(flow.answered_to.into()),
        Field::Port(flow.answered_to_port?),
    ]))
}

fn asked(flow: &conntrack::Flow) -> Asked {
    match (nfnetlink::protocol(flow.protocol), flow.answered_at, flow.icmp_type) {
        (Some(protocol), Some(port), _) => Asked::Port(protocol, port),
        (None, _, Some(8)) => Asked::Echo,
        (Some(_) | None, _, _) => Asked::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use serde_json::json;

    use super::*;
    use crate::net::policy::tests::{Cluster, policy};
    use crate::net::policy::{Labels, Nature, Pod};

    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 2);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 3);

    /// Two pods, and whether they may talk.
    fn world(is_open: bool) -> Arc<World> {
        let pods = [("client", CLIENT), ("server", SERVER)];
        let pods = pods.map(|(name, address)| Pod {
            namespace: "x".to_owned(),
            name: name.to_owned(),
            labels: Labels::new(),
            addresses: vec![address.into()],
            ports: Default::default(),
            nature: Nature::Pod,
        });
        let shut = policy("x", "shut", json!({"podSelector": {}}));
        let cluster = Cluster {
            policies: if is_open { Vec::new() } else { vec![shut] },
            namespaces: [("x".to_owned(), Labels::new())].into(),
            pods: pods.into(),
        };
        cluster.world().into()
    }

    fn shared() -> Shared {
        Shared {
            services: "10.43.0.0/16".parse().unwrap(),
            state: Mutex::default(),
            changed: Condvar::new(),
            done: watch::Sender::default(),
        }
    }

    #[test]
    fn a_flow_is_denied_when_all_that_it_may_have_begun_under_deny_it() {
        let flow = conntrack::Flow::tcp(CLIENT, SERVER, 80);
        for (in_force, coming, is_denied) in [
            (false, None, true),
            (true, None, false),
            (false, Some(false), true),
            (false, Some(true), false),
            (true, Some(false), false),
        ] {
            let worlds = Worlds { in_force: world(in_force), coming: coming.map(world) };
            assert_eq!(worlds.deny(&flow), is_denied, "{in_force} {coming:?}");
        }
        let mut spared = flow;
        spared.mark = PROBE_MARK;
        assert!(!Worlds { in_force: world(false), coming: None }.deny(&spared));
    }

    #[test]
    fn what_begins_during_the_walk_is_judged_by_what_let_it_in() {
        let flow = conntrack::Flow::tcp(CLIENT, SERVER, 80);
        let shared = shared();
        shared.state().worlds.in_force = world(false);
        let judge = shared.judge();
        // The walk goes on meanwhile, and meets the flow that has begun.
        shared.state().worlds.in_force = world(true);
        assert!(!judge(&flow));
        // Another one's judgement is of its own time.
        shared.state().worlds.in_force = world(false);
        assert!(shared.judge()(&flow));
        assert!(!judge(&flow), "one walk has one judgement");
    }
}
