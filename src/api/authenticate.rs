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
    let mut users = Vec::new();
    let mut groups = Vec::new();
    let mut uids = Vec::new();
    let mut extra = Vec::new();
    for (name, value) in headers {
        let Some(part) = name.as_str().strip_prefix("impersonate-") else {
            continue;
        };
        // Whoever wants to be less must not remain more because of a letter we cannot read.
        let unusable = || Failure::bad_request(format!("header {name} cannot be used"));
        let value = value.to_str().map_err(|_| unusable())?.to_owned();
        match (part, part.strip_prefix("extra-")) {
            ("user", _) => users.push(value),
            ("group", _) => groups.push(value),
            ("uid", _) => uids.push(value),
            (_, Some(key)) => extra.push((key.to_owned(), value)),
            (_, None) => return Err(unusable()),
        }
    }
    if users.len() > 1 || uids.len() > 1 {
        return Err(Failure::bad_request("only one user and one uid can be impersonated"));
    }
    let (user, uid) = (users.pop().filter(|user| !user.is_empty()), uids.pop());
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
    let account = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let mut taken = match (user.as_str(), account) {
        (ANONYMOUS, _) => Identity::anonymous(),
        // An account brings the groups it is born with, unless others are asked for.
        (_, Some((namespace, name))) if groups.is_empty() => {
            Identity::service_account(namespace, name, "")
        }
        (user, _) => Identity::authenticated(user, groups),
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
