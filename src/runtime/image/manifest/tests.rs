use super::*;

const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn manifest(change: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
    let mut value = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": A, "size": 2},
        "layers": [{"mediaType": OCI_LAYER_GZIP, "digest": A, "size": 3,
                    "urls": ["http://evil.example/x"]}],
    });
    change(&mut value);
    serde_json::to_vec(&value).unwrap()
}

#[test]
fn a_document_says_one_thing_or_is_refused() {
    let refused =
        |text: &[u8], announced: Option<&str>| parse(text, announced).unwrap_err().to_string();
    assert!(matches!(parse(&manifest(|_| ()), Some(OCI_MANIFEST)), Ok(Document::Manifest(_))));
    assert!(matches!(parse(&manifest(|_| ()), None), Ok(Document::Manifest(_))));
    let both = manifest(|v| v["manifests"] = serde_json::json!([]));
    assert!(refused(&both, None).contains("both"));
    let plain = manifest(|_| ());
    assert!(refused(&plain, Some(OCI_INDEX)).contains("but came as"));
    let untyped = manifest(|v| {
        v.as_object_mut().unwrap().remove("mediaType");
    });
    assert!(refused(&untyped, Some(OCI_INDEX)).contains("both"));
    assert!(refused(&untyped, Some("text/html")).contains("not supported"));
    assert!(refused(b"{}", None).contains("neither"));
    assert!(refused(b"{\"schemaVersion\":1,\"config\":{}}", None).contains("not valid"));
    for (change, error) in [
        (("/schemaVersion", serde_json::json!(1)), "schema version 1"),
        (("/config/mediaType", "application/x-helm".into()), "config media type"),
        (("/layers/0/mediaType", "application/x-helm".into()), "layer media type"),
        (("/config/digest", "md5:abc".into()), "unsupported digest algorithm"),
        (("/layers/0/digest", "sha256:../../x".into()), "invalid checksum"),
        (("/layers/0/digest", A.to_uppercase().replace("SHA", "sha").into()), "invalid checksum"),
        (("/layers/0/size", (-1).into()), "not valid"),
        (("/config/size", (CONFIG_MAX_BYTES + 1).into()), "exceeds"),
        (("/layers", serde_json::Value::Null), "neither"),
    ] {
        let (place, value): (&str, serde_json::Value) = change;
        let text = manifest(|v| *v.pointer_mut(place).unwrap() = value.clone());
        let got = refused(&text, None);
        assert!(got.contains(error), "{place}: {got}");
    }
    let many = manifest(|v| {
        let layer = v["layers"][0].clone();
        v["layers"] = vec![layer; LAYERS_MAX + 1].into();
    });
    assert!(refused(&many, None).contains("128 layers"));
    let twice = br#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#;
    assert!(refused(twice, None).contains("duplicate key"));
    assert!(refused(&vec![b' '; MANIFEST_MAX_BYTES as usize + 1], None).contains("exceeds"));
}

#[test]
fn the_entry_for_this_platform_is_chosen() {
    let entry = |platform: Option<(&str, &str)>| Descriptor {
        media_type: OCI_MANIFEST.into(),
        digest: A.parse().unwrap(),
        size_bytes: 1,
        platform: platform.map(|(os, architecture)| Platform {
            os: os.into(),
            architecture: architecture.into(),
        }),
        annotations: Default::default(),
    };
    let arm = entry(Some(("linux", "arm64")));
    let amd = entry(Some(("linux", "amd64")));
    let attestation = entry(Some(("unknown", "unknown")));
    let silent = entry(None);
    assert_eq!(choose(&[attestation.clone(), arm.clone(), amd.clone()]), Ok(&amd));
    assert_eq!(choose(&[arm.clone(), silent.clone()]), Ok(&silent));
    assert_eq!(choose(&[arm, attestation]), Err(ManifestError::Platform));
}

#[test]
fn configs_are_limited() {
    use crate::runtime::image::config;
    let parse = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut value = serde_json::json!({
            "os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [A]}, "config": {},
        });
        change(&mut value);
        config::parse(&serde_json::to_vec(&value).unwrap()).map_err(|e| e.to_string())
    };
    assert!(parse(&|_| ()).is_ok());
    assert!(parse(&|v| v["config"] = serde_json::Value::Null).is_ok());
    assert!(parse(&|v| v["config"] = serde_json::json!({"Env": null, "Cmd": null})).is_ok());
    let text = |length: usize| "x".repeat(length);
    for (change, error) in [
        (serde_json::json!({"Env": vec!["A=b"; 10_001]}), "Env: more than"),
        (serde_json::json!({"Env": vec![format!("A={}", text(60_000)); 20]}), "arguments"),
        (serde_json::json!({"Entrypoint": [text(1 << 20)]}), "Entrypoint: a string of"),
        (serde_json::json!({"Entrypoint": ["a\u{0}b"]}), "NUL"),
        (serde_json::json!({"Env": ["=x"]}), "has no name"),
        (serde_json::json!({"User": text(5000)}), "User"),
        (serde_json::json!({"Volumes": {"/../../etc": {}}}), "without '..'"),
        (serde_json::json!({"Volumes": {"relative": {}}}), "absolute"),
        (
            serde_json::json!({"Volumes": (0..200).map(|n| (format!("/v{n}"), serde_json::json!({}))).collect::<serde_json::Map<_, _>>()}),
            "Volumes: more than",
        ),
        (serde_json::json!({"Labels": {"a": text(2 << 20)}}), "Labels"),
        (serde_json::json!({"Entrypoint": "sh"}), "not valid"),
    ] {
        let refused = parse(&|v| v["config"] = change.clone()).unwrap_err();
        assert!(refused.contains(error), "{refused}");
    }
    assert!(parse(&|v| v["architecture"] = "arm64".into()).unwrap_err().contains("linux/arm64"));
    assert!(parse(&|v| v["os"] = "windows".into()).unwrap_err().contains("windows/amd64"));
    assert!(config::parse(b"\xff{}").is_err());
    assert!(config::parse(br#"{"os":"linux","os":"linux","rootfs":{"type":"layers"}}"#).is_err());
}
