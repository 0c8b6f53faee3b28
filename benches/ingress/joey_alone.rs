//! The proxy in a process of its own, without the rest of Joey.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use joey::metrics::Registry;
use joey::net::ingress::resolve::{Directory, ServiceFact, ServicePortFact, SliceFact};
use joey::net::ingress::routes::{
    BackendFact, IngressFact, ObjectName, Options, PathFact, PathKind, Port, RuleFact,
};
use joey::net::ingress::{Ingress, IngressConfig};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

/// The first argument of such a process.
pub const ROLE: &str = "joey-bench-ingress";

/// What the proxy is to do.
pub struct Role {
    pub backend: SocketAddr,
    pub routes: usize,
    /// Threads; one is a runtime without any besides its own.
    pub workers: usize,
    /// Where `tls.crt` and `tls.key` are.
    pub directory: PathBuf,
}

impl Role {
    pub fn arguments(&self) -> [String; 5] {
        let directory = self.directory.display().to_string();
        let [backend, routes, workers] =
            [self.backend.to_string(), self.routes.to_string(), self.workers.to_string()];
        [ROLE.to_owned(), backend, routes, workers, directory]
    }
}

pub fn role() -> Option<Role> {
    let mut arguments = std::env::args().skip(1);
    (arguments.next()? == ROLE).then_some(())?;
    let backend = arguments.next()?.parse().ok()?;
    let routes = arguments.next()?.parse().ok()?;
    let workers = arguments.next()?.parse().ok()?;
    Some(Role { backend, routes, workers, directory: arguments.next()?.into() })
}

/// Tells its ports and serves until it is killed, as the daemon does by default.
pub fn serve(role: &Role) {
    let runtime = match role.workers {
        1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        workers => {
            tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()
        }
    };
    runtime.expect("a runtime starts").block_on(async move {
        let any = Some("127.0.0.1:0".parse().expect("an address"));
        let config = IngressConfig { http: any, https: any, ..IngressConfig::default() };
        let ingress = Ingress::new(&config, &Registry::default()).expect("TLS can be had");
        let (doors, _) = ingress.open(&config);
        let [http, https] = doors.addresses()[..] else { panic!("two ports are free") };
        let key = Arc::new(certificate(&role.directory));
        ingress.apply_certificates([("shop.example".to_owned(), key)].into_iter().collect());
        let (facts, directory) = table(role);
        ingress.apply(&facts, &directory);
        println!("{http} {https}");
        ingress.serve(doors, CancellationToken::new()).await;
    });
}

fn certificate(directory: &Path) -> rustls::sign::CertifiedKey {
    let certificate = CertificateDer::from_pem_file(directory.join("tls.crt")).expect("a PEM file");
    let key = PrivateKeyDer::from_pem_file(directory.join("tls.key")).expect("a PEM file");
    let key = rustls::crypto::ring::sign::any_supported_type(&key).expect("an ECDSA key");
    rustls::sign::CertifiedKey::new(vec![certificate], key)
}

fn table(role: &Role) -> (Vec<IngressFact>, Directory) {
    let service = ObjectName::new("shop", "web");
    let path = |number| PathFact {
        path: format!("/p{number}"),
        kind: PathKind::Prefix,
        backend: BackendFact { service: "web".to_owned(), port: Port::Number(80) },
    };
    let fact = IngressFact {
        name: ObjectName::new("shop", "rules"),
        created: 0,
        rules: vec![RuleFact {
            host: "shop.example".to_owned(),
            paths: (0..role.routes).map(path).collect(),
        }],
        default: None,
        options: Options::default(),
    };
    let port =
        ServicePortFact { name: String::new(), number: 80, is_tcp: true, app_protocol: None };
    let slice = SliceFact {
        service: service.clone(),
        ports: vec![(String::new(), role.backend.port())],
        ready: vec![role.backend.ip()],
    };
    let fact_of = ServiceFact { name: service, ports: vec![port], is_external_name: false };
    (vec![fact], Directory::new(vec![fact_of], vec![slice]))
}
