//! Pods of an earlier daemon: found by their directories, reconnected or declared lost.
//!
//! It decides nothing about them; whoever wanted them compares.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};

use super::instance::{Instance, blocking};
use super::plan::PodPlan;
use super::{Found, Pod, RuntimeError, drift, link, state};

/// What was found, in no order.
pub struct Adopted {
    pub found: Vec<Found>,
    pub late: Vec<Late>,
}

/// A pod whose shim has not answered yet, because it was stopped or the machine is busy.
pub struct Late {
    pub uid: String,
    /// The pod, as soon as its shim answers, dies, or has been silent for two minutes.
    pub found: BoxFuture<'static, Result<Found, RuntimeError>>,
}

/// Shims that are asked at a time: each has to be woken, and answers in its own time.
const AT_A_TIME: usize = 32;

/// A shim that has been silent for so long is none any more: its pod is killed, so that it can be started anew.
const PATIENCE: Duration = Duration::from_secs(120);

/// Every pod directory of the instance; those whose shims have not answered `within` that time come later.
pub async fn adopt(instance: &Arc<Instance>, within: Duration) -> Result<Adopted, RuntimeError> {
    let failed = |error: std::io::Error| RuntimeError::step("read run directory", error);
    let mut plans = Vec::new();
    for entry in fs::read_dir(state::pods(instance.run_dir())).map_err(failed)? {
        let directory = entry.map_err(failed)?.path();
        match plan(&directory) {
            Some(plan) => plans.push((plan, directory)),
            // Made by a daemon that died before the plan was written: no shim was ever asked for.
            None => super::instance::remove_tree(&directory).map_err(failed)?,
        }
    }
    let mut answers = stream::iter(plans)
        .map(|(plan, directory)| async move {
            let uid = plan.uid.as_str().to_owned();
            let mut found = take_over(instance.clone(), plan, directory).boxed();
            match tokio::time::timeout(within, &mut found).await {
                Ok(found) => Ok(found),
                Err(_) => Err(Late { uid, found }),
            }
        })
        .buffer_unordered(AT_A_TIME);
    let mut adopted = Adopted { found: Vec::new(), late: Vec::new() };
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(found) => adopted.found.push(found?),
            Err(late) => {
                tracing::warn!(pod = late.uid, "its shim does not answer yet");
                adopted.late.push(late);
            }
        }
    }
    Ok(adopted)
}

fn plan(directory: &Path) -> Option<PodPlan> {
    let open = fs::File::open(directory).ok()?;
    let plan = state::read_plan(open.as_fd()).ok()?;
    // A directory that is not named after its pod is not ours to believe.
    (directory.file_name()? == plan.uid.as_str()).then_some(plan)
}

async fn take_over(
    instance: Arc<Instance>,
    plan: PodPlan,
    directory: PathBuf,
) -> Result<Found, RuntimeError> {
    let is_buried = fs::File::open(&directory).is_ok_and(|open| state::is_buried(open.as_fd()));
    // It may have been frozen while no daemon was there to see it; thawing one that runs changes nothing.
    if !is_buried && let Err(error) = drift::thaw_shim(&instance, &plan.cgroup) {
        tracing::debug!(pod = %plan.title, %error, "shim was not thawed");
    }
    let connected = match is_buried {
        true => None,
        false => match link::connect(&instance, &plan, directory.clone(), PATIENCE).await {
            Ok(link) => Some(link),
            Err(error) => {
                tracing::warn!(pod = %plan.title, %error, "shim does not answer; its pod is killed");
                None
            }
        },
    };
    let link = match connected {
        Some(link) => link,
        None => link::lost(&instance, &plan, directory.clone()).await?,
    };
    let containers = blocking(move || {
        state::newest_attempts(&directory)
            .map_err(|error| RuntimeError::step("read containers", error))
    })
    .await?;
    Ok(Found {
        plan,
        containers: containers.into_values().map(|attempt| attempt.plan).collect(),
        pod: Pod { link },
    })
}
