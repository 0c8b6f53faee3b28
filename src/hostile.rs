//! What must hold whatever bytes somebody sends: one function a parser, for the fuzz targets under `fuzz/` and for
//! `tests/corpus.rs`, which runs their corpora.
//!
//! Each panics when its promise is broken. Nothing else calls them.

mod ingress;

pub use self::ingress::{answer, chunked, forward, head, route};

use serde_json::{Value, json};

use crate::api::{decode, patch, path, query};
use crate::metrics::exposition;
use crate::metrics::figures::Reading;
use crate::model::quantity::Quantity;
use crate::model::selector::{FieldSelector, LabelSelector};
use crate::runtime::image::reference::Reference;
use crate::runtime::image::{config, entries, manifest};
use crate::runtime::protocol;

/// Every target by its name: `fuzz/fuzz_targets/NAME.rs`, `fuzz/corpus/NAME/`.
pub const TARGETS: &[(&str, fn(&[u8]))] = &[
    ("url", url),
    ("head", head),
    ("chunked", chunked),
    ("answer", answer),
    ("forward", forward),
    ("route", route),
    ("exposition", exposition),
    ("selector", selector),
    ("patch", patch),
    ("layer", layer),
    ("manifest", manifest),
    ("frames", frames),
    ("quantity", quantity),
    ("json", json),
    ("yaml", yaml),
    ("protobuf", protobuf),
    ("reference", reference),
];

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// A request target: path and query.
pub fn url(bytes: &[u8]) {
    let Some(uri) = text(bytes).and_then(|text| text.parse::<http::Uri>().ok()) else { return };
    let _ = path::parse(uri.path());
    if let Ok(query) = query::Query::parse(&uri) {
        let _ = (query.number("limit"), query.field_validation(), query.effect());
        let _ = query.get("resourceVersion").map(query::resource_version);
    }
}

/// What a pod shows to Prometheus: it ends, and keeps few names.
pub fn exposition(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let found = exposition::parse(text);
    assert!(found.len() <= exposition::MOST_NAMES);
    assert!(found.values().all(|reading| match reading {
        Reading::Counter(value) => *value >= 0.0,
        Reading::Gauge(_) => true,
    }));
}

/// Label and field selectors say what they mean: what is printed is read as the same.
pub fn selector(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(selector) = LabelSelector::parse(text) {
        assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector));
    }
}

/// An object, a NUL, a patch of it, in all three dialects. A merge patch applied twice is one applied once (RFC 7396).
pub fn patch(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (object, document) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let object = serde_json::from_slice::<Value>(object).unwrap_or(json!({}));
    let _ = patch::json::apply(&object, document);
    let Ok(document) = serde_json::from_slice::<Value>(document) else { return };
    if let Ok(once) = patch::merge::apply(&object, &document) {
        assert_eq!(patch::merge::apply(&once, &document).as_ref(), Ok(&once));
    }
    let _ = patch::strategic::apply(&object, &document, "v1", "Pod");
}

/// A layer as a tar stream: no entry names anything outside of it.
pub fn layer(bytes: &[u8]) {
    let limits = entries::EntryLimits { entries: 10_000, depth: 64 };
    let mut reader = entries::Entries::new(bytes, limits);
    let mut content = [0; 4096];
    while let Ok(Some(entry)) = reader.next_entry() {
        stays_inside(&entry.path);
        if let entries::Kind::Hardlink(target) = &entry.kind {
            stays_inside(target);
        }
        let mut length = 0;
        while let Ok(read @ 1..) = reader.read_content(&mut content) {
            length += read as u64;
        }
        assert!(length <= entry.size, "{length} bytes of {}", entry.size);
    }
    assert!(reader.position() <= bytes.len() as u64 + 1);
}

fn stays_inside(path: &[u8]) {
    if path.is_empty() {
        return;
    }
    for part in path.split(|byte| *byte == b'/') {
        let is_plain = !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
        assert!(is_plain, "{}", String::from_utf8_lossy(path));
    }
}

/// Manifests, indexes and configs.
pub fn manifest(bytes: &[u8]) {
    for announced in [None, Some(manifest::OCI_MANIFEST), Some(manifest::OCI_INDEX)] {
        if let Ok(manifest::Document::Index(entries)) = manifest::parse(bytes, announced) {
            let _ = manifest::choose(&entries);
        }
    }
    let _ = config::parse(bytes);
}

/// The stream between daemon and shim, in both directions.
pub fn frames(bytes: &[u8]) {
    let inbox = || protocol::Inbox { bytes: bytes.to_owned(), ..protocol::Inbox::default() };
    let mut requests = inbox();
    loop {
        let before = requests.bytes.len();
        match requests.take::<protocol::Request>() {
            Ok(None) | Err(protocol::FrameError::TooLong(_)) => break,
            Ok(Some(request)) => {
                let mut again = protocol::Inbox::default();
                protocol::encode(&request, &mut again.bytes);
                assert!(matches!(again.take::<protocol::Request>(), Ok(Some(_))));
            }
            Err(protocol::FrameError::Json(_)) => {}
        }
        assert!(requests.bytes.len() < before, "no progress");
    }
    let mut messages = inbox();
    while let Ok(Some(_)) = messages.take::<protocol::Message>() {}
}

/// A quantity is printed in its canonical form, which means the same.
pub fn quantity(bytes: &[u8]) {
    let Some(quantity) = text(bytes).and_then(|text| text.parse::<Quantity>().ok()) else { return };
    let printed = quantity.to_string();
    let again: Quantity = printed.parse().expect("what we print we read");
    assert_eq!((again.nanos(), again.to_string()), (quantity.nanos(), printed));
    let _ = (quantity.value(), quantity.milli_value(), quantity.plus(again), quantity.minus(again));
}

/// JSON means what serde_json says, except that members given twice are told.
pub fn json(bytes: &[u8]) {
    if let Ok(decoded) = decode::json(bytes)
        && let Ok(reference) = serde_json::from_slice::<Value>(bytes)
    {
        assert_eq!(decoded.value, reference);
    }
}

pub fn yaml(bytes: &[u8]) {
    let _ = decode::yaml(bytes);
}

pub fn protobuf(bytes: &[u8]) {
    let _ = decode::protobuf(bytes);
}

/// An image's name has one canonical form.
pub fn reference(bytes: &[u8]) {
    let Some(name) = text(bytes).and_then(|text| text.parse::<Reference>().ok()) else { return };
    let canonical = name.canonical();
    let again: Reference = canonical.parse().expect("what we print we read");
    assert_eq!(again.canonical(), canonical);
    let parts = [name.domain(), name.path()];
    assert!(parts.iter().all(|part| !part.is_empty() && !part.contains("..")), "{canonical}");
}
