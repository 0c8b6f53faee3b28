//! From credentials to an identity: a verified client certificate, or a bearer token of ours.
//!
//! No header but Authorization is looked at, so nothing a client writes can name an identity. It never
//! decides what the identity may do.

use http::{HeaderMap, header};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::api::catalog;
use crate::api::failure::Failure;
use crate::api::identity::Identity;
use crate::api::verbs::{key, write};
use crate::api::{Api, object};
use crate::sys::clock;

/// Who sends a request with `headers` over a connection whose verified certificate said `peer`.
/// Somebody without credentials is anonymous; wrong credentials are refused.
pub fn identify(
    api: &Api,
    peer: Option<&Identity>,
    headers: &HeaderMap,
) -> Result<Identity, Failure> {
    if let Some(peer) = peer {
        return Ok(peer.clone());
    }
    let Some(authorization) = headers.get(header::AUTHORIZATION) else {
        return Ok(Identity::anonymous());
    };
    let token = authorization
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(Failure::unauthorized)?;
    bearer(api, token)
}

/// A token counts only as long as its account, and the pod it is bound to, exist unchanged.
fn bearer(api: &Api, token: &str) -> Result<Identity, Failure> {
    let subject = api.inner.tokens.verify(token, clock::now()).ok_or_else(Failure::unauthorized)?;
    let accounts = catalog::service_accounts();
    let account = key(accounts, Some(&subject.namespace), &subject.name);
    let account = write::read(api, accounts, &account)?.ok_or_else(Failure::unauthorized)?;
    if object::uid(&account) != subject.uid {
        return Err(Failure::unauthorized());
    }
    let mut identity = Identity::service_account(&subject.namespace, &subject.name, &subject.uid);
    if let Some(bound) = subject.pod {
        let pods = catalog::pods();
        let pod = key(pods, Some(&subject.namespace), &bound.name);
        let pod = write::read(api, pods, &pod)?.ok_or_else(Failure::unauthorized)?;
        if object::uid(&pod) != bound.uid {
            return Err(Failure::unauthorized());
        }
        for (name, value) in [("pod-name", bound.name), ("pod-uid", bound.uid)] {
            identity.extra.insert(format!("authentication.kubernetes.io/{name}"), vec![value]);
        }
    }
    Ok(identity)
}

/// The identity in a client certificate that TLS has verified: CN is the user, each O a group.
/// `None` if it names nobody.
pub fn from_certificate(der: &[u8]) -> Option<Identity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?;
    let groups: Vec<String> = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok().map(str::to_owned))
        .collect();
    (!user.is_empty()).then(|| Identity::authenticated(user, groups))
}
