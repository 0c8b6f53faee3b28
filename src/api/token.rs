//! Service-account tokens: JSON Web Tokens (RFC 7519) signed with ES256, made and read here.
//!
//! It checks signature, times, issuer and audience; whether account and pod still exist is for
//! [`super::authenticate`]. It never stores a token and never prints a key.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use serde_json::{Value, json};

use crate::model::time::Timestamp;
use crate::sys::clock;

/// The key pair that signs tokens; clones share it.
#[derive(Clone)]
pub struct Key {
    pair: Arc<EcdsaKeyPair>,
    /// Names the key in token headers: a digest of its public half.
    id: Arc<str>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish()
    }
}

/// Why a key or token cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("not a PKCS#8 key for ECDSA with P-256")]
    Form,
    #[error("the key cannot sign")]
    Sign,
}

impl Key {
    /// Reads a PKCS#8 document.
    pub fn from_pkcs8(der: &[u8]) -> Result<Key, KeyError> {
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new())
                .map_err(|_| KeyError::Form)?;
        let digest = ring::digest::digest(&ring::digest::SHA256, pair.public_key().as_ref());
        Ok(Key { id: BASE64_URL_SAFE_NO_PAD.encode(digest).into(), pair: Arc::new(pair) })
    }

    /// A new PKCS#8 document.
    pub fn generate_pkcs8() -> Result<Vec<u8>, KeyError> {
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map(|document| document.as_ref().to_vec())
            .map_err(|_| KeyError::Form)
    }
}

/// Who a token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// The token dies with this pod.
    pub pod: Option<Bound>,
}

/// The object a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    pub name: String,
    pub uid: String,
}

/// Makes and reads tokens of one cluster.
#[derive(Debug)]
pub struct Issuer {
    key: Key,
    issuer: String,
}

/// A token longer than this is nobody's.
const LONGEST_TOKEN: usize = 16 * 1024;

impl Issuer {
    pub fn new(key: Key, cluster_domain: &str) -> Issuer {
        Issuer { key, issuer: format!("https://kubernetes.default.svc.{cluster_domain}") }
    }

    /// The audience of this API itself.
    pub fn audience(&self) -> &str {
        &self.issuer
    }

    pub fn sign(
        &self,
        subject: &Subject,
        audiences: &[String],
        now: Timestamp,
        expires: Timestamp,
    ) -> Result<String, KeyError> {
        let header = json!({"alg": "ES256", "kid": &*self.key.id});
        let mut own = json!({
            "namespace": subject.namespace,
            "serviceaccount": {"name": subject.name, "uid": subject.uid},
        });
        if let Some(pod) = &subject.pod {
            own["pod"] = json!({"name": pod.name, "uid": pod.uid});
        }
        let claims = json!({
            "aud": audiences,
            "exp": expires.unix_seconds(),
            "iat": now.unix_seconds(),
            "iss": self.issuer,
            "jti": clock::uuid(),
            "kubernetes.io": own,
            "nbf": now.unix_seconds(),
            "sub": format!("system:serviceaccount:{}:{}", subject.namespace, subject.name),
        });
        let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self
            .key
            .pair
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|_| KeyError::Sign)?;
        Ok(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The subject of a token of ours that is valid `now` for this API; `None` for any other text.
    pub fn verify(&self, token: &str, now: Timestamp) -> Option<Subject> {
        if token.len() > LONGEST_TOKEN {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).ok();
        let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
        // The algorithm is ours to choose, never the token's ("none", HS256 over a public key).
        if header["alg"] != "ES256" || header["kid"] != *self.key.id {
            return None;
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.pair.public_key())
            .verify(signed.as_bytes(), &decode(signature)?)
            .ok()?;
        let claims: Value = serde_json::from_slice(&decode(claims)?).ok()?;
        let now = now.unix_seconds();
        let is_current = claims["exp"].as_i64()? > now && claims["nbf"].as_i64()? <= now;
        let is_ours = claims["iss"] == *self.issuer
            && claims["aud"].as_array()?.iter().any(|audience| audience == self.audience());
        if !is_current || !is_ours {
            return None;
        }
        let own = &claims["kubernetes.io"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let subject = Subject {
            namespace: text(&own["namespace"])?,
            name: text(&own["serviceaccount"]["name"])?,
            uid: text(&own["serviceaccount"]["uid"])?,
            pod: match own.get("pod") {
                None => None,
                Some(pod) => Some(Bound { name: text(&pod["name"])?, uid: text(&pod["uid"])? }),
            },
        };
        let expected = format!("system:serviceaccount:{}:{}", subject.namespace, subject.name);
        (claims["sub"] == expected).then_some(subject)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn issuer() -> Issuer {
        let der = Key::generate_pkcs8().expect("a key");
        Issuer::new(Key::from_pkcs8(&der).expect("our own"), "cluster.local")
    }

    fn subject() -> Subject {
        Subject {
            namespace: "a".to_owned(),
            name: "b".to_owned(),
            uid: "c".to_owned(),
            pod: Some(Bound { name: "p".to_owned(), uid: "u".to_owned() }),
        }
    }

    fn sign(issuer: &Issuer, audience: &str, now: Timestamp, seconds: u64) -> String {
        let expires = now.plus(Duration::from_secs(seconds));
        issuer.sign(&subject(), &[audience.to_owned()], now, expires).expect("signed")
    }

    #[test]
    fn a_token_says_who_it_is_for_until_it_expires() {
        let issuer = issuer();
        let now = clock::now();
        let token = sign(&issuer, issuer.audience(), now, 600);
        assert_eq!(issuer.verify(&token, now), Some(subject()));
        let later = now.plus(Duration::from_secs(601));
        assert_eq!(issuer.verify(&token, later), None);
        let earlier = Timestamp::from_unix(now.unix_seconds() - 60, 0);
        assert_eq!(issuer.verify(&token, earlier), None);
    }

    #[test]
    fn tokens_for_others_by_others_or_altered_are_nobodys() {
        let issuer = issuer();
        let now = clock::now();
        assert_eq!(issuer.verify(&sign(&issuer, "vault", now, 600), now), None);
        let stranger = self::issuer();
        let foreign = sign(&stranger, stranger.audience(), now, 600);
        assert_eq!(issuer.verify(&foreign, now), None);
        let token = sign(&issuer, issuer.audience(), now, 600);
        let (signed, signature) = token.rsplit_once('.').expect("three parts");
        let (_, claims) = signed.split_once('.').expect("three parts");
        let none = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        for altered in [
            format!("{none}.{claims}."),
            format!("{none}.{claims}.{signature}"),
            format!("{signed}."),
            format!("{signed}x.{signature}"),
            String::new(),
            "..".to_owned(),
        ] {
            assert_eq!(issuer.verify(&altered, now), None, "{altered}");
        }
    }
}
