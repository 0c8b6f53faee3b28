//! `joey why`: one sentence why something is not as declared, and what that rests on.
//!
//! It reads through the API alone, and only what the administrator's kubeconfig may read. What it all means is
//! for [`diagnosis`] to say, and for [`path`] when the question is whether a pod reaches somebody.

use std::process::ExitCode;

use serde_json::Value;

use self::diagnosis::{Case, Cause, Diagnosis, diagnose};
use super::get::visible;
use super::resources::{Resources, Selection, select};
use super::settings::Settings;
use crate::sys::clock;

pub mod diagnosis;
pub mod path;

#[derive(Debug, clap::Args)]
pub struct WhyArgs {
    /// TYPE/NAME… or TYPE NAME…, such as deployment/web
    #[arg(required = true)]
    what: Vec<String>,
    /// Namespace of the object
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Whether the pod's connection to TARGET comes through, and who decided: svc/NAME[:PORT], pod/NAME:PORT,
    /// ADDRESS:PORT or NAME:PORT, each followed by /udp or /sctp where it is not TCP
    #[arg(long, value_name = "TARGET")]
    to: Option<String>,
    /// Prove the answer with a real packet from inside the pod (needs root on the pod's host)
    #[arg(long, requires = "to")]
    live: bool,
}

/// Exits with 0 when everything asked about is as declared, with 1 when something is not.
pub async fn run(
    client: kube::Client,
    settings: &Settings,
    args: WhyArgs,
) -> anyhow::Result<ExitCode> {
    if let Some(to) = &args.to {
        let run_dir = settings.run_dir();
        let here = path::Here {
            ranges: path::Ranges { pods: settings.pod_cidr(), services: settings.service_cidr() },
            doors: [settings.ingress_http(), settings.ingress_https()]
                .into_iter()
                .flatten()
                .filter(|address| address.ip().is_unspecified())
                .map(|address| address.port())
                .collect(),
            domain: settings.cluster_domain(),
            live: args.live.then_some(run_dir.as_path()),
        };
        let pod = one_pod(&args.what)?;
        return path::run(client, &here, &args.namespace, pod, to).await;
    }
    let resources = Resources::discover(&client).await?;
    let named = match select(&resources, &args.what)? {
        Selection::Named(named) => named,
        Selection::All(_) => anyhow::bail!("say which one, for example: joey why deployment/web"),
    };
    let mut code = ExitCode::SUCCESS;
    for (resource, name) in named {
        let path = format!("{}/{name}", resource.path(Some(&args.namespace)));
        let case = gather(&client, &args.namespace, get(&client, &path).await?).await?;
        let found = diagnose(&case, clock::now());
        print(&found);
        match found.cause {
            Cause::AsDeclared | Cause::Done | Cause::UnderWay | Cause::Wanted => {}
            _ => code = ExitCode::FAILURE,
        }
    }
    Ok(code)
}

/// The pod in `POD`, `pod/POD` or `pod POD`.
fn one_pod(what: &[String]) -> anyhow::Result<&str> {
    let (kind, name) = match what {
        [one] => one.split_once('/').unwrap_or(("pod", one)),
        [kind, name] => (kind.as_str(), name.as_str()),
        _ => anyhow::bail!("--to is asked of one pod at a time"),
    };
    match kind {
        "po" | "pod" | "pods" => Ok(name),
        other => anyhow::bail!("--to is asked of a pod, not of a {other}: say pod/NAME"),
    }
}

fn print(found: &Diagnosis) {
    println!("{}", visible(&found.sentence));
    for line in &found.evidence {
        println!("  {}", visible(line));
    }
}

async fn gather(client: &kube::Client, namespace: &str, object: Value) -> anyhow::Result<Case> {
    let here = |group: &str, plural: &str| format!("{group}/namespaces/{namespace}/{plural}");
    let pods = items(client, "/api/v1/pods").await?;
    let is_here = |pod: &Value| pod["metadata"]["namespace"] == namespace;
    let is_bound = |pod: &Value| pod["spec"]["nodeName"].is_string();
    Ok(Case {
        object,
        sets: items(client, &here("/apis/apps/v1", "replicasets")).await?,
        pods: pods.iter().filter(|pod| is_here(pod)).cloned().collect(),
        events: items(client, &here("/api/v1", "events")).await?,
        nodes: items(client, "/api/v1/nodes").await?,
        bound: pods.into_iter().filter(is_bound).collect(),
    })
}

async fn get(client: &kube::Client, path: &str) -> anyhow::Result<Value> {
    Ok(client.request(http::Request::get(path).body(Vec::new())?).await?)
}

/// The objects of a list, each with its kind, which a list does not repeat.
async fn items(client: &kube::Client, path: &str) -> anyhow::Result<Vec<Value>> {
    let list = get(client, path).await?;
    let kind = list["kind"].as_str().and_then(|kind| kind.strip_suffix("List")).unwrap_or_default();
    let mut items = list["items"].as_array().cloned().unwrap_or_default();
    for item in &mut items {
        item["kind"] = kind.into();
    }
    Ok(items)
}
