//! Which resource a word means: `po`, `pod/web`, `pods,configmaps`, asked of the server's discovery.

use anyhow::{Context, bail};
use serde_json::Value;

/// A resource as discovery describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `pod` or `deployment.apps`: how kubectl names the kind of an object in its output.
    pub fn printed_kind(&self) -> String {
        match self.group.as_str() {
            "" => self.singular.clone(),
            group => format!("{}.{group}", self.singular),
        }
    }

    /// The collection's path; `None` for all namespaces.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }

    fn answers_to(&self, word: &str) -> bool {
        let (name, group) = word.split_once('.').map_or((word, None), |(n, g)| (n, Some(g)));
        let named = self.plural == name
            || self.singular == name
            || self.short_names.iter().any(|short| short == name);
        named
            && group.is_none_or(|group| {
                self.group == group || group == format!("{}.{}", self.version, self.group)
            })
    }
}

/// Everything that the server serves, preferred versions first.
pub struct Resources(Vec<Resource>);

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

impl Resources {
    pub async fn discover(client: &kube::Client) -> anyhow::Result<Resources> {
        let mut found = Vec::new();
        for root in ["/api", "/apis"] {
            let request = http::Request::get(root).header("accept", AGGREGATED).body(Vec::new())?;
            let document: Value =
                client.request(request).await.context("asking the server what it serves")?;
            for group in list(&document["items"]) {
                for version in list(&group["versions"]) {
                    found.extend(
                        list(&version["resources"])
                            .iter()
                            .map(|entry| resource(group, version, entry)),
                    );
                }
            }
        }
        Ok(Resources(found))
    }

    /// The resources that a comma-separated list of words means.
    ///
    /// # Errors
    /// A word that no resource answers to, in kubectl's words.
    pub fn find(&self, words: &str) -> anyhow::Result<Vec<Resource>> {
        let mut found = Vec::new();
        for word in words.split(',') {
            let lower = word.to_lowercase();
            let mut category: Vec<&Resource> = Vec::new();
            for resource in self.0.iter().filter(|r| r.categories.contains(&lower)) {
                let is_same =
                    |r: &&Resource| r.group == resource.group && r.plural == resource.plural;
                // Each once, however many versions of it are served.
                if !category.iter().any(is_same) {
                    category.push(resource);
                }
            }
            if !category.is_empty() {
                found.extend(category.into_iter().cloned());
                continue;
            }
            match self.0.iter().find(|resource| resource.answers_to(&lower)) {
                Some(resource) => found.push(resource.clone()),
                None => bail!("the server doesn't have a resource type {word:?}"),
            }
        }
        Ok(found)
    }

    /// The resource of a manifest.
    pub fn of_manifest(&self, api_version: &str, kind: &str) -> anyhow::Result<Resource> {
        let fits =
            |resource: &&Resource| resource.kind == kind && resource.api_version() == api_version;
        self.0
            .iter()
            .find(fits)
            .cloned()
            .with_context(|| format!("no matches for kind {kind:?} in version {api_version:?}"))
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn resource(group: &Value, version: &Value, entry: &Value) -> Resource {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| list(value).iter().map(&text).collect();
    Resource {
        group: text(&group["metadata"]["name"]),
        version: text(&version["version"]),
        kind: text(&entry["responseKind"]["kind"]),
        plural: text(&entry["resource"]),
        singular: text(&entry["singularResource"]),
        short_names: texts(&entry["shortNames"]),
        categories: texts(&entry["categories"]),
        namespaced: entry["scope"] == "Namespaced",
    }
}

/// Objects that the words of a command line name: `TYPE`, `TYPE NAME…` or `TYPE/NAME…`.
#[derive(Debug, PartialEq, Eq)]
pub enum Selection {
    /// Whole collections.
    All(Vec<Resource>),
    Named(Vec<(Resource, String)>),
}

pub fn select(resources: &Resources, words: &[String]) -> anyhow::Result<Selection> {
    let Some((first, rest)) = words.split_first() else {
        bail!("you must name a type of resource, for example: pods, pod/web or pod web")
    };
    if words.iter().any(|word| word.contains('/')) {
        let mut named = Vec::new();
        for word in words {
            let Some((kind, name)) = word.split_once('/') else {
                bail!(
                    "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form"
                )
            };
            named.extend(
                resources.find(kind)?.into_iter().map(|resource| (resource, name.to_owned())),
            );
        }
        return Ok(Selection::Named(named));
    }
    let kinds = resources.find(first)?;
    if rest.is_empty() {
        return Ok(Selection::All(kinds));
    }
    let pairs =
        kinds.iter().flat_map(|kind| rest.iter().map(move |name| (kind.clone(), name.clone())));
    Ok(Selection::Named(pairs.collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resources() -> Resources {
        let core = json!({"versions": [{"version": "v1"}]});
        let apps = json!({"metadata": {"name": "apps"}});
        let version = json!({"version": "v1"});
        let pods = json!({"resource": "pods", "singularResource": "pod", "shortNames": ["po"], "categories": ["all"],
            "scope": "Namespaced", "responseKind": {"kind": "Pod"}});
        let deployments = json!({"resource": "deployments", "singularResource": "deployment", "shortNames": ["deploy"],
            "categories": ["all"], "scope": "Namespaced", "responseKind": {"kind": "Deployment"}});
        let older = json!({"version": "v1beta1"});
        Resources(vec![
            resource(&core, &version, &pods),
            resource(&apps, &version, &deployments),
            resource(&apps, &older, &deployments),
        ])
    }

    #[test]
    fn words_mean_what_kubectl_takes_them_for() {
        for (words, plurals) in [
            ("po", vec!["pods"]),
            ("Pod", vec!["pods"]),
            ("pods,deploy", vec!["pods", "deployments"]),
            ("deployments.apps", vec!["deployments"]),
            ("deployments.v1.apps", vec!["deployments"]),
            ("all", vec!["pods", "deployments"]),
        ] {
            let found: Vec<_> =
                resources().find(words).unwrap().into_iter().map(|r| r.plural).collect();
            assert_eq!(found, plurals, "{words}");
        }
        assert_eq!(
            resources().find("nosuch").unwrap_err().to_string(),
            "the server doesn't have a resource type \"nosuch\""
        );
    }

    #[test]
    fn objects_are_named_in_three_ways() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let names = |text: &str| match select(&resources(), &words(text)).unwrap() {
            Selection::Named(named) => {
                named.into_iter().map(|(r, n)| format!("{}/{n}", r.plural)).collect()
            }
            Selection::All(kinds) => kinds.into_iter().map(|r| r.plural).collect::<Vec<_>>(),
        };
        assert_eq!(names("pods"), ["pods"]);
        assert_eq!(names("pod a b"), ["pods/a", "pods/b"]);
        assert_eq!(names("pod/a deploy/b"), ["pods/a", "deployments/b"]);
        assert!(select(&resources(), &words("pod/a b")).is_err());
    }
}
