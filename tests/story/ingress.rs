//! "How do I accept traffic from outside?", certificates, and metrics that outlive the service.

use std::process::Command;
use std::time::Duration;

use crate::capture::{Capture, Packet};
use crate::cluster::{Cluster, Ran};
use crate::pod::POD;

/// As the story has it, word for word.
const INGRESS: &str = "\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: minimal-ingress
spec:
  ingressClassName: kangaroo
  rules:
  - http:
      paths:
      - path: /api
        pathType: Prefix
        backend:
          service:
            name: kangaroo-backend
            port:
              number: 8080
";

const CLASS: &str = "\
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata:
  name: kangaroo
spec:
  controller: joey.dev/ingress
";

/// A Service whose endpoints the test writes itself.
fn service(address: &str) -> String {
    format!(
        "\
apiVersion: v1
kind: Service
metadata:
  name: kangaroo-backend
spec:
  ports:
  - port: 8080
    targetPort: 80
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: kangaroo-backend-1
  labels:
    kubernetes.io/service-name: kangaroo-backend
addressType: IPv4
ports:
- port: 80
  protocol: TCP
endpoints:
- addresses: [{address}]
  conditions:
    ready: true
"
    )
}

fn curl(arguments: &[&str]) -> Ran {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "10", "-w", "\n%{http_code}"])
        .args(arguments)
        .output()
        .expect("curl can run");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn status(arguments: &[&str]) -> String {
    curl(arguments).stdout.lines().last().unwrap_or_default().to_owned()
}

fn started(name: &str) -> Cluster {
    let mut cluster = Cluster::start(name);
    cluster.apply(POD).ok();
    cluster.wait_running("kangaroo-backend");
    let address = cluster.value("pod/kangaroo-backend", "{.status.podIP}");
    cluster.apply(&service(&address)).ok();
    cluster
}

/// Chapters 12 and 15.
#[test]
fn the_storys_ingress_leads_customers_in_and_its_metrics_outlive_the_service() {
    let mut cluster = started("ingress");
    let classes = cluster.kubectl(&["get", "ingressclass", "joey", "-o", "name"]);
    assert_eq!(classes.ok(), "ingressclass.networking.k8s.io/joey");

    // Without its class the Ingress is kept, not served, and says why.
    cluster.apply(INGRESS).ok();
    cluster.wait_for("an Event says why it is not served", |cluster| {
        let told = cluster.kubectl(&["describe", "ingress", "minimal-ingress"]).stdout;
        told.contains("NotServed") && told.contains("no IngressClass \"kangaroo\"")
    });
    assert_eq!(status(&["http://127.0.0.1/api"]), "404");

    cluster.apply(CLASS).ok();
    cluster.wait_for("it is served", |_| status(&["http://127.0.0.1/api"]) == "200");
    let node = cluster.value("node", "{.items[0].status.addresses[0].address}");
    cluster.wait_for("its address is told", |cluster| {
        let told = cluster.value("ingress/minimal-ingress", "{.status.loadBalancer.ingress[0].ip}");
        told == node
    });
    let table = cluster.kubectl(&["get", "ingress"]).ok();
    assert!(table.contains("kangaroo") && table.contains(&node), "{table}");
    let answer = curl(&[&format!("http://{node}/api/")]).ok();
    assert!(answer.contains("1.14.2"), "{answer}");
    let other = curl(&["http://127.0.0.1/apix"]).ok();
    assert!(
        other.contains("no Ingress rule matches host \"127.0.0.1\" and path \"/apix\""),
        "{other}"
    );

    // Every pod dead: the metrics are there and show it.
    cluster
        .kubectl(&[
            "patch",
            "endpointslice",
            "kangaroo-backend-1",
            "--type=merge",
            "-p",
            "{\"endpoints\":[]}",
        ])
        .ok();
    cluster.wait_for("503", |_| status(&["http://127.0.0.1/api"]) == "503");
    let dead = curl(&["http://127.0.0.1/api"]).ok();
    assert!(dead.contains("Service default/kangaroo-backend has no ready pod"), "{dead}");
    let series = "joey_ingress_requests_total{namespace=\"default\",ingress=\"minimal-ingress\",service=\"kangaroo-backend\",method=\"GET\",code=";
    cluster.wait_for("the metrics show good and bad requests", |cluster| {
        let text = cluster.fetch("http://127.0.0.1:9464/metrics").stdout;
        text.contains(&format!("{series}\"2xx\"}}")) && text.contains(&format!("{series}\"5xx\"}}"))
    });
    cluster.kubectl(&["delete", "ingress", "minimal-ingress"]).ok();
    cluster
        .wait_for("404 after the Ingress is gone", |_| status(&["http://127.0.0.1/api"]) == "404");
    cluster.finish();
}

/// An Ingress named `odd` with one rule, for whom nothing of it is more than a word.
fn odd(annotations: &serde_json::Value, host: &str, path: &str, secret: &str) -> String {
    let tls: &[serde_json::Value] = match secret {
        "" => &[],
        name => &[serde_json::json!({"hosts": ["odd.test"], "secretName": name})],
    };
    let backend =
        serde_json::json!({"service": {"name": "kangaroo-backend", "port": {"number": 8080}}});
    let path = serde_json::json!({"path": path, "pathType": "Prefix", "backend": backend});
    serde_json::json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "odd", "annotations": annotations},
        "spec": {"ingressClassName": "joey", "tls": tls, "rules": [{"host": host, "http": {"paths": [path]}}]},
    })
    .to_string()
}

/// What made other controllers run code is a literal or an error, and touches nobody else (security D9: CVE-2021-25746,
/// CVE-2023-5043, CVE-2025-1097, CVE-2025-1974, CVE-2025-24514).
#[test]
fn what_looks_like_configuration_is_words() {
    let mut cluster = started("odd");
    let none = serde_json::json!({});
    let canary = odd(&none, "canary.test", "/", "").replace("\"odd\"", "\"canary\"");
    cluster.apply(&canary).ok();
    let is_led = |host: &str, path: &str| {
        let url = format!("http://127.0.0.1{path}");
        let answer = curl(&["-g", "--path-as-is", "-H", &format!("Host: {host}"), &url]).ok();
        !answer.contains("no Ingress rule matches")
    };
    cluster.wait_for("the canary is served", |_| is_led("canary.test", "/"));
    let made = cluster.run_dir().join("made-by-an-ingress");
    let made = made.display();

    for (bad_host, secret, field) in [
        ("a.test\";}", "", "spec.rules[0].host"),
        ("$(id).test", "", "spec.rules[0].host"),
        ("a.test\nserver {", "", "spec.rules[0].host"),
        ("a\0.test", "", "spec.rules[0].host"),
        ("odd.test", "../kube-system/tls", "spec.tls[0].secretName"),
        ("odd.test", "kube-system/tls;}", "spec.tls[0].secretName"),
    ] {
        let refused = cluster.apply(&odd(&none, bad_host, "/", secret));
        assert!(refused.code != 0 && refused.stderr.contains(field), "{bad_host:?}: {refused:?}");
    }

    let snippet = format!("}}}} access_by_lua_block {{ os.execute('touch {made}') }} #");
    let annotations = serde_json::json!({
        "nginx.ingress.kubernetes.io/configuration-snippet": snippet,
        "nginx.ingress.kubernetes.io/server-snippet": "return 200 pwned;",
        "nginx.ingress.kubernetes.io/auth-url": format!("http://x/#;}}}}\nssl_engine {made};"),
        "nginx.ingress.kubernetes.io/auth-tls-match-cn": "CN=a #(\n){}\n }}",
        "nginx.ingress.kubernetes.io/rewrite-target": "/version/$(id)",
        "nginx.ingress.kubernetes.io/permanent-redirect": "https://elsewhere.test",
    });
    let path = format!("/a;$(touch,{made})");
    cluster.apply(&odd(&annotations, "odd.test", &path, "")).ok();
    cluster.wait_for("the literal path is served", |_| is_led("odd.test", &path));
    for other in ["/", "/a", "/a;", "/version"] {
        assert!(!is_led("odd.test", other), "{other}");
    }
    for odd_path in ["/a\n} location / { return 200; }", "/a\0b", "/a\"{;}", "/~* ^/(.*)$"] {
        let ran = cluster.apply(&odd(&annotations, "odd.test", odd_path, ""));
        assert!(ran.code == 0 || ran.stderr.contains("path"), "{odd_path:?}: {ran:?}");
        assert!(is_led("canary.test", "/"), "{odd_path:?}");
        assert!(!is_led("odd.test", "/"), "{odd_path:?}");
    }
    assert!(!std::path::Path::new(&made.to_string()).exists());
    cluster.finish();
}

/// A self-signed certificate for a host, with openssl as people make them.
fn certificate(cluster: &Cluster, name: &str, host: &str) -> (String, String) {
    let file = |end: &str| cluster.dir.join(format!("{name}.{end}")).display().to_string();
    let (crt, key) = (file("crt"), file("key"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "90",
        ])
        .args(["-subj", &format!("/CN={host}"), "-addext", &format!("subjectAltName=DNS:{host}")])
        .args(["-keyout", &key, "-out", &crt])
        .output()
        .expect("openssl can run");
    assert!(made.status.success(), "{made:?}");
    (crt, key)
}

/// A self-signed certificate that lasts for some seconds more.
#[expect(clippy::disallowed_methods, reason = "the daemon goes by the real clock, too")]
fn short_lived(cluster: &Cluster, host: &str, seconds: u64) -> (String, String) {
    let mut params = rcgen::CertificateParams::new([host.to_owned()]).expect("a name");
    let now = std::time::SystemTime::now();
    params.not_before = (now - Duration::from_secs(60)).into();
    params.not_after = (now + Duration::from_secs(seconds)).into();
    let key = rcgen::KeyPair::generate().expect("a key");
    let made = params.self_signed(&key).expect("a certificate");
    let file = |end: &str| cluster.dir.join(format!("short.{end}")).display().to_string();
    std::fs::write(file("crt"), made.pem()).expect("a directory of ours");
    std::fs::write(file("key"), key.serialize_pem()).expect("a directory of ours");
    (file("crt"), file("key"))
}

/// Chapter 14.
#[test]
fn https_ends_at_the_ingress_and_a_bad_certificate_touches_only_its_host() {
    let mut cluster = started("https");
    let ingress = "\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: secure
  annotations: {joey.dev/ssl-redirect: \"true\"}
spec:
  tls:
  - {hosts: [a.example], secretName: a}
  - {hosts: [b.example], secretName: b}
  rules:
  - host: a.example
    http: &paths
      paths:
      - path: /
        pathType: Prefix
        backend: {service: {name: kangaroo-backend, port: {number: 8080}}}
  - host: b.example
    http: *paths
";
    let (first, first_key) = certificate(&cluster, "first", "a.example");
    let (second, second_key) = certificate(&cluster, "second", "a.example");
    let tls = |name: &str, crt: &str, key: &str| {
        let files = [format!("--cert={crt}"), format!("--key={key}")];
        vec![
            "create".to_owned(),
            "secret".to_owned(),
            "tls".to_owned(),
            name.to_owned(),
            files[0].clone(),
            files[1].clone(),
        ]
    };
    let run = |cluster: &Cluster, arguments: Vec<String>| {
        cluster.kubectl(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    run(&cluster, tls("a", &first, &first_key)).ok();
    cluster.apply(ingress).ok();

    let resolve = [
        "--resolve",
        "a.example:443:127.0.0.1",
        "--resolve",
        "a.example:80:127.0.0.1",
        "--resolve",
        "b.example:443:127.0.0.1",
    ];
    let get = |ca: &str, url: &str| curl(&[&resolve[..], &["--cacert", ca, url]].concat());
    cluster.wait_for("a.example is served with its certificate", |_| {
        get(&first, "https://a.example/").stdout.contains("1.14.2")
    });
    // On the wire: words that nobody can read on the way to port 443, and plain ones on the way to the pod.
    let capture = Capture::start();
    get(&first, "https://a.example/kangaroos-secret").ok();
    let is_plain =
        |packet: &Packet| packet.to == 80 && packet.holds("GET /kangaroos-secret HTTP/1.1");
    cluster.wait_for("the request passes to the pod", |_| capture.packets().iter().any(is_plain));
    let packets = capture.end();
    let outside = || packets.iter().filter(|packet| packet.to == 443 || packet.from == 443);
    assert!(outside().any(|packet| !packet.payload.is_empty()), "nothing was seen of port 443");
    for told in ["kangaroos-secret", "1.14.2"] {
        assert!(!outside().any(|packet| packet.holds(told)), "{told} can be read outside");
    }
    let redirect = curl(
        &[&resolve[..], &["-o", "/dev/null", "-w", "%{redirect_url}", "http://a.example/x?y=z"]]
            .concat(),
    );
    assert!(redirect.ok().contains("https://a.example/x?y=z"));

    // b.example has no Secret: a self-signed certificate, and an Event; a.example does not notice.
    cluster.wait_for("an Event names the missing Secret", |cluster| {
        let told = cluster.kubectl(&["describe", "ingress", "secure"]).stdout;
        told.contains("CertificateMissing") && told.contains("Secret b does not exist")
    });
    assert_ne!(get(&first, "https://b.example/").code, 0);
    let insecure = curl(&[&resolve[..], &["-k", "https://b.example/"]].concat());
    assert!(insecure.ok().contains("1.14.2"));
    assert!(get(&first, "https://a.example/").ok().contains("1.14.2"));

    // Replaced, it serves the next handshake.
    let mut replace = tls("a", &second, &second_key);
    replace.extend(["--dry-run=client".to_owned(), "-o".to_owned(), "yaml".to_owned()]);
    let manifest = run(&cluster, replace).ok();
    cluster.kubectl_with(&["replace", "-f", "-"], manifest.as_bytes()).ok();
    cluster.wait_for("the new certificate is served", |_| {
        get(&second, "https://a.example/").code == 0
    });
    assert_ne!(get(&first, "https://a.example/").code, 0);

    // One that ends while it is served is not served any longer, though nobody touches anything; its host alone notices.
    let (short, short_key) = short_lived(&cluster, "b.example", 30);
    run(&cluster, tls("b", &short, &short_key)).ok();
    let told = |cluster: &Cluster, reason: &str| {
        cluster.kubectl(&["describe", "ingress", "secure"]).stdout.contains(reason)
    };
    cluster.wait_for("it is served", |_| get(&short, "https://b.example/").code == 0);
    cluster.wait_for("its end is near", |cluster| told(cluster, "CertificateExpiresSoon"));
    cluster.wait_for("its end is told", |cluster| told(cluster, "CertificateExpired"));
    let served = Command::new("openssl")
        .args(["s_client", "-connect", "127.0.0.1:443", "-servername", "b.example"])
        .stdin(std::process::Stdio::null())
        .output()
        .expect("openssl can run");
    let served = String::from_utf8_lossy(&served.stdout).into_owned();
    assert!(served.contains("no certificate for this host"), "{served}");
    get(&second, "https://a.example/").ok();
    cluster.finish();
}

/// Ended with the test, whatever happens.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Chapter 15: "It then exposes these in Prometheus metrics that you can scrape and graph."
#[test]
fn a_real_prometheus_scrapes_and_the_alert_rules_are_ones_it_accepts() {
    let mut cluster = started("prometheus");
    cluster.apply(CLASS).ok();
    cluster.apply(INGRESS).ok();
    cluster.wait_for("it is served", |_| status(&["http://127.0.0.1/api"]) == "200");
    let rules = crate::cluster::root().join("docs/metrics/alerts.yaml");
    let config = cluster.dir.join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\nscrape_configs:\n\
         - job_name: joey\n  static_configs: [{{targets: ['127.0.0.1:9464']}}]\n",
        rules.display()
    );
    std::fs::write(&config, text).unwrap();
    let prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", cluster.dir.join("tsdb").display()))
        .arg("--web.listen-address=127.0.0.1:9090")
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(cluster.dir.join("prometheus.log")).unwrap())
        .spawn()
        .expect("prometheus is installed by tests/setup.sh");
    let prometheus = Running(prometheus);
    let query = |expression: &str| {
        let data = format!("query={expression}");
        curl(&["-G", "http://127.0.0.1:9090/api/v1/query", "--data-urlencode", &data]).stdout
    };
    cluster.wait_for("Prometheus has the request", |_| {
        let answer = query("joey_ingress_requests_total{namespace=\"default\",service=\"kangaroo-backend\",code=\"2xx\"}");
        answer.contains("\"ingress\":\"minimal-ingress\"")
    });
    let up = query("up{job=\"joey\"}");
    assert!(up.contains(",\"1\"]"), "{up}");
    let loaded = curl(&["http://127.0.0.1:9090/api/v1/rules"]).stdout;
    for alert in ["ServiceDown", "ServiceErrors", "ServiceSlow", "IngressFull", "PodsCutOff"] {
        assert!(loaded.contains(&format!("\"name\":\"{alert}\"")), "{loaded}");
    }
    let summed = query(
        "histogram_quantile(0.99, sum by (service, le) (joey_ingress_request_duration_seconds_bucket))",
    );
    assert!(summed.contains("kangaroo-backend"), "{summed}");
    // It asked for OpenMetrics, and reads that strictly: only there a counter's family goes without `_total`.
    let family = curl(&["http://127.0.0.1:9090/api/v1/metadata?metric=joey_ingress_requests"]);
    assert!(family.stdout.contains("\"type\":\"counter\""), "{}", family.stdout);
    drop(prometheus);
    both_texts_are_valid(&cluster);
    cluster.finish();
}

/// Prometheus text for who asks for nothing, OpenMetrics for who asks for that; each as its own checker wants it.
fn both_texts_are_valid(cluster: &Cluster) {
    let scrape = |accept: &str| {
        let accept = format!("Accept: {accept}");
        curl(&["-D", "-", "-H", &accept, "http://127.0.0.1:9464/metrics"]).ok()
    };
    let plain = scrape("text/plain");
    assert!(plain.contains("text/plain; version=0.0.4; charset=utf-8\r\n"), "{plain}");
    let (_, body) = plain.split_once("\r\n\r\n").expect("a head");
    let body = body.strip_suffix("\n200").expect("a status");
    let file = cluster.dir.join("metrics.txt");
    std::fs::write(&file, format!("{}\n", body.trim_end())).expect("a directory of ours");
    let checked = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::fs::File::open(&file).expect("it was just written"))
        .output()
        .expect("promtool comes with prometheus");
    let told = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success(), "{told}");

    let open = scrape("application/openmetrics-text; version=1.0.0");
    assert!(
        open.contains("application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{open}"
    );
    assert!(open.trim_end().ends_with("# EOF\n\n200"), "{open}");
    for line in [
        "# TYPE joey_ingress_requests counter",
        "# TYPE joey_ingress_request_duration_seconds histogram",
        "# UNIT joey_ingress_request_duration_seconds seconds",
    ] {
        assert!(open.lines().any(|found| found == line), "{line} in {open}");
    }
    let of_counter =
        "joey_ingress_requests_total{namespace=\"default\",ingress=\"minimal-ingress\"";
    assert!(open.lines().any(|line| line.starts_with(of_counter)), "{open}");
    assert!(!open.contains("# TYPE joey_ingress_requests_total"), "{open}");
}
