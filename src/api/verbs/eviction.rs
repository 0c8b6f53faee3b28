//! POST pods/NAME/eviction: a pod is asked to leave, as `kubectl drain` asks (policy/v1 Eviction).
//!
//! There are no disruption budgets here, so nothing stands in its way: it is the pod's deletion, by the options that
//! the eviction holds.

use serde_json::Value;

use crate::api::Api;
use crate::api::catalog::Subresource;
use crate::api::failure::{self, Failure};
use crate::api::path::Object;
use crate::api::reply::{Answer, Content};
use crate::api::verbs::{Call, body, delete, update};

pub async fn evict(
    api: &Api,
    call: &Call,
    target: &Object,
    subresource: &Subresource,
) -> Result<Answer, Failure> {
    let mut typed = body::read(call, subresource.kind)?;
    let asked = typed.object.get_mut("deleteOptions").map_or(Value::Null, Value::take);
    update::named_as(target, typed.object)?;
    let mut options = delete::embedded(call, &asked)?;
    options.is_eviction = true;
    delete::remove(api, target, &options).await?;
    Ok(Answer::created(Content::Other(failure::success())).with_warnings(typed.warnings))
}
