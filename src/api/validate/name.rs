//! The shapes of names, and the sentences Kubernetes refuses the others with.
//!
//! It never knows which kind uses which shape. Every function returns the complaints, none if the text
//! is fine; the sentences are those of apimachinery's `util/validation`.

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_UNDERSCORE: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
const LABEL_KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_KEY_SENTENCE: &str = "must consist of alphanumeric characters, '-', '_' or '.', \
     and must start and end with an alphanumeric character";

/// One DNS label: container, volume and namespace names.
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut complaints = too_long(text, 63);
    if !is_dns1123_label(text) {
        complaints.push(if is_dns1123_subdomain(text) {
            // The length was checked above, so it must be the dots.
            "must not contain dots".to_owned()
        } else {
            shape(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
                 and must start and end with an alphanumeric character",
                LABEL,
                &["my-name", "123-abc"],
            )
        });
    }
    complaints
}

/// Labels joined by dots: the names of most objects.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    let mut complaints = too_long(text, 253);
    if !is_dns1123_subdomain(text) {
        complaints.push(shape(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
             and must start and end with an alphanumeric character",
            &format!("{LABEL}(\\.{LABEL})*"),
            &["example.com"],
        ));
    }
    complaints
}

/// A subdomain whose labels may hold underscores: DNS search paths.
pub fn dns1123_subdomain_with_underscore(text: &str) -> Vec<String> {
    let is_label = |label: &str| {
        let label = label.strip_prefix('_').unwrap_or(label);
        is_framed(label, is_lower_alphanumeric, |c| {
            is_lower_alphanumeric(c) || c == b'-' || c == b'_'
        })
    };
    let mut complaints = too_long(text, 253);
    if !text.split('.').all(is_label) {
        complaints.push(shape(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', \
             and must start and end with an alphanumeric character",
            &format!("{LABEL_UNDERSCORE}(\\.{LABEL_UNDERSCORE})*"),
            &["example.com"],
        ));
    }
    complaints
}

/// A DNS label that starts with a letter: Service names.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut complaints = too_long(text, 63);
    if !is_dns1123_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        complaints.push(shape(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', \
             start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    complaints
}

/// One segment of a URL path: the names of roles and their bindings.
pub fn path_segment(text: &str) -> Vec<String> {
    if [".", ".."].contains(&text) {
        return vec![format!("may not be '{text}'")];
    }
    let forbidden = ["/", "%"].into_iter().filter(|part| text.contains(part));
    forbidden.map(|part| format!("may not contain '{part}'")).collect()
}

/// `[prefix/]name`: label and annotation keys, finalizers, condition types, resources.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut parts = text.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                complaints.push("prefix part must be non-empty".to_owned());
            } else {
                complaints.extend(
                    dns1123_subdomain(prefix).into_iter().map(|c| format!("prefix part {c}")),
                );
            }
            name
        }
        _ => {
            let sentence = shape(LABEL_KEY_SENTENCE, LABEL_KEY, &["MyName", "my.name", "123-abc"]);
            return vec![format!(
                "a valid label key {sentence} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        complaints.push("name part must be non-empty".to_owned());
    } else {
        complaints.extend(too_long(name, 63).into_iter().map(|c| format!("name part {c}")));
    }
    if !is_label_key_name(name) {
        let sentence = shape(LABEL_KEY_SENTENCE, LABEL_KEY, &["MyName", "my.name", "123-abc"]);
        complaints.push(format!("name part {sentence}"));
    }
    complaints
}

/// The value of a label; may be empty.
pub fn label_value(text: &str) -> Vec<String> {
    let mut complaints = too_long(text, 63);
    if !text.is_empty() && !is_label_key_name(text) {
        complaints.push(shape(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
             and must start and end with an alphanumeric character",
            &format!("({LABEL_KEY})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    complaints
}

/// The name of a port (RFC 6335, lower case only).
pub fn port_name(text: &str) -> Vec<String> {
    let mut complaints = too_long(text, 15);
    if text.is_empty() || !text.bytes().all(|c| is_lower_alphanumeric(c) || c == b'-') {
        complaints
            .push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|c| c.is_ascii_lowercase()) {
        complaints.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        complaints.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        complaints.push("must not begin or end with a hyphen".into());
    }
    complaints
}

/// The name of an environment variable: printable ASCII without `=` (KEP-4369).
pub fn environment_variable(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".into()];
    }
    if text.bytes().all(|c| matches!(c, b' '..=b'~') && c != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".into()]
}

/// A key of a ConfigMap or Secret; it becomes a file name.
pub fn config_key(text: &str) -> Vec<String> {
    let mut complaints = too_long(text, 253);
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c)) {
        complaints.push(shape(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match text {
        "." => complaints.push("must not be '.'".into()),
        ".." => complaints.push("must not be '..'".into()),
        _ if text.starts_with("..") => complaints.push("must not start with '..'".into()),
        _ => {}
    }
    complaints
}

/// The name of an HTTP header in a probe.
pub fn http_header(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
        return Vec::new();
    }
    vec![shape(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// A sysctl in dotted or slashed form.
pub fn is_sysctl(text: &str) -> bool {
    let is_segment = |segment: &str| {
        is_framed(segment, is_lower_alphanumeric, |c| {
            is_lower_alphanumeric(c) || c == b'-' || c == b'_'
        })
    };
    text.len() <= 253 && text.split(['.', '/']).all(is_segment)
}

fn too_long(text: &str, most: usize) -> Vec<String> {
    if text.len() <= most {
        Vec::new()
    } else {
        vec![format!("must be no more than {most} characters")]
    }
}

/// The sentence of a text that fails its regular expression.
fn shape(sentence: &str, regex: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{sentence} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

fn is_lower_alphanumeric(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// Not empty, `edge` at both ends, `inner` everywhere.
fn is_framed(text: &str, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|&c| edge(c))
        && bytes.last().is_some_and(|&c| edge(c))
        && bytes.iter().all(|&c| inner(c))
}

fn is_dns1123_label(text: &str) -> bool {
    is_framed(text, is_lower_alphanumeric, |c| is_lower_alphanumeric(c) || c == b'-')
}

fn is_dns1123_subdomain(text: &str) -> bool {
    text.split('.').all(is_dns1123_label)
}

fn is_label_key_name(text: &str) -> bool {
    is_framed(
        text,
        |c| c.is_ascii_alphanumeric(),
        |c| c.is_ascii_alphanumeric() || b"-_.".contains(&c),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(complaints: Vec<String>, expected: Expect) {
        expected.assert_eq(&complaints.join("\n"));
    }

    #[test]
    fn names_that_kubernetes_accepts_pass() {
        for text in ["a", "a-1", "0", &"x".repeat(63)] {
            assert_eq!(dns1123_label(text), Vec::<String>::new(), "{text}");
        }
        for text in ["a.b", "a-1.c", &"x".repeat(253)] {
            assert_eq!(dns1123_subdomain(text), Vec::<String>::new(), "{text}");
        }
        for text in ["app", "example.com/Name_1", "k8s.io/a.b"] {
            assert_eq!(qualified_name(text), Vec::<String>::new(), "{text}");
        }
        for text in ["", "A", "a_b.C"] {
            assert_eq!(label_value(text), Vec::<String>::new(), "{text}");
        }
        for text in ["A", "my.env-name", "1 a", "~"] {
            assert_eq!(environment_variable(text), Vec::<String>::new(), "{text}");
        }
        assert_eq!(port_name("http-1"), Vec::<String>::new());
        assert_eq!(dns1123_subdomain_with_underscore("_tcp.a_b.c"), Vec::<String>::new());
        assert_eq!(config_key("..."), vec!["must not start with '..'"]);
        assert!(
            is_sysctl("net.ipv4.ip_local_port_range")
                && is_sysctl("net/ipv4/x")
                && !is_sysctl("net..x")
        );
    }

    #[test]
    fn label_sentence() {
        check(
            dns1123_label("A_b"),
            expect![
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ],
        );
        check(dns1123_label("a.b"), expect!["must not contain dots"]);
        check(dns1123_label(&"a".repeat(64)), expect!["must be no more than 63 characters"]);
    }

    #[test]
    fn subdomain_sentence() {
        check(
            dns1123_subdomain("My_Pod"),
            expect![[
                r#"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#
            ]],
        );
        check(
            dns1035_label("1a"),
            expect![
                "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
            ],
        );
    }

    #[test]
    fn qualified_name_sentences() {
        check(qualified_name("/a"), expect!["prefix part must be non-empty"]);
        check(
            qualified_name("a/"),
            expect![[r#"
                name part must be non-empty
                name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"#]],
        );
        check(
            qualified_name("a/b/c"),
            expect![
                "a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ],
        );
    }

    #[test]
    fn port_and_key_sentences() {
        check(
            port_name("-8080--x_y-too-long"),
            expect![[r#"
                must be no more than 15 characters
                must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)
                must not contain consecutive hyphens
                must not begin or end with a hyphen"#]],
        );
        check(
            path_segment("a/b%"),
            expect![[r#"
            may not contain '/'
            may not contain '%'"#]],
        );
        check(path_segment("system:node"), expect![[r#""#]]);
        check(path_segment(".."), expect!["may not be '..'"]);
        check(port_name("80"), expect!["must contain at least one letter (a-z)"]);
        check(
            config_key("a b"),
            expect![
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
            ],
        );
        check(
            environment_variable("A=B"),
            expect![
                "a valid environment variable name must consist only of printable ASCII characters other than '='"
            ],
        );
    }
}
