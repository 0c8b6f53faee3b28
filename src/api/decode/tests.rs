//! JSON and YAML bodies: wording, bounds, and what hostile text costs.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// What this thread has worked so far: unlike the clock, it does not run while others work.
fn cpu_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

#[track_caller]
fn json_error(body: &str, expected: &str) {
    assert_eq!(json(body.as_bytes()).unwrap_err().to_string(), expected, "{body}");
}

#[test]
fn duplicates_are_named_by_path_and_the_last_one_wins() {
    let body =
        br#"{"metadata":{"name":"a","name":"b","name":"c"},"l":[{},{"x":1,"x":2}],"l2":{},"l2":1}"#;
    let decoded = json(body).unwrap();
    assert_eq!(decoded.duplicates, ["metadata.name", "l[1].x", "l2"]);
    assert_eq!(decoded.value, json!({"metadata": {"name": "c"}, "l": [{}, {"x": 2}], "l2": 1}));
}

#[test]
fn integers_are_exact_and_order_is_kept() {
    let text = r#"{"z":9007199254740993,"a":-9223372036854775808,"m":18446744073709551615}"#;
    assert_eq!(json(text.as_bytes()).unwrap().value.to_string(), text);
    assert_eq!(yaml(b"z: 9007199254740993").unwrap().value, json!({"z": 9007199254740993i64}));
}

#[test]
fn json_errors_are_worded_like_go_s() {
    json_error("", "unexpected end of JSON input");
    json_error("{\"a\":", "unexpected end of JSON input");
    json_error("{\"a\":x}", "invalid character 'x' looking for beginning of value");
    json_error("{\"a\":1}x", "invalid character 'x' after top-level value");
    json_error("{a:1}", "invalid character 'a' looking for beginning of object key string");
    json_error("{\"a\" 1}", "invalid character '1' after object key");
    json_error("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair");
    json_error("[1 2]", "invalid character '2' after array element");
    json_error("{\"a\":\"x\ny\"}", "invalid character '\\n' in string literal");
}

#[test]
fn hostile_json_is_refused_quickly() {
    let started = cpu_time();
    assert_eq!(json("[".repeat(1 << 20).as_bytes()), Err(DecodeError::TooDeep));
    assert_eq!(json("{\"a\":".repeat(1 << 19).as_bytes()), Err(DecodeError::TooDeep));
    let wide = format!("[{}0]", "0,".repeat(1 << 20));
    assert_eq!(json(wide.as_bytes()), Err(DecodeError::TooMany));
    for bad in [r#""\ud800""#, r#""\u00""#, "1e999", "NaN", "\u{feff}{}", "01", "--1", "\"\u{0}\""]
    {
        assert!(json(bad.as_bytes()).is_err(), "{bad:?}");
    }
    assert!(json(b"\"\xff\"").is_err());
    let deepest = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
    assert!(json(deepest.as_bytes()).is_ok());
    let many = format!("{{{}\"a\":0}}", "\"a\":0,".repeat(100_000));
    assert_eq!(json(many.as_bytes()).unwrap().duplicates, ["a"]);
    let cost = cpu_time() - started;
    assert!(cost < Duration::from_secs(5), "{cost:?}");
}

#[test]
fn yaml_means_what_kubectl_makes_of_it() {
    let text = "
a: yes
b: 0644
c: 1e3
d: null
e: '0644'
f: |
  line
g: [x, 'y']
h: {k: v}
i: ~
j: 2001-01-01
k: 0x1f
1: number key
";
    assert_eq!(
        yaml(text.as_bytes()).unwrap().value,
        json!({
            "a": true, "b": 420, "c": 1000.0, "d": null, "e": "0644", "f": "line\n",
            "g": ["x", "y"], "h": {"k": "v"}, "i": null, "j": "2001-01-01", "k": 31,
            "1": "number key",
        })
    );
    assert_eq!(yaml(b"a: &x {b: 1}\nc: *x").unwrap().value, json!({"a": {"b": 1}, "c": {"b": 1}}));
    assert_eq!(
        yaml(br#"{"json": ["is", "yaml"]}"#).unwrap().value,
        json!({"json": ["is", "yaml"]})
    );
}

#[test]
fn yaml_that_says_two_things_is_refused() {
    for bad in ["a: 1\na: 2", "a: 1\n---\nb: 2", "a: *nowhere", "<<: {a: 1}", "a: .nan", "a: [1"] {
        assert!(matches!(yaml(bad.as_bytes()), Err(DecodeError::Yaml(_))), "{bad:?}");
    }
    assert!(yaml(b"\xff").is_err());
    assert_eq!(
        yaml(b"a: 1\na: 2").unwrap_err().to_string(),
        "yaml: duplicate mapping key: a at line 2, column 1"
    );
    assert_eq!(
        yaml(b"a: 1\n---\nb: 2").unwrap_err().to_string(),
        "yaml: more than one document at line 2, column 1"
    );
}

#[test]
fn alias_bombs_are_refused_fast() {
    let mut laughs = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for n in 1..10 {
        let refs = vec![format!("*a{}", n - 1); 9].join(", ");
        laughs += &format!("a{n}: &a{n} [{refs}]\n");
    }
    let anchor_to_self = "a: &a [*a, *a]".to_string();
    let wide_anchor =
        format!("a: &a {:?}\nb: [{}]", "x".repeat(1 << 20), vec!["*a"; 1000].join(","));
    let many = format!("a: &a [1]\nb: [{}]", vec!["*a"; 20_000].join(","));
    for bomb in [laughs, anchor_to_self, wide_anchor, many] {
        let started = cpu_time();
        assert!(yaml(bomb.as_bytes()).is_err(), "{}", &bomb[..60.min(bomb.len())]);
        let cost = cpu_time() - started;
        assert!(cost < Duration::from_millis(1000), "{cost:?}");
    }
}

#[test]
fn deep_and_wide_yaml_is_refused() {
    let dashes = "- ".repeat(3 << 19);
    let brackets = "[".repeat(1_000_000);
    let many = "- a\n".repeat(600_000);
    for (hostile, expected) in [
        (dashes, DecodeError::TooDeep),
        (brackets, DecodeError::TooDeep),
        (many, DecodeError::TooMany),
    ] {
        let started = cpu_time();
        assert_eq!(yaml(hostile.as_bytes()), Err(expected));
        let cost = cpu_time() - started;
        assert!(cost < Duration::from_secs(2), "{cost:?}");
    }
}

proptest! {
    #[test]
    fn json_agrees_with_serde_json(text in "[\\[\\]{}:,\"a0-9.eE \\\\-]{0,40}") {
        let ours = json(text.as_bytes()).map(|decoded| decoded.value).ok();
        prop_assert_eq!(ours, serde_json::from_str::<serde_json::Value>(&text).ok());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = json(&bytes);
        let _ = yaml(&bytes);
    }

    #[test]
    fn no_yaml_text_panics(text in "[\\[\\]{}:,\"'a&*|>%@!?#0-9 \n~<-]{0,60}") {
        let _ = yaml(text.as_bytes());
    }
}
