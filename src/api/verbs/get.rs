//! GET of one object.
//!
//! It never lists.

use crate::api::Api;
use crate::api::failure::Failure;
use crate::api::path::Object;
use crate::api::query;
use crate::api::reply::{Answer, Content};
use crate::api::verbs::{Call, key_of, write};

pub fn get(api: &Api, call: &Call, target: &Object) -> Result<Answer, Failure> {
    if let Some(text) = call.query.get("resourceVersion") {
        let asked = query::resource_version(text)?;
        let current = api.inner.store.revision();
        if asked > current.get() {
            return Err(Failure::future_version(asked, current));
        }
    }
    let object = write::read(api, target.kind, &key_of(target))?
        .ok_or_else(|| Failure::not_found(target.kind, &target.name))?;
    Ok(Answer::ok(Content::One(object)))
}
