//! "Without downtime", counted from outside: no request through the Ingress is lost while versions roll, replicas come and
//! go, certificates, rules and policies are edited, and a pod is killed.
//!
//! On port 80 two clients keep connections and two do not; on 443 two speak HTTP/2, each over a connection of its own.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

use crate::autoscaling::DOOR;
use crate::cluster::Cluster;
use crate::deployment::{DEPLOYMENT, NAME, SELECTOR, roll_out};
use crate::load::{Aim, Load};
use crate::lossless::is_long;

const HTTP: &str = "127.0.0.1:80";
const HTTPS: &str = "127.0.0.1:443";
const HOST: &str = "kangaroo.example";
const PATIENCE: Duration = Duration::from_secs(10);
const PACE: Duration = Duration::from_millis(4);

/// Clients that speak HTTP/2 through TLS, and trust whatever stands in `trusted`.
struct Http2 {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    answered: AtomicUsize,
    connections: AtomicUsize,
    failed: Mutex<Vec<(Instant, String)>>,
}

impl Http2 {
    fn start(trusted: &[std::path::PathBuf]) -> Http2 {
        let shared = Arc::<Shared>::default();
        let mut roots = rustls::RootCertStore::empty();
        for path in trusted {
            let certificate = CertificateDer::from_pem_file(path).expect("a certificate");
            roots.add(certificate).expect("it can be trusted");
        }
        let threads = (0..2).map(|_| {
            let (shared, roots) = (shared.clone(), roots.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime can be built").block_on(shared.work(roots));
            })
        });
        Http2 { threads: threads.collect(), shared }
    }

    fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::Relaxed)
    }

    fn failed(&self) -> Vec<(Instant, String)> {
        self.shared.failed.lock().expect("nobody panics with it").clone()
    }

    fn end(self) -> Arc<Shared> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client does not panic");
        }
        self.shared
    }
}

impl Shared {
    async fn work(&self, roots: rustls::RootCertStore) {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().expect("versions");
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut kept: Option<(http2::SendRequest<Empty<Bytes>>, usize)> = None;
        while !self.is_over.load(Ordering::Relaxed) {
            tokio::time::sleep(PACE).await;
            let (mut sender, asked) =
                match kept.take().filter(|(sender, asked)| *asked < 100 && !sender.is_closed()) {
                    Some(kept) => kept,
                    None => match connect(&connector).await {
                        Ok(sender) => {
                            self.connections.fetch_add(1, Ordering::Relaxed);
                            (sender, 0)
                        }
                        Err(why) => {
                            self.fail(format!("connecting: {why}"));
                            continue;
                        }
                    },
                };
            let begun = Instant::now();
            match tokio::time::timeout(PATIENCE, ask(&mut sender)).await {
                Ok(Ok(())) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    kept = Some((sender, asked + 1));
                }
                Ok(Err(why)) => self.fail_since(begun, why),
                Err(_) => self.fail_since(begun, "no answer in 10 s".to_owned()),
            }
        }
    }

    fn fail(&self, why: String) {
        self.fail_since(Instant::now(), why);
    }

    fn fail_since(&self, begun: Instant, why: String) {
        self.failed.lock().expect("nobody panics with it").push((begun, why));
    }
}

async fn connect(
    connector: &tokio_rustls::TlsConnector,
) -> Result<http2::SendRequest<Empty<Bytes>>, String> {
    let stream = tokio::net::TcpStream::connect(HTTPS).await.map_err(|error| error.to_string())?;
    let name = ServerName::try_from(HOST).expect("a name");
    let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
    let made = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = made.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn ask(sender: &mut http2::SendRequest<Empty<Bytes>>) -> Result<(), String> {
    let request = http::Request::get(format!("https://{HOST}/api")).body(Empty::new());
    let request = request.expect("a request");
    sender.ready().await.map_err(|error| format!("not ready: {error}"))?;
    let answer = sender.send_request(request).await.map_err(|error| format!("{error:?}"))?;
    let status = answer.status();
    let body =
        answer.into_body().collect().await.map_err(|error| format!("in the body: {error:?}"))?;
    match status.as_u16() {
        200 => Ok(()),
        other => Err(format!("answered {other}: {}", String::from_utf8_lossy(&body.to_bytes()))),
    }
}

/// A self-signed certificate for [`HOST`], and its key.
fn certificate(cluster: &Cluster, name: &str) -> [std::path::PathBuf; 2] {
    let [crt, key] = ["crt", "key"].map(|end| cluster.dir.join(format!("{name}.{end}")));
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).expect("a certificate");
    fs::write(&crt, made.cert.pem()).expect("it can be written");
    fs::write(&key, made.signing_key.serialize_pem()).expect("its key can be written");
    [crt, key]
}

fn put_certificate(cluster: &Cluster, [crt, key]: &[std::path::PathBuf; 2]) {
    let (crt, key) = (crt.display().to_string(), key.display().to_string());
    let make = ["create", "secret", "tls", "door", "--dry-run=client", "-o", "yaml"];
    let files = [format!("--cert={crt}"), format!("--key={key}")];
    let args: Vec<&str> = make.iter().copied().chain(files.iter().map(String::as_str)).collect();
    let secret = cluster.kubectl(&args).ok();
    cluster.apply(&secret).ok();
}

const ALLOW: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-from-the-ingress}
spec:
  podSelector: {matchLabels: {app: kangaroo}}
  policyTypes: [Ingress]
  ingress:
  - from:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
      podSelector: {matchLabels: {app.kubernetes.io/name: joey-ingress}}
";

/// One line of the table: what was done, and what it cost.
struct Line {
    what: String,
    http1: usize,
    http2: usize,
    took: Duration,
}

#[test]
fn nothing_is_lost_on_the_way_from_outside() {
    let cluster = &mut Cluster::start("lossless-ingress");
    cluster.apply(DEPLOYMENT).ok();
    cluster.apply(DOOR).ok();
    let certificates = ["first", "second"].map(|name| certificate(cluster, name));
    put_certificate(cluster, &certificates[0]);
    let tls =
        format!("{{\"spec\":{{\"tls\":[{{\"hosts\":[\"{HOST}\"],\"secretName\":\"door\"}}]}}}}");
    cluster.kubectl(&["patch", "ingress", "minimal-ingress", "--type=merge", "-p", &tls]).ok();
    roll_out(cluster);
    let trusted = certificates.clone().map(|[crt, _]| crt);
    let is_served = |_: &mut Cluster| {
        let resolve = format!("{HOST}:443:127.0.0.1");
        let url = format!("https://{HOST}/api");
        let crt = trusted[0].display().to_string();
        let asked = Command::new("curl")
            .args(["-sf", "--cacert", &crt, "--resolve", &resolve, &url])
            .output();
        asked.expect("curl can run").status.success()
    };
    cluster.wait_for("it is served, with its certificate", is_served);
    let address: SocketAddr = HTTP.parse().expect("an address");
    let aim = Aim::Ingress { address, path: "/api" };
    let (load, http2) = (Load::start(cluster, &aim), Http2::start(&trusted));
    let mut table = Vec::new();
    let least = 150;
    let mut step = |cluster: &mut Cluster, what: &str, done: &mut dyn FnMut(&mut Cluster)| {
        let (begun, before) = (Instant::now(), (load.answered(), http2.answered()));
        done(cluster);
        cluster.wait_for(&format!("requests are answered after: {what}"), |_| {
            let failed = http2.failed();
            assert!(failed.is_empty(), "HTTP/2: {failed:#?}");
            load.answered() > before.0 + least && http2.answered() > before.1 + least / 2
        });
        table.push(Line {
            what: what.to_owned(),
            http1: load.answered() - before.0,
            http2: http2.answered() - before.1,
            took: begun.elapsed(),
        });
    };
    for _ in 0..if is_long() { 25 } else { 1 } {
        for image in ["kangaroo-backend:1.15", "kangaroo-backend:1.16"] {
            step(cluster, &format!("rolling update to {image}"), &mut |cluster| {
                let image = format!("kangaroo-backend={image}");
                cluster.kubectl(&["set", "image", NAME, &image]).ok();
                roll_out(cluster);
            });
        }
        for replicas in ["10", "2", "3"] {
            step(cluster, &format!("scaled to {replicas}"), &mut |cluster| {
                cluster.kubectl(&["scale", NAME, &format!("--replicas={replicas}")]).ok();
                roll_out(cluster);
                cluster.wait_for("who leaves has gone", |cluster| {
                    let args = ["get", "pods", "-l", SELECTOR, "-o", "name"];
                    cluster.kubectl(&args).ok().lines().count().to_string() == replicas
                });
            });
        }
        for (what, index) in [("the second certificate", 1), ("the first certificate", 0)] {
            step(cluster, what, &mut |cluster| put_certificate(cluster, &certificates[index]));
        }
        step(cluster, "rules replaced", &mut |cluster| {
            for path in ["/apiary", "/admin", "/api/v2"] {
                let backend =
                    "{\"service\":{\"name\":\"kangaroo-backend\",\"port\":{\"number\":8080}}}";
                let rule = |path: &str| {
                    format!("{{\"path\":\"{path}\",\"pathType\":\"Prefix\",\"backend\":{backend}}}")
                };
                let paths = format!("[{},{}]", rule(path), rule("/api"));
                let patch =
                    format!("{{\"spec\":{{\"rules\":[{{\"http\":{{\"paths\":{paths}}}}}]}}}}");
                cluster
                    .kubectl(&["patch", "ingress", "minimal-ingress", "--type=merge", "-p", &patch])
                    .ok();
            }
        });
        step(cluster, "a policy: only from the ingress", &mut |cluster| {
            cluster.apply(ALLOW).ok();
        });
        step(cluster, "the policy taken away", &mut |cluster| {
            cluster.kubectl(&["delete", "netpol", "only-from-the-ingress"]).ok();
        });
    }
    println!("{:<40} {:>9} {:>9} {:>9}", "", "HTTP/1.1", "HTTP/2", "took");
    for line in &table {
        println!("{:<40} {:>9} {:>9} {:>8.1?}", line.what, line.http1, line.http2, line.took);
    }
    // Killed: what was under way to it may fail, at most one request of each client, and nothing after.
    let victim = cluster.kubectl(&["get", "pods", "-l", SELECTOR, "-o", "name"]).ok();
    let victim = victim.lines().next().expect("three serve").to_owned();
    let address = cluster.value(&victim, "{.status.podIP}");
    cluster.fetch(&format!("http://{address}/crash")).refused();
    let dead = Instant::now();
    let before = (load.answered(), http2.answered());
    cluster.wait_for("the others serve on", |_| {
        load.answered() > before.0 + least && http2.answered() > before.1 + least / 2
    });
    let (count, http2) = (load.end(), http2.end());
    let failures = http2.failed.lock().expect("all have ended").clone();
    println!(
        "in all: HTTP/1.1 {} answered, {} repeated on kept connections, {} under way to the dead pod; HTTP/2 {} answered over {} connections, {} under way to the dead pod",
        count.answered,
        count.repeated,
        count.failed.len(),
        http2.answered.load(Ordering::Relaxed),
        http2.connections.load(Ordering::Relaxed),
        failures.len(),
    );
    let begun = count.failed.iter().map(|failed| failed.begun);
    let is_before = begun.chain(failures.iter().map(|(begun, _)| *begun)).all(|begun| begun < dead);
    assert!(is_before, "lost afterwards: {:#?} {failures:#?}", count.failed);
    let unlucky: BTreeSet<usize> = count.failed.iter().map(|failed| failed.client).collect();
    assert!(unlucky.len() == count.failed.len() && failures.len() <= 2, "somebody lost two");

    // The parts have counted, too.
    let text = cluster.fetch("http://127.0.0.1:9464/metrics").ok();
    for series in [
        "joey_api_requests_total{verb=\"patch\",resource=\"ingresses.networking.k8s.io\",code=\"200\"} ",
        "joey_api_request_duration_seconds_count{verb=\"watch\",resource=\"pods\"} ",
        "joey_controller_turns_total{controller=\"deployment-controller\"} ",
        "joey_store_commits_total ",
        "joey_store_sync_duration_seconds_count ",
        "joey_store_failed 0",
        "joey_node_pods{state=\"running\"} 3",
        "joey_node_containers{state=\"running\"} 3",
        "joey_network_addresses 3",
        "joey_network_repairs_total 0",
        "# TYPE joey_dns_questions_total counter",
    ] {
        let line = text.lines().find(|line| line.starts_with(series));
        assert!(
            line.is_some_and(|line| series.ends_with('0') || !line.ends_with(" 0")),
            "{series}: {text}"
        );
    }

    // Killed, the daemon takes the ingress along; pods live on, and so do the rules on the disk.
    let uids = ["get", "pods", "-l", SELECTOR, "-o", "jsonpath={.items[*].metadata.uid}"];
    let before = cluster.kubectl(&uids).ok();
    let killed = Instant::now();
    cluster.kill_daemon();
    cluster.start_daemon();
    cluster.wait_for("it is served again, with its certificate", is_served);
    println!("the daemon killed and started again: {:.1?} until it is served", killed.elapsed());
    assert_eq!(cluster.kubectl(&uids).ok(), before);
}
