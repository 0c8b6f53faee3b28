//! `joey describe`: objects for people, in kubectl's very text, with what belongs to them and their events.
//!
//! It finds the objects; a file for each kind lays it out, and kinds without one print their fields in order. Where
//! kubectls differ, the newest is followed.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use jiff::tz::TimeZone;
use serde_json::Value;

use self::text::{Clock, Text, plain};
use super::get::Scope;
use super::resources::{Resource, Resources, Selection, select};
use super::{apply, report};
use crate::sys::clock;

mod autoscaler;
mod config;
mod container;
mod deployment;
mod endpoints;
mod environment;
mod events;
mod gather;
mod generic;
mod ingress;
mod network_policy;
mod node;
mod pod;
mod probe;
mod replica_set;
mod service;
mod template;
mod text;
mod volumes;

#[derive(Debug, clap::Args)]
pub struct DescribeArgs {
    /// TYPE, TYPE NAME… or TYPE/NAME…; TYPE PREFIX means all whose names begin so, if none has just this name
    #[arg(required_unless_present = "filename")]
    what: Vec<String>,
    /// Describe what these manifests declare: file or directory, or - for standard input; repeatable
    #[arg(short, long, conflicts_with_all = ["what", "selector", "field_selector"])]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    scope: Scope,
    /// Show the events [default: true for a single object, false for several and for a prefix]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    show_events: Option<bool>,
}

pub async fn run(client: kube::Client, args: DescribeArgs) -> anyhow::Result<ExitCode> {
    let resources = Resources::discover(&client).await?;
    let found = find(&client, &resources, &args).await?;
    let Found { objects, failures, by_prefix } = &found;
    if objects.is_empty() && failures.is_empty() {
        match args.scope.namespace() {
            Some(namespace) => eprintln!("No resources found in {namespace} namespace."),
            None => eprintln!("No resources found"),
        }
    }
    let is_single = objects.len() + failures.len() == 1 && !by_prefix;
    let with_events = args.show_events.unwrap_or(is_single);
    let clock = Clock { now: clock::now(), zone: TimeZone::system() };
    let mut code = ExitCode::SUCCESS;
    let mut out = io::stdout().lock();
    for (position, (resource, object)) in objects.iter().enumerate() {
        // So kubectl parts them.
        let (before, after) = match (by_prefix, position) {
            (true, _) => ("", "\n"),
            (false, 0) => ("", ""),
            (false, _) => ("\n\n", ""),
        };
        match describe(&client, resource, object, with_events, &clock).await {
            Ok(text) => write!(out, "{before}{text}{after}")?,
            Err(error) => code = report::failure(&error.into()),
        }
    }
    out.flush()?;
    for failure in found.failures {
        code = report::failure(&failure.into());
    }
    Ok(code)
}

struct Found {
    objects: Vec<(Resource, Value)>,
    /// Of objects that were named.
    failures: Vec<kube::Error>,
    by_prefix: bool,
}

async fn find(
    client: &kube::Client,
    resources: &Resources,
    args: &DescribeArgs,
) -> anyhow::Result<Found> {
    let mut found = Found { objects: Vec::new(), failures: Vec::new(), by_prefix: false };
    let scope = &args.scope;
    let named: Vec<(Resource, String)> = match args.filename.is_empty() {
        false => {
            let mut named = Vec::new();
            for (_, object) in apply::read(&args.filename)? {
                let (kind, namespace, name) = apply::place(resources, &object, &scope.namespace)?;
                let path = format!("{}/{name}", kind.path(Some(namespace)));
                named.push((kind, path));
            }
            named
        }
        true => match select(resources, &args.what)? {
            Selection::All(kinds) => {
                for kind in kinds {
                    let path = format!("{}{}", kind.path(scope.namespace()), scope.query(&[]));
                    let items = gather::collection(client, &kind, &path).await?;
                    found.objects.extend(items.into_iter().map(|item| (kind.clone(), item)));
                }
                return Ok(found);
            }
            Selection::Named(_) if scope.all_namespaces => {
                bail!("a resource cannot be retrieved by name across all namespaces")
            }
            Selection::Named(_) if scope.selector.is_some() || scope.field_selector.is_some() => {
                bail!(match args.what[0].contains('/') {
                    true =>
                        "selectors and the all flag cannot be used when passing resource/name arguments",
                    false => "name cannot be provided when a selector is specified",
                })
            }
            Selection::Named(named) => named
                .into_iter()
                .map(|(kind, name)| {
                    let path = format!("{}/{name}", kind.path(Some(&scope.namespace)));
                    (kind, path)
                })
                .collect(),
        },
    };
    for (kind, path) in &named {
        match gather::read(client, path).await {
            Ok(object) => found.objects.push((kind.clone(), object)),
            Err(error) => found.failures.push(error),
        }
    }
    // TYPE NAME: the name may be the beginning of one.
    let ([(kind, _)], [_, prefix]) = (&named[..], &args.what[..]) else { return Ok(found) };
    if !matches!(&found.failures[..], [kube::Error::Api(status)] if status.code == 404) {
        return Ok(found);
    }
    let mut all = gather::collection(client, kind, &kind.path(Some(&scope.namespace))).await?;
    all.retain(|object| plain(&object["metadata"]["name"]).starts_with(prefix.as_str()));
    if !all.is_empty() {
        let objects = all.into_iter().map(|object| (kind.clone(), object)).collect();
        found = Found { objects, failures: Vec::new(), by_prefix: true };
    }
    Ok(found)
}

/// The whole text for one object.
async fn describe(
    client: &kube::Client,
    resource: &Resource,
    object: &Value,
    with_events: bool,
    clock: &Clock,
) -> Result<String, kube::Error> {
    let mut text = Text::default();
    let metadata = &object["metadata"];
    let (namespace, name) = (plain(&metadata["namespace"]), plain(&metadata["name"]));
    let mut may_have_events = true;
    let kind = (resource.group.as_str(), resource.version.as_str(), resource.kind.as_str());
    match kind {
        ("", "v1", "Pod") => pod::lay_out(&mut text, object, clock),
        ("apps", "v1", "Deployment") => {
            let sets = gather::chosen(client, "apis/apps/v1", "replicasets", object).await?;
            deployment::lay_out(&mut text, object, &sets, clock);
        }
        ("apps", "v1", "ReplicaSet") => {
            let pods = gather::chosen(client, "api/v1", "pods", object).await?;
            replica_set::lay_out(&mut text, object, &pods);
        }
        ("", "v1", "Service") => {
            let slices = gather::slices(client, &namespace, &name).await?;
            service::lay_out(&mut text, object, &slices);
        }
        ("", "v1", "Endpoints") => endpoints::endpoints(&mut text, object),
        ("discovery.k8s.io", "v1", "EndpointSlice") => endpoints::slice(&mut text, object),
        ("", "v1", "Node") => {
            let lease = gather::lease(client, &name).await;
            let pods = gather::pods_on(client, &name).await?;
            node::lay_out(&mut text, object, &lease, &pods, clock);
        }
        ("", "v1", "Namespace") => {
            may_have_events = false;
            config::namespace(&mut text, object, clock);
        }
        ("", "v1", "ConfigMap") => config::config_map(&mut text, object),
        ("", "v1", "Secret") => {
            may_have_events = false;
            config::secret(&mut text, object);
        }
        ("", "v1", "ServiceAccount") => config::service_account(&mut text, object),
        ("networking.k8s.io", "v1", "Ingress") => {
            let backends = gather::backends(client, object).await;
            ingress::lay_out(&mut text, object, &backends);
        }
        ("networking.k8s.io", "v1", "IngressClass") => ingress::class(&mut text, object),
        ("networking.k8s.io", "v1", "NetworkPolicy") => {
            may_have_events = false;
            network_policy::lay_out(&mut text, object, clock);
        }
        ("autoscaling", "v2", "HorizontalPodAutoscaler") => {
            autoscaler::lay_out(&mut text, object, clock);
        }
        _ => generic::lay_out(&mut text, object),
    }
    if with_events && may_have_events {
        let all = gather::events(client, resource, object).await?;
        events::lay_out(&mut text, &all, clock);
    }
    Ok(text.aligned())
}

/// A pod template with tab stops, as `kubectl rollout history --revision` prints it.
pub fn template(template: &Value) -> String {
    let mut text = Text::default();
    template::lay_out(&mut text, template);
    text.unaligned()
}

#[cfg(test)]
mod tests;
