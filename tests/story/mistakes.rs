//! Wrong manifests give Kubernetes' own errors.

use crate::cluster::{Cluster, kubectls};

#[test]
fn wrong_manifests_are_refused_in_kubernetes_own_words() {
    let mut cluster = Cluster::start("mistakes");
    let cases = [
        (
            "kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: a}]}\n",
            "apiVersion not set",
        ),
        (
            "apiVersion: v1\nmetadata: {name: a}\nspec: {containers: [{name: a, image: a}]}\n",
            "kind not set",
        ),
        (
            "apiVersion: v9\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: a}]}\n",
            "no matches for kind \"Pod\" in version \"v9\"",
        ),
        (
            "apiVersion: v1\nkind: Pot\nmetadata: {name: a}\n",
            "no matches for kind \"Pot\" in version \"v1\"",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, imagee: a, image: a}]}\n",
            "strict decoding error: unknown field \"spec.containers[0].imagee\"",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {}\n",
            "spec.containers: Required value",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a}]}\n",
            "spec.containers[0].image: Required value",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{image: a}]}\n",
            "spec.containers[0].name: Required value",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: A_b}\nspec: {containers: [{name: a, image: a}]}\n",
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
        ),
    ];
    for kubectl in kubectls() {
        cluster.use_kubectl(&kubectl);
        for (manifest, expected) in cases {
            let refusal = cluster.apply(manifest).refused();
            assert!(refusal.contains(expected), "{manifest}\ngave {refusal}\nnot {expected}");
        }
    }
    assert_eq!(cluster.kubectl(&["get", "pods", "-A", "-o", "name"]).ok(), "");
    cluster.finish();
}

#[test]
fn a_missing_image_backs_off_and_recovers_when_it_appears() {
    let mut cluster = Cluster::start("image-appears");
    let manifest = "
apiVersion: v1
kind: Pod
metadata: {name: late}
spec:
  containers:
  - {name: late, image: 'late:1', imagePullPolicy: Never}
";
    cluster.apply(manifest).ok();
    cluster.wait_for("the image is missed", |cluster| {
        cluster.value("pod/late", "{.status.containerStatuses[0].state.waiting.reason}")
            == "ErrImageNeverPull"
    });
    let context = cluster.dir.join("late");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::write(context.join("Containerfile"), "FROM kangaroo-backend:1.16\nLABEL late=yes\n")
        .unwrap();
    // Where no daemon looks it is of no use, and is told to be.
    let words = ["image", "build", "-t", "late:1", &context.display().to_string()];
    let elsewhere = cluster.dir.join("elsewhere");
    let archive = crate::cluster::image_archive("kangaroo-backend-1.16.oci.tar");
    let mut import = cluster.joey_command();
    import.env("JOEY_DATA_DIR", &elsewhere).args(["image", "import"]).arg(archive);
    let told = import.output().expect("joey can run");
    assert!(told.status.success());
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    let said = format!("warning: no joey serve runs with {}, ", elsewhere.display());
    assert!(told.contains(&said), "{told}");
    assert!(told.contains(&cluster.data_dir().display().to_string()), "{told}");
    let built = cluster.joey(&words);
    assert!(!built.stderr.contains("warning"), "{}", built.stderr);
    built.ok();
    cluster.wait_running("late");
    cluster.finish();
}
