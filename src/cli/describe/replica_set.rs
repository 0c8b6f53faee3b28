//! How a ReplicaSet is described.

use serde_json::Value;

use super::text::{Text, controller, items, number, plain, selector};
use super::{deployment, template};

/// `pods` are those of its namespace that its selector chooses.
pub fn lay_out(text: &mut Text, set: &Value, pods: &[Value]) {
    let (metadata, spec, status) = (&set["metadata"], &set["spec"], &set["status"]);
    text.field(0, "Name", plain(&metadata["name"]));
    text.field(0, "Namespace", plain(&metadata["namespace"]));
    text.field(0, "Selector", selector(&spec["selector"]));
    text.labels("Labels", &metadata["labels"]);
    text.annotations("Annotations", &metadata["annotations"]);
    if let Some(controller) = controller(metadata) {
        text.field(0, "Controlled By", controller);
    }
    let (is, wanted) = (number(&status["replicas"]), number(&spec["replicas"]));
    text.field(0, "Replicas", format_args!("{is} current / {wanted} desired"));
    text.field(0, "Pods Status", phases(&metadata["uid"], pods));
    template::lay_out(text, &spec["template"]);
    deployment::conditions(text, status);
}

/// How many of the pods that the object with this uid controls are in which phase.
fn phases(uid: &Value, pods: &[Value]) -> String {
    let is_own = |pod: &&Value| {
        let owners = items(&pod["metadata"]["ownerReferences"]);
        owners.iter().any(|owner| owner["controller"] == true && &owner["uid"] == uid)
    };
    let own: Vec<&Value> = pods.iter().filter(is_own).collect();
    let count = |phase: &str| own.iter().filter(|pod| pod["status"]["phase"] == phase).count();
    format!(
        "{} Running / {} Waiting / {} Succeeded / {} Failed",
        count("Running"),
        count("Pending"),
        count("Succeeded"),
        count("Failed")
    )
}
