//! From credentials to an identity: a verified client certificate, or a bearer token of ours.
//!
//! Beside Authorization only the Impersonate headers are looked at, and those only for callers who may do
//! everything anyway; nothing else a client writes can name an identity.

use http::{HeaderMap, header};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::api::catalog;
use crate::api::failure::Failure;
use crate::api::identity::{ANONYMOUS, AUTHENTICATED, Identity};
use crate::api::verbs::{key, write};
use crate::api::{Api, authorize, object};
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

/// Who `identity` wants to be taken for (`kubectl --as`); only the all-powerful may.
pub fn impersonate(identity: Identity, headers: &HeaderMap) -> Result<Identity, Failure> {
    let all = |name: &str| -> Vec<String> {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect()
    };
    let extra: Vec<(String, String)> = headers
        .iter()
        .filter_map(|(name, value)| {
            let key = name.as_str().strip_prefix("impersonate-extra-")?;
            Some((key.to_owned(), value.to_str().ok()?.to_owned()))
        })
        .collect();
    let user = all("impersonate-user").pop();
    let (groups, uid) = (all("impersonate-group"), all("impersonate-uid").pop());
    let Some(user) = user else {
        return match groups.is_empty() && uid.is_none() && extra.is_empty() {
            true => Ok(identity),
            false => Err(Failure::bad_request(
                "requested groups, uid or extra without impersonating a user",
            )),
        };
    };
    if !authorize::is_all_powerful(&identity) {
        if !identity.is_in(AUTHENTICATED) {
            return Err(Failure::unauthorized());
        }
        return Err(Failure::forbidden(
            "",
            "users",
            &user,
            &format!(
                "User \"{}\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
                identity.user
            ),
        ));
    }
    let mut taken = match user.as_str() {
        ANONYMOUS => Identity::anonymous(),
        user => Identity::authenticated(user, groups),
    };
    taken.uid = uid;
    for (key, value) in extra {
        taken.extra.entry(key).or_default().push(value);
    }
    Ok(taken)
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
