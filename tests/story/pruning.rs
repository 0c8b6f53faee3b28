//! `kubectl apply --prune`: what is no longer in the manifests goes, and only that.

use crate::cluster::Cluster;

fn config_maps(names: &[&str]) -> String {
    let one = |name: &&str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{app: x}}}}\n---\n"
        )
    };
    names.iter().map(one).collect()
}

#[test]
fn pruning_takes_what_its_list_allows_and_without_a_list_nothing() {
    let cluster = Cluster::start("pruning");
    let prune = |more: &[&str], names: &[&str]| {
        let args = [&["apply", "-f", "-", "--prune"], more].concat();
        cluster.kubectl_with(&args, config_maps(names).as_bytes())
    };
    let left = || cluster.kubectl(&["get", "configmaps", "-l", "app=x", "-o", "name"]).ok();
    const BOTH: &str = "configmap/one\nconfigmap/two";
    cluster.apply(&config_maps(&["one", "two"])).ok();
    // kubectl's own list holds kinds that are not served, and it looks before it deletes.
    let refused = prune(&["-l", "app=x"], &["one"]).refused();
    assert!(refused.contains("no matches for kind"), "{refused}");
    assert_eq!(left().trim(), BOTH);
    prune(&["-l", "app=x", "--prune-allowlist=core/v1/ConfigMap"], &["one"]).ok();
    assert_eq!(left().trim(), "configmap/one");
    // An ApplySet knows its own kinds.
    let set = |names: &[&str]| {
        let mut kubectl = cluster.kubectl_command();
        kubectl.env("KUBECTL_APPLYSET", "true");
        kubectl.args(["apply", "-n", "default", "--prune", "--applyset=web", "-f"]);
        let file = cluster.dir.join("set.yaml");
        std::fs::write(&file, config_maps(names)).unwrap();
        let output = kubectl.arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    set(&["one", "two"]);
    assert_eq!(left().trim(), BOTH);
    set(&["two"]);
    assert_eq!(left().trim(), "configmap/two");
    cluster.finish();
}
