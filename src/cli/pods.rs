//! Which container of which pod a command means, as kubectl takes it.

use anyhow::bail;
use serde_json::Value;

/// Names the container that a pod's commands mean when none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The name in `NAME`, `pod/NAME` or `pods/NAME`.
///
/// # Errors
/// Another type than a pod is named.
pub fn name(word: &str) -> anyhow::Result<&str> {
    match word.split_once('/') {
        None => Ok(word),
        Some(("pod" | "pods" | "po", name)) => Ok(name),
        Some(_) => bail!(
            "{word:?} is no pod: name one, such as web or pod/web (`joey get pods` lists them)"
        ),
    }
}

/// Reads a pod.
///
/// # Errors
/// The server's refusal.
pub async fn read(
    client: &kube::Client,
    namespace: &str,
    name: &str,
) -> Result<Value, kube::Error> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request(request).await
}

/// The names of a pod's containers in one field of its spec.
pub fn names<'a>(pod: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    let all = pod["spec"][field].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().filter_map(|container| container["name"].as_str())
}

/// The container that is meant when none is named, and what to say about it: nothing when the pod has no other and
/// nothing when the pod itself says which.
pub fn default_container(pod: &Value) -> (String, Option<String>) {
    let annotated = pod["metadata"]["annotations"][DEFAULT_CONTAINER].as_str();
    let fields = ["containers", "ephemeralContainers", "initContainers"];
    if let Some(name) = annotated
        .filter(|name| fields.iter().any(|field| names(pod, field).any(|one| one == *name)))
    {
        return (name.to_owned(), None);
    }
    let first = names(pod, "containers").next().unwrap_or_default().to_owned();
    let mut all: Vec<String> = names(pod, "containers").map(str::to_owned).collect();
    all.extend(names(pod, "ephemeralContainers").map(|name| format!("{name} (ephem)")));
    all.extend(names(pod, "initContainers").map(|name| format!("{name} (init)")));
    let notice = (all.len() > 1)
        .then(|| format!("Defaulted container {first:?} out of: {}", all.join(", ")));
    (first, notice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_container_is_meant_unless_the_pod_says_otherwise() {
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "a"}]}});
        assert_eq!(default_container(&pod), ("a".to_owned(), None));
        pod["spec"]["containers"] = json!([{"name": "a"}, {"name": "b"}]);
        pod["spec"]["initContainers"] = json!([{"name": "first"}]);
        let (name, notice) = default_container(&pod);
        assert_eq!(name, "a");
        assert_eq!(notice.unwrap(), "Defaulted container \"a\" out of: a, b, first (init)");
        pod["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "b"});
        assert_eq!(default_container(&pod), ("b".to_owned(), None));
        pod["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "nosuch"});
        assert_eq!(default_container(&pod).0, "a");
    }

    #[test]
    fn only_pods_are_taken() {
        for (word, expected) in [
            ("web", Some("web")),
            ("pod/web", Some("web")),
            ("po/web", Some("web")),
            ("deploy/web", None),
        ] {
            assert_eq!(name(word).ok(), expected);
        }
    }
}
