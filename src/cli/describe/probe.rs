//! A container's probes, each in one line.

use serde_json::Value;

use super::text::{Text, given, joined, number, plain};

pub fn lay_out(text: &mut Text, container: &Value) {
    for (title, key) in [
        ("Liveness", "livenessProbe"),
        ("Readiness", "readinessProbe"),
        ("Startup", "startupProbe"),
    ] {
        if !container[key].is_null() {
            text.field(2, title, line(&container[key]));
        }
    }
}

fn line(probe: &Value) -> String {
    let count = |key: &str| number(&probe[key]);
    let terms = format!(
        "delay={}s timeout={}s period={}s successThreshold={} failureThreshold={}",
        count("initialDelaySeconds"),
        count("timeoutSeconds"),
        count("periodSeconds"),
        count("successThreshold"),
        count("failureThreshold")
    );
    let what = if let command @ Value::Object(_) = &probe["exec"] {
        format!("exec [{}]", joined(&command["command"], " "))
    } else if let get @ Value::Object(_) = &probe["httpGet"] {
        format!("http-get {}", url(get))
    } else if let socket @ Value::Object(_) = &probe["tcpSocket"] {
        format!("tcp-socket {}:{}", plain(&socket["host"]), plain(&socket["port"]))
    } else if let grpc @ Value::Object(_) = &probe["grpc"] {
        format!("grpc <pod>:{} {}", plain(&grpc["port"]), plain(&grpc["service"]))
    } else {
        "unknown".to_owned()
    };
    format!("{what} {terms}")
}

/// `http://:80/health`; the path as Go escapes it (net/url, `URL.String`).
fn url(get: &Value) -> String {
    let scheme = plain(&get["scheme"]).to_lowercase();
    let host = plain(&get["host"]);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let path = given(&get["path"]).unwrap_or_default();
    let mut escaped = String::new();
    if !path.is_empty() && !path.starts_with('/') {
        escaped.push('/');
    }
    for byte in path.bytes() {
        match byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            true => escaped.push(char::from(byte)),
            false => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    format!("{scheme}://{host}:{}{escaped}", plain(&get["port"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_probe_is_one_line() {
        let terms = json!({"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3});
        for (key, value, expected) in [
            ("exec", json!({"command": ["sh", "-c", "true"]}), "exec [sh -c true]"),
            (
                "httpGet",
                json!({"scheme": "HTTPS", "host": "fd00::1", "port": "web", "path": "a b?c"}),
                "http-get https://[fd00::1]:web/a%20b%3Fc",
            ),
            ("httpGet", json!({"scheme": "HTTP", "port": 80, "path": "/"}), "http-get http://:80/"),
            ("tcpSocket", json!({"port": 5}), "tcp-socket :5"),
            ("grpc", json!({"port": 5, "service": "s"}), "grpc <pod>:5 s"),
            ("other", json!({}), "unknown"),
        ] {
            let mut probe = terms.clone();
            probe[key] = value;
            let terms = "delay=0s timeout=1s period=10s successThreshold=1 failureThreshold=3";
            assert_eq!(line(&probe), format!("{expected} {terms}"));
        }
    }
}
