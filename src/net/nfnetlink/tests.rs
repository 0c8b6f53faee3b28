use std::net::Ipv4Addr;

use expect_test::{Expect, expect};

use super::super::netlink;
use super::*;

fn member(set: &'static str, key: Vec<Field>, value: Option<Field>) -> Elements {
    let value = value.into_iter().collect();
    Elements::from([(set.into(), BTreeSet::from([Element { key, value }]))])
}

fn check(changes: &ElementChanges, expected: Expect) {
    let bytes = netlink::encode(&batch("joey_abc123", changes), 1);
    let lines: Vec<String> = bytes
        .chunks(16)
        .map(|row| {
            let hex: Vec<_> = row
                .chunks(4)
                .map(|word| word.iter().map(|b| format!("{b:02x}")).collect::<String>())
                .collect();
            hex.join(" ")
        })
        .collect();
    expected.assert_eq(&lines.join("\n"));
}

#[test]
fn a_member_of_a_set_travels_as_a_padded_concatenation() {
    let changes = ElementChanges {
        add: member(
            "sources",
            vec![
                Field::Link("jyabc123-2".into()),
                Field::Address(Ipv4Addr::new(10, 42, 0, 2).into()),
                Field::Mac([0x0a, 0x58, 10, 42, 0, 2]),
            ],
            None,
        ),
        ..ElementChanges::default()
    };
    check(
        &changes,
        expect![[r#"
            14000000 10000100 01000000 00000000
            0000000a 5c000000 0c0a0504 02000000
            00000000 01000000 10000100 6a6f6579
            5f616263 31323300 0c000200 736f7572
            63657300 2c000380 28000180 24000180
            20000100 6a796162 63313233 2d320000
            00000000 0a2a0002 0a580a2a 00020000
            14000000 11000100 03000000 00000000
            0000000a"#]],
    );
}

#[test]
fn removals_travel_before_additions() {
    let entry = |port| {
        let key = vec![Field::Protocol(Protocol::Tcp), Field::Port(8080)];
        member("host_ports_port", key, Some(Field::Port(port)))
    };
    let changes = ElementChanges { remove: entry(80), add: entry(81) };
    check(
        &changes,
        expect![[r#"
        14000000 10000100 01000000 00000000
        0000000a 5c000000 0e0a0100 02000000
        00000000 01000000 10000100 6a6f6579
        5f616263 31323300 14000200 686f7374
        5f706f72 74735f70 6f727400 24000380
        20000180 10000180 0c000100 06000000
        1f900000 0c000280 06000100 00500000
        5c000000 0c0a0504 03000000 00000000
        01000000 10000100 6a6f6579 5f616263
        31323300 14000200 686f7374 5f706f72
        74735f70 6f727400 24000380 20000180
        10000180 0c000100 06000000 1f900000
        0c000280 06000100 00510000 14000000
        11000100 04000000 00000000 0000000a"#]],
    );
}

#[test]
fn a_long_list_is_cut_before_a_length_overflows() {
    let members = (0..1000u32).map(|number| Element {
        key: vec![
            Field::Link("jyabc123-2".into()),
            Field::Address(Ipv4Addr::from_bits(number).into()),
            Field::Mac([0; 6]),
        ],
        value: Vec::new(),
    });
    let add = Elements::from([("sources".into(), members.collect())]);
    let requests = batch("joey_abc123", &ElementChanges { add, ..ElementChanges::default() });
    assert_eq!(requests.len(), 2 + 4);
    assert!(requests.iter().all(|request| request.payload.len() < usize::from(u16::MAX)));
}
