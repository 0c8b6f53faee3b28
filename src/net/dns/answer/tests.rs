use std::str::FromStr;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::super::zone::tests::zone;
use super::*;

fn ask(name: &str, kind: &str) -> Message {
    let mut message = Message::query();
    message.metadata.id = 0;
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(name).unwrap();
    message.add_query(Query::query(name, RecordType::from_str(kind).unwrap()));
    message
}

/// One record a line, sections apart.
fn check(name: &str, kind: &str, expected: Expect) {
    let text = match answer(&zone(), &ask(name, kind).to_vec().unwrap()) {
        Answer::Nothing => "nothing".to_owned(),
        Answer::Forward { so_far, ask } => {
            format!("{}forward {} {}", records(&so_far.answers), ask.name(), ask.query_type())
        }
        Answer::Reply(reply) => format!(
            "{}{}\n{}-\n{}-\n{}",
            reply.metadata.response_code,
            if reply.metadata.authoritative { ", authoritative" } else { "" },
            records(&reply.answers),
            records(&reply.authorities),
            records(&reply.additionals),
        ),
    };
    expected.assert_eq(&text);
}

fn records(all: &[Record]) -> String {
    all.iter().map(|record| format!("{record}\n")).collect()
}

#[test]
fn a_service_is_found_whatever_its_case() {
    check(
        "Web.SHOP.svc.cluster.Local.",
        "A",
        expect![[r#"
        No Error, authoritative
        Web.SHOP.svc.cluster.Local. 5 IN A 10.43.0.9
        -
        -
    "#]],
    );
    check(
        "_http._tcp.web.shop.svc.cluster.local.",
        "SRV",
        expect![[r#"
        No Error, authoritative
        _http._tcp.web.shop.svc.cluster.local. 5 IN SRV 0 100 80 web.shop.svc.cluster.local.
        -
        -
        web.shop.svc.cluster.local. 5 IN A 10.43.0.9
    "#]],
    );
    check(
        "9.0.43.10.in-addr.arpa.",
        "PTR",
        expect![[r#"
        No Error, authoritative
        9.0.43.10.in-addr.arpa. 5 IN PTR web.shop.svc.cluster.local.
        -
        -
    "#]],
    );
}

#[test]
fn a_headless_service_is_its_ready_pods() {
    check(
        "db.shop.svc.cluster.local.",
        "A",
        expect![[r#"
        No Error, authoritative
        db.shop.svc.cluster.local. 5 IN A 10.42.0.5
        db.shop.svc.cluster.local. 5 IN A 10.42.0.6
        -
        -
    "#]],
    );
    check(
        "db-0.db.shop.svc.cluster.local.",
        "A",
        expect![[r#"
        No Error, authoritative
        db-0.db.shop.svc.cluster.local. 5 IN A 10.42.0.5
        -
        -
    "#]],
    );
    check(
        "10-42-0-6.db.shop.svc.cluster.local.",
        "A",
        expect![[r#"
        No Error, authoritative
        10-42-0-6.db.shop.svc.cluster.local. 5 IN A 10.42.0.6
        -
        -
    "#]],
    );
    check(
        "_http._tcp.db.shop.svc.cluster.local.",
        "SRV",
        expect![[r#"
        No Error, authoritative
        _http._tcp.db.shop.svc.cluster.local. 5 IN SRV 0 100 8080 10-42-0-6.db.shop.svc.cluster.local.
        _http._tcp.db.shop.svc.cluster.local. 5 IN SRV 0 100 8080 db-0.db.shop.svc.cluster.local.
        -
        -
        10-42-0-6.db.shop.svc.cluster.local. 5 IN A 10.42.0.6
        db-0.db.shop.svc.cluster.local. 5 IN A 10.42.0.5
    "#]],
    );
    check(
        "5.0.42.10.in-addr.arpa.",
        "PTR",
        expect![[r#"
        No Error, authoritative
        5.0.42.10.in-addr.arpa. 5 IN PTR db-0.db.shop.svc.cluster.local.
        -
        -
    "#]],
    );
}

#[test]
fn a_name_without_data_is_not_a_name_that_is_missing() {
    check(
        "web.shop.svc.cluster.local.",
        "AAAA",
        expect![[r#"
        No Error, authoritative
        -
        cluster.local. 1 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 1
        -
    "#]],
    );
    check(
        "shop.svc.cluster.local.",
        "A",
        expect![[r#"
        No Error, authoritative
        -
        cluster.local. 1 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 1
        -
    "#]],
    );
    check(
        "_tcp.web.shop.svc.cluster.local.",
        "SRV",
        expect![[r#"
        No Error, authoritative
        -
        cluster.local. 1 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 1
        -
    "#]],
    );
    check(
        "nobody.shop.svc.cluster.local.",
        "A",
        expect![[r#"
        Non-Existent Domain, authoritative
        -
        cluster.local. 1 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 1
        -
    "#]],
    );
    check(
        "db-2.db.shop.svc.cluster.local.",
        "A",
        expect![[r#"
        Non-Existent Domain, authoritative
        -
        cluster.local. 1 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 1
        -
    "#]],
    );
    check(
        "db-3.db.shop.svc.cluster.local.",
        "A",
        expect![[r#"
        Non-Existent Domain, authoritative
        -
        cluster.local. 1 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 1
        -
    "#]],
    );
    check(
        "99.9.42.10.in-addr.arpa.",
        "PTR",
        expect![[r#"
        Non-Existent Domain, authoritative
        -
        cluster.local. 1 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 1
        -
    "#]],
    );
}

#[test]
fn pods_have_names_made_of_their_addresses() {
    check(
        "10-42-0-5.shop.pod.cluster.local.",
        "A",
        expect![[r#"
        No Error, authoritative
        10-42-0-5.shop.pod.cluster.local. 5 IN A 10.42.0.5
        -
        -
    "#]],
    );
    check(
        "8-8-8-8.shop.pod.cluster.local.",
        "A",
        expect![[r#"
        Non-Existent Domain, authoritative
        -
        cluster.local. 1 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 1
        -
    "#]],
    );
}

#[test]
fn an_external_name_is_followed_to_where_it_leads() {
    check(
        "ext.shop.svc.cluster.local.",
        "A",
        expect![[r#"
        ext.shop.svc.cluster.local. 5 IN CNAME example.org.
        forward example.org. A"#]],
    );
    check(
        "ext.shop.svc.cluster.local.",
        "CNAME",
        expect![[r#"
        No Error, authoritative
        ext.shop.svc.cluster.local. 5 IN CNAME example.org.
        -
        -
    "#]],
    );
    check(
        "near.shop.svc.cluster.local.",
        "A",
        expect![[r#"
        No Error, authoritative
        near.shop.svc.cluster.local. 5 IN CNAME web.shop.svc.cluster.local.
        web.shop.svc.cluster.local. 5 IN A 10.43.0.9
        -
        -
    "#]],
    );
    check(
        "round.shop.svc.cluster.local.",
        "A",
        expect![[r#"
        Server Failure, authoritative
        -
        -
    "#]],
    );
}

#[test]
fn the_rest_of_the_world_is_for_others() {
    check("example.org.", "A", expect!["forward example.org. A"]);
    check("notcluster.local.", "A", expect!["forward notcluster.local. A"]);
    check("8.8.8.8.in-addr.arpa.", "PTR", expect!["forward 8.8.8.8.in-addr.arpa. PTR"]);
}

#[test]
fn nothing_large_is_given_for_little() {
    check(
        "web.shop.svc.cluster.local.",
        "ANY",
        expect![[r#"
        Query Refused
        -
        -
    "#]],
    );
    check(
        "cluster.local.",
        "AXFR",
        expect![[r#"
        Query Refused
        -
        -
    "#]],
    );
}

#[test]
fn an_answer_is_never_answered() {
    let mut message = ask("web.shop.svc.cluster.local.", "A");
    message.metadata.message_type = MessageType::Response;
    assert!(matches!(answer(&zone(), &message.to_vec().unwrap()), Answer::Nothing));
}

#[test]
fn what_does_not_fit_a_datagram_is_cut_and_says_so() {
    let mut reply = Message::response(7, OpCode::Query);
    let name = absolute("many.shop.svc.cluster.local").unwrap();
    reply.add_answers((0..100).map(|last| record(&name, to([10, 42, 1, last].into()))));
    let cut = Message::from_vec(&datagram(&reply, 4096).unwrap()).unwrap();
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    reply.answers.truncate(20);
    assert!(!Message::from_vec(&datagram(&reply, 1232).unwrap()).unwrap().metadata.truncation);
    reply.add_answers((0..20).map(|last| record(&name, to([10, 42, 2, last].into()))));
    assert!(Message::from_vec(&datagram(&reply, 0).unwrap()).unwrap().metadata.truncation);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = answer(&zone(), &bytes);
    }

    #[test]
    fn nor_do_bytes_that_begin_like_a_question(
        tail in prop::collection::vec(any::<u8>(), 0..120),
        counts in prop::collection::vec(0u8..4, 4),
    ) {
        let mut bytes = vec![0, 1, 1, 0, 0, counts[0], 0, counts[1], 0, counts[2], 0, counts[3]];
        bytes.extend(tail);
        let _ = answer(&zone(), &bytes);
    }
}
