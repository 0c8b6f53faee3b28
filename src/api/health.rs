//! What `/livez`, `/readyz` and `/healthz` answer, as kube-apiserver words it (k8s.io/apiserver/pkg/server/healthz).
//!
//! Pure. Why a check fails is for the log: anybody may ask.

use std::collections::BTreeSet;
use std::fmt::Write;

/// Something that is well or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub is_well: bool,
}

/// What of the health is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question<'a> {
    /// `livez`, `readyz`, `healthz`.
    pub endpoint: &'a str,
    /// One check alone, as in `/readyz/ping`.
    pub only: Option<&'a str>,
    pub is_verbose: bool,
    pub excluded: BTreeSet<&'a str>,
}

/// An answer in plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub is_well: bool,
    pub text: String,
}

/// Answers from `checks`; `None` if there is no check of that name.
pub fn answer(question: &Question<'_>, checks: &[Check]) -> Option<Answer> {
    match question.only {
        None => Some(all(question, checks)),
        Some(name) => {
            let is_well = checks.iter().find(|check| check.name == name)?.is_well;
            let text = if is_well { "ok" } else { "internal server error: reason withheld\n" };
            Some(Answer { is_well, text: text.to_owned() })
        }
    }
}

fn all(question: &Question<'_>, checks: &[Check]) -> Answer {
    let mut list = String::new();
    let mut unknown = question.excluded.clone();
    let mut is_well = true;
    for check in checks {
        let name = check.name;
        let (sign, outcome) = if unknown.remove(name) {
            ('+', "excluded: ok")
        } else if check.is_well {
            ('+', "ok")
        } else {
            is_well = false;
            ('-', "failed: reason withheld")
        };
        // Writing to a String cannot fail.
        let _ = writeln!(list, "[{sign}]{name} {outcome}");
    }
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.iter().map(|name| format!("{name:?}")).collect();
        let names = names.join(",");
        let _ =
            writeln!(list, "warn: some health checks cannot be excluded: no matches for {names}");
    }
    let endpoint = question.endpoint;
    let text = match (is_well, question.is_verbose) {
        (false, _) => format!("{list}{endpoint} check failed\n"),
        (true, true) => format!("{list}{endpoint} check passed\n"),
        (true, false) => "ok".to_owned(),
    };
    Answer { is_well, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(path: &str, store: bool, expected: Expect) {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let (endpoint, only) = match path.split_once('/') {
            Some((endpoint, only)) => (endpoint, Some(only)),
            None => (path, None),
        };
        let question = Question {
            endpoint,
            only,
            is_verbose: query.contains("verbose"),
            excluded: query.split('&').filter_map(|pair| pair.strip_prefix("exclude=")).collect(),
        };
        let checks =
            [Check { name: "ping", is_well: true }, Check { name: "store", is_well: store }];
        let text = match answer(&question, &checks) {
            Some(answer) => format!("{} {}", answer.is_well, answer.text),
            None => "not found".to_owned(),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn who_is_well_says_ok_and_more_when_asked() {
        check("readyz", true, expect!["true ok"]);
        check(
            "readyz?verbose",
            true,
            expect![[r"
                true [+]ping ok
                [+]store ok
                readyz check passed
            "]],
        );
    }

    #[test]
    fn a_failure_is_told_without_its_reason() {
        check(
            "livez",
            false,
            expect![[r"
                false [+]ping ok
                [-]store failed: reason withheld
                livez check failed
            "]],
        );
    }

    #[test]
    fn what_is_excluded_does_not_count_and_what_is_not_there_is_told() {
        check("livez?exclude=store", false, expect!["true ok"]);
        check(
            "healthz?verbose&exclude=store&exclude=etcd&exclude=log",
            false,
            expect![[r#"
                true [+]ping ok
                [+]store excluded: ok
                warn: some health checks cannot be excluded: no matches for "etcd","log"
                healthz check passed
            "#]],
        );
    }

    #[test]
    fn one_check_can_be_asked_for() {
        check("readyz/ping", false, expect!["true ok"]);
        check(
            "readyz/store",
            false,
            expect![[r"
                false internal server error: reason withheld
            "]],
        );
        check("readyz/etcd", true, expect!["not found"]);
    }
}
