//! A proxy with its routes, servers that record what they saw, and clients that send bytes as they are.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use joey::metrics::{Format, Registry};
use joey::net::ingress::resolve::{Directory, ServiceFact, ServicePortFact, SliceFact};
use joey::net::ingress::routes::{
    BackendFact, IngressFact, ObjectName, Options, PathFact, PathKind, Port, RuleFact,
};
use joey::net::ingress::{AccessLog, Bounds, Ingress, IngressConfig, Patience};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Scene {
    pub ingress: Ingress,
    pub registry: Registry,
    pub http: SocketAddr,
    pub https: SocketAddr,
    _stop: DropGuard,
}

/// A Service and where its pods are.
pub struct Service<'a> {
    pub name: &'a str,
    pub app_protocol: Option<&'a str>,
    pub pods: &'a [SocketAddr],
}

impl<'a> Service<'a> {
    pub fn new(name: &'a str, pods: &'a [SocketAddr]) -> Service<'a> {
        Service { name, app_protocol: None, pods }
    }
}

/// Every Service at port 80, in namespace `shop`. Pods of a Service may have ports of their own.
pub fn directory(services: &[Service<'_>]) -> Directory {
    let facts = services.iter().map(|service| ServiceFact {
        name: ObjectName::new("shop", service.name),
        ports: vec![ServicePortFact {
            name: String::new(),
            number: 80,
            is_tcp: true,
            app_protocol: service.app_protocol.map(str::to_owned),
        }],
        is_external_name: false,
    });
    let slices = services.iter().flat_map(|service| {
        service.pods.iter().map(|pod| SliceFact {
            service: ObjectName::new("shop", service.name),
            ports: vec![(String::new(), pod.port())],
            ready: vec![pod.ip()],
        })
    });
    Directory::new(facts.collect(), slices.collect())
}

/// An Ingress of `host/path → service` rules.
pub fn ingress(name: &str, rules: &[(&str, &str, &str)], options: Options) -> IngressFact {
    let rules = rules.iter().map(|(host, path, service)| RuleFact {
        host: (*host).to_owned(),
        paths: vec![PathFact {
            path: (*path).to_owned(),
            kind: PathKind::Prefix,
            backend: BackendFact { service: (*service).to_owned(), port: Port::Number(80) },
        }],
    });
    IngressFact {
        name: ObjectName::new("shop", name),
        created: 0,
        rules: rules.collect(),
        default: None,
        options,
    }
}

impl Scene {
    /// Routes every host's `/` to Service `web` with these pods.
    pub async fn start(pods: &[SocketAddr]) -> Scene {
        let scene = Scene::bare(Bounds::default()).await;
        scene.route(&[("", "/", "web")], &[Service::new("web", pods)]);
        scene
    }

    /// The same with clients that have little time.
    pub async fn impatient(pods: &[SocketAddr], patience: Patience) -> Scene {
        let scene = Scene::open(Bounds::default(), patience).await;
        scene.route(&[("", "/", "web")], &[Service::new("web", pods)]);
        scene
    }

    pub async fn bare(bounds: Bounds) -> Scene {
        Scene::open(bounds, Patience::default()).await
    }

    async fn open(bounds: Bounds, patience: Patience) -> Scene {
        let registry = Registry::default();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let config = IngressConfig {
            http: Some(any),
            https: Some(any),
            trusted: vec!["127.0.0.9/32".parse().unwrap()],
            access_log: AccessLog::All,
            mark: None,
            bounds,
            patience,
        };
        let ingress = Ingress::new(&config, &registry).unwrap();
        let (doors, taken) = ingress.open(&config);
        assert!(taken.is_empty(), "{taken:?}");
        let [http, https] = doors.addresses()[..] else { panic!("two ports") };
        let stop = CancellationToken::new();
        let (serving, stopped) = (ingress.clone(), stop.clone());
        tokio::spawn(async move { serving.serve(doors, stopped).await });
        Scene { ingress, registry, http, https, _stop: stop.drop_guard() }
    }

    pub fn route(&self, rules: &[(&str, &str, &str)], services: &[Service<'_>]) {
        let fact = ingress("rules", rules, Options::default());
        self.ingress.apply(&[fact], &directory(services));
    }

    pub async fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.http).await.unwrap())
    }

    /// Sends bytes on a connection of their own and reads to its end.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut client = self.connect().await;
        client.send(bytes).await;
        client.rest().await
    }

    pub async fn get(&self, path: &str) -> Answer {
        let mut client = self.connect().await;
        client.get(path).await
    }

    pub fn metrics(&self) -> String {
        self.registry.render(Format::Prometheus)
    }

    /// Waits until a line with this start and end is among the metrics.
    pub async fn await_metric(&self, start: &str, value: &str) {
        eventually(&format!("{start} … {value}"), || {
            let text = self.metrics();
            text.lines().any(|line| line.starts_with(start) && line.ends_with(&format!(" {value}")))
        })
        .await;
    }
}

pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "it never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A client that speaks HTTP/1.1 as literally as it is told.
pub struct Client {
    pub stream: BufReader<TcpStream>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Client {
    pub fn new(stream: TcpStream) -> Client {
        Client { stream: BufReader::new(stream) }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // The proxy may have closed already; what it said is what counts.
        let _ = self.stream.get_mut().write_all(bytes).await;
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n").as_bytes()).await;
        self.answer().await
    }

    pub async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.stream.read_line(&mut line)).await;
        read.expect("a line in time").unwrap();
        line
    }

    pub async fn head(&mut self) -> (u16, String) {
        let mut head = String::new();
        loop {
            let line = self.line().await;
            assert!(!line.is_empty(), "the connection ended in a head: {head:?}");
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("a status in {head:?}")), head)
    }

    /// One whole answer.
    pub async fn answer(&mut self) -> Answer {
        let (status, head) = self.head().await;
        let mut answer = Answer { status, head, body: String::new() };
        if let Some(length) = answer.header("content-length") {
            let mut body = vec![0; length.parse().unwrap()];
            let read = tokio::time::timeout(PATIENCE, self.stream.read_exact(&mut body)).await;
            read.expect("a body in time").unwrap();
            answer.body = String::from_utf8_lossy(&body).into_owned();
        } else if answer.header("transfer-encoding").is_some() {
            loop {
                let size = usize::from_str_radix(self.line().await.trim(), 16).unwrap();
                if size == 0 {
                    // Trailers, if there are any, become part of the head.
                    loop {
                        let line = self.line().await;
                        if line == "\r\n" {
                            return answer;
                        }
                        answer.head.push_str(&line);
                    }
                }
                let mut chunk = vec![0; size + 2];
                self.stream.read_exact(&mut chunk).await.unwrap();
                answer.body.push_str(&String::from_utf8_lossy(&chunk[..size]));
            }
        }
        answer
    }

    /// Everything until the end of the connection.
    pub async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut bytes)).await;
        // A reset after the answer is an end too.
        let _ = read.expect("the connection ends in time");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A server that records what it saw.
pub struct Pod {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    accepted: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Clone)]
pub struct Seen {
    pub head: String,
    pub body: String,
    pub connection: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim()).collect()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pod {
    /// Answers 200 with its name to everything.
    pub async fn start(name: &'static str) -> Pod {
        Pod::answering(move |_| {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len())
        })
        .await
    }

    /// Answers each request with these bytes; without any, closes the connection. Parses strictly: what it does not
    /// understand is recorded as a request `BROKEN`.
    pub async fn answering(reply: impl Fn(&Seen) -> String + Send + Sync + 'static) -> Pod {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (record, reply) = (Arc::clone(&seen), Arc::new(reply));
        let accepted: Arc<AtomicUsize> = Arc::default();
        let counted = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection = counted.fetch_add(1, Ordering::Relaxed) + 1;
                let (record, reply) = (Arc::clone(&record), Arc::clone(&reply));
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    while let Some(mut request) = read_request(&mut stream).await {
                        request.connection = connection;
                        record.lock().unwrap().push(request.clone());
                        let bytes = reply(&request);
                        if bytes.is_empty() || stream.write_all(bytes.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Pod { address, seen, accepted, task }
    }

    /// Accepted so far.
    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    pub fn requests(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn ip(&self) -> IpAddr {
        self.address.ip()
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Seen> {
    let broken = |head: String| {
        Some(Seen { head: format!("BROKEN {head}"), body: String::new(), connection: 0 })
    };
    let mut head = String::new();
    loop {
        let mut line = String::new();
        match stream.read_line(&mut line).await {
            Ok(0) if head.is_empty() => return None,
            Ok(0) | Err(_) => return broken(head),
            Ok(_) if line == "\r\n" => break,
            Ok(_) => head.push_str(&line),
        }
    }
    let mut request = Seen { head, body: String::new(), connection: 0 };
    let (lengths, codings) =
        (request.header("content-length"), request.header("transfer-encoding"));
    match (&lengths[..], &codings[..]) {
        ([], []) => {}
        ([length], []) => {
            let mut body = vec![0; length.parse().ok()?];
            if stream.read_exact(&mut body).await.is_err() {
                return broken(request.head);
            }
            request.body = String::from_utf8_lossy(&body).into_owned();
        }
        ([], ["chunked"]) => loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.ok()?;
            let Ok(size) = usize::from_str_radix(line.trim_end(), 16) else {
                return broken(request.head);
            };
            if size == 0 {
                let mut trailer = String::new();
                while stream.read_line(&mut trailer).await.is_ok_and(|read| read > 2) {
                    request.head.push_str(&trailer);
                    trailer.clear();
                }
                break;
            }
            let mut chunk = vec![0; size + 2];
            if stream.read_exact(&mut chunk).await.is_err() {
                return broken(request.head);
            }
            request.body.push_str(&String::from_utf8_lossy(&chunk[..size]));
        },
        _ => return broken(request.head),
    }
    Some(request)
}
