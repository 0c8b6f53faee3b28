//! "It does not work": `joey why` on manifests that are broken on purpose, each in a way of its own.

use crate::cluster::Cluster;

/// Name, the pod's spec, and words without which the sentence would be of no use.
const BROKEN: &[(&str, &str, &[&str])] = &[
    (
        "never-pulled",
        "containers: [{name: web, image: 'nowhere:1', imagePullPolicy: Never}]",
        &["nowhere:1", "imagePullPolicy Never"],
    ),
    (
        "no-image-name",
        "containers: [{name: web, image: 'Not/A/Name:1:2'}]",
        &["Not/A/Name:1:2", "no image name"],
    ),
    (
        "no-settings",
        "containers: [{name: web, image: toolbox, imagePullPolicy: IfNotPresent, envFrom: [{configMapRef: {name: settings}}]}]",
        &["cannot be configured", "settings"],
    ),
    (
        "no-key",
        "containers: [{name: web, image: toolbox, imagePullPolicy: IfNotPresent, env: [{name: A, valueFrom: {secretKeyRef: {name: keys, key: token}}}]}]",
        &["cannot be configured", "keys"],
    ),
    (
        "no-volume",
        "{volumes: [{name: keys, secret: {secretName: keys}}], containers: [{name: web, image: toolbox, imagePullPolicy: IfNotPresent, volumeMounts: [{name: keys, mountPath: /keys}]}]}",
        &["keys"],
    ),
    (
        "crashes",
        "containers: [{name: web, image: toolbox, imagePullPolicy: IfNotPresent, command: [/bin/bash, -c, exit 3]}]",
        &["exited with code 3"],
    ),
    (
        "no-program",
        "containers: [{name: web, image: toolbox, imagePullPolicy: IfNotPresent, command: [/no/such]}]",
        &["/no/such"],
    ),
    (
        "over",
        "{restartPolicy: Never, containers: [{name: web, image: toolbox, imagePullPolicy: IfNotPresent, command: [/bin/bash, -c, exit 7]}]}",
        &["failed for good", "code 7"],
    ),
    (
        "too-big",
        "containers: [{name: web, image: toolbox, resources: {requests: {cpu: 1000}}}]",
        &["fits on no node", "1000 cpu"],
    ),
    (
        "too-choosy",
        "{nodeSelector: {disk: ssd}, containers: [{name: web, image: toolbox}]}",
        &["fits on no node", "node affinity/selector"],
    ),
    (
        "prepares-badly",
        "{initContainers: [{name: prepare, image: toolbox, imagePullPolicy: IfNotPresent, command: [/bin/bash, -c, exit 2]}], containers: [{name: web, image: toolbox}]}",
        &["prepare", "exited with code 2"],
    ),
];

fn manifest(name: &str, spec: &str) -> String {
    let spec = if spec.starts_with('{') { spec.to_owned() } else { format!("{{{spec}}}") };
    format!("---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn the_true_cause_is_named_for_what_is_really_broken() {
    let mut cluster = Cluster::start("why");
    let all: String = BROKEN.iter().map(|(name, spec, _)| manifest(name, spec)).collect();
    cluster.apply(&all).ok();
    for (name, _, words) in BROKEN {
        let object = format!("pod/{name}");
        let mut told = String::new();
        cluster.wait_for(&format!("the true cause of {name} is named: {words:?}"), |cluster| {
            told = cluster.joey(&["why", &object]).stdout;
            let sentence = told.lines().next().unwrap_or_default();
            words.iter().all(|word| sentence.contains(word))
        });
        eprintln!("{told}");
    }
    let service = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: nobody}, ports: [{port: 80}]}}";
    cluster.apply(service).ok();
    let why = cluster.joey(&["why", "service/web"]);
    assert!(why.stdout.contains("app=nobody matches none"), "{}", why.stdout);
    assert_eq!(why.code, 1);
    let missing = cluster.joey(&["why", "pod/nobody"]).refused();
    assert!(missing.contains("not found"), "{missing}");
    cluster.finish();
}
