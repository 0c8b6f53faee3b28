use std::borrow::Cow;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn parse(text: &str) -> LabelSelector {
    LabelSelector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn selectors_match_as_in_kubernetes() {
    let object = labels(&[("app", "web"), ("tier", ""), ("n", "5"), ("in", "notin")]);
    for (selector, matched) in [
        ("", true),
        ("app=web", true),
        ("app==web", true),
        (" app = web , tier= ", true),
        ("app=db", false),
        ("missing=web", false),
        ("missing=", false),
        ("app!=web", false),
        ("app!=db", true),
        ("missing!=web", true),
        ("app in (web,db)", true),
        ("app in(db)", false),
        ("app notin (db)", true),
        ("app notin (web,db)", false),
        ("missing notin (web)", true),
        ("missing in (web)", false),
        ("tier in ()", true),
        ("tier in (,a)", true),
        ("tier in (a,)", true),
        ("tier in (a,,b)", true),
        ("app", true),
        ("!app", false),
        ("! missing", true),
        ("n>4", true),
        ("n>5", false),
        ("n<6", true),
        ("app>1", false),
        ("missing<1", false),
        ("in in (notin)", true),
        ("in=notin", true),
        ("notin", false),
        ("app=web,!missing,n>4", true),
        ("app=web,missing", false),
    ] {
        assert_eq!(parse(selector).matches(&object), matched, "{selector:?}");
    }
}

#[test]
fn bad_selectors_are_refused_in_kubernetes_words() {
    for (selector, words) in [
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a=b=c", "found '=', expected: ',' or 'end of string'"),
        ("a,", "found '', expected: identifier after ','"),
        (",", "found ',', expected: !, identifier, or 'end of string'"),
        ("=", "found '=', expected: !, identifier, or 'end of string'"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        ("!a=b", "found '=', expected: ',' or 'end of string'"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a in (=)", "unable to parse requirement: found '=', expected: ',', ')' or identifier"),
        ("a in (b c)", "unable to parse requirement: found 'c', expected: ',' or ')'"),
        ("a=(", "unable to parse requirement: found '(', expected: identifier"),
        (
            "a>x",
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must \
             be an integer",
        ),
        (
            "a=b@",
            "unable to parse requirement: values[0][a]: Invalid value: \"b@\": a valid label must be an empty string \
             or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
             character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
             '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ),
        (
            "-a",
            "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of alphanumeric \
             characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or \
             'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ),
    ] {
        let error = LabelSelector::parse(selector).expect_err(selector);
        assert_eq!(error.to_string(), words, "{selector:?}");
    }
}

#[test]
fn keys_and_values_have_kubernetes_syntax() {
    for (key, is_valid) in [
        ("a", true),
        ("A.b_c-d", true),
        ("example.com/a", true),
        ("kubernetes.io/metadata.name", true),
        ("Example.com/a", false),
        ("/a", false),
        ("example.com/", false),
        ("a/b/c", false),
        ("", false),
        ("a.", false),
        ("a..b/c", false),
    ] {
        assert_eq!(label_key_problems(key).is_empty(), is_valid, "{key:?}");
    }
    assert!(label_value_problems(&"a".repeat(63)).is_empty());
    assert_eq!(label_value_problems(&"a".repeat(64)), ["must be no more than 63 bytes"]);
    assert!(
        label_key_problems(&format!("{}/a", "b".repeat(254)))
            .contains(&"prefix part must be no more than 253 bytes".to_owned())
    );
}

#[test]
fn object_form_means_the_same_as_text() {
    for (object, text) in [
        (json!({}), ""),
        (json!({"matchLabels": null}), ""),
        (json!({"matchLabels": {"b": "2", "a": "1"}}), "a=1,b=2"),
        (
            json!({"matchLabels": {"z": "1"}, "matchExpressions": [
                {"key": "k", "operator": "In", "values": ["y", "x", "y"]},
                {"key": "l", "operator": "NotIn", "values": ["x"]},
                {"key": "m", "operator": "Exists"},
                {"key": "n", "operator": "DoesNotExist", "values": []},
            ]}),
            "k in (x,y),l notin (x),m,!n,z=1",
        ),
    ] {
        let selector = LabelSelector::from_json(&object).expect("a good selector");
        assert_eq!(selector.to_string(), text);
        assert_eq!(selector, parse(text));
    }
    let nothing = LabelSelector::from_json(&json!(null)).expect("an absent selector is fine");
    assert!(!nothing.matches(&labels(&[])));
    assert!(!nothing.is_everything());
}

#[test]
fn bad_object_forms_are_refused() {
    for (object, words) in [
        (
            json!({"matchExpressions": [{"key": "k", "operator": "Gt", "values": ["1"]}]}),
            "\"Gt\" is not a valid label selector operator",
        ),
        (
            json!({"matchExpressions": [{"key": "k", "operator": "In"}]}),
            "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
        ),
        (
            json!({"matchExpressions": [{"key": "k", "operator": "Exists", "values": ["a"]}]}),
            "values: Invalid value: [\"a\"]: values set must be empty for exists and does not exist",
        ),
        (json!({"matchLabels": {"k": 1}}), "matchLabels: must be a string"),
        (json!({"matchLabels": []}), "matchLabels: must be an object"),
        (json!({"matchExpressions": {}}), "matchExpressions: must be an array"),
    ] {
        let error = LabelSelector::from_json(&object).expect_err("a bad selector");
        assert_eq!(error.to_string(), words);
    }
}

#[test]
fn labels_of_json_objects_match_too() {
    let object = json!({"metadata": {"labels": {"app": "web"}}});
    assert!(parse("app=web").matches(&object["metadata"]["labels"].as_object()));
    assert!(!parse("app").matches(&object["metadata"]["annotations"].as_object()));
    assert!(parse("!app").matches(&object["metadata"]["annotations"].as_object()));
}

#[test]
fn field_selectors_split_unescape_and_match() {
    let field = |name: &str| match name {
        "metadata.name" => Cow::Borrowed("web"),
        "odd" => Cow::Borrowed("a,b=c\\"),
        _ => Cow::Borrowed(""),
    };
    for (selector, matched) in [
        ("", true),
        (",,", true),
        ("metadata.name=web", true),
        ("metadata.name==web,", true),
        ("metadata.name!=web", false),
        ("unset=", true),
        ("unset!=", false),
        ("unset!=x", true),
        ("odd=a\\,b\\=c\\\\", true),
        ("metadata.name=web,odd=x", false),
    ] {
        let parsed = FieldSelector::parse(selector).expect(selector);
        assert_eq!(parsed.matches(field), matched, "{selector:?}");
        assert_eq!(FieldSelector::parse(&parsed.to_string()), Ok(parsed));
    }
    let narrow = FieldSelector::parse("a!=1,metadata.name=web").expect("a good selector");
    assert_eq!(narrow.exact("metadata.name"), Some("web"));
    assert_eq!(narrow.exact("a"), None);
}

#[test]
fn bad_field_selectors_are_refused_in_kubernetes_words() {
    for (selector, words) in [
        ("a=1,foo", "invalid selector: 'a=1,foo'; can't understand 'foo'"),
        ("a=\\b", "invalid field selector: invalid escape sequence: \\b"),
        ("a=b\\", "invalid field selector: invalid escape sequence: \\"),
        ("a=b=c", "invalid field selector: unescaped character in value: ="),
        ("spec.foo=1", "field label not supported: spec.foo"),
    ] {
        let error = FieldSelector::parse(selector)
            .and_then(|parsed| parsed.check(|field| field == "a"))
            .expect_err(selector);
        assert_eq!(error.to_string(), words, "{selector:?}");
    }
}

proptest! {
    #[test]
    fn printed_selectors_parse_to_themselves(
        parts in proptest::collection::vec(
            "([a-c]|x/y)(=|==|!=)[a-c]?|!?[a-c]|[a-c] (in|notin) \\([a-c]?(,[a-c]?){0,3}\\)|[a-c][<>][0-9]{1,3}", 0..6),
        object in proptest::collection::btree_map("[a-c]", "[a-c0-9]?", 0..4),
    ) {
        let selector = parse(&parts.join(","));
        let again = parse(&selector.to_string());
        prop_assert_eq!(&selector, &again);
        let each = parts.iter().all(|part| parse(part).matches(&object));
        prop_assert_eq!(selector.matches(&object), each);
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC*|[a=!<>(), ]*|[a-c=\\\\,!]*") {
        let _ = LabelSelector::parse(&text);
        let _ = FieldSelector::parse(&text);
    }
}
