//! The cluster's DNS in a scene: whoever is called by name has to be asked for first.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::sync::mpsc;
use std::thread;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use super::{Scene, Way};
use crate::net::Protocol;
use crate::net::dns::{Server, zone::Ranges};
use crate::net::policy::tests::oracle;
use crate::net::policy::{self, Asked, Flow, Labels, Pod, explain};
use crate::net::service::{Endpoint, Service, ServiceName, ServicePort, Slice, SlicePort};
use crate::net::sync::Services;
use crate::net::tests::machine::ARRIVES;

const DNS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);

/// Answers on a thread of its own until it is dropped.
pub struct Names {
    at: SocketAddr,
    _stop: DropGuard,
}

impl Names {
    pub fn pod(&self) -> Pod {
        policy::dns(self.at)
    }
}

impl Scene {
    /// Services as [`Scene::serve`] makes them, and their names.
    pub async fn serve_names(&mut self) {
        let range = |text: &str| text.parse().unwrap();
        let ranges = Ranges { pods: range("10.42.0.0/16"), services: range("10.43.0.0/16") };
        let services = Services::new(&self.network, "cluster.local", ranges);
        let stop = CancellationToken::new();
        let (until, serving, gateway) = (stop.clone(), services.clone(), self.network.gateway());
        let (tell, told) = mpsc::channel();
        // The test's own thread blocks in system calls.
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                // Where a host has its own name server, it is not 53.
                let server = Server::bind(gateway, 10_053, ranges.pods).await.unwrap();
                tell.send(server.address()).unwrap();
                until.run_until_cancelled(server.serve(serving)).await;
            });
        });
        let at = told.recv().unwrap();
        let mut facts = self.facts();
        let name = ServiceName { namespace: "kube-system".into(), name: "kube-dns".into() };
        facts.services.insert(name.clone(), service());
        facts.slices.insert(name, [("one".to_owned(), slice(at))].into());
        services.put(&self.network, &facts, "here", &Default::default()).await.unwrap();
        self.namespace("kube-system", Labels::new());
        self.names = Some(Names { at, _stop: stop.drop_guard() });
    }

    /// Whether the pod may ask for names.
    pub fn may_ask(&self, pod: &str) -> bool {
        let at = self.names.as_ref().unwrap().at;
        let source = self.at(Way::Address, pod, 0).ip();
        let asked = Asked::Port(Protocol::Udp, at.port());
        let flow = Flow { source, destination: at.ip(), asked };
        let cluster = self.cluster();
        let expected = oracle::allows(&cluster, flow);
        assert_eq!(explain(&cluster.world(), flow).is_allowed(), expected, "{flow:?}");
        expected
    }
}

/// What DNS says where the calling thread is; `None` when it may not be asked.
pub fn address(pod: &str) -> Option<IpAddr> {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    let name = Name::from_str(&format!("{pod}.x.svc.cluster.local.")).unwrap();
    question.add_query(Query::query(name, RecordType::A));
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Connected, so that a refusal is heard.
    socket.connect((DNS, 53)).unwrap();
    socket.set_read_timeout(Some(ARRIVES)).unwrap();
    socket.send(&question.to_vec().unwrap()).ok()?;
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer).ok()?;
    let answer = Message::from_vec(&answer[..length]).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{answer:?}");
    answer.answers.iter().find_map(|record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        _ => None,
    })
}

fn service() -> Service {
    Service {
        addresses: vec![DNS.into()],
        ports: vec![ServicePort {
            name: "dns".into(),
            protocol: Protocol::Udp,
            port: 53,
            node_port: None,
        }],
        affinity: None,
        is_internal_local: false,
        is_external_local: false,
        is_on_host: false,
        external_name: None,
    }
}

fn slice(at: SocketAddr) -> Slice {
    Slice {
        ports: vec![SlicePort { name: "dns".into(), protocol: Protocol::Udp, port: at.port() }],
        endpoints: vec![Endpoint {
            address: at.ip(),
            is_ready: true,
            is_serving: true,
            is_terminating: false,
            hostname: None,
            node: None,
        }],
    }
}
