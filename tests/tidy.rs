//! What the compiler cannot guard in one crate: layers, pure files, where `unsafe` may stand, and house rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Files that decide, compile or render: no tokio, files, sockets, processes, clocks.
const PURE: &[&str] = include!("tidy/pure.in");

/// Which modules of the crate each module may name. Imports point down only.
const LAYERS: &[(&str, &[&str])] = &[
    // Every parser of what others send.
    ("hostile", &["model", "metrics", "runtime", "net", "api"]),
    ("model", &[]),
    ("sys", &["model"]),
    ("metrics", &["model", "sys"]),
    ("store", &["model", "sys", "metrics"]),
    ("runtime", &["model", "sys"]),
    ("net", &["model", "sys", "metrics", "events"]),
    ("api", &["store", "model", "sys", "metrics"]),
    ("events", &["model", "sys"]),
    ("placement", &["model"]),
    ("reconcile", &["model", "sys", "metrics", "events", "placement"]),
    ("node", &["model", "sys", "metrics", "runtime", "net", "events", "placement"]),
    (
        "cli",
        &[
            "model",
            "sys",
            "metrics",
            "store",
            "runtime",
            "net",
            "api",
            "events",
            "placement",
            "node",
            "reconcile",
            "daemon",
        ],
    ),
    (
        "daemon",
        &[
            "model",
            "sys",
            "metrics",
            "store",
            "runtime",
            "net",
            "api",
            "events",
            "placement",
            "node",
            "reconcile",
            "cli",
        ],
    ),
];

/// Files of the network that read the API's objects.
const FOLLOWERS: &[&str] = &[
    "net/sync.rs",
    "net/sync/facts.rs",
    "net/sync/told.rs",
    "net/ingress/observe.rs",
    "net/ingress/sync.rs",
    "net/policy/read.rs",
    "net/policy/sync.rs",
    "net/policy/sync/follow.rs",
];

const IMPURE_WORDS: &[&str] = &[
    "tokio::",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::process",
    "std::os::",
    "SystemTime",
    "Instant::now",
    "clock::now",
    "clock::random",
    "nix::",
    "rustix::",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut queue = vec![directory.to_owned()];
    while let Some(next) = queue.pop() {
        for entry in fs::read_dir(&next).expect("a source directory can be read") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() {
                queue.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

struct Source {
    /// Relative to `src/`, such as `net/link.rs`.
    name: String,
    text: String,
}

impl Source {
    /// The text above the unit tests.
    fn shipped(&self) -> &str {
        self.text.split("#[cfg(test)]").next().unwrap_or("")
    }

    fn module(&self) -> &str {
        let first = self.name.split('/').next().unwrap_or("");
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Lines of shipped code without comments, numbered from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.shipped()
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(index, line)| (index + 1, line))
    }
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    files_below(&src, "rs")
        .into_iter()
        .map(|path| Source {
            name: path.strip_prefix(&src).expect("below src").display().to_string(),
            text: fs::read_to_string(&path).expect("a source file is text"),
        })
        .filter(|source| !source.name.ends_with("tests.rs") && !source.name.contains("/tests/"))
        .collect()
}

fn report(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn imports_point_down_only() {
    let modules: BTreeSet<&str> = LAYERS.iter().map(|(module, _)| *module).collect();
    let mut findings = Vec::new();
    for source in sources() {
        let Some((_, allowed)) = LAYERS.iter().find(|(module, _)| *module == source.module())
        else {
            continue;
        };
        for (number, line) in source.code() {
            for part in line.split("crate::").skip(1) {
                let named: String =
                    part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let known = modules.get(named.as_str());
                if known.is_some_and(|m| *m != source.module() && !allowed.contains(m)) {
                    findings
                        .push(format!("src/{}:{number}: must not see crate::{named}", source.name));
                }
            }
        }
    }
    report(findings);
}

#[test]
fn the_runtime_and_the_store_never_see_kubernetes_or_http() {
    let mut findings = Vec::new();
    for source in sources() {
        let banned: &[&str] = match source.module() {
            // Where the network follows the API; what follows from it is compiled from facts.
            "net" if FOLLOWERS.contains(&source.name.as_str()) => &["axum::"],
            "runtime" | "net" | "sys" => &["k8s_openapi", "kube::"],
            "store" => &["k8s_openapi", "kube::", "axum::", "hyper::"],
            "model" => &["k8s_openapi", "kube::", "axum::", "hyper::", "tokio::"],
            _ => continue,
        };
        for (number, line) in source.code() {
            for word in banned.iter().filter(|word| line.contains(**word)) {
                findings.push(format!("src/{}:{number}: must not see {word}", source.name));
            }
        }
    }
    report(findings);
}

#[test]
fn pure_files_exist_and_touch_nothing() {
    let sources = sources();
    let mut findings = Vec::new();
    for name in PURE {
        let Some(source) = sources.iter().find(|source| source.name == *name) else {
            findings.push(format!("src/{name}: listed as pure, but there is no such file"));
            continue;
        };
        for (number, line) in source.code() {
            for word in IMPURE_WORDS.iter().filter(|word| line.contains(**word)) {
                findings.push(format!("src/{name}:{number}: pure, but says {word}"));
            }
        }
    }
    report(findings);
}

#[test]
fn unsafe_stands_under_sys_only() {
    let mut findings = Vec::new();
    for source in sources().iter().filter(|source| source.module() != "sys") {
        for (number, line) in source.code() {
            if line.contains("unsafe {")
                || line.contains("unsafe fn")
                || line.contains("allow(unsafe")
            {
                findings
                    .push(format!("src/{}:{number}: unsafe belongs under src/sys", source.name));
            }
        }
    }
    report(findings);
}

#[test]
fn every_file_says_what_it_owns() {
    let silent = |source: &&Source| !source.text.starts_with("//! ");
    report(
        sources().iter().filter(silent).map(|s| format!("src/{}: no module doc", s.name)).collect(),
    );
}

#[test]
fn no_source_file_is_empty() {
    let says_nothing = |path: &PathBuf| {
        let text = fs::read_to_string(path).expect("a source file is text");
        !text.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//"))
    };
    let empty = ["src", "tests", "benches", "fuzz", "images"]
        .iter()
        .map(|directory| root().join(directory))
        .filter(|directory| directory.is_dir())
        .flat_map(|directory| files_below(&directory, "rs"))
        .filter(says_nothing);
    report(empty.map(|path| format!("{}: holds nothing", path.display())).collect());
}

#[test]
fn no_attics_no_mod_files_no_overgrown_trunks() {
    const ATTICS: &[&str] =
        &["util", "utils", "helper", "helpers", "common", "misc", "manager", "core"];
    let mut findings = Vec::new();
    for source in sources() {
        let stem = source.name.rsplit('/').next().unwrap_or("").trim_end_matches(".rs").to_owned();
        if ATTICS.contains(&stem.as_str()) || stem == "mod" {
            findings.push(format!("src/{}: this name says nothing", source.name));
        }
    }
    for directory in ["src", "tests", "benches", "images"] {
        for path in files_below(&root().join(directory), "rs") {
            let lines = fs::read_to_string(&path).expect("a source file is text").lines().count();
            if lines > 700 {
                let path = path.display();
                findings.push(format!("{path}: {lines} lines; look for the second idea in it"));
            }
        }
    }
    report(findings);
}

#[test]
fn nothing_is_left_unfinished_or_ignored() {
    // Spelled apart so that this file does not find itself.
    let marks: Vec<String> =
        [("to", "do!("), ("unimpl", "emented!("), ("#[ig", "nore"), ("FIX", "ME")]
            .iter()
            .map(|(head, tail)| format!("{head}{tail}"))
            .collect();
    let mut findings = Vec::new();
    for directory in ["src", "tests", "benches", "images"] {
        let directory = root().join(directory);
        if !directory.is_dir() {
            continue;
        }
        for path in files_below(&directory, "rs") {
            let text = fs::read_to_string(&path).expect("a source file is text");
            for (index, line) in text.lines().enumerate() {
                if marks.iter().any(|mark| line.contains(mark.as_str())) {
                    findings.push(format!("{}:{}: {}", path.display(), index + 1, line.trim()));
                }
            }
        }
    }
    report(findings);
}

#[test]
fn no_two_decisions_have_one_number() {
    let mut numbers = std::collections::BTreeMap::<String, Vec<String>>::new();
    for path in files_below(&root().join("docs/decisions"), "md") {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        numbers.entry(name.chars().take(4).collect()).or_default().push(name);
    }
    let doubled = numbers.values().filter(|names| names.len() > 1);
    report(doubled.map(|names| names.join(" and ")).collect());
}

#[test]
fn one_tls_stack_and_no_banned_crate() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock is committed");
    let banned = ["openssl-sys", "native-tls", "aws-lc-sys", "aws-lc-rs", "rsa"];
    let has = |name: &&&str| lock.contains(&format!("name = \"{name}\"\n"));
    report(banned.iter().filter(has).map(|name| format!("Cargo.lock holds {name}")).collect());
}

/// Doubled for other systems, or for a feature that nobody asks for (yasna's bit-vec): built by nobody here.
const FOREIGN_CRATES: &[&str] = &["bit-vec", "core-foundation", "r-efi", "windows-sys"];

#[test]
fn a_crate_in_two_versions_has_a_reason() {
    let read = |name: &str| fs::read_to_string(root().join(name)).expect("is committed");
    let (lock, rules) = (read("Cargo.lock"), read("deny.toml"));
    let mut versions = std::collections::BTreeMap::<&str, Vec<&str>>::new();
    for package in lock.split("[[package]]").skip(1) {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default().trim_matches('"')
        };
        versions.entry(value("name = ")).or_default().push(value("version = "));
    }
    let mut findings = Vec::new();
    for (name, versions) in &versions {
        let reasons = versions.iter().filter(|version| {
            rules.contains(&format!("{{ crate = \"{name}@{version}\", reason = \""))
        });
        let unexplained = versions.len() - 1 - reasons.count().min(versions.len() - 1);
        if unexplained > 0 && !FOREIGN_CRATES.contains(name) {
            findings.push(format!("deny.toml: no reason for {name} in {}", versions.join(" and ")));
        }
    }
    for row in rules.lines().filter_map(|line| line.trim().strip_prefix("{ crate = \"")) {
        let Some((name, version)) = row.split('"').next().and_then(|row| row.split_once('@'))
        else {
            continue;
        };
        if versions.get(name).is_none_or(|all| all.len() < 2 || !all.contains(&version)) {
            findings.push(format!("deny.toml: {name} {version} is not doubled any more"));
        }
    }
    report(findings);
}
