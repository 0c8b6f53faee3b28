//! Words of nft's JSON (libnftables-json(5)) from which rules are made (pure).

use serde_json::{Value, json};

pub fn rule<const N: usize>(expressions: [Value; N]) -> Value {
    Value::Array(expressions.to_vec())
}

pub fn matches(operator: &str, left: Value, right: Value) -> Value {
    json!({"match": {"op": operator, "left": left, "right": right}})
}

pub fn translate(key: Value, maps: [&str; 2]) -> Value {
    let [address, port] =
        maps.map(|map| json!({"map": {"key": {"concat": key}, "data": format!("@{map}")}}));
    rule([json!({"dnat": {"family": "ip", "addr": address, "port": port}})])
}

pub fn meta(key: &str) -> Value {
    json!({"meta": {"key": key}})
}

pub fn payload(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

pub fn ip(field: &str) -> Value {
    payload("ip", field)
}

pub fn prefix((address, length): (&str, u8)) -> Value {
    json!({"prefix": {"addr": address, "len": length}})
}

pub fn jump(chain: &str) -> Value {
    json!({"jump": {"target": chain}})
}

pub fn verdict(word: &str) -> Value {
    json!({word: null})
}

pub fn counted() -> Value {
    json!({"counter": {"packets": 0, "bytes": 0}})
}
