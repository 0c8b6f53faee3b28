//! How a Deployment is described.

use serde_json::Value;

use super::template;
use super::text::{Clock, Text, items, number, plain, selector};

/// `sets` are ReplicaSets of its namespace that its selector chooses.
pub fn lay_out(text: &mut Text, deployment: &Value, sets: &[Value], clock: &Clock) {
    let (metadata, spec, status) =
        (&deployment["metadata"], &deployment["spec"], &deployment["status"]);
    text.field(0, "Name", plain(&metadata["name"]));
    text.field(0, "Namespace", plain(&metadata["namespace"]));
    text.field(0, "CreationTimestamp", clock.date(&metadata["creationTimestamp"]));
    text.labels("Labels", &metadata["labels"]);
    text.annotations("Annotations", &metadata["annotations"]);
    text.field(0, "Selector", selector(&spec["selector"]));
    let counts = format!(
        "{} desired | {} updated | {} total | {} available | {} unavailable",
        number(&spec["replicas"]),
        number(&status["updatedReplicas"]),
        number(&status["replicas"]),
        number(&status["availableReplicas"]),
        number(&status["unavailableReplicas"])
    );
    text.field(0, "Replicas", counts);
    text.field(0, "StrategyType", plain(&spec["strategy"]["type"]));
    text.field(0, "MinReadySeconds", number(&spec["minReadySeconds"]));
    if let rolling @ Value::Object(_) = &spec["strategy"]["rollingUpdate"] {
        let (unavailable, surge) = (plain(&rolling["maxUnavailable"]), plain(&rolling["maxSurge"]));
        let bounds = format!("{unavailable} max unavailable, {surge} max surge");
        text.field(0, "RollingUpdateStrategy", bounds);
    }
    template::lay_out(text, &spec["template"]);
    conditions(text, status);
    let (new, old) = parted(deployment, sets);
    if new.is_some() || !old.is_empty() {
        text.field(0, "OldReplicaSets", names(&old));
        text.field(0, "NewReplicaSet", names(new.as_slice()));
    }
}

/// The conditions of a Deployment or a ReplicaSet.
pub fn conditions(text: &mut Text, status: &Value) {
    let conditions = items(&status["conditions"]);
    if conditions.is_empty() {
        return;
    }
    text.line(0, "Conditions:");
    text.line(1, "Type\tStatus\tReason");
    text.line(1, "----\t------\t------");
    for condition in conditions {
        let [kind, status, reason] = ["type", "status", "reason"].map(|key| plain(&condition[key]));
        text.line(1, format_args!("{kind} \t{status}\t{reason}"));
    }
}

/// The ReplicaSet of the Deployment's template, and its others, the oldest first.
fn parted<'a>(deployment: &Value, sets: &'a [Value]) -> (Option<&'a Value>, Vec<&'a Value>) {
    let uid = &deployment["metadata"]["uid"];
    let is_own = |set: &&Value| {
        let owners = items(&set["metadata"]["ownerReferences"]);
        owners.iter().any(|owner| owner["controller"] == true && &owner["uid"] == uid)
    };
    let mut own: Vec<&Value> = sets.iter().filter(is_own).collect();
    own.sort_by_key(|set| {
        let metadata = &set["metadata"];
        (plain(&metadata["creationTimestamp"]), plain(&metadata["name"]))
    });
    let wanted = unhashed(&deployment["spec"]["template"]);
    let new = own.iter().position(|set| unhashed(&set["spec"]["template"]) == wanted);
    let new = new.map(|position| own.remove(position));
    (new, own)
}

/// A template without the label that tells ReplicaSets apart.
fn unhashed(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(metadata) = template["metadata"].as_object_mut() {
        metadata.retain(|key, value| key != "creationTimestamp" || !value.is_null());
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove("pod-template-hash");
        }
    }
    template
}

fn names(sets: &[&Value]) -> String {
    let name = |set: &&Value| {
        let (is, wanted) = (number(&set["status"]["replicas"]), number(&set["spec"]["replicas"]));
        format!("{} ({is}/{wanted} replicas created)", plain(&set["metadata"]["name"]))
    };
    match sets.is_empty() {
        true => "<none>".to_owned(),
        false => sets.iter().map(name).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_new_replica_set_is_told_by_its_template() {
        let template =
            |image: &str| json!({"metadata": {"labels": {"a": "b"}}, "spec": {"image": image}});
        let set = |name: &str, time: &str, image: &str, owner: &str| {
            let mut template = template(image);
            template["metadata"]["labels"]["pod-template-hash"] = json!(name);
            json!({
                "metadata": {"name": name, "creationTimestamp": time,
                    "ownerReferences": [{"controller": true, "uid": owner}]},
                "spec": {"template": template, "replicas": 2}, "status": {"replicas": 1}})
        };
        let deployment = json!({"metadata": {"uid": "u"}, "spec": {"template": template("2")}});
        let sets = [
            set("c", "2026-01-02T00:00:00Z", "0", "u"),
            set("b", "2026-01-03T00:00:00Z", "2", "u"),
            set("a", "2026-01-01T00:00:00Z", "1", "u"),
            set("x", "2026-01-01T00:00:00Z", "2", "other"),
        ];
        let (new, old) = parted(&deployment, &sets);
        assert_eq!(names(new.as_slice()), "b (1/2 replicas created)");
        assert_eq!(names(&old), "a (1/2 replicas created), c (1/2 replicas created)");
        assert_eq!(names(&[]), "<none>");
    }
}
