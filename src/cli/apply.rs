//! `joey apply` and `joey delete`: manifests in, declared state changed.

mod three_way;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::get::Scope;
use super::report;
use super::resources::{Resource, Resources, Selection, select};
use crate::api::decode::yaml::dialect;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const MANAGER: &str = "fieldManager=joey&fieldValidation=Strict";
/// How often an object may be changed by others between our reading and our writing.
const TRIES: u32 = 5;

#[derive(Debug, clap::Args)]
pub struct ApplyArgs {
    /// File or directory with manifests, or - for standard input; repeatable
    #[arg(short, long, required = true)]
    filename: Vec<PathBuf>,
    /// Namespace of the objects that name none
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// none, or server: go through everything and change nothing
    #[arg(long, default_value = "none")]
    dry_run: String,
}

#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// TYPE NAME… or TYPE/NAME…
    what: Vec<String>,
    /// Delete what these manifests declare
    #[arg(short, long)]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    scope: Scope,
    /// Everything of the type
    #[arg(long)]
    all: bool,
    /// Seconds that a pod gets to end by itself
    #[arg(long)]
    grace_period: Option<i64>,
    /// Same as a grace period of one second
    #[arg(long)]
    now: bool,
    /// With --grace-period=0: forget the object before its processes are known to be gone
    #[arg(long)]
    force: bool,
    /// Wait until the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    wait: bool,
    /// Not finding an object is no failure
    #[arg(long)]
    ignore_not_found: bool,
}

/// The objects of manifests, each with the name of its file: YAML documents, JSON, and Lists taken apart.
pub fn read(files: &[PathBuf]) -> anyhow::Result<Vec<(String, Value)>> {
    let mut objects = Vec::new();
    for file in files {
        for (name, text) in texts(file)? {
            let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(&text, dialect())
                .with_context(|| format!("error parsing {name}"))?;
            for document in documents {
                match document["kind"].as_str() {
                    _ if document.is_null() => {}
                    Some(kind) if kind.ends_with("List") && document["items"].is_array() => {
                        let items = document["items"].as_array().into_iter().flatten().cloned();
                        objects.extend(items.map(|item| (name.clone(), item)));
                    }
                    _ => objects.push((name.clone(), document)),
                }
            }
        }
    }
    match objects.is_empty() {
        true => bail!(
            "no objects: nothing but white space and comments, or no .yaml, .yml and .json files"
        ),
        false => Ok(objects),
    }
}

fn texts(file: &Path) -> anyhow::Result<Vec<(String, String)>> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(vec![("STDIN".to_owned(), text)]);
    }
    let reading = || format!("reading {}", file.display());
    if !file.is_dir() {
        return Ok(vec![(
            file.display().to_string(),
            fs::read_to_string(file).with_context(reading)?,
        )]);
    }
    let mut paths: Vec<PathBuf> = fs::read_dir(file)
        .with_context(reading)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"));
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text =
                fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            Ok((path.display().to_string(), text))
        })
        .collect()
}

/// The object's resource, its namespace if it has one, and its name.
pub fn place<'a>(
    resources: &Resources,
    object: &'a Value,
    namespace: &'a str,
) -> anyhow::Result<(Resource, &'a str, &'a str)> {
    let field = |name: &str| object[name].as_str().filter(|text| !text.is_empty());
    let kind = field("kind").context("Object 'Kind' is missing")?;
    let api_version = field("apiVersion").context("apiVersion not set")?;
    let resource = resources.of_manifest(api_version, kind)?;
    let name = object["metadata"]["name"].as_str().context("resource name may not be empty")?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or(namespace);
    Ok((resource, namespace, name))
}

pub async fn apply(client: kube::Client, args: ApplyArgs) -> anyhow::Result<ExitCode> {
    let dry = match args.dry_run.as_str() {
        "none" => "",
        "server" => "&dryRun=All",
        other => bail!("--dry-run={other}: must be none or server"),
    };
    let note = if dry.is_empty() { "" } else { " (server dry run)" };
    let objects = read(&args.filename)?;
    let resources = Resources::discover(&client).await?;
    let query = format!("{MANAGER}{dry}");
    let mut code = ExitCode::SUCCESS;
    // One that is refused does not keep the others from being declared, as with kubectl.
    for (file, object) in objects {
        let one = async {
            let place = place(&resources, &object, &args.namespace)
                .with_context(|| format!("error validating {file:?}"))?;
            let printed = format!("{}/{}", place.0.printed_kind(), place.2);
            match declare(&client, place, &object, &query).await {
                Ok(outcome) => Ok(format!("{printed} {}{note}", outcome.word)),
                Err(error) => Err(match error.downcast() {
                    Ok(refused) => report::when(refused, &format!("applying {file:?}")).into(),
                    Err(error) => error,
                }),
            }
        };
        match one.await {
            Ok(line) => println!("{line}"),
            Err(error) => code = report::failure(&error),
        }
    }
    Ok(code)
}

/// The annotation that remembers what was applied, byte for byte as kubectl writes it, so that each of the two takes
/// the other's objects for unchanged: defaults of its own filled in, keys in order, `<`, `>` and `&` escaped as Go
/// escapes them.
fn last_applied(object: &Value) -> String {
    let mut bare = object.clone();
    match bare["metadata"]["annotations"].as_object_mut() {
        Some(annotations) => drop(annotations.remove(LAST_APPLIED)),
        None => bare["metadata"]["annotations"] = json!({}),
    }
    bare.sort_all_objects();
    let mut text = bare.to_string();
    for (character, escaped) in [("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")] {
        text = text.replace(character, escaped);
    }
    text + "\n"
}

/// What became of one object.
pub struct Outcome {
    /// `created`, `configured` or `unchanged`.
    pub word: &'static str,
    pub path: String,
    pub uid: String,
}

/// Makes one object as its manifest says, or changes it to that, as `kubectl apply` does.
pub async fn declare(
    client: &kube::Client,
    (resource, namespace, name): (Resource, &str, &str),
    object: &Value,
    query: &str,
) -> anyhow::Result<Outcome> {
    let collection = resource.path(Some(namespace));
    let path = format!("{collection}/{name}");
    let mut tries = TRIES;
    let mut wanted = object.clone();
    if resource.namespaced {
        wanted["metadata"]["namespace"] = json!(namespace);
    }
    let applied = last_applied(&wanted);
    if wanted["metadata"]["annotations"].is_null() {
        wanted["metadata"]["annotations"] = json!({});
    }
    wanted["metadata"]["annotations"][LAST_APPLIED] = json!(applied);
    let (word, after) = loop {
        let existing = client.request::<Value>(http::Request::get(&path).body(Vec::new())?).await;
        match existing {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let request = http::Request::post(format!("{collection}?{query}"))
                    .header("content-type", "application/json")
                    .body(serde_json::to_vec(&wanted)?)?;
                match client.request::<Value>(request).await {
                    // Somebody was faster: theirs is changed instead.
                    Err(kube::Error::Api(status))
                        if status.reason == "AlreadyExists" && tries > 0 =>
                    {
                        tries -= 1;
                    }
                    created => break ("created", created?),
                }
            }
            Err(error) => return Err(error.into()),
            Ok(current) => {
                let before = current["metadata"]["annotations"][LAST_APPLIED].as_str();
                let before =
                    before.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(json!({}));
                // It carries the revision that was read, so that nobody's change is overwritten.
                let next = three_way::merged(&before, &wanted, &current);
                if next == current {
                    break ("unchanged", current);
                }
                let request = http::Request::put(format!("{path}?{query}"))
                    .header("content-type", "application/json")
                    .body(serde_json::to_vec(&next)?)?;
                match client.request::<Value>(request).await {
                    Err(kube::Error::Api(status)) if status.code == 409 && tries > 0 => tries -= 1,
                    Err(error) => return Err(error.into()),
                    Ok(after) => {
                        let revision =
                            |object: &Value| object["metadata"]["resourceVersion"].clone();
                        let same = revision(&after) == revision(&current);
                        break (if same { "unchanged" } else { "configured" }, after);
                    }
                }
            }
        }
    };
    let uid = after["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    Ok(Outcome { word, path, uid })
}

pub async fn delete(client: kube::Client, args: DeleteArgs) -> anyhow::Result<ExitCode> {
    let resources = Resources::discover(&client).await?;
    let mut targets: Vec<(Resource, String, String)> = Vec::new();
    if !args.filename.is_empty() {
        for (file, object) in read(&args.filename)? {
            let (resource, namespace, name) = place(&resources, &object, &args.scope.namespace)
                .with_context(|| format!("error validating {file:?}"))?;
            targets.push((resource, namespace.to_owned(), name.to_owned()));
        }
    } else {
        match select(&resources, &args.what)? {
            Selection::Named(named) => {
                let namespace = &args.scope.namespace;
                targets
                    .extend(named.into_iter().map(|(kind, name)| (kind, namespace.clone(), name)));
            }
            Selection::All(_) if !args.all && args.scope.selector.is_none() => {
                bail!(
                    "resource(s) were provided, but no name was specified; name them, or use -l or --all"
                )
            }
            Selection::All(kinds) => {
                for kind in kinds {
                    let path =
                        format!("{}{}", kind.path(args.scope.namespace()), args.scope.query(&[]));
                    let list: Value =
                        client.request(http::Request::get(path).body(Vec::new())?).await?;
                    for item in list["items"].as_array().into_iter().flatten() {
                        let text = |name: &str| {
                            item["metadata"][name].as_str().unwrap_or_default().to_owned()
                        };
                        targets.push((kind.clone(), text("namespace"), text("name")));
                    }
                }
            }
        }
    }
    let grace = match (args.now, args.force, args.grace_period) {
        (true, ..) => Some(1),
        (_, true, None) => Some(0),
        (_, false, Some(0)) => bail!(
            "--grace-period=0 needs --force: the processes may still run when the object is gone"
        ),
        (_, _, period) => period,
    };
    let mut options = json!({"propagationPolicy": "Background"});
    if let Some(seconds) = grace {
        options["gracePeriodSeconds"] = json!(seconds);
    }
    if targets.is_empty() {
        eprintln!("No resources found");
    }
    let mut code = ExitCode::SUCCESS;
    let mut pending = Vec::new();
    for (resource, namespace, name) in targets {
        let path = format!("{}/{name}", resource.path(Some(&namespace)));
        let request = http::Request::delete(&path)
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&options)?)?;
        match client.request::<Value>(request).await {
            Ok(answer) => {
                let printed = resource.printed_kind();
                let how = if args.force { "force deleted" } else { "deleted" };
                match resource.namespaced {
                    true => println!("{printed} \"{name}\" {how} from {namespace} namespace"),
                    false => println!("{printed} \"{name}\" {how}"),
                }
                let uid = answer["details"]["uid"].as_str().or(answer["metadata"]["uid"].as_str());
                pending.push((path, uid.unwrap_or_default().to_owned()));
            }
            Err(kube::Error::Api(status)) if status.code == 404 && args.ignore_not_found => {}
            // The others are deleted all the same, as with kubectl.
            Err(error) => code = report::failure(&error.into()),
        }
    }
    if args.wait {
        for (path, uid) in pending {
            until_gone(&client, &path, &uid).await?;
        }
    }
    Ok(code)
}

/// Watches one object until it, by its uid, is no more.
async fn until_gone(client: &kube::Client, path: &str, uid: &str) -> anyhow::Result<()> {
    use futures::{AsyncBufReadExt, TryStreamExt};
    loop {
        let current: Value = match client.request(http::Request::get(path).body(Vec::new())?).await
        {
            Ok(current) => current,
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if current["metadata"]["uid"] != uid {
            return Ok(());
        }
        let (collection, name) = path.rsplit_once('/').context("an object's path has a name")?;
        let revision = current["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let query =
            format!("watch=true&resourceVersion={revision}&fieldSelector=metadata.name%3D{name}");
        let request = http::Request::get(format!("{collection}?{query}")).body(Vec::new())?;
        let mut lines = client.request_stream(request).await?.lines();
        while let Some(line) = lines.try_next().await? {
            let event: Value = serde_json::from_str(&line)?;
            if event["type"] == "DELETED" {
                return Ok(());
            }
            if event["type"] == "ERROR" {
                break;
            }
        }
    }
}
