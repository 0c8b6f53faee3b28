//! The table against examples of the documentation and a naive oracle.

use proptest::prelude::*;

use super::*;

fn backend(service: &str) -> BackendFact {
    BackendFact { service: service.to_owned(), port: Port::Number(80) }
}

fn ingress(name: &str, created: i64, rules: &[(&str, &str, PathKind, &str)]) -> IngressFact {
    let rules = rules
        .iter()
        .map(|(host, path, kind, service)| RuleFact {
            host: (*host).to_owned(),
            paths: vec![PathFact {
                path: (*path).to_owned(),
                kind: *kind,
                backend: backend(service),
            }],
        })
        .collect();
    IngressFact {
        name: ObjectName::new("default", name),
        created,
        rules,
        default: None,
        options: Options::default(),
    }
}

fn found(table: &Table<Arc<Route>>, host: &str, path: &str) -> Option<String> {
    table.find(host, path).map(|route| route.backend.service.name.clone())
}

use PathKind::{Exact, Prefix};

#[test]
fn the_examples_of_the_kubernetes_documentation() {
    // (kind, rule's paths, request path, matched rule or none), from "Ingress: Examples".
    type Case = (PathKind, &'static [&'static str], &'static str, Option<&'static str>);
    const CASES: &[Case] = &[
        (Prefix, &["/"], "/any/thing", Some("/")),
        (Exact, &["/foo"], "/foo", Some("/foo")),
        (Exact, &["/foo"], "/bar", None),
        (Exact, &["/foo"], "/foo/", None),
        (Exact, &["/foo/"], "/foo", None),
        (Prefix, &["/foo"], "/foo", Some("/foo")),
        (Prefix, &["/foo"], "/foo/", Some("/foo")),
        (Prefix, &["/foo/"], "/foo", Some("/foo/")),
        (Prefix, &["/foo/"], "/foo/", Some("/foo/")),
        (Prefix, &["/foo"], "/foo/bar", Some("/foo")),
        (Prefix, &["/foo"], "/foobar", None),
        (Prefix, &["/aaa/bb"], "/aaa/bbb", None),
        (Prefix, &["/aaa/bbb"], "/aaa/bbb", Some("/aaa/bbb")),
        (Prefix, &["/aaa/bbb/"], "/aaa/bbb", Some("/aaa/bbb/")),
        (Prefix, &["/aaa/bbb"], "/aaa/bbb/", Some("/aaa/bbb")),
        (Prefix, &["/aaa/bbb"], "/aaa/bbb/ccc", Some("/aaa/bbb")),
        (Prefix, &["/aaa/bbb"], "/aaa/bbbxyz", None),
        (Prefix, &["/", "/aaa"], "/aaa/ccc", Some("/aaa")),
        (Prefix, &["/", "/aaa", "/aaa/bbb"], "/aaa/bbb", Some("/aaa/bbb")),
        (Prefix, &["/", "/aaa", "/aaa/bbb"], "/ccc", Some("/")),
        (Prefix, &["/aaa"], "/ccc", None),
        (Prefix, &["/api"], "/api/v1", Some("/api")),
        (Prefix, &["/api"], "/apix", None),
    ];
    for (kind, paths, request, matched) in CASES {
        let rules: Vec<_> = paths.iter().map(|path| ("", *path, *kind, *path)).collect();
        let table = compile(&[ingress("docs", 0, &rules)]);
        assert_eq!(
            found(&table, "h", request).as_deref(),
            *matched,
            "{kind:?} {paths:?} {request}"
        );
    }
}

#[test]
fn exact_paths_and_exact_hosts_come_first() {
    let table = compile(&[ingress(
        "mixed",
        0,
        &[
            ("", "/", Prefix, "anyone"),
            ("*.example.com", "/", Prefix, "wild"),
            ("a.example.com", "/", Prefix, "named"),
            ("a.example.com", "/foo", Prefix, "prefix"),
            ("a.example.com", "/foo", Exact, "exact"),
            ("B.Example.com", "/only", Prefix, "only"),
        ],
    )]);
    for (host, path, service) in [
        ("a.example.com", "/", "named"),
        ("a.example.com", "/foo", "exact"),
        ("a.example.com", "/foo/", "prefix"),
        ("b.example.com", "/only", "only"),
        ("b.example.com", "/", "wild"),
        ("x.example.com", "/", "wild"),
        ("example.com", "/", "anyone"),
        ("x.y.example.com", "/", "anyone"),
    ] {
        assert_eq!(found(&table, host, path).as_deref(), Some(service), "{host}{path}");
    }
}

#[test]
fn the_oldest_of_two_ingresses_wins_and_then_the_first_by_name() {
    let old = ingress("z-old", 1, &[("h", "/", Prefix, "old")]);
    let new = ingress("a-new", 2, &[("h", "/", Prefix, "new")]);
    let twin = ingress("a-twin", 1, &[("h", "/", Prefix, "twin")]);
    assert_eq!(found(&compile(&[new.clone(), old.clone()]), "h", "/").as_deref(), Some("old"));
    assert_eq!(found(&compile(&[new, old, twin]), "h", "/").as_deref(), Some("twin"));
}

#[test]
fn what_matches_no_rule_goes_to_a_default_backend() {
    let mut named = ingress("named", 2, &[("h", "/api", Prefix, "api")]);
    named.default = Some(backend("of-h"));
    let mut bare = ingress("bare", 1, &[]);
    bare.default = Some(backend("of-all"));
    let table = compile(&[named, bare]);
    assert_eq!(found(&table, "h", "/api").as_deref(), Some("api"));
    assert_eq!(found(&table, "h", "/else").as_deref(), Some("of-h"));
    assert_eq!(found(&table, "other", "/").as_deref(), Some("of-all"));
}

#[test]
fn hosts_are_compared_without_port_case_or_trailing_dot() {
    for (authority, host) in [
        ("Shop.Example", "shop.example"),
        ("shop.example:8080", "shop.example"),
        ("shop.example.", "shop.example"),
        ("shop.example.:80", "shop.example"),
        ("[::1]:80", "[::1]"),
        ("[::1]", "[::1]"),
        ("10.0.0.1:80", "10.0.0.1"),
        ("", ""),
    ] {
        assert_eq!(plain_host(authority), host, "{authority}");
    }
}

#[test]
fn a_long_path_costs_no_more_lookups_than_the_deepest_rule() {
    let table = compile(&[ingress("deep", 0, &[("", "/a/b", Prefix, "ab")])]);
    let long = format!("/a/b{}", "/x".repeat(100_000));
    assert_eq!(found(&table, "h", &long).as_deref(), Some("ab"));
    assert_eq!(table.any.depth, 2);
}

/// What the documentation says, rule by rule, without an index.
fn oracle(ingresses: &[IngressFact], host: &str, path: &str) -> Option<String> {
    let elements = |path: &str| -> Vec<String> {
        path.split('/').filter(|element| !element.is_empty()).map(str::to_owned).collect()
    };
    let host_rank = |rule: &str| match rule {
        "" => Some(0),
        rule if rule == host => Some(2),
        rule => {
            let parent = rule.strip_prefix("*.")?;
            let label = host.strip_suffix(parent)?.strip_suffix('.')?;
            (!label.is_empty() && !label.contains('.')).then_some(1)
        }
    };
    // Larger is better: host, exactness, length, age.
    let mut best: Option<((i32, usize, i64), String)> = None;
    let mut consider = |rank: (i32, usize, i64), service: &str| {
        if best.as_ref().is_none_or(|(known, _)| rank > *known) {
            best = Some((rank, service.to_owned()));
        }
    };
    for ingress in ingresses {
        for rule in &ingress.rules {
            let Some(host_rank) = host_rank(&rule.host) else { continue };
            for fact in &rule.paths {
                let wanted = elements(&fact.path);
                let closeness = match fact.kind {
                    Exact if fact.path == path => Some(usize::MAX),
                    Prefix if elements(path).starts_with(&wanted) => Some(wanted.len()),
                    Exact | Prefix => None,
                };
                if let Some(closeness) = closeness {
                    consider((host_rank, closeness, -ingress.created), &fact.backend.service);
                }
            }
        }
    }
    best.map(|(_, service)| service)
}

fn any_path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof!["a", "b", "ab", "aa"], 0..4).prop_flat_map(|elements| {
        any::<bool>().prop_map(move |slash| {
            let joined = elements.iter().map(|e| format!("/{e}")).collect::<String>();
            if joined.is_empty() || slash { format!("{joined}/") } else { joined }
        })
    })
}

fn any_host() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(""),
        Just("e.com"),
        Just("*.e.com"),
        Just("x.e.com"),
        Just("*.x.e.com"),
        Just("y.e.com")
    ]
    .prop_map(str::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn the_table_agrees_with_the_naive_reading(
        rules in proptest::collection::vec((any_host(), any_path(), any::<bool>()), 0..24),
        requests in proptest::collection::vec(
            (prop_oneof!["e.com", "x.e.com", "y.e.com", "z.x.e.com", "other"], any_path()), 1..16),
    ) {
        let ingresses: Vec<IngressFact> = rules
            .iter()
            .enumerate()
            .map(|(index, (host, path, exact))| {
                let kind = if *exact { Exact } else { Prefix };
                let name = format!("i{index}");
                ingress(&name, index as i64, &[(host, path, kind, &name)])
            })
            .collect();
        let table = compile(&ingresses);
        for (host, path) in &requests {
            prop_assert_eq!(found(&table, host, path), oracle(&ingresses, host, path), "{}{}", host, path);
        }
    }
}
