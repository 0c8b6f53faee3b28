//! Which representation a client accepts, and how a body reads.
//!
//! It never renders; it decides from headers alone.

use crate::api::failure::Failure;
use crate::api::table::IncludeObject;

/// The shape of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Object,
    Table,
    /// Kind, apiVersion and metadata only.
    PartialMetadata,
}

/// The encoding of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Yaml,
}

/// What the client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Representation {
    pub shape: Shape,
    pub encoding: Encoding,
}

pub const JSON: Representation = Representation { shape: Shape::Object, encoding: Encoding::Json };

/// How a request body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyType {
    Json,
    Yaml,
    Protobuf,
}

/// The first entry of the Accept header that can be served.
pub fn representation(accept: Option<&str>) -> Result<Representation, Failure> {
    let Some(accept) = accept else {
        return Ok(JSON);
    };
    accept.split(',').find_map(entry).ok_or_else(Failure::not_acceptable)
}

fn entry(text: &str) -> Option<Representation> {
    let mut parts = text.split(';').map(str::trim);
    let encoding = match parts.next()?.to_ascii_lowercase().as_str() {
        "" | "*/*" | "application/*" | "application/json" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        _ => return None,
    };
    let (mut shape, mut group, mut version) = (None, None, None);
    for parameter in parts {
        match parameter.split_once('=') {
            Some(("as", value)) => shape = Some(value),
            Some(("g", value)) => group = Some(value),
            Some(("v", value)) => version = Some(value),
            // "q", "charset", "pretty" (the query says that): preferences that change nothing here. "stream" belongs to watches.
            Some(_) | None => {}
        }
    }
    let shape = match (shape, group, version) {
        (None, None, None) => Shape::Object,
        (Some("Table"), Some("meta.k8s.io"), Some("v1")) => Shape::Table,
        (
            Some("PartialObjectMetadata" | "PartialObjectMetadataList"),
            Some("meta.k8s.io"),
            Some("v1"),
        ) => Shape::PartialMetadata,
        _ => return None,
    };
    Some(Representation { shape, encoding })
}

/// Whether the client asks for the aggregated discovery document.
pub fn wants_aggregated_discovery(accept: Option<&str>) -> bool {
    accept.is_some_and(|accept| {
        accept.split(',').any(|entry| {
            let mut parts = entry.split(';').map(str::trim);
            parts.next() == Some("application/json") && {
                let parameters: Vec<&str> = parts.collect();
                parameters.contains(&"g=apidiscovery.k8s.io")
                    && parameters.contains(&"v=v2")
                    && parameters.contains(&"as=APIGroupDiscoveryList")
            }
        })
    })
}

/// How a body with this Content-Type reads; a missing one is JSON.
pub fn body_type(content_type: Option<&str>) -> Result<BodyType, Failure> {
    match media_type(content_type.unwrap_or_default()).as_str() {
        "" | "application/json" => Ok(BodyType::Json),
        "application/yaml" => Ok(BodyType::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(BodyType::Protobuf),
        _ => Err(Failure::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// The type without its parameters, in lower case.
pub fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The value of `includeObject`.
pub fn include_object(text: Option<&str>) -> Result<IncludeObject, Failure> {
    match text {
        None | Some("Metadata") => Ok(IncludeObject::Metadata),
        Some("None") => Ok(IncludeObject::None),
        Some("Object") => Ok(IncludeObject::Object),
        Some(other) => {
            Err(Failure::bad_request(format!("invalid includeObject value: \"{other}\"")))
        }
    }
}

/// Whether JSON is to be indented: when `?pretty` says so (as Go's strconv.ParseBool reads it), and for the programs
/// behind which people sit, as in Kubernetes.
pub fn is_pretty(asked: Option<&str>, user_agent: &str) -> bool {
    match asked {
        Some(text) if !text.is_empty() => {
            matches!(text, "1" | "t" | "T" | "TRUE" | "true" | "True")
        }
        Some(_) | None => {
            ["curl", "Wget", "Mozilla/5.0"].iter().any(|program| user_agent.starts_with(program))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_servable_entry_wins() {
        let shape = |accept: &str| representation(Some(accept)).map(|r| r.shape).ok();
        for (accept, expected) in [
            ("application/json", Some(Shape::Object)),
            ("*/*", Some(Shape::Object)),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Shape::Object)),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Some(Shape::Table),
            ),
            (
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Some(Shape::Object),
            ),
            (
                "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
                Some(Shape::PartialMetadata),
            ),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/html", None),
        ] {
            assert_eq!(shape(accept), expected, "{accept}");
        }
    }

    #[test]
    fn only_the_second_version_of_aggregated_discovery_is_known() {
        assert!(wants_aggregated_discovery(Some(
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
        )));
        assert!(!wants_aggregated_discovery(Some(
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
        )));
        assert!(!wants_aggregated_discovery(None));
    }

    #[test]
    fn json_is_indented_when_asked_and_for_people() {
        for (asked, user_agent, expected) in [
            (Some("true"), "kubectl/v1.32", true),
            (Some("1"), "", true),
            (Some("false"), "curl/8.0", false),
            (Some("nonsense"), "curl/8.0", false),
            (Some(""), "curl/8.0", true),
            (None, "curl/8.0", true),
            (None, "Mozilla/5.0 (X11)", true),
            (None, "kubectl/v1.32", false),
            (None, "", false),
        ] {
            assert_eq!(is_pretty(asked, user_agent), expected, "{asked:?} {user_agent}");
        }
    }
}
