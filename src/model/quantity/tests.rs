use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Quantity {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn quantities_print_as_kubernetes_canonicalizes_them() {
    for (written, canonical) in [
        ("0", "0"),
        ("-0", "0"),
        ("0Ki", "0"),
        ("00012", "12"),
        ("+5", "5"),
        ("-5", "-5"),
        ("1000m", "1"),
        ("1024Mi", "1Gi"),
        ("1Ki", "1Ki"),
        ("0.5", "500m"),
        (".5", "500m"),
        ("5.", "5"),
        ("1.5k", "1500"),
        ("0.5Gi", "512Mi"),
        ("1.5Ki", "1536"),
        ("512", "512"),
        ("0.5Ki", "512"),
        ("1000M", "1G"),
        ("1500000", "1500k"),
        ("100000", "100k"),
        ("1e3", "1e3"),
        ("1E3", "1e3"),
        ("1000e0", "1e3"),
        ("12e4", "120e3"),
        ("1e-3", "1e-3"),
        ("1e+6", "1e6"),
        ("5e0", "5"),
        ("1E", "1E"),
        ("1n", "1n"),
        ("0.1n", "1n"),
        ("-0.1n", "-1n"),
        ("1000n", "1u"),
        ("100u", "100u"),
        (".001Ki", "1024m"),
        (".000001Ki", "1024u"),
        (".000000001Ki", "1024n"),
        (".000000000001Ki", "2n"),
        ("8Ei", "9223372036854775807"),
        ("1e100", "9223372036854775807"),
        ("99999999999999999999", "9223372036854775807"),
        ("0e99999999999", "0"),
    ] {
        assert_eq!(parse(written).to_string(), canonical, "{written}");
    }
}

#[test]
fn what_is_no_quantity_is_refused_in_kubernetes_words() {
    let form = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
    let suffix = "unable to parse quantity's suffix";
    for (text, words) in [
        ("", form),
        ("-", form),
        (".", form),
        ("Gi", form),
        ("aoeu", form),
        ("1.1.M", form),
        ("1+1.0M", form),
        ("0.1am", form),
        (" 1", form),
        ("1 ", form),
        ("1Gi ", form),
        ("５", form),
        ("0.1mi", suffix),
        (".5i", suffix),
        ("1i", suffix),
        ("1ki", suffix),
        ("1K", suffix),
        ("1g", form),
        ("-3.01e-", suffix),
        ("1e", suffix),
        ("1e99999999999999999999", suffix),
        ("1Mi5", suffix),
    ] {
        let error = text.parse::<Quantity>().expect_err(text);
        assert_eq!(error.to_string(), words, "{text:?}");
    }
}

#[test]
fn values_round_away_from_zero() {
    for (text, value, milli) in [
        ("1", 1, 1000),
        ("1m", 1, 1),
        ("1001m", 2, 1001),
        ("1n", 1, 1),
        ("-1m", -1, -1),
        ("0.5Gi", 536_870_912, 536_870_912_000),
        ("8Ei", i64::MAX, i64::MAX),
    ] {
        assert_eq!((parse(text).value(), parse(text).milli_value()), (value, milli), "{text}");
    }
}

#[test]
fn sums_keep_the_family_of_the_first_that_is_not_zero() {
    assert_eq!(parse("1Gi").plus(parse("512Mi")).to_string(), "1536Mi");
    assert_eq!(Quantity::ZERO.plus(parse("1Ki")).to_string(), "1Ki");
    assert_eq!(parse("1").plus(parse("1Ki")).to_string(), "1025");
    assert_eq!(parse("1Gi").minus(parse("1Gi")).to_string(), "0");
    assert_eq!(parse("2").minus(parse("500m")).to_string(), "1500m");
}

#[test]
fn order_and_equality_look_at_the_value_only() {
    assert_eq!(parse("1024Mi"), parse("1Gi"));
    assert_eq!(parse("1e3"), parse("1k"));
    assert!(parse("1Ki") > parse("1k"));
    assert!(parse("-1") < parse("1n"));
}

#[test]
fn json_numbers_and_texts_are_both_read() {
    let read = |value: serde_json::Value| Quantity::from_json(&value).map(|q| q.to_string());
    assert_eq!(read(serde_json::json!(2)), Ok("2".to_owned()));
    assert_eq!(read(serde_json::json!(0.1)), Ok("100m".to_owned()));
    assert_eq!(read(serde_json::json!(" 1Gi ")), Ok("1Gi".to_owned()));
    assert_eq!(read(serde_json::json!(true)), Err(InvalidQuantity::Form));
}

proptest! {
    #[test]
    fn canonical_text_parses_to_the_same_quantity(
        number in -1_000_000_000_000i64..1_000_000_000_000,
        fraction in proptest::option::of("[0-9]{0,12}"),
        suffix in "(|n|u|m|k|M|G|Ki|Mi|Gi|Ti|e3|e-2|E6)",
    ) {
        let text = match fraction {
            Some(fraction) => format!("{number}.{fraction}{suffix}"),
            None => format!("{number}{suffix}"),
        };
        let quantity = parse(&text);
        let canonical = quantity.to_string();
        let again = parse(&canonical);
        prop_assert_eq!(quantity, again);
        // A binary quantity that 1024 does not divide has no suffix to be known by: 1500 read again is a decimal one.
        let in_its_family = Quantity { format: quantity.format(), ..again };
        prop_assert_eq!(canonical, in_its_family.to_string());
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC*") {
        let _ = text.parse::<Quantity>();
    }

    #[test]
    fn texts_near_the_grammar_are_parsed_or_refused(text in "[+-]?[0-9.]{0,40}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,22}") {
        let _ = text.parse::<Quantity>();
    }

    #[test]
    fn sums_are_exact(a in any::<i32>(), b in any::<i32>()) {
        let sum = Quantity::from_milli(a.into()).plus(Quantity::from_milli(b.into()));
        prop_assert_eq!(sum.milli_value(), i64::from(a) + i64::from(b));
    }
}
