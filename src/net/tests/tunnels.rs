//! Long connections through the ingress under real policies: they end with the leave of the client behind them (D13).

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::machine::*;
use super::policy::scene::Scene;
use crate::metrics::Registry;
use crate::net::ingress::resolve::{Directory, ServiceFact, ServicePortFact, SliceFact};
use crate::net::ingress::routes::{
    BackendFact, IngressFact, ObjectName, Options, PathFact, PathKind, Port, RuleFact,
};
use crate::net::ingress::{Guard, Ingress, IngressConfig, Verdict};
use crate::net::names::PROXY_MARK;
use crate::net::policy::Labels;
use crate::net::policy::tests::policy;
use crate::net::{Attached, Network, Protocol};

/// An ingress of the host that leads everything to port 80 of `pod`, on a thread of its own.
async fn ingress(network: &Network, pod: &Attached) -> CancellationToken {
    let at: SocketAddr = (Ipv4Addr::UNSPECIFIED, 80).into();
    let config = IngressConfig { http: Some(at), mark: Some(PROXY_MARK), ..Default::default() };
    let ingress = Ingress::new(&config, &Registry::default()).unwrap();
    ingress.ask_before_connecting(Box::new(Guard::new(network.clone())));
    let web = ObjectName::new("x", "web");
    let backend = BackendFact { service: "web".to_owned(), port: Port::Number(80) };
    let path = PathFact { path: "/".to_owned(), kind: PathKind::Prefix, backend };
    let rule = RuleFact { host: String::new(), paths: vec![path] };
    let fact = IngressFact {
        name: web.clone(),
        created: 0,
        rules: vec![rule],
        default: None,
        options: Options::default(),
    };
    let port =
        ServicePortFact { name: String::new(), number: 80, is_tcp: true, app_protocol: None };
    let service = ServiceFact { name: web.clone(), ports: vec![port], is_external_name: false };
    let slice =
        SliceFact { service: web, ports: vec![(String::new(), 80)], ready: vec![pod.address] };
    ingress.apply(&[fact], &Directory::new(vec![service], vec![slice]));
    let doors: BTreeSet<_> = [(Protocol::Tcp, 80)].into();
    network.open_doors(doors).await.unwrap();
    let stop = CancellationToken::new();
    let until = stop.clone();
    let (tell, told) = std::sync::mpsc::channel();
    // The test's own thread blocks in system calls.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (doors, taken) = ingress.open(&config);
            assert!(taken.is_empty(), "{taken:?}");
            tell.send(()).unwrap();
            ingress.serve(doors, until).await;
        });
    });
    told.recv().unwrap();
    stop
}

#[test]
fn a_tunnel_through_the_ingress_ends_when_its_client_is_denied_the_pod() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        scene.namespace("x", Labels::new());
        let labels = |app: &str| Labels::from([("app".to_owned(), app.to_owned())]);
        let web = scene.pod("x", "web", labels("web")).await;
        let friend = scene.pod("x", "friend", labels("friend")).await;
        let enemy = scene.pod("x", "enemy", labels("enemy")).await;
        let stop = ingress(&scene.network, &web).await;
        let server = listen(&web, 80);
        let mut tunnels = [&friend, &enemy].map(|client| {
            let mut client = inside(client, || connect((HOST, 80))).unwrap();
            let upgrade =
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: own\r\n\r\n";
            client.write_all(upgrade.as_bytes()).unwrap();
            let (mut served, from) = server.accept().unwrap();
            assert_eq!(from.ip(), web.gateway, "the proxy's own connection");
            read_head(&mut served);
            let switching =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: own\r\n\r\n";
            served.write_all(switching.as_bytes()).unwrap();
            read_head(&mut client);
            say(&mut client, &mut served).unwrap();
            (client, served)
        });
        let from = json!([{"podSelector": {"matchLabels": {"app": "friend"}}}]);
        let spec = json!({
            "podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": from}],
        });
        scene.policies = vec![policy("x", "friends", spec)];
        scene.enforce().await;
        let [(client, served), denied] = &mut tunnels;
        say(client, served).unwrap();
        // Nobody says anything: the end comes to both sides.
        for stream in [&mut denied.0, &mut denied.1] {
            stream.set_read_timeout(Some(ARRIVES)).unwrap();
            let ended = stream.read(&mut [0; 8]);
            let is_over = match &ended {
                Ok(read) => *read == 0,
                Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
            };
            assert!(is_over, "{ended:?}");
        }
        say(client, served).unwrap();
        stop.cancel();
    });
}

/// Answers are kept, and none outlives what it was made from.
#[test]
fn the_ingress_asks_anew_when_policies_or_pods_have_changed() {
    on_a_host(|_| async {
        let mut scene = Scene::start().await;
        scene.namespace("x", Labels::new());
        let labels = |app: &str| Labels::from([("app".to_owned(), app.to_owned())]);
        let web = scene.pod("x", "web", labels("web")).await;
        let friend = scene.pod("x", "friend", labels("friend")).await;
        scene.enforce().await;
        let guard = Guard::new(scene.network.clone());
        let at: SocketAddr = (web.address, 80).into();
        let permits = |client: IpAddr| {
            // Twice: the second answer is the one that is kept.
            let answers = [(); 2].map(|()| guard.permits(client, at));
            assert_eq!(answers[0], answers[1]);
            answers[0]
        };
        assert!(permits(friend.address), "there is no policy");
        let spec =
            json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]});
        scene.policies = vec![policy("x", "nobody", spec)];
        scene.enforce().await;
        assert!(!permits(friend.address), "nobody may");
        let from = json!([{"podSelector": {"matchLabels": {"app": "friend"}}}]);
        let spec = json!({
            "podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": from}],
        });
        scene.policies = vec![policy("x", "friends", spec)];
        scene.enforce().await;
        assert!(permits(friend.address));
        scene.remove("x", "friend").await;
        scene.enforce().await;
        assert!(!permits(friend.address), "whoever has the address next is no friend");
    });
}

fn read_head(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(ARRIVES)).unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
}
