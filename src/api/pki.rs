//! The cluster's keys and certificates on disk: authority, server, administrator, token key.
//!
//! [`ensure`] makes what is missing, renews what is about to expire or no longer fits, and leaves the
//! rest alone. Keys are 0600, every file is replaced atomically and flushed before it counts. It never
//! sends or logs a key.
//!
//! ```text
//! <data-dir>/pki/ca.{crt,key}  server.{crt,key}  admin.{crt,key}  service-account.key
//! <data-dir>/admin.kubeconfig
//! ```

mod presented;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

pub use self::presented::{Presented, keep};
use crate::api::identity::MASTERS;
use crate::api::token;
use crate::model::time::Timestamp;
use crate::sys::clock;

/// What the certificates must fit.
#[derive(Debug, Clone)]
pub struct PkiConfig {
    /// Where the API listens. An unspecified address (`0.0.0.0`) names no host by itself.
    pub listen: Vec<SocketAddr>,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// This host's own name, as `uname -n` prints it.
    pub hostname: String,
    /// Further names or addresses that clients use.
    pub extra_names: Vec<String>,
}

/// Everything [`ensure`] found or made.
#[derive(Debug)]
pub struct Pki {
    /// The authority, PEM.
    pub ca_pem: String,
    /// Signs service-account tokens.
    pub token_key: token::Key,
    /// Names and addresses that the server certificate is valid for.
    pub server_names: BTreeSet<String>,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// TLS 1.2 and 1.3, h2 and http/1.1, client certificates of our authority welcome but not demanded.
    pub server_tls: Arc<rustls::ServerConfig>,
    /// The certificate that it shows, to be kept with [`keep`].
    pub presented: Arc<Presented>,
}

/// Why there is no usable set of keys.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("reading {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("writing {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("making a key or certificate for {what}")]
    Make { what: &'static str, source: rcgen::Error },
    #[error("{path} holds no usable key or certificate")]
    Unusable { path: PathBuf },
    #[error("the keys do not make a TLS server")]
    Tls { source: rustls::Error },
    #[error("the authority cannot verify clients")]
    Verifier { source: rustls::server::VerifierBuilderError },
}

const AUTHORITY_DAYS: i64 = 3650;
const LEAF_DAYS: i64 = 365;
/// A leaf with less life left than this is made anew.
const RENEW_BEFORE_DAYS: i64 = 90;
const DAY_SECONDS: i64 = 24 * 3600;

/// Makes what is missing under `data_dir` (which exists), renews what must be, and loads all of it.
pub fn ensure(data_dir: &Path, config: &PkiConfig) -> Result<Pki, PkiError> {
    let dir = data_dir.join("pki");
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(PkiError::Write { path: dir, source: error });
        }
        Ok(()) | Err(_) => {}
    }
    let now = clock::now();
    let authority = Authority::ensure(&dir, now)?;
    let names = server_names(config);
    let server = authority.leaf(
        &Pair::at(&dir, "server"),
        &Wanted {
            common_name: "kube-apiserver",
            organization: None,
            usage: ExtendedKeyUsagePurpose::ServerAuth,
            names: &names,
        },
        now,
    )?;
    let admin = authority.leaf(
        &Pair::at(&dir, "admin"),
        &Wanted {
            common_name: "kubernetes-admin",
            organization: Some(MASTERS),
            usage: ExtendedKeyUsagePurpose::ClientAuth,
            names: &BTreeSet::new(),
        },
        now,
    )?;
    let token_key = token_key(&dir.join("service-account.key"))?;
    let kubeconfig = data_dir.join("admin.kubeconfig");
    let text = render_kubeconfig(config, &authority.pem, &admin);
    write_if_different(&kubeconfig, text.as_bytes())?;
    let (server_tls, presented) = server_tls(&dir, &authority.pem, &server)?;
    Ok(Pki {
        server_tls,
        presented,
        ca_pem: authority.pem,
        token_key,
        server_names: names,
        kubeconfig,
    })
}

/// A certificate and its key, PEM.
struct Leaf {
    certificate: String,
    key: String,
}

struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

impl Pair {
    fn at(dir: &Path, name: &str) -> Pair {
        Pair { certificate: dir.join(format!("{name}.crt")), key: dir.join(format!("{name}.key")) }
    }

    fn read(&self) -> Result<Option<Leaf>, PkiError> {
        Ok(match (read(&self.certificate)?, read(&self.key)?) {
            (Some(certificate), Some(key)) => Some(Leaf { certificate, key }),
            (None, _) | (_, None) => None,
        })
    }

    /// The key first: a certificate on disk always has its key beside it.
    fn write(&self, leaf: &Leaf) -> Result<(), PkiError> {
        // A crash between the two leaves a mismatched pair, which the next start notices.
        write(&self.key, leaf.key.as_bytes())?;
        write(&self.certificate, leaf.certificate.as_bytes())
    }
}

struct Wanted<'a> {
    common_name: &'a str,
    organization: Option<&'a str>,
    usage: ExtendedKeyUsagePurpose,
    names: &'a BTreeSet<String>,
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn ensure(dir: &Path, now: Timestamp) -> Result<Authority, PkiError> {
        let pair = Pair::at(dir, "ca");
        let leaf = match pair.read()? {
            Some(leaf) if days_left(&leaf.certificate, now) > 0 => leaf,
            Some(_) | None => {
                let leaf = make_authority(now)?;
                pair.write(&leaf)?;
                leaf
            }
        };
        let unusable = || PkiError::Unusable { path: pair.key.clone() };
        let key = KeyPair::from_pem(&leaf.key).map_err(|_| unusable())?;
        if !belong_together(&leaf.certificate, &key) {
            return Err(unusable());
        }
        let issuer = Issuer::from_ca_cert_pem(&leaf.certificate, key).map_err(|_| unusable())?;
        Ok(Authority { pem: leaf.certificate, issuer })
    }

    /// The pair on disk if it still fits, else a new one.
    fn leaf(&self, pair: &Pair, wanted: &Wanted<'_>, now: Timestamp) -> Result<Leaf, PkiError> {
        if let Some(leaf) = pair.read()?
            && self.fits(&leaf, wanted, now)
        {
            return Ok(leaf);
        }
        let make = |source| PkiError::Make { what: "a leaf", source };
        let names: Vec<String> = wanted.names.iter().cloned().collect();
        let mut params = CertificateParams::new(names).map_err(make)?;
        params.distinguished_name = distinguished_name(wanted.common_name, wanted.organization);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![wanted.usage.clone()];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, LEAF_DAYS);
        let key = KeyPair::generate().map_err(make)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(make)?;
        let leaf = Leaf { certificate: certificate.pem(), key: key.serialize_pem() };
        pair.write(&leaf)?;
        Ok(leaf)
    }

    /// Whether `leaf` is signed by this authority, has its own key, lives on, and names what is wanted.
    fn fits(&self, leaf: &Leaf, wanted: &Wanted<'_>, now: Timestamp) -> bool {
        let check = || {
            let own = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).ok()?;
            let (_, own) = X509Certificate::from_der(&own).ok()?;
            let ca = CertificateDer::from_pem_slice(self.pem.as_bytes()).ok()?;
            let (_, ca) = X509Certificate::from_der(&ca).ok()?;
            own.verify_signature(Some(ca.public_key())).ok()?;
            let key = KeyPair::from_pem(&leaf.key).ok()?;
            Some(
                belong_together(&leaf.certificate, &key)
                    && days_left(&leaf.certificate, now) > RENEW_BEFORE_DAYS
                    && alternative_names(&own) == *wanted.names,
            )
        };
        check().unwrap_or(false)
    }
}

fn make_authority(now: Timestamp) -> Result<Leaf, PkiError> {
    let make = |source| PkiError::Make { what: "the authority", source };
    let mut params = CertificateParams::new(Vec::new()).map_err(make)?;
    params.distinguished_name = distinguished_name("kubernetes", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    set_validity(&mut params, now, AUTHORITY_DAYS);
    let key = KeyPair::generate().map_err(make)?;
    let certificate = params.self_signed(&key).map_err(make)?;
    Ok(Leaf { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn distinguished_name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name
}

/// From yesterday (clocks differ) for `days`.
fn set_validity(params: &mut CertificateParams, now: Timestamp, days: i64) {
    let day = |offset: i64| {
        let time = Timestamp::from_unix(now.unix_seconds() + offset * DAY_SECONDS, 0);
        let date = time.as_jiff().to_zoned(jiff::tz::TimeZone::UTC).date();
        let number = |n: i8| u8::try_from(n).expect("months and days are positive");
        rcgen::date_time_ymd(i32::from(date.year()), number(date.month()), number(date.day()))
    };
    params.not_before = day(-1);
    params.not_after = day(days);
    let mut serial = [0u8; 16];
    clock::random(&mut serial);
    // Positive, as RFC 5280 §4.1.2.2 demands.
    serial[0] = serial[0] & 0x7f | 0x01;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
}

/// Names by which the server is called.
fn server_names(config: &PkiConfig) -> BTreeSet<String> {
    let domain = &config.cluster_domain;
    let mut names: BTreeSet<String> = [
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        format!("kubernetes.default.svc.{domain}"),
        "localhost".to_owned(),
        Ipv4Addr::LOCALHOST.to_string(),
        Ipv6Addr::LOCALHOST.to_string(),
    ]
    .into();
    if !config.hostname.is_empty() {
        names.insert(config.hostname.to_ascii_lowercase());
    }
    names.extend(
        config
            .listen
            .iter()
            .map(SocketAddr::ip)
            .filter(|address| !address.is_unspecified())
            .map(|address| address.to_string()),
    );
    names.extend(config.extra_names.iter().cloned());
    names
}

fn alternative_names(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return BTreeSet::new();
    };
    extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(raw) => match raw.len() {
                4 => <[u8; 4]>::try_from(*raw).ok().map(|raw| IpAddr::from(raw).to_string()),
                16 => <[u8; 16]>::try_from(*raw).ok().map(|raw| IpAddr::from(raw).to_string()),
                _ => None,
            },
            // We make only names and addresses.
            _ => None,
        })
        .collect()
}

/// Whole days until the certificate expires; negative when it has, or is not one.
fn days_left(pem: &str, now: Timestamp) -> i64 {
    let end = || {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        Some(certificate.validity().not_after.timestamp())
    };
    end().map_or(-1, |end| (end - now.unix_seconds()) / DAY_SECONDS)
}

fn belong_together(certificate: &str, key: &KeyPair) -> bool {
    use rcgen::PublicKeyData as _;
    let same = || {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).ok()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        Some(certificate.public_key().raw == key.subject_public_key_info())
    };
    same().unwrap_or(false)
}

fn token_key(path: &Path) -> Result<token::Key, PkiError> {
    let unusable = || PkiError::Unusable { path: path.to_owned() };
    let pem = match read(path)? {
        Some(pem) => pem,
        None => {
            let der = token::Key::generate_pkcs8().map_err(|_| unusable())?;
            let pem = to_pem("PRIVATE KEY", &der);
            write(path, pem.as_bytes())?;
            pem
        }
    };
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| unusable())?;
    token::Key::from_pkcs8(key.secret_der()).map_err(|_| unusable())
}

fn to_pem(label: &str, der: &[u8]) -> String {
    let encoded = BASE64_STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in encoded.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

fn server_tls(
    dir: &Path,
    ca: &str,
    server: &Leaf,
) -> Result<(Arc<rustls::ServerConfig>, Arc<Presented>), PkiError> {
    let unusable = |name: &str| PkiError::Unusable { path: dir.join(name) };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let ca = CertificateDer::from_pem_slice(ca.as_bytes()).map_err(|_| unusable("ca.crt"))?;
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(|source| PkiError::Tls { source })?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|source| PkiError::Verifier { source })?;
    let certificate = CertificateDer::from_pem_slice(server.certificate.as_bytes())
        .map_err(|_| unusable("server.crt"))?;
    let key =
        PrivateKeyDer::from_pem_slice(server.key.as_bytes()).map_err(|_| unusable("server.key"))?;
    let certified = CertifiedKey::from_der(vec![certificate, ca], key, &provider)
        .map_err(|source| PkiError::Tls { source })?;
    let presented = Arc::new(Presented::new(Arc::new(certified)));
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map(|builder| {
            builder.with_client_cert_verifier(verifier).with_cert_resolver(presented.clone())
        })
        .map_err(|source| PkiError::Tls { source })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((Arc::new(config), presented))
}

fn render_kubeconfig(config: &PkiConfig, ca: &str, admin: &Leaf) -> String {
    let server = config.listen.first().map_or_else(
        || "127.0.0.1:6443".to_owned(),
        |address| {
            let ip = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
                ip => ip,
            };
            SocketAddr::new(ip, address.port()).to_string()
        },
    );
    let encode = |pem: &str| BASE64_STANDARD.encode(pem);
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: joey\n  \
           cluster:\n    \
             certificate-authority-data: {}\n    \
             server: https://{server}\n\
         users:\n\
         - name: joey-admin\n  \
           user:\n    \
             client-certificate-data: {}\n    \
             client-key-data: {}\n\
         contexts:\n\
         - name: joey\n  \
           context:\n    \
             cluster: joey\n    \
             user: joey-admin\n\
         current-context: joey\n",
        encode(ca),
        encode(&admin.certificate),
        encode(&admin.key),
    )
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Read { path: path.to_owned(), source }),
    }
}

fn write_if_different(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    match fs::read(path) {
        Ok(current) if current == bytes => Ok(()),
        Ok(_) | Err(_) => write(path, bytes),
    }
}

/// Replaces `path` (0600) by `bytes`: whole and on disk, or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    let replace = || -> io::Result<()> {
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    replace().map_err(|source| PkiError::Write { path: path.to_owned(), source })
}
