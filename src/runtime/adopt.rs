//! Pods of an earlier daemon: found by their directories, reconnected or declared lost.
//!
//! It decides nothing about them; whoever wanted them compares.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use super::instance::{Instance, blocking};
use super::plan::PodPlan;
use super::{Found, Pod, RuntimeError, link, state};

/// Every pod directory of the instance.
pub async fn adopt(instance: &Arc<Instance>) -> Result<Vec<Found>, RuntimeError> {
    let failed = |error: std::io::Error| RuntimeError::step("read run directory", error);
    let mut found = Vec::new();
    for entry in fs::read_dir(state::pods(instance.run_dir())).map_err(failed)? {
        let directory = entry.map_err(failed)?.path();
        let Some(plan) = plan(&directory) else {
            // Made by a daemon that died before the plan was written: no shim was ever asked for.
            super::instance::remove_tree(&directory).map_err(failed)?;
            continue;
        };
        found.push(take_over(instance, plan, &directory).await?);
    }
    Ok(found)
}

fn plan(directory: &Path) -> Option<PodPlan> {
    let open = fs::File::open(directory).ok()?;
    let plan = state::read_plan(open.as_fd()).ok()?;
    // A directory that is not named after its pod is not ours to believe.
    (directory.file_name()? == plan.uid.as_str()).then_some(plan)
}

async fn take_over(
    instance: &Arc<Instance>,
    plan: PodPlan,
    directory: &Path,
) -> Result<Found, RuntimeError> {
    let is_buried = fs::File::open(directory).is_ok_and(|open| state::is_buried(open.as_fd()));
    let connected = match is_buried {
        true => None,
        false => match link::connect(instance, &plan, directory.to_owned()).await {
            Ok(link) => Some(link),
            Err(error) => {
                tracing::warn!(pod = %plan.title, %error, "shim does not answer; its pod is killed");
                None
            }
        },
    };
    let link = match connected {
        Some(link) => link,
        None => link::lost(instance, &plan, directory.to_owned()).await?,
    };
    let containers = {
        let directory = directory.to_owned();
        blocking(move || {
            state::newest_attempts(&directory)
                .map_err(|error| RuntimeError::step("read containers", error))
        })
        .await?
    };
    Ok(Found {
        plan,
        containers: containers.into_values().map(|attempt| attempt.plan).collect(),
        pod: Pod { link },
    })
}
