//! The volumes of a pod or a pod template.

use serde_json::Value;

use super::text::{Text, given, items, number, or, plain};
use crate::model::quantity::Quantity;

/// `indent` stands before the section's head: none in a pod, two spaces in a template.
pub fn lay_out(text: &mut Text, volumes: &Value, indent: &str) {
    let volumes = items(volumes);
    if volumes.is_empty() {
        return text.line(0, format_args!("{indent}Volumes:\t<none>"));
    }
    text.line(0, format_args!("{indent}Volumes:"));
    let indent = if indent.is_empty() { "" } else { " " };
    for volume in volumes {
        text.line(1, format_args!("{indent}{}:", plain(&volume["name"])));
        source(text, volume);
    }
}

fn source(text: &mut Text, volume: &Value) {
    let kinds = ["hostPath", "emptyDir", "secret", "configMap", "downwardAPI", "projected"];
    let Some(kind) = kinds.into_iter().find(|kind| !volume[*kind].is_null()) else {
        return text.line(1, "<unknown>");
    };
    let source = &volume[kind];
    let mut fields = |fields: &[(&str, String)]| {
        for (name, value) in fields {
            text.field(2, name, value);
        }
    };
    let optional = |source: &Value| (source["optional"] == true).to_string();
    match kind {
        "hostPath" => fields(&[
            ("Type", "HostPath (bare host directory volume)".to_owned()),
            ("Path", plain(&source["path"])),
            ("HostPathType", or(&source["type"], "<none>")),
        ]),
        "emptyDir" => {
            let limit = Quantity::from_json(&source["sizeLimit"]).ok();
            let limit = limit.filter(|limit| *limit > Quantity::ZERO);
            fields(&[
                (
                    "Type",
                    "EmptyDir (a temporary directory that shares a pod's lifetime)".to_owned(),
                ),
                ("Medium", plain(&source["medium"])),
                ("SizeLimit", limit.map_or("<unset>".to_owned(), |limit| limit.to_string())),
            ]);
        }
        "secret" => fields(&[
            ("Type", "Secret (a volume populated by a Secret)".to_owned()),
            ("SecretName", plain(&source["secretName"])),
            ("Optional", optional(source)),
        ]),
        "configMap" => fields(&[
            ("Type", "ConfigMap (a volume populated by a ConfigMap)".to_owned()),
            ("Name", plain(&source["name"])),
            ("Optional", optional(source)),
        ]),
        "downwardAPI" => {
            text.field(2, "Type", "DownwardAPI (a volume populated by information about the pod)");
            text.line(2, "Items:");
            for item in items(&source["items"]) {
                let path = plain(&item["path"]);
                for what in [&item["fieldRef"]["fieldPath"], &item["resourceFieldRef"]["resource"]]
                {
                    if let Some(what) = given(what) {
                        text.line(3, format_args!("{what} -> {path}"));
                    }
                }
            }
        }
        _ => {
            let what = "Projected (a volume that contains injected data from multiple sources)";
            text.field(2, "Type", what);
            items(&source["sources"]).iter().for_each(|source| projected(text, source));
        }
    }
}

/// One source of a projected volume.
fn projected(text: &mut Text, source: &Value) {
    for (kind, title) in [("secret", "SecretName"), ("configMap", "ConfigMapName")] {
        if !source[kind].is_null() {
            text.field(2, title, plain(&source[kind]["name"]));
            text.field(2, "Optional", source[kind]["optional"] == true);
        }
    }
    if !source["downwardAPI"].is_null() {
        text.field(2, "DownwardAPI", "true");
    }
    if !source["serviceAccountToken"].is_null() {
        let seconds = number(&source["serviceAccountToken"]["expirationSeconds"]);
        text.field(2, "TokenExpirationSeconds", seconds);
    }
}
