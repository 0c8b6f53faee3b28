//! Against registries of our own, honest and hostile, and against Debian's docker-registry.

use std::collections::BTreeMap;
use std::sync::{Mutex as StdMutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::runtime::image::samples::{self, Tar, gzip};
use crate::runtime::image::tests::{Place, place, runtime};
use crate::runtime::image::{Image, Images};

/// One answer.
#[derive(Clone)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Ends the connection after so many bytes of the body, whatever Content-Length says.
    cut: Option<usize>,
    /// `Authorization` must be this, or 401 with the challenge is answered.
    needs: Option<(String, String)>,
}

type Asked = (String, Option<String>);

/// Path (with query) → answer, and every request's path and `Authorization`.
#[derive(Clone, Default)]
struct Fake {
    routes: Arc<StdMutex<BTreeMap<String, Answer>>>,
    log: Arc<StdMutex<Vec<Asked>>>,
    address: String,
}

fn ok(content_type: &str, body: &[u8]) -> Answer {
    Answer {
        status: 200,
        headers: vec![("Content-Type".into(), content_type.into())],
        body: body.to_vec(),
        cut: None,
        needs: None,
    }
}

fn redirect(to: &str) -> Answer {
    Answer { status: 307, headers: vec![("Location".into(), to.into())], ..ok("text/plain", b"") }
}

impl Fake {
    async fn start(ip: &str, tls: Option<tokio_rustls::TlsAcceptor>) -> Fake {
        let listener =
            TcpListener::bind((ip.parse::<std::net::IpAddr>().unwrap(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let fake = Fake { address, ..Fake::default() };
        let served = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (fake, tls) = (served.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => fake.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                fake.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        fake
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < 16 << 10 {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let authorization = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("authorization").then(|| value.trim().to_owned())
        });
        self.log.lock().unwrap().push((path.clone(), authorization.clone()));
        let mut answer = self
            .routes
            .lock()
            .unwrap()
            .get(&path)
            .cloned()
            .unwrap_or(Answer { status: 404, ..ok("application/json", b"{}") });
        if let Some((wanted, challenge)) = answer.needs.clone()
            && authorization.as_deref() != Some(&wanted)
        {
            let headers = vec![("WWW-Authenticate".to_owned(), challenge)];
            answer = Answer { status: 401, headers, ..ok("text/plain", b"") };
        }
        let mut reply = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
        if !answer.headers.iter().any(|(name, _)| name == "Content-Length") {
            reply.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
        }
        for (name, value) in &answer.headers {
            reply.push_str(&format!("{name}: {value}\r\n"));
        }
        reply.push_str("\r\n");
        let body = &answer.body[..answer.cut.unwrap_or(answer.body.len())];
        // The client may have gone: that is its right.
        let _ = stream.write_all(reply.as_bytes()).await;
        let _ = stream.write_all(body).await;
        let _ = stream.shutdown().await;
    }

    fn route(&self, path: &str, answer: Answer) {
        self.routes.lock().unwrap().insert(path.to_owned(), answer);
    }

    fn change(&self, path: &str, change: impl FnOnce(&mut Answer)) {
        change(self.routes.lock().unwrap().get_mut(path).expect(path));
    }

    fn requests(&self, path: &str) -> usize {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().filter(|(seen, _)| seen == path).count()
    }

    fn saw_secrets(&self) -> bool {
        self.log.lock().unwrap().iter().any(|(_, authorization)| authorization.is_some())
    }

    fn name(&self) -> String {
        format!("{}/team/app:1", self.address)
    }
}

/// Where the parts of the sample image are.
struct Sample {
    manifest: String,
    config: String,
    layer: String,
    manifest_body: Vec<u8>,
    manifest_digest: Digest,
}

fn fill(fake: &Fake) -> Sample {
    let tars = [
        Tar::default().directory("etc").file("etc/name", b"app").end(),
        Tar::default().file("data", &[7; 300_000]).end(),
    ];
    let config = samples::config(&tars, &serde_json::json!({"Cmd": ["/app"]}));
    let blob = |digest: &Digest| format!("/v2/team/app/blobs/{digest}");
    let mut layers = Vec::new();
    let mut last = String::new();
    for tar in &tars {
        let packed = gzip(tar);
        let digest = Digest::of(&packed);
        last = blob(&digest);
        fake.route(&last, ok("application/octet-stream", &packed));
        layers.push(serde_json::json!({
            "mediaType": manifest::OCI_LAYER_GZIP,
            "digest": digest.to_string(), "size": packed.len(),
        }));
    }
    let id = Digest::of(&config);
    fake.route(&blob(&id), ok("application/octet-stream", &config));
    let body = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": manifest::OCI_CONFIG, "digest": id.to_string(), "size": config.len()},
        "layers": layers,
    }))
    .unwrap();
    let digest = Digest::of(&body);
    for target in ["1", digest.as_str()] {
        fake.route(&format!("/v2/team/app/manifests/{target}"), ok(OCI_MANIFEST, &body));
    }
    Sample {
        manifest: "/v2/team/app/manifests/1".into(),
        config: blob(&id),
        layer: last,
        manifest_body: body,
        manifest_digest: digest,
    }
}

/// A store that speaks plain HTTP to these.
fn store(place: &Place, fakes: &[&Fake]) -> Images {
    let plain_http = fakes.iter().map(|fake| fake.address.clone()).collect();
    Images::open(&place.root, Registries { plain_http, ca_file: None }).unwrap()
}

fn secret(registry: &str) -> Vec<Credentials> {
    vec![Credentials {
        registry: registry.to_owned(),
        username: "user".into(),
        password: "secret".into(),
    }]
}

fn assert_pulled(images: &Images, image: &Image, fake: &Fake, sample: &Sample) {
    assert_eq!(image.names, [fake.name()]);
    let repository = format!("{}/team/app", fake.address);
    assert_eq!(image.digests, [format!("{repository}@{}", sample.manifest_digest)]);
    assert_eq!(images.read_file(image, "/etc/name", 10).unwrap(), Some(b"app".to_vec()));
    images.verify(image).unwrap();
}

#[test]
fn an_image_is_pulled_by_tag_and_by_digest() {
    let place = place();
    runtime().block_on(async {
        let fake = Fake::start("127.0.0.1", None).await;
        let sample = fill(&fake);
        let images = store(&place, &[&fake]);
        let image = images.pull(&fake.name(), &[]).await.unwrap();
        assert_pulled(&images, &image, &fake, &sample);
        let by_digest = format!("{}/team/app@{}", fake.address, sample.manifest_digest);
        assert_eq!(images.pull(&by_digest, &[]).await.unwrap(), image);
        assert_eq!(fake.requests(&sample.layer), 1, "present layers are not fetched again");
    });
}

#[test]
fn concurrent_pulls_share_the_work() {
    let place = place();
    runtime().block_on(async {
        let fake = Fake::start("127.0.0.1", None).await;
        let sample = fill(&fake);
        let images = store(&place, &[&fake]);
        let name = fake.name();
        let pulls = (0..8).map(|_| images.pull(&name, &[]));
        for pulled in futures::future::join_all(pulls).await {
            assert_pulled(&images, &pulled.unwrap(), &fake, &sample);
        }
        assert_eq!(fake.requests(&sample.manifest), 1);
        assert_eq!(fake.requests(&sample.layer), 1);
    });
}

#[test]
fn hostile_answers_are_refused_and_an_honest_registry_works_afterwards() {
    type Change = Box<dyn Fn(&Fake, &Sample)>;
    fn edit(pointer: &'static str, value: serde_json::Value) -> Change {
        Box::new(move |fake, sample| {
            let mut manifest: serde_json::Value =
                serde_json::from_slice(&sample.manifest_body).unwrap();
            *manifest.pointer_mut(pointer).unwrap() = value.clone();
            let body = serde_json::to_vec(&manifest).unwrap();
            fake.change(&sample.manifest, |answer| answer.body = body);
        })
    }
    let to = |place: fn(&Sample) -> &String, change: fn(&mut Answer)| -> Change {
        Box::new(move |fake, sample| fake.change(place(sample), change))
    };
    let digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let cases: Vec<(&str, Change, &str)> = vec![
        ("absent", to(|s| &s.manifest, |a| a.status = 404), "not found"),
        ("server error", to(|s| &s.manifest, |a| a.status = 500), "unexpected status 500"),
        ("rate limit", to(|s| &s.manifest, |a| a.status = 429), "toomanyrequests"),
        ("forbidden", to(|s| &s.manifest, |a| a.status = 403), "pull access denied"),
        ("no challenge", to(|s| &s.manifest, |a| a.status = 401), "pull access denied"),
        ("empty", to(|s| &s.manifest, |a| a.body.clear()), "not valid"),
        ("not JSON", to(|s| &s.manifest, |a| a.body = b"<html>".to_vec()), "not valid"),
        (
            "manifest as index",
            to(|s| &s.manifest, |a| a.headers[0].1 = OCI_INDEX.into()),
            "came as",
        ),
        (
            "manifest as page",
            to(|s| &s.manifest, |a| a.headers[0].1 = "text/html".into()),
            "came as",
        ),
        ("endless manifest", to(|s| &s.manifest, |a| a.body = vec![b' '; 5 << 20]), "exceeds"),
        (
            "both kinds",
            Box::new(|fake, s| {
                fake.change(&s.manifest, |a| {
                    let mut value: serde_json::Value = serde_json::from_slice(&a.body).unwrap();
                    value["manifests"] = serde_json::json!([]);
                    a.body = serde_json::to_vec(&value).unwrap();
                })
            }),
            "both",
        ),
        (
            "key twice",
            Box::new(|fake, s| {
                fake.change(&s.manifest, |a| {
                    let text = String::from_utf8(a.body.clone()).unwrap();
                    a.body = text.replacen("{", "{\"layers\":[],", 1).into_bytes();
                })
            }),
            "duplicate key",
        ),
        ("md5", edit("/layers/0/digest", "md5:00".into()), "unsupported digest"),
        (
            "path as digest",
            edit("/layers/0/digest", "sha256:../../../x".into()),
            "invalid checksum",
        ),
        (
            "digest in capitals",
            edit("/layers/0/digest", digest.to_uppercase().replace("SHA", "sha").into()),
            "invalid checksum",
        ),
        (
            "layer of another type",
            edit("/layers/0/mediaType", "application/x".into()),
            "layer media type",
        ),
        (
            "config of another type",
            edit("/config/mediaType", "application/x".into()),
            "config media type",
        ),
        ("layer that is not there", edit("/layers/0/digest", digest.into()), "not found"),
        ("config that is not there", edit("/config/digest", digest.into()), "not found"),
        ("layer size too small", edit("/layers/1/size", 10.into()), "size mismatch"),
        ("layer size too large", edit("/layers/1/size", 1_000_000.into()), "size mismatch"),
        ("config size too small", edit("/config/size", 10.into()), "exceeds 10 bytes"),
        ("config size too large", edit("/config/size", 9999.into()), "digest mismatch"),
        (
            "one layer short",
            Box::new(|fake, s| {
                fake.change(&s.manifest, |a| {
                    let mut value: serde_json::Value = serde_json::from_slice(&a.body).unwrap();
                    value["layers"].as_array_mut().unwrap().pop();
                    a.body = serde_json::to_vec(&value).unwrap();
                })
            }),
            "lists 2 layers, the manifest 1",
        ),
        (
            "layers swapped",
            Box::new(|fake, s| {
                fake.change(&s.manifest, |a| {
                    let mut value: serde_json::Value = serde_json::from_slice(&a.body).unwrap();
                    value["layers"].as_array_mut().unwrap().reverse();
                    a.body = serde_json::to_vec(&value).unwrap();
                })
            }),
            "diffID mismatch",
        ),
        (
            "layer changed",
            to(|s| &s.layer, |a| *a.body.last_mut().unwrap() ^= 1),
            "digest mismatch",
        ),
        ("layer cut short", to(|s| &s.layer, |a| a.cut = Some(100)), "end"),
        ("layer shorter", to(|s| &s.layer, |a| a.body.truncate(100)), "size mismatch"),
        ("layer longer", to(|s| &s.layer, |a| a.body.push(0)), "size mismatch"),
        ("layer replaced", to(|s| &s.layer, |a| a.body.fill(7)), "digest mismatch"),
        ("layer gone", to(|s| &s.layer, |a| a.status = 404), "not found"),
        ("part of a layer", to(|s| &s.layer, |a| a.status = 206), "unexpected status 206"),
        ("config changed", to(|s| &s.config, |a| a.body[20] ^= 1), "digest mismatch"),
        ("config cut short", to(|s| &s.config, |a| a.cut = Some(5)), "request to"),
        ("redirect to nowhere", to(|s| &s.layer, |a| a.status = 302), "without a location"),
        (
            "redirect to itself",
            Box::new(|fake, s| {
                fake.route(&s.layer, redirect(&s.layer));
            }),
            "more than 5",
        ),
        (
            "redirect to metadata",
            Box::new(|fake, s| {
                fake.route(&s.layer, redirect("https://169.254.169.254/latest"));
            }),
            "not an address",
        ),
        (
            "redirect to loopback",
            Box::new(|fake, s| {
                fake.route(&s.layer, redirect("https://127.0.0.1:1/x"));
            }),
            "not an address",
        ),
        (
            "redirect to mapped loopback",
            Box::new(|fake, s| {
                fake.route(&s.layer, redirect("https://[::ffff:127.0.0.1]:1/x"));
            }),
            "not an address",
        ),
        (
            "redirect to a file",
            Box::new(|fake, s| {
                fake.route(&s.layer, redirect("file:///etc/passwd"));
            }),
            "redirect",
        ),
        (
            "redirect to plain HTTP",
            Box::new(|fake, s| {
                fake.route(&s.layer, redirect("http://127.0.0.1:1/x"));
            }),
            "not an address",
        ),
        (
            "redirect with a secret",
            Box::new(|fake, s| {
                let to = format!("http://u:p@{}/x", fake.address);
                fake.route(&s.layer, redirect(&to));
            }),
            "credentials in the address",
        ),
        (
            "index for others",
            Box::new(move |fake, s| {
                let body = serde_json::json!({"schemaVersion": 2, "manifests": [{
                "mediaType": OCI_MANIFEST, "digest": digest, "size": 1,
                "platform": {"os": "linux", "architecture": "arm64"}}]});
                fake.route(&s.manifest, ok(OCI_INDEX, &serde_json::to_vec(&body).unwrap()));
            }),
            "no match for platform",
        ),
    ];
    assert!(cases.len() >= 40);
    let place = place();
    for (what, change, error) in cases {
        runtime().block_on(async {
            let fake = Fake::start("127.0.0.1", None).await;
            let sample = fill(&fake);
            change(&fake, &sample);
            let images = store(&place, &[&fake]);
            let refused = match images.pull(&fake.name(), &[]).await {
                Err(refused) => refused.to_string(),
                Ok(_) => panic!("{what} was pulled"),
            };
            assert!(refused.contains(error), "{what}: {refused}");
            assert_eq!(place.content(), Vec::<String>::new(), "{what}");
        });
    }
    runtime().block_on(async {
        let fake = Fake::start("127.0.0.1", None).await;
        let sample = fill(&fake);
        let images = store(&place, &[&fake]);
        let image = images.pull(&fake.name(), &[]).await.unwrap();
        assert_pulled(&images, &image, &fake, &sample);
    });
}

#[test]
fn foreign_urls_are_never_asked() {
    let place = place();
    runtime().block_on(async {
        let fake = Fake::start("127.0.0.1", None).await;
        let other = Fake::start("127.0.0.2", None).await;
        let sample = fill(&fake);
        fake.change(&sample.manifest, |answer| {
            let mut value: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            value["layers"][0]["urls"] = serde_json::json!([format!("http://{}/x", other.address)]);
            answer.body = serde_json::to_vec(&value).unwrap();
        });
        fake.change(&sample.layer, |answer| answer.status = 404);
        store(&place, &[&fake, &other]).pull(&fake.name(), &[]).await.unwrap_err();
        assert!(other.log.lock().unwrap().is_empty());
    });
}

#[test]
fn secrets_do_not_cross_hosts() {
    let place = place();
    runtime().block_on(async {
        let basic = auth::basic(&secret("x")[0]);
        let fake = Fake::start("127.0.0.1", None).await;
        let other = Fake::start("127.0.0.2", None).await;
        let sample = fill(&fake);
        let images = store(&place, &[&fake, &other]);

        // A layer elsewhere, behind a registry with a password: fetched without it.
        let paths: Vec<String> = fake.routes.lock().unwrap().keys().cloned().collect();
        for path in &paths {
            fake.change(path, |a| a.needs = Some((basic.clone(), "Basic realm=\"r\"".into())));
        }
        let layer = fake.routes.lock().unwrap()[&sample.layer].clone();
        other.route("/layer", Answer { needs: None, ..layer.clone() });
        let needs = layer.needs;
        let away = Answer { needs, ..redirect(&format!("http://{}/layer", other.address)) };
        fake.route(&sample.layer, away);
        let refused = images.pull(&fake.name(), &[]).await.unwrap_err().to_string();
        assert!(refused.contains("no credentials"), "{refused}");
        let wrong = images.pull(&fake.name(), &secret("other.example.com")).await.unwrap_err();
        assert!(wrong.to_string().contains("no credentials"), "{wrong}");
        let image = images.pull(&fake.name(), &secret(&fake.address)).await.unwrap();
        assert_pulled(&images, &image, &fake, &sample);
        assert!(fake.saw_secrets() && other.requests("/layer") == 1 && !other.saw_secrets());

        // A token server elsewhere is not told the password, nor the token sent on a redirect.
        images.remove(&fake.name()).unwrap();
        let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", other.address);
        for path in &paths {
            fake.change(path, |a| a.needs = Some(("Bearer abc".into(), realm.clone())));
        }
        let query = "scope=repository:team/app:pull&service=s";
        let token = ok("application/json", br#"{"token":"abc"}"#);
        other.route(&format!("/token?{query}"), token.clone());
        images.pull(&fake.name(), &secret(&fake.address)).await.unwrap();
        assert_eq!(other.requests(&format!("/token?{query}")), 1, "one token for all requests");
        assert!(!other.saw_secrets());

        // Its own token server is.
        images.remove(&fake.name()).unwrap();
        let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", fake.address);
        for path in &paths {
            fake.change(path, |a| a.needs = Some(("Bearer abc".into(), realm.clone())));
        }
        let guarded = Answer { needs: Some((basic, realm)), ..token };
        fake.route(&format!("/token?{query}"), guarded);
        let denied = images.pull(&fake.name(), &[]).await.unwrap_err().to_string();
        assert!(denied.contains("token server answered 401"), "{denied}");
        images.pull(&fake.name(), &secret(&fake.address)).await.unwrap();
    });
}

#[test]
fn tls_is_verified_against_the_configured_authority() {
    let place = place();
    runtime().block_on(async {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key =
            rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
        let fake = Fake::start("127.0.0.1", Some(Arc::new(config).into())).await;
        let sample = fill(&fake);
        let pull = async |ca_file| {
            let registries = Registries { plain_http: Vec::new(), ca_file };
            let images = Images::open(&place.root, registries).unwrap();
            let image = images.pull(&fake.name(), &[]).await?;
            Ok::<_, ImageError>((images, image))
        };
        let Err(refused) = pull(None).await else { panic!("an unknown authority was believed") };
        assert!(refused.to_string().contains("tls with 127.0.0.1"), "{refused}");
        assert!(fake.log.lock().unwrap().is_empty());
        let ca = place.root.join("ca.pem");
        std::fs::write(&ca, made.cert.pem()).unwrap();
        let (images, image) = pull(Some(ca)).await.unwrap();
        assert_pulled(&images, &image, &fake, &sample);
    });
}

/// Ends the process it holds.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn debians_registry_serves_what_skopeo_pushed() {
    let place = place();
    let port = {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        probe.local_addr().unwrap().port()
    };
    let address = format!("127.0.0.1:{port}");
    let config = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
        place.root.join("registry").display()
    );
    std::fs::write(place.root.join("registry.yml"), config).unwrap();
    let _registry = Running(
        std::process::Command::new("docker-registry")
            .arg("serve")
            .arg(place.root.join("registry.yml"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap(),
    );
    let tars = [Tar::default().directory("etc").file("etc/name", b"app").end()];
    let archive = samples::docker_archive("x:1", &tars, &serde_json::json!({"Cmd": ["/app"]}));
    std::fs::write(place.root.join("x.tar"), archive).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while std::net::TcpStream::connect(&address).is_err() {
        assert!(std::time::Instant::now() < deadline, "the registry did not come up");
        std::thread::yield_now();
    }
    for target in ["team/app:v2", "team/app:oci"] {
        let format = if target.ends_with("oci") { "oci" } else { "v2s2" };
        let output = std::process::Command::new("skopeo")
            .args([
                "--insecure-policy",
                "copy",
                "-q",
                "--dest-tls-verify=false",
                "--format",
                format,
            ])
            .arg(format!("docker-archive:{}", place.root.join("x.tar").display()))
            .arg(format!("docker://{address}/{target}"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    runtime().block_on(async {
        let registries = Registries { plain_http: vec![address.clone()], ca_file: None };
        let images = Images::open(&place.root, registries).unwrap();
        for target in ["team/app:v2", "team/app:oci"] {
            let image = images.pull(&format!("{address}/{target}"), &[]).await.unwrap();
            let name = images.read_file(&image, "/etc/name", 10).unwrap();
            assert_eq!(name, Some(b"app".to_vec()));
            assert_eq!(image.config.cmd, ["/app"]);
        }
        let absent = images.pull(&format!("{address}/team/app:no"), &[]).await.unwrap_err();
        assert_eq!(
            absent.to_string(),
            format!("failed to pull image \"{address}/team/app:no\": not found")
        );
    });
}
