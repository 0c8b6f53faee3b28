//! Mixed operations while the daemon is killed at random moments.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::scene::{
    BACKEND, Chance, Identity, WRITER, held, identities, is_long, pod, start, wait_held,
};

/// A kept-alive HTTP connection to a pod.
struct Conversation(BufReader<TcpStream>);

impl Conversation {
    fn open(address: &str) -> Conversation {
        let stream = TcpStream::connect((address, 80)).expect("the pod can be reached");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
        Conversation(BufReader::new(stream))
    }

    /// One more request on the same connection.
    #[track_caller]
    fn ask(&mut self) {
        let request = b"GET / HTTP/1.1\r\nHost: pod\r\n\r\n";
        self.0.get_mut().write_all(request).expect("the connection takes a request");
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            self.0.read_line(&mut line).expect("the connection answers");
            assert!(!line.is_empty(), "the connection was closed");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length is a number");
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("the body comes");
        assert!(body.starts_with(b"kangaroo-backend 1.14.2"), "{}", String::from_utf8_lossy(&body));
    }
}

/// One thing that a user does. Every one of them may be done again.
#[derive(Debug, Clone)]
enum Deed {
    Create(String),
    Delete(String),
    Exec(String),
    Patch(String, usize),
    Logs(String),
}

impl Deed {
    fn args(&self) -> Vec<String> {
        let args: &[&str] = match self {
            Deed::Create(_) => &["apply", "-f", "-"],
            Deed::Delete(name) => &["delete", "pod", name, "--ignore-not-found", "--wait=false"],
            Deed::Exec(name) => &["exec", name, "--", "/bin/bash", "-c", "echo inside; exit 7"],
            Deed::Patch(name, step) => {
                &["label", "pod", name, "--overwrite", &format!("step={step}")]
            }
            Deed::Logs(name) => &["logs", name],
        };
        args.iter().map(|arg| (*arg).to_owned()).collect()
    }

    fn begin(&self, cluster: &Cluster) -> Child {
        let mut child = cluster
            .kubectl_command()
            .args(self.args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl can run");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        if let Deed::Create(name) = self {
            stdin.write_all(pod(name, "Always", WRITER).as_bytes()).expect("kubectl reads");
        }
        child
    }

    /// Whether the operation did what it is for.
    fn has_succeeded(&self, child: Child) -> Result<(), String> {
        let output = child.wait_with_output().expect("kubectl can be waited for");
        let stdout = String::from_utf8_lossy(&output.stdout);
        let good = match self {
            Deed::Exec(_) => stdout == "inside\n" && output.status.code() == Some(7),
            Deed::Logs(_) => {
                output.status.success() && {
                    count_lines(&stdout);
                    true
                }
            }
            Deed::Create(_) | Deed::Delete(_) | Deed::Patch(..) => output.status.success(),
        };
        match good {
            true => Ok(()),
            false => Err(format!("{stdout}{}", String::from_utf8_lossy(&output.stderr))),
        }
    }
}

/// A writer's lines are numbered from 0 without a gap or a repetition; returns how many there are.
#[track_caller]
pub fn count_lines(log: &str) -> usize {
    let lines = log.lines().enumerate();
    lines.map(|(number, line)| assert_eq!(line, format!("line {number}"))).count()
}

struct Play {
    cluster: Cluster,
    chance: Chance,
    /// Pods that come and go, with their last label.
    extras: BTreeMap<String, usize>,
    /// Every pod as it was when first seen Ready.
    known: BTreeMap<String, Identity>,
    created: usize,
    most: usize,
}

const WRITERS: [&str; 3] = ["writer-0", "writer-1", "writer-2"];

impl Play {
    fn choose(&mut self, step: usize) -> Deed {
        let extras: Vec<String> = self.extras.keys().cloned().collect();
        let ready: Vec<String> =
            self.known.keys().filter(|n| self.extras.contains_key(*n)).cloned().collect();
        let mut someone = WRITERS.map(str::to_owned).to_vec();
        someone.extend(ready);
        let someone = someone.swap_remove(self.chance.below(someone.len()));
        match self.chance.below(10) {
            0..4 if extras.len() < self.most => {
                self.created += 1;
                Deed::Create(format!("extra-{}", self.created))
            }
            0..5 if !extras.is_empty() => {
                Deed::Delete(extras[self.chance.below(extras.len())].clone())
            }
            5 | 6 => Deed::Exec(someone),
            7 if !extras.is_empty() => {
                Deed::Patch(extras[self.chance.below(extras.len())].clone(), step)
            }
            _ => Deed::Logs(someone),
        }
    }

    fn note(&mut self, deed: &Deed) {
        match deed {
            Deed::Create(name) => {
                self.extras.insert(name.clone(), 0);
            }
            Deed::Delete(name) => {
                self.extras.remove(name);
                self.known.remove(name);
            }
            Deed::Patch(name, step) => {
                self.extras.insert(name.clone(), *step);
            }
            Deed::Exec(_) | Deed::Logs(_) => {}
        }
    }

    /// Nobody who was Ready has changed, whatever happened to the daemon.
    #[track_caller]
    fn compare(&mut self) {
        let seen = identities(&self.cluster);
        for (name, before) in &self.known {
            let Some(now) = seen.get(name) else {
                panic!("{name} is not Ready any more\n{}", self.cluster.daemon_log())
            };
            // An exec that has not ended yet may be there as well.
            assert!(
                before.processes.is_subset(&now.processes),
                "{name}: {before:?}\n{now:?}\n{}",
                self.cluster.daemon_log()
            );
            let now = Identity { processes: before.processes.clone(), ..now.clone() };
            assert_eq!(*before, now, "{name}\n{}", self.cluster.daemon_log());
        }
        let expected =
            |name: &String| self.extras.contains_key(name) || !name.starts_with("extra-");
        let news: Vec<_> =
            seen.into_iter().filter(|(name, _)| !self.known.contains_key(name)).collect();
        for (name, identity) in news {
            assert!(expected(&name), "{name} was deleted, and runs");
            assert_eq!(identity.restarts, 0, "{name} was restarted\n{}", self.cluster.daemon_log());
            self.known.insert(name, identity);
        }
    }
}

#[test]
fn daemons_killed_at_random_are_not_noticed() {
    let (deeds, kills, most) = if is_long() { (1000, 130, 44) } else { (300, 40, 14) };
    let (mut cluster, _) = start("mixed");
    cluster.apply(BACKEND).ok();
    for name in WRITERS {
        cluster.apply(&pod(name, "Always", WRITER)).ok();
    }
    let listen = "mkfifo /tmp/never; exec nc -l -p 9000 0<>/tmp/never";
    cluster.apply(&pod("listener", "Always", listen)).ok();
    cluster.wait_running("listener");
    cluster.wait_for("the listener listens", |cluster| {
        // Port 9000.
        cluster
            .kubectl(&["exec", "listener", "--", "cat", "/proc/net/tcp", "/proc/net/tcp6"])
            .stdout
            .contains(":2328 ")
    });
    let listener = cluster.value("pod/listener", "{.status.podIP}");
    let talk = format!("({WRITER}) | nc {listener} 9000; exit 1");
    cluster.apply(&pod("talker", "Always", &talk)).ok();
    for name in ["kangaroo-backend", "talker"].iter().chain(&WRITERS) {
        cluster.wait_running(name);
    }
    cluster.wait_for("the talker is heard", |cluster| {
        cluster.kubectl(&["logs", "listener"]).stdout.contains("line 1\n")
    });
    cluster.wait_for("writers write", |cluster| {
        WRITERS.iter().all(|name| cluster.kubectl(&["logs", name]).stdout.contains("line 1\n"))
    });
    let address = cluster.value("pod/kangaroo-backend", "{.status.podIP}");
    let mut conversation = Conversation::open(&address);
    conversation.ask();
    let before = held(&cluster);

    let mut play = Play {
        cluster,
        chance: Chance::new(),
        extras: BTreeMap::new(),
        known: BTreeMap::new(),
        created: 0,
        most,
    };
    let mut fatal = BTreeSet::new();
    while fatal.len() < kills {
        fatal.insert(play.chance.below(deeds));
    }
    play.compare();
    for step in 0..deeds {
        let deed = play.choose(step);
        let mut child = deed.begin(&play.cluster);
        let is_fatal = fatal.contains(&step);
        if is_fatal {
            // When in the operation it dies is what the seed decides; nothing waits for this.
            let delay = Duration::from_millis(play.chance.below(400) as u64);
            std::thread::park_timeout(delay);
            play.cluster.kill_daemon();
            conversation.ask();
            let end = Instant::now() + Duration::from_secs(30);
            while child.try_wait().expect("kubectl can be waited for").is_none() {
                assert!(Instant::now() < end, "{deed:?} hangs after the daemon was killed");
                std::thread::park_timeout(Duration::from_millis(10));
            }
            play.cluster.start_daemon();
            child = deed.begin(&play.cluster);
        }
        if let Err(error) = deed.has_succeeded(child) {
            panic!("step {step}, {deed:?}: {error}\n{}", play.cluster.daemon_log());
        }
        play.note(&deed);
        if is_fatal || step % 10 == 9 {
            conversation.ask();
            play.compare();
        }
    }

    let extras: Vec<String> = play.extras.keys().cloned().collect();
    for name in &extras {
        play.cluster.wait_running(name);
    }
    play.compare();
    for (name, step) in &play.extras {
        let label = play.cluster.value(&format!("pod/{name}"), "{.metadata.labels.step}");
        assert_eq!(label, step.to_string(), "{name}");
    }
    for name in WRITERS.map(str::to_owned).iter().chain(&extras) {
        let lines = count_lines(&play.cluster.kubectl(&["logs", name]).ok());
        assert!(lines > 0, "{name} has written nothing");
    }
    // A connection between two pods, too, has lived through it all.
    let heard = count_lines(&play.cluster.kubectl(&["logs", "listener"]).ok());
    let one_more = format!("line {}\n", heard + 1);
    play.cluster.wait_for("the talker is still heard", |cluster| {
        cluster.kubectl(&["logs", "listener"]).stdout.contains(&one_more)
    });
    for name in &extras {
        crate::scene::delete(&mut play.cluster, name);
    }
    wait_held(&mut play.cluster, &before);
    play.cluster.finish();
}
