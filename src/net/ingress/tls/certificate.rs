//! Whether a Secret's certificate and key can serve a host, and for how long. Pure: time is given.

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::model::time::Timestamp;

/// A certificate with less life than this is worth an Event.
pub const SOON_DAYS: i64 = 14;
const DAY_SECONDS: i64 = 24 * 3600;

/// Why a certificate is not served. The text is for an Event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("is not of type kubernetes.io/tls")]
    WrongType,
    #[error("has no {0}")]
    Missing(&'static str),
    #[error("holds no PEM certificate in tls.crt")]
    NoCertificate,
    #[error("holds a certificate in tls.crt that cannot be read")]
    BadCertificate,
    #[error("holds no private key in tls.key that can be read (PEM: PKCS #8, PKCS #1 or SEC 1)")]
    BadKey,
    #[error(
        "holds a kind of key that TLS cannot use here; take ECDSA P-256, P-384, Ed25519 or RSA"
    )]
    UnsupportedKey,
    #[error("holds a key that is not the certificate's")]
    KeyMismatch,
    #[error("holds a certificate that expired on {0}")]
    Expired(String),
    #[error("holds a certificate that is valid from {0} on")]
    NotYetValid(String),
}

/// A certificate that can be served.
#[derive(Debug, Clone)]
pub struct Usable {
    pub key: std::sync::Arc<CertifiedKey>,
    /// Names it is valid for, lower case; wildcards as `*.example.com`.
    pub names: Vec<String>,
    pub expires: Timestamp,
}

/// Reads `tls.crt` and `tls.key` as they are in the Secret.
pub fn read(certificate: &[u8], key: &[u8], now: Timestamp) -> Result<Usable, Unusable> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|_| Unusable::BadCertificate)?;
    let leaf = chain.first().ok_or(Unusable::NoCertificate)?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| Unusable::BadCertificate)?;
    let at = |time: x509_parser::time::ASN1Time| Timestamp::from_unix(time.timestamp(), 0);
    let (starts, expires) = (at(parsed.validity().not_before), at(parsed.validity().not_after));
    let names = names(&parsed);
    if expires.unix_seconds() <= now.unix_seconds() {
        return Err(Unusable::Expired(expires.to_seconds_text()));
    }
    if starts.unix_seconds() > now.unix_seconds() {
        return Err(Unusable::NotYetValid(starts.to_seconds_text()));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| Unusable::BadKey)?;
    let signing = any_supported_type(&key).map_err(|_| Unusable::UnsupportedKey)?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) => {}
        // No signing key hides its public half with ring; if one did, the handshake would tell.
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(_) => return Err(Unusable::KeyMismatch),
    }
    Ok(Usable { key: std::sync::Arc::new(certified), names, expires })
}

impl Usable {
    /// RFC 6125 §6.4.3: a wildcard stands for one label.
    pub fn covers(&self, host: &str) -> bool {
        let parent = host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        self.names.iter().any(|name| name == host || Some(name) == parent.as_ref())
    }

    /// Whole days of life left.
    pub fn days_left(&self, now: Timestamp) -> i64 {
        (self.expires.unix_seconds() - now.unix_seconds()) / DAY_SECONDS
    }
}

/// When what is said of a certificate next changes by itself: it begins to be valid, ends soon, or has ended.
pub fn next_turn(certificate: &[u8], now: Timestamp) -> Option<Timestamp> {
    let leaf = CertificateDer::pem_slice_iter(certificate).next()?.ok()?;
    let (_, parsed) = X509Certificate::from_der(&leaf).ok()?;
    let starts = parsed.validity().not_before.timestamp();
    let expires = parsed.validity().not_after.timestamp();
    // `days_left` counts whole days: there is one less a second later.
    let ends_soon = expires - SOON_DAYS * DAY_SECONDS + 1;
    let turns = [starts, ends_soon, expires].into_iter().filter(|turn| *turn > now.unix_seconds());
    turns.min().map(|turn| Timestamp::from_unix(turn, 0))
}

/// Subject alternative names; the common name where there are none, as old certificates have it.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let dns: Vec<String> = alternative.map_or_else(Vec::new, |extension| {
        let names = extension.value.general_names.iter();
        names
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            })
            .collect()
    });
    if !dns.is_empty() {
        return dns;
    }
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    common.map(str::to_ascii_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_unix(1_800_000_000, 0)
    }

    /// Valid from `from` to `to` days after now.
    fn pair(names: &[&str], from: i64, to: i64) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let at = |days: i64| {
            let seconds = now().unix_seconds() + days * DAY_SECONDS;
            rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds as u64)
        };
        (params.not_before, params.not_after) = (at(from), at(to));
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn outcome(certificate: &str, key: &str) -> Result<Vec<String>, Unusable> {
        read(certificate.as_bytes(), key.as_bytes(), now()).map(|usable| usable.names)
    }

    #[test]
    fn a_good_pair_serves_the_names_it_is_for() {
        let (certificate, key) = pair(&["Shop.example", "*.shop.example"], -1, 30);
        let usable = read(certificate.as_bytes(), key.as_bytes(), now()).unwrap();
        assert_eq!(usable.days_left(now()), 30);
        for (host, is_covered) in [
            ("shop.example", true),
            ("a.shop.example", true),
            ("a.b.shop.example", false),
            ("other.example", false),
        ] {
            assert_eq!(usable.covers(host), is_covered, "{host}");
        }
    }

    #[test]
    fn what_is_said_of_a_certificate_changes_when_it_is_told_to() {
        for (from, to) in [(2, 60), (-1, 60), (-1, 5), (-9, -1)] {
            let (certificate, key) = pair(&["shop.example"], from, to);
            let said = |at: Timestamp| match read(certificate.as_bytes(), key.as_bytes(), at) {
                Ok(usable) => (usable.days_left(at) < SOON_DAYS).to_string(),
                Err(unusable) => unusable.to_string(),
            };
            let mut at = now();
            // Nothing changes before a turn, something does at it, and nothing after the last one.
            while let Some(turn) = next_turn(certificate.as_bytes(), at) {
                let just_before = Timestamp::from_unix(turn.unix_seconds() - 1, 0);
                assert_eq!(said(just_before), said(at), "from {from} to {to}");
                assert_ne!(said(turn), said(at), "from {from} to {to}");
                at = turn;
            }
            assert!(said(at).contains("expired"), "from {from} to {to}");
        }
        assert_eq!(next_turn(b"garbage", now()), None);
    }

    #[test]
    fn a_chain_is_served_whole() {
        let (leaf, key) = pair(&["shop.example"], -1, 30);
        let (issuer, _) = pair(&["authority"], -1, 30);
        let chain = format!("{leaf}{issuer}");
        let usable = read(chain.as_bytes(), key.as_bytes(), now()).unwrap();
        assert_eq!(usable.key.cert.len(), 2);
        assert_eq!(usable.names, ["shop.example"]);
    }

    #[test]
    fn what_cannot_be_served_says_why() {
        let (certificate, key) = pair(&["shop.example"], -1, 30);
        let (_, other_key) = pair(&["shop.example"], -1, 30);
        let (expired, expired_key) = pair(&["shop.example"], -30, -1);
        let (future, future_key) = pair(&["shop.example"], 1, 30);
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (certificate, key, expected) in [
            (&*certificate, &*other_key, "holds a key that is not the certificate's"),
            (&certificate, "", "holds no private key in tls.key"),
            (&certificate, "garbage", "holds no private key in tls.key"),
            ("", &key, "holds no PEM certificate"),
            (broken, &key, "that cannot be read"),
            (&expired, &expired_key, "expired on 2027-01-14"),
            (&future, &future_key, "valid from 2027-01-16"),
        ] {
            let error = outcome(certificate, key).unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} does not say {expected:?}");
        }
    }

    const RSA_KEY: &str = include_str!("testdata/rsa.key");
    const RSA_CERTIFICATE: &str = include_str!("testdata/rsa.crt");

    #[test]
    fn rsa_keys_serve_too() {
        let now = Timestamp::from_unix(1_800_000_000, 0);
        let usable = read(RSA_CERTIFICATE.as_bytes(), RSA_KEY.as_bytes(), now).unwrap();
        assert!(usable.covers("rsa.example"));
    }
}
