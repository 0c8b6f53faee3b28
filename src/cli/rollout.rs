//! `joey rollout` and `joey scale`: new versions of a Deployment, back and forth, and how many of it.
//!
//! The words are kubectl's, so that what people and scripts have learned holds. It decides nothing: the controllers
//! do.

use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};

use super::describe;
use super::resources::{Resources, Selection, select};
use crate::reconcile::deployment::revision;
use crate::sys::clock;

#[derive(Debug, clap::Subcommand)]
pub enum RolloutCommand {
    /// Follow a rollout until it is complete; fails when it exceeds its deadline
    Status {
        #[command(flatten)]
        target: Target,
        /// Follow it; with =false, look once
        #[arg(short, long, default_value_t = true, num_args = 0..=1, require_equals = true,
            default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
        watch: bool,
        /// Give up after that time, such as 20s or 1m30s (a bare number is seconds); 0s waits for ever
        #[arg(long, default_value = "0s", value_parser = span, value_name = "DURATION")]
        timeout: Duration,
    },
    /// List the revisions that can be returned to
    History {
        #[command(flatten)]
        target: Target,
        /// Show the pod template of this one
        #[arg(long, default_value_t = 0, value_name = "REVISION")]
        revision: i64,
    },
    /// Return to the revision before, or to a given one
    Undo {
        #[command(flatten)]
        target: Target,
        /// From `joey rollout history`; 0 is the one before
        #[arg(long, default_value_t = 0, value_name = "REVISION")]
        to_revision: i64,
    },
    /// Replace every pod by a new one, in the way of a rollout
    Restart {
        #[command(flatten)]
        target: Target,
    },
    /// Hold changes back until resumed
    Pause {
        #[command(flatten)]
        target: Target,
    },
    /// Roll out what was held back
    Resume {
        #[command(flatten)]
        target: Target,
    },
}

/// The Deployment that is meant.
#[derive(Debug, clap::Args)]
pub struct Target {
    /// deployment/NAME or deployment NAME
    #[arg(required = true)]
    what: Vec<String>,
    /// Namespace of the object
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

#[derive(Debug, clap::Args)]
pub struct ScaleArgs {
    /// TYPE/NAME or TYPE NAME
    #[arg(required = true)]
    what: Vec<String>,
    /// Namespace of the object
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// How many pods there are to be
    #[arg(long)]
    replicas: i32,
    /// Only if there are to be so many now
    #[arg(long)]
    current_replicas: Option<i32>,
}

/// Sets the number of replicas through the scale subresource.
pub async fn scale(client: kube::Client, args: ScaleArgs) -> anyhow::Result<ExitCode> {
    let resources = Resources::discover(&client).await?;
    let Selection::Named(named) = select(&resources, &args.what)? else {
        bail!("say which one, for example: joey scale deployment/web --replicas=3")
    };
    for (resource, name) in named {
        let path = format!("{}/{name}/scale", resource.path(Some(&args.namespace)));
        let mut patch = json!({"spec": {"replicas": args.replicas}});
        if let Some(expected) = args.current_replicas {
            let scale: Value = client.request(http::Request::get(&path).body(Vec::new())?).await?;
            let held = scale["spec"]["replicas"].as_i64().unwrap_or(0);
            if held != i64::from(expected) {
                bail!("Expected replicas to be {expected}, was {held}");
            }
            patch["metadata"]["resourceVersion"] = scale["metadata"]["resourceVersion"].clone();
        }
        let request = http::Request::patch(&path)
            .header("content-type", "application/merge-patch+json")
            .body(serde_json::to_vec(&patch)?)?;
        let _: Value = client.request(request).await?;
        println!("{}/{name} scaled", resource.printed_kind());
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn rollout(client: kube::Client, command: RolloutCommand) -> anyhow::Result<ExitCode> {
    let (RolloutCommand::Status { target, .. }
    | RolloutCommand::History { target, .. }
    | RolloutCommand::Undo { target, .. }
    | RolloutCommand::Restart { target }
    | RolloutCommand::Pause { target }
    | RolloutCommand::Resume { target }) = &command;
    let subject = Subject::find(&client, target).await?;
    match &command {
        RolloutCommand::Status { watch, timeout, .. } => subject.status(*watch, *timeout).await,
        RolloutCommand::History { revision: 0, .. } => subject.history().await,
        RolloutCommand::History { revision, .. } => subject.show(*revision).await,
        RolloutCommand::Undo { to_revision, .. } => subject.undo(*to_revision).await,
        RolloutCommand::Restart { .. } => {
            if subject.get().await?.spec.and_then(|spec| spec.paused) == Some(true) {
                bail!("can't restart paused deployment (run rollout resume first)");
            }
            let now = clock::now().to_seconds_text();
            let annotations = json!({"kubectl.kubernetes.io/restartedAt": now});
            let template = json!({"metadata": {"annotations": annotations}});
            subject.patch(json!({"spec": {"template": template}}), "restarted").await
        }
        RolloutCommand::Pause { .. } => subject.set_paused(true).await,
        RolloutCommand::Resume { .. } => subject.set_paused(false).await,
    }
}

struct Subject {
    deployments: Api<Deployment>,
    sets: Api<ReplicaSet>,
    name: String,
}

impl Subject {
    async fn find(client: &kube::Client, target: &Target) -> anyhow::Result<Subject> {
        let resources = Resources::discover(client).await?;
        let named = match select(&resources, &target.what)? {
            Selection::Named(named) => named,
            Selection::All(_) => bail!("say which one, for example: deployment/web"),
        };
        let [(resource, name)] = &named[..] else { bail!("one Deployment at a time") };
        if resource.printed_kind() != "deployment.apps" {
            bail!("{} have no rollouts here; Deployments have", resource.plural);
        }
        Ok(Subject {
            deployments: Api::namespaced(client.clone(), &target.namespace),
            sets: Api::namespaced(client.clone(), &target.namespace),
            name: name.clone(),
        })
    }

    async fn get(&self) -> anyhow::Result<Deployment> {
        Ok(self.deployments.get(&self.name).await?)
    }

    /// The sets of the Deployment that have a revision, oldest first.
    async fn revisions(&self, deployment: &Deployment) -> anyhow::Result<Vec<ReplicaSet>> {
        let mut sets = self.sets.list(&ListParams::default()).await?.items;
        let is_own = |set: &ReplicaSet| {
            let uid = deployment.meta().uid.as_ref();
            set.owner_references().iter().any(|owner| Some(&owner.uid) == uid)
        };
        sets.retain(|set| is_own(set) && revision::of(set) > 0);
        sets.sort_by_key(revision::of);
        Ok(sets)
    }

    async fn patch(&self, patch: Value, done: &str) -> anyhow::Result<ExitCode> {
        let parameters = PatchParams::default();
        self.deployments.patch(&self.name, &parameters, &Patch::Merge(patch)).await?;
        println!("deployment.apps/{} {done}", self.name);
        Ok(ExitCode::SUCCESS)
    }

    async fn set_paused(&self, paused: bool) -> anyhow::Result<ExitCode> {
        let held = self.get().await?.spec.and_then(|spec| spec.paused) == Some(true);
        match (held, paused) {
            (true, true) => bail!("deployments.apps {:?} is already paused", self.name),
            (false, false) => bail!("deployments.apps {:?} is not paused", self.name),
            (true, false) => self.patch(json!({"spec": {"paused": null}}), "resumed").await,
            (false, true) => self.patch(json!({"spec": {"paused": true}}), "paused").await,
        }
    }

    async fn status(&self, watch: bool, timeout: Duration) -> anyhow::Result<ExitCode> {
        let follow = async {
            let config = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
            let mut seen = pin!(watcher(self.deployments.clone(), config).applied_objects());
            let mut said = String::new();
            while let Some(deployment) = seen.next().await {
                let (line, progress) = standing(&deployment?);
                if line != said {
                    println!("{line}");
                    said = line;
                }
                match progress {
                    Progress::Complete => return Ok(ExitCode::SUCCESS),
                    Progress::UnderWay if watch => {}
                    Progress::UnderWay => return Ok(ExitCode::SUCCESS),
                    Progress::TimedOut => bail!(
                        "deployment {:?} exceeded its progress deadline; `joey why deployment/{}` says at what it hangs",
                        self.name,
                        self.name
                    ),
                }
            }
            bail!("the watch has ended")
        };
        self.get().await?;
        match timeout {
            Duration::ZERO => follow.await,
            limit => tokio::time::timeout(limit, follow)
                .await
                .context("timed out waiting for the condition")?,
        }
    }

    async fn history(&self) -> anyhow::Result<ExitCode> {
        let deployment = self.get().await?;
        println!("deployment.apps/{} ", self.name);
        let mut rows = vec![["REVISION".to_owned(), "CHANGE-CAUSE".to_owned()]];
        rows.extend(self.revisions(&deployment).await?.iter().map(|set| {
            let cause = set.annotations().get("kubernetes.io/change-cause").cloned();
            [revision::of(set).to_string(), cause.unwrap_or_else(|| "<none>".to_owned())]
        }));
        let width = rows.iter().map(|[revision, _]| revision.len()).max().unwrap_or(0);
        for [revision, cause] in &rows {
            println!("{revision:<width$}  {cause}");
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The pod template of one revision.
    async fn show(&self, wanted: i64) -> anyhow::Result<ExitCode> {
        let sets = self.revisions(&self.get().await?).await?;
        let set = find_revision(&sets, wanted)?;
        let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        println!("deployment.apps/{} with revision #{wanted}", self.name);
        println!("{}", describe::template(&serde_json::to_value(template)?));
        Ok(ExitCode::SUCCESS)
    }

    async fn undo(&self, to: i64) -> anyhow::Result<ExitCode> {
        let deployment = self.get().await?;
        let spec = deployment.spec.as_ref().context("the Deployment has no spec")?;
        if spec.paused == Some(true) {
            bail!(
                "you cannot rollback a paused deployment; resume it first with 'joey rollout resume deployment/{}' and try again",
                self.name
            );
        }
        let sets = self.revisions(&deployment).await?;
        let set = match to {
            0 => sets
                .iter()
                .rev()
                .nth(1)
                .context("no rollout history found: there is no revision before this one")?,
            _ => find_revision(&sets, to)?,
        };
        let mut template =
            set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
        if revision::has_template(set, &spec.template) {
            println!(
                "deployment.apps/{} skipped rollback (current template already matches revision {})",
                self.name,
                revision::of(set)
            );
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
            labels.remove(revision::HASH_LABEL);
        }
        // Both as a whole: a merge would keep what the newer revision has added.
        let annotations = revision::annotations_of_undo(&deployment, set);
        let patch: json_patch::Patch = serde_json::from_value(json!([
            {"op": "replace", "path": "/spec/template", "value": template},
            {"op": "add", "path": "/metadata/annotations", "value": annotations},
        ]))?;
        let patch = Patch::Json::<()>(patch);
        self.deployments.patch(&self.name, &PatchParams::default(), &patch).await?;
        println!("deployment.apps/{} rolled back", self.name);
        Ok(ExitCode::SUCCESS)
    }
}

fn find_revision(sets: &[ReplicaSet], wanted: i64) -> anyhow::Result<&ReplicaSet> {
    sets.iter().find(|set| revision::of(set) == wanted).with_context(|| {
        format!("unable to find specified revision {wanted} in history; `joey rollout history` lists them")
    })
}

/// Reads a span as Go writes it: `20s`, `1m30s`, `1.5h`, `300ms`; a bare number is seconds.
fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; say for example 20s or 1m30s");
    let seconds = |number: &str, unit: f64| -> Result<f64, String> {
        let is_number = number.starts_with(|c: char| c.is_ascii_digit());
        let number = number.parse::<f64>().ok().filter(|_| is_number).ok_or_else(wrong)?;
        Ok(number * unit)
    };
    let mut total = 0.0;
    let mut rest = text;
    while let Some(end) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        let (number, tail) = rest.split_at(end);
        let end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        total += seconds(
            number,
            match unit {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(wrong()),
            },
        )?;
        rest = tail;
    }
    match rest {
        "" if !text.is_empty() => {}
        bare if bare.len() == text.len() => total = seconds(bare, 1.0)?,
        _ => return Err(wrong()),
    }
    Duration::try_from_secs_f64(total).map_err(|_| wrong())
}

#[derive(Debug, PartialEq)]
enum Progress {
    UnderWay,
    Complete,
    TimedOut,
}

/// How far a rollout is, in kubectl's words.
fn standing(deployment: &Deployment) -> (String, Progress) {
    let name = deployment.name_any();
    let status = deployment.status.clone().unwrap_or_default();
    let number = |value: Option<i32>| value.unwrap_or(0);
    if status.observed_generation < deployment.metadata.generation {
        return (
            "Waiting for deployment spec update to be observed...".to_owned(),
            Progress::UnderWay,
        );
    }
    let timed_out = status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "Progressing"
            && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
    });
    let desired = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let (updated, all) = (number(status.updated_replicas), number(status.replicas));
    let available = number(status.available_replicas);
    let what = if updated < desired {
        format!("{updated} out of {desired} new replicas have been updated...")
    } else if all > updated {
        format!("{} old replicas are pending termination...", all - updated)
    } else if available < updated {
        format!("{available} of {updated} updated replicas are available...")
    } else {
        return (format!("deployment {name:?} successfully rolled out"), Progress::Complete);
    };
    let line = format!("Waiting for deployment {name:?} rollout to finish: {what}");
    (line, if timed_out { Progress::TimedOut } else { Progress::UnderWay })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: Value, line: &str, progress: Progress) {
        let deployment = json!({
            "metadata": {"name": "web", "generation": 2},
            "spec": {"replicas": 3, "selector": {}, "template": {}},
            "status": status,
        });
        let deployment = serde_json::from_value(deployment).expect("a Deployment");
        assert_eq!(standing(&deployment), (line.to_owned(), progress));
    }

    #[test]
    fn a_time_limit_is_given_as_to_kubectl() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("20", 20_000),
            ("20s", 20_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("300ms", 300),
        ] {
            assert_eq!(span(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1s", "1m30", "20 s", "1d", "+5s", "inf", "9e99h"] {
            assert!(span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_flags_of_kubectl_are_taken() {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(subcommand)]
            command: RolloutCommand,
        }
        let read = |words: &str| {
            let line = <Line as clap::Parser>::try_parse_from(words.split(' '));
            format!("{:?}", line.map(|line| line.command).map_err(|error| error.kind()))
        };
        for (words, expected) in [
            ("rollout status deployment/web", "watch: true, timeout: 0ns"),
            ("rollout status deployment web -w --timeout=20s", "watch: true, timeout: 20s"),
            ("rollout status deployment/web --watch=false", "watch: false, timeout: 0ns"),
            ("rollout status deployment/web --watch --timeout 1m", "watch: true, timeout: 60s"),
            ("rollout history deployment/web --revision=2", "revision: 2"),
        ] {
            assert!(read(words).contains(expected), "{words}: {}", read(words));
        }
        assert!(read("rollout status deployment/web --timeout=soon").contains("ValueValidation"));
    }

    #[test]
    fn a_rollout_is_followed_in_kubectls_words() {
        let waiting = "Waiting for deployment \"web\" rollout to finish: ";
        check(
            json!({"observedGeneration": 1}),
            "Waiting for deployment spec update to be observed...",
            Progress::UnderWay,
        );
        check(
            json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 1}),
            &format!("{waiting}1 out of 3 new replicas have been updated..."),
            Progress::UnderWay,
        );
        check(
            json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 3}),
            &format!("{waiting}1 old replicas are pending termination..."),
            Progress::UnderWay,
        );
        check(
            json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 2}),
            &format!("{waiting}2 of 3 updated replicas are available..."),
            Progress::UnderWay,
        );
        let late = json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]);
        check(
            json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 1, "conditions": late}),
            &format!("{waiting}1 out of 3 new replicas have been updated..."),
            Progress::TimedOut,
        );
        check(
            json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}),
            "deployment \"web\" successfully rolled out",
            Progress::Complete,
        );
    }
}
