//! `joey get`: the server's own tables, or the objects as YAML, JSON or names.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};
use futures::{AsyncBufReadExt, TryStreamExt};
use serde_json::{Value, json};

use super::report;
use super::resources::{Resource, Resources, Selection, select};

#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// TYPE, TYPE NAME… or TYPE/NAME…
    #[arg(required = true)]
    what: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    /// Output: wide, yaml, json or name
    #[arg(short, long)]
    output: Option<String>,
    /// Follow changes after the list
    #[arg(short, long)]
    watch: bool,
    /// Leave the header out
    #[arg(long)]
    no_headers: bool,
    /// Add a column with all labels
    #[arg(long)]
    show_labels: bool,
    /// Add a column with this label's value, repeatable
    #[arg(short = 'L', long, value_delimiter = ',', value_name = "KEY")]
    label_columns: Vec<String>,
    /// Not finding an object is no failure
    #[arg(long)]
    ignore_not_found: bool,
}

/// Which namespace and which objects.
#[derive(Debug, clap::Args)]
pub struct Scope {
    /// Namespace of the objects
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// All namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Label selector, such as app=web,tier!=cache
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Field selector, such as status.phase=Running,metadata.name!=web
    #[arg(long)]
    pub field_selector: Option<String>,
}

impl Scope {
    pub fn namespace(&self) -> Option<&str> {
        (!self.all_namespaces).then_some(self.namespace.as_str())
    }

    /// `?labelSelector=…&fieldSelector=…` with `more` parameters.
    pub fn query(&self, more: &[(&str, &str)]) -> String {
        let own = [
            ("labelSelector", self.selector.as_deref()),
            ("fieldSelector", self.field_selector.as_deref()),
        ];
        let own = own.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let pairs: Vec<String> = own
            .chain(more.iter().copied())
            .map(|(name, value)| format!("{name}={}", encode(value)))
            .collect();
        match pairs.is_empty() {
            true => String::new(),
            false => format!("?{}", pairs.join("&")),
        }
    }
}

/// Percent-encodes what a query value may not hold.
pub fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/,=!()".contains(&b);
    text.bytes()
        .map(|byte| match plain(byte) && byte != b'=' {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

pub async fn run(client: kube::Client, args: GetArgs) -> anyhow::Result<ExitCode> {
    let resources = Resources::discover(&client).await?;
    let selection = select(&resources, &args.what)?;
    let wide = match args.output.as_deref() {
        None => Some(false),
        Some("wide") => Some(true),
        Some("yaml" | "json" | "name") => None,
        Some(other) => {
            bail!("output {other:?} is none of wide, yaml, json, name; kubectl knows more")
        }
    };
    match wide {
        Some(wide) => tables(&client, &args, selection, wide).await,
        None => objects(&client, &args, selection).await,
    }
}

/// The paths to ask, each with whether it is one object, and its resource.
fn targets(scope: &Scope, selection: Selection) -> Vec<(Resource, String)> {
    match selection {
        Selection::All(kinds) => kinds
            .into_iter()
            .map(|kind| {
                let path = kind.path(scope.namespace());
                (kind, path)
            })
            .collect(),
        Selection::Named(named) => named
            .into_iter()
            .map(|(kind, name)| {
                let path = format!("{}/{name}", kind.path(Some(&scope.namespace)));
                (kind, path)
            })
            .collect(),
    }
}

async fn tables(
    client: &kube::Client,
    args: &GetArgs,
    selection: Selection,
    wide: bool,
) -> anyhow::Result<ExitCode> {
    let whole = matches!(selection, Selection::All(_));
    let targets = targets(&args.scope, selection);
    if args.watch && targets.len() > 1 {
        bail!("--watch follows one type or one object at a time");
    }
    let query = if whole { args.scope.query(&[]) } else { String::new() };
    let mut code = ExitCode::SUCCESS;
    // Objects that are named one by one share their kind's table.
    let mut shown: Vec<(&Resource, Value)> = Vec::new();
    for (resource, path) in &targets {
        let request =
            http::Request::get(format!("{path}{query}")).header("accept", TABLE).body(Vec::new())?;
        let mut table: Value = match client.request(request).await {
            Ok(table) => table,
            Err(error) if whole => return Err(error.into()),
            Err(error) => {
                code = missing(args, error, code);
                continue;
            }
        };
        match shown.last_mut() {
            Some((last, rows)) if !whole && *last == resource => {
                let more = table["rows"].as_array_mut().map(std::mem::take).unwrap_or_default();
                if let Some(rows) = rows["rows"].as_array_mut() {
                    rows.extend(more);
                }
            }
            _ => shown.push((resource, table)),
        }
    }
    let several = match whole {
        true => targets.len() > 1,
        false => targets.iter().any(|(resource, _)| *resource != targets[0].0),
    };
    let mut printed = 0;
    for (resource, table) in &shown {
        if table["rows"].as_array().is_none_or(Vec::is_empty) {
            continue;
        }
        if printed > 0 {
            println!();
        }
        let prefix = several.then(|| resource.printed_kind());
        print_table(table, args, wide, prefix.as_deref(), !args.no_headers)?;
        printed += 1;
    }
    if let (true, [(_, path)], [(_, table)]) = (args.watch, &targets[..], &shown[..]) {
        follow(client, args, table, path, whole, wide).await?;
    } else if printed == 0 && whole {
        match args.scope.all_namespaces || targets.iter().all(|(resource, _)| !resource.namespaced)
        {
            true => eprintln!("No resources found"),
            false => eprintln!("No resources found in {} namespace.", args.scope.namespace),
        }
    }
    Ok(code)
}

/// Tells why one of several objects is not shown; the others are.
fn missing(args: &GetArgs, error: kube::Error, code: ExitCode) -> ExitCode {
    match error {
        kube::Error::Api(status) if status.code == 404 && args.ignore_not_found => code,
        error => report::failure(&error.into()),
    }
}

async fn follow(
    client: &kube::Client,
    args: &GetArgs,
    table: &Value,
    path: &str,
    whole: bool,
    wide: bool,
) -> anyhow::Result<()> {
    let revision = table["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let (path, query) = match whole {
        true => (
            path.to_owned(),
            args.scope.query(&[("watch", "true"), ("resourceVersion", &revision)]),
        ),
        false => {
            let (collection, name) =
                path.rsplit_once('/').context("an object's path has a name")?;
            let selector = format!(
                "?watch=true&resourceVersion={revision}&fieldSelector=metadata.name%3D{name}"
            );
            (collection.to_owned(), selector)
        }
    };
    let request =
        http::Request::get(format!("{path}{query}")).header("accept", TABLE).body(Vec::new())?;
    let mut lines = client.request_stream(request).await?.lines();
    let mut columns = table["columnDefinitions"].clone();
    while let Some(line) = lines.try_next().await? {
        let mut event: Value = serde_json::from_str(&line)?;
        if event["type"] == "ERROR" {
            bail!("{}", event["object"]["message"].as_str().unwrap_or("the watch has failed"));
        }
        if event["object"]["kind"] != "Table" {
            continue;
        }
        match event["object"]["columnDefinitions"].is_null() {
            true => event["object"]["columnDefinitions"] = columns.clone(),
            false => columns = event["object"]["columnDefinitions"].clone(),
        }
        print_table(&event["object"], args, wide, None, false)?;
    }
    Ok(())
}

fn print_table(
    table: &Value,
    args: &GetArgs,
    wide: bool,
    prefix: Option<&str>,
    header: bool,
) -> anyhow::Result<()> {
    let empty = Vec::new();
    let columns = table["columnDefinitions"].as_array().unwrap_or(&empty);
    let shown: Vec<usize> = (0..columns.len())
        .filter(|index| wide || columns[*index]["priority"].as_i64().unwrap_or(0) == 0)
        .collect();
    let mut lines = Vec::new();
    if header {
        let names = shown
            .iter()
            .map(|index| columns[*index]["name"].as_str().unwrap_or_default().to_uppercase());
        let mut line: Vec<String> = names.collect();
        if args.scope.all_namespaces {
            line.insert(0, "NAMESPACE".to_owned());
        }
        // The part after the prefix, as kubectl heads such columns.
        let heads = args.label_columns.iter().map(|key| key.rsplit('/').next().unwrap_or(key));
        line.extend(heads.map(str::to_uppercase));
        line.extend(args.show_labels.then(|| "LABELS".to_owned()));
        lines.push(line);
    }
    for row in table["rows"].as_array().unwrap_or(&empty) {
        let mut line: Vec<String> = shown.iter().map(|index| cell(&row["cells"][*index])).collect();
        if let (Some(prefix), Some(name)) = (prefix, line.first_mut()) {
            *name = format!("{prefix}/{name}");
        }
        let metadata = &row["object"]["metadata"];
        if args.scope.all_namespaces {
            line.insert(0, metadata["namespace"].as_str().unwrap_or_default().to_owned());
        }
        line.extend(args.label_columns.iter().map(|key| cell(&metadata["labels"][key])));
        if args.show_labels {
            let labels = metadata["labels"].as_object().map(|labels| {
                labels
                    .iter()
                    .map(|(key, value)| format!("{key}={}", cell(value)))
                    .collect::<Vec<_>>()
                    .join(",")
            });
            line.push(labels.unwrap_or_else(|| "<none>".to_owned()));
        }
        lines.push(line);
    }
    let mut out = io::stdout().lock();
    for line in columns_of(&lines) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Three spaces between columns, and what drives a terminal made visible (CVE-2021-25743).
fn columns_of(rows: &[Vec<String>]) -> Vec<String> {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| visible(cell)).collect()).collect();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}   "));
            cells.collect::<String>().trim_end().to_owned()
        })
        .collect()
}

/// Control characters as `\x1b`.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => shown.push_str(&format!("\\x{:02x}", u32::from(character))),
            false => shown.push(character),
        }
    }
    shown
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

async fn objects(
    client: &kube::Client,
    args: &GetArgs,
    selection: Selection,
) -> anyhow::Result<ExitCode> {
    let whole = matches!(selection, Selection::All(_));
    let mut code = ExitCode::SUCCESS;
    let mut found: Vec<(Resource, Value)> = Vec::new();
    for (resource, path) in targets(&args.scope, selection) {
        let query = if whole { args.scope.query(&[]) } else { String::new() };
        let request = http::Request::get(format!("{path}{query}")).body(Vec::new())?;
        let mut answer: Value = match client.request(request).await {
            Ok(answer) => answer,
            Err(error) if whole => return Err(error.into()),
            Err(error) => {
                code = missing(args, error, code);
                continue;
            }
        };
        if !whole {
            found.push((resource, answer));
            continue;
        }
        let items = answer["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        for mut item in items {
            item["kind"] = json!(resource.kind);
            item["apiVersion"] = json!(resource.api_version());
            found.push((resource.clone(), item));
        }
    }
    let mut out = io::stdout().lock();
    if args.output.as_deref() == Some("name") {
        for (resource, object) in &found {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            writeln!(out, "{}/{name}", resource.printed_kind())?;
        }
        return Ok(code);
    }
    if found.is_empty() && !whole {
        return Ok(code);
    }
    let mut objects: Vec<Value> = found.into_iter().map(|(_, object)| object).collect();
    let document = match (whole, objects.len()) {
        (false, 1) => objects.remove(0),
        _ => {
            json!({"apiVersion": "v1", "items": objects, "kind": "List", "metadata": {"resourceVersion": ""}})
        }
    };
    match args.output.as_deref() {
        Some("json") => writeln!(out, "{}", serde_json::to_string_pretty(&document)?)?,
        _ => write!(out, "{}", serde_saphyr::to_string(&document)?)?,
    }
    Ok(code)
}
