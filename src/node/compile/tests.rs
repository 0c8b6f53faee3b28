//! Plans as golden text, and tables for environment, command, identity, DNS and names.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

fn node() -> NodeFacts {
    NodeFacts {
        name: "box".into(),
        addresses: vec!["192.0.2.10".parse().unwrap()],
        controllers: ["cpu", "memory", "pids"].map(String::from).into(),
        cpu_millis: 2000,
        memory_bytes: 4 << 30,
        huge_pages: [None, None],
        cluster: dns::ClusterDns { server: None, domain: "cluster.local".into() },
        seccomp_dir: "/var/lib/joey/seccomp".into(),
    }
}

fn pod(spec: Value) -> core::Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "web", "namespace": "default", "uid": "6b1f",
            "labels": {"app": "web"}, "annotations": {"note": "say \"hi\"\n"},
        },
        "spec": spec,
    }))
    .unwrap()
}

fn objects() -> ObjectFacts {
    let map = json!({"data": {"COLOUR": "green", "file.txt": "x", "KEY": "from-map"}});
    let secret = json!({"data": {"TOKEN": "czNjcmV0"}});
    ObjectFacts {
        config_maps: [("settings".into(), serde_json::from_value(map).unwrap())].into(),
        secrets: [("keys".into(), serde_json::from_value(secret).unwrap())].into(),
    }
}

fn image() -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["/bin/server".into()],
        cmd: vec!["--port".into(), "80".into()],
        env: vec!["PATH=/bin".into(), "MODE=image".into()],
        ..ImageConfig::default()
    }
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:\nbad line\nhuge:x:4294967296:0::/:\n";
const GROUP: &str = "root:x:0:\nstaff:x:50:app,other\nwheel:x:10:root\n";

fn compile_with(spec: Value, image: &ImageConfig) -> Result<Compiled, Refusal> {
    let pod = pod(spec);
    let (node, objects) = (node(), objects());
    let volumes = [
        (
            "data".into(),
            mounts::VolumePath { path: "/v/data".into(), read_only: false, is_host: false },
        ),
        (
            "conf".into(),
            mounts::VolumePath { path: "/v/conf".into(), read_only: true, is_host: false },
        ),
    ]
    .into();
    let paths = PodPaths::new(Path::new("/d"), Path::new("/r"), "6b1f");
    let layers = vec!["/layers/top".into()];
    let facts = ContainerFacts {
        node: &node,
        objects: &objects,
        services: &[],
        volumes: &volumes,
        paths: &paths,
        address: Some("10.42.0.7".parse().unwrap()),
        image,
        layers: &layers,
        passwd: PASSWD,
        group: GROUP,
        attempt: 2,
    };
    container_plan(&pod, &pod.spec.as_ref().unwrap().containers[0], &facts)
}

fn compile(container: Value) -> Result<Compiled, Refusal> {
    let mut container = container;
    container["name"] = "a".into();
    compile_with(json!({"containers": [container]}), &image())
}

#[test]
fn a_plain_container_gets_the_safe_defaults() {
    let plan = compile(json!({"image": "web"})).unwrap().plan;
    expect![[r#"
        {
          "name": "a",
          "attempt": 2,
          "image": "web",
          "rootfs": {
            "lower": [
              "/layers/top"
            ],
            "scratch": "/d/pods/6b1f/containers/a.2",
            "points": "/r/points",
            "read_only": false
          },
          "process": {
            "argv": [
              "/bin/server",
              "--port",
              "80"
            ],
            "env": [
              "PATH=/bin",
              "HOSTNAME=web",
              "HOME=/root",
              "MODE=image"
            ],
            "cwd": "/"
          },
          "mounts": [
            {
              "source": {
                "Bind": {
                  "path": "/d/pods/6b1f/etc/hosts",
                  "sub_path": null
                }
              },
              "target": "/etc/hosts",
              "read_only": false,
              "propagation": "Private",
              "nosuid_nodev": true
            },
            {
              "source": {
                "Bind": {
                  "path": "/d/pods/6b1f/etc/hostname",
                  "sub_path": null
                }
              },
              "target": "/etc/hostname",
              "read_only": false,
              "propagation": "Private",
              "nosuid_nodev": true
            },
            {
              "source": {
                "Bind": {
                  "path": "/d/pods/6b1f/etc/resolv.conf",
                  "sub_path": null
                }
              },
              "target": "/etc/resolv.conf",
              "read_only": false,
              "propagation": "Private",
              "nosuid_nodev": true
            }
          ],
          "security": {
            "uid": 0,
            "gid": 0,
            "groups": [
              0,
              10
            ],
            "capabilities": [
              "CAP_CHOWN",
              "CAP_DAC_OVERRIDE",
              "CAP_FOWNER",
              "CAP_FSETID",
              "CAP_KILL",
              "CAP_NET_BIND_SERVICE",
              "CAP_SETGID",
              "CAP_SETPCAP",
              "CAP_SETUID"
            ],
            "no_new_privs": true,
            "seccomp": "Default",
            "privileged": false,
            "mask_proc": true,
            "oom_score_adj": 1000
          },
          "limits": {
            "cpu_weight": 1,
            "cpu_max": null,
            "memory_max_bytes": null,
            "memory_min_bytes": null,
            "pids_max": null,
            "io_weight": null,
            "huge_pages": {}
          },
          "output": {
            "path": "/d/pods/6b1f/logs/a/2.log",
            "rotate_bytes": 10485760,
            "keep_files": 5
          },
          "stdin": "Closed",
          "tty": false,
          "stop_signal": 15,
          "termination_log": {
            "host_file": "/d/pods/6b1f/termination/a.2",
            "target": "/dev/termination-log"
          }
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&plan).unwrap());
}

#[test]
fn command_and_args_meet_entrypoint_and_cmd_in_four_ways() {
    for (container, expected) in [
        (json!({}), vec!["/bin/server", "--port", "80"]),
        (json!({"args": ["-v"]}), vec!["/bin/server", "-v"]),
        (json!({"command": ["sh"]}), vec!["sh"]),
        (json!({"command": ["sh"], "args": ["-c", "x"]}), vec!["sh", "-c", "x"]),
        (
            json!({"command": ["echo", "$(A)", "$$(A)", "$(NONE)", "$("], "env": [{"name": "A", "value": "1"}]}),
            vec!["echo", "1", "$(A)", "$(NONE)", "$("],
        ),
    ] {
        assert_eq!(compile(container).unwrap().plan.process.argv, expected);
    }
    let refusal = compile_with(json!({"containers": [{"name": "a"}]}), &ImageConfig::default());
    assert_eq!(refusal.unwrap_err(), Refusal::container("no command specified".into()));
}

fn check_env(container: Value, expected: Expect) {
    let text = match compile(container) {
        Ok(compiled) => {
            let mut lines = compiled.plan.process.env;
            lines.extend(compiled.skipped.iter().map(|s| format!("skipped {s:?}")));
            lines.join("\n")
        }
        Err(refusal) => format!("{}: {}", refusal.reason, refusal.message),
    };
    expected.assert_eq(&text);
}

#[test]
fn variables_see_earlier_ones_only_and_replace_those_of_the_image() {
    check_env(
        json!({"env": [
            {"name": "LATE", "value": "$(B)-$(A)"},
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)2 $$(A) $$$(A) $A $(A"},
            {"name": "MODE", "value": "pod"},
            {"name": "EMPTY"},
        ]}),
        expect![[r#"
            PATH=/bin
            HOSTNAME=web
            HOME=/root
            MODE=pod
            LATE=$(B)-$(A)
            A=1
            B=12 $(A) $1 $A $(A
            EMPTY="#]],
    );
}

#[test]
fn env_from_comes_first_with_its_prefix_and_is_seen_by_env() {
    check_env(
        json!({
            "envFrom": [{"prefix": "C_", "configMapRef": {"name": "settings"}}, {"secretRef": {"name": "keys"}},
                        {"configMapRef": {"name": "nowhere", "optional": true}}],
            "env": [{"name": "C_KEY", "value": "own"}, {"name": "SEES", "value": "$(C_COLOUR) $(TOKEN)"}],
        }),
        expect![[r#"
            PATH=/bin
            HOSTNAME=web
            HOME=/root
            MODE=image
            C_COLOUR=green
            C_KEY=own
            C_file.txt=x
            TOKEN=s3cret
            SEES=green s3cret"#]],
    );
}

#[test]
fn references_resolve_or_say_what_is_missing() {
    check_env(
        json!({"env": [
            {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "COLOUR"}}},
            {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "no", "optional": true}}},
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "TOKEN"}}},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        ]}),
        expect![[r#"
            PATH=/bin
            HOSTNAME=web
            HOME=/root
            MODE=image
            C=green
            S=s3cret
            POD=web
            IP=10.42.0.7
            HOST=192.0.2.10
            APP=web
            CPU=2
            MEM=4096"#]],
    );
    check_env(
        json!({"env": [{"name": "C", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "no"}}}]}),
        expect!["CreateContainerConfigError: couldn't find key no in ConfigMap default/settings"],
    );
    check_env(
        json!({"envFrom": [{"secretRef": {"name": "none"}}]}),
        expect![[r#"CreateContainerConfigError: secret "none" not found"#]],
    );
}

fn check_user(pod_context: Value, context: Value, user: &str, expected: Expect) {
    let image = ImageConfig { user: user.into(), ..image() };
    let spec = json!({
        "securityContext": pod_context,
        "containers": [{"name": "a", "securityContext": context}],
    });
    let text = match compile_with(spec, &image) {
        Ok(Compiled { plan, .. }) => {
            let s = &plan.security;
            format!("{}:{} {:?}", s.uid, s.gid, s.groups)
        }
        Err(refusal) => format!("{}: {}", refusal.reason, refusal.message),
    };
    expected.assert_eq(&text);
}

#[test]
fn users_come_from_manifest_or_image_and_never_wrap_around() {
    check_user(json!({}), json!({}), "", expect!["0:0 [0, 10]"]);
    check_user(json!({}), json!({}), "app", expect!["1000:1001 [50, 1001]"]);
    check_user(json!({}), json!({}), "app:staff", expect!["1000:50 [50]"]);
    check_user(json!({}), json!({}), "7:8", expect!["7:8 [8]"]);
    check_user(json!({"runAsUser": 1000}), json!({}), "root", expect!["1000:1001 [50, 1001]"]);
    check_user(
        json!({"runAsUser": 5, "runAsGroup": 6, "supplementalGroups": [9], "fsGroup": 77}),
        json!({"runAsUser": 1000}),
        "",
        expect!["1000:6 [6, 9, 50, 77]"],
    );
    check_user(
        json!({"supplementalGroups": [9], "supplementalGroupsPolicy": "Strict"}),
        json!({}),
        "app",
        expect!["1000:1001 [9, 1001]"],
    );
    for user in ["4294967296", "-1", "0x0", "huge", "nobody", "app:none", "2147483648"] {
        let image = ImageConfig { user: user.into(), ..image() };
        let spec = json!({"containers": [{"name": "a"}]});
        assert_eq!(
            compile_with(spec, &image).unwrap_err().reason,
            "CreateContainerError",
            "{user}"
        );
    }
}

#[test]
fn run_as_non_root_is_held_against_the_resolved_user() {
    let non_root = json!({"runAsNonRoot": true});
    check_user(non_root.clone(), json!({}), "app", expect!["1000:1001 [50, 1001]"]);
    check_user(
        non_root.clone(),
        json!({}),
        "root",
        expect![[
            r#"CreateContainerConfigError: container has runAsNonRoot and image will run as root (pod: "web_default(6b1f)", container: a)"#
        ]],
    );
    check_user(
        non_root,
        json!({"runAsUser": 0}),
        "app",
        expect![[
            r#"CreateContainerConfigError: container's runAsUser breaks non-root policy (pod: "web_default(6b1f)", container: a)"#
        ]],
    );
}

#[test]
fn privileges_are_given_only_where_they_are_asked_for() {
    let security =
        |context: Value| compile(json!({"securityContext": context})).map(|c| c.plan.security);
    assert!(security(json!({"allowPrivilegeEscalation": false})).unwrap().no_new_privs);
    assert!(!security(json!({"allowPrivilegeEscalation": true})).unwrap().no_new_privs);
    let all = security(json!({"privileged": true})).unwrap();
    assert!(all.privileged && !all.mask_proc && !all.no_new_privs);
    assert_eq!(
        (all.capabilities.len(), all.seccomp),
        (41, crate::runtime::plan::SeccompPlan::Unconfined)
    );
    let caps = |add: Value, drop: Value| {
        security(json!({"capabilities": {"add": add, "drop": drop}})).map(|s| s.capabilities)
    };
    assert_eq!(caps(json!(["NET_ADMIN"]), json!(["ALL"])).unwrap(), ["CAP_NET_ADMIN"]);
    assert_eq!(caps(json!(["ALL"]), json!(["CAP_SYS_ADMIN"])).unwrap().len(), 40);
    assert!(!caps(json!([]), json!(["kill"])).unwrap().contains(&"CAP_KILL".to_owned()));
    assert_eq!(
        caps(json!(["MAGIC"]), json!([])).unwrap_err().message,
        "unknown capability \"MAGIC\""
    );
    let seccomp = |profile: Value| security(json!({"seccompProfile": profile})).map(|s| s.seccomp);
    assert_eq!(
        seccomp(json!({"type": "Localhost", "localhostProfile": "a/b.json"})).unwrap(),
        crate::runtime::plan::SeccompPlan::Localhost("/var/lib/joey/seccomp/a/b.json".into())
    );
    assert!(seccomp(json!({"type": "Localhost", "localhostProfile": "../b.json"})).is_err());
}

#[test]
fn mounts_come_parents_first_and_own_etc_files_win() {
    let plan = compile(json!({"volumeMounts": [
        {"name": "data", "mountPath": "/srv/data/deep", "subPath": "x/y"},
        {"name": "conf", "mountPath": "/srv"},
        {"name": "data", "mountPath": "/etc/hosts", "readOnly": true, "subPathExpr": "$(HOME_DIR)/h"},
    ], "env": [{"name": "HOME_DIR", "value": "home"}]}))
    .unwrap()
    .plan;
    let lines: Vec<String> = plan
        .mounts
        .iter()
        .map(|m| {
            let crate::runtime::plan::MountSource::Bind { path, sub_path } = &m.source else {
                panic!("no tmpfs here");
            };
            format!("{} {sub_path:?} {} ro={}", path.display(), m.target, m.read_only)
        })
        .collect();
    expect![[r#"
        /v/conf None /srv ro=true
        /v/data Some("home/h") /etc/hosts ro=true
        /d/pods/6b1f/etc/hostname None /etc/hostname ro=false
        /d/pods/6b1f/etc/resolv.conf None /etc/resolv.conf ro=false
        /v/data Some("x/y") /srv/data/deep ro=false"#]]
    .assert_eq(&lines.join("\n"));
    for sub_path in ["../x", "/x", "a/../../x", "$(EVIL)"] {
        let mount = json!({"name": "data", "mountPath": "/m", "subPathExpr": sub_path});
        let env = json!([{"name": "EVIL", "value": "../.."}]);
        assert!(compile(json!({"volumeMounts": [mount], "env": env})).is_err(), "{sub_path}");
    }
}

#[test]
fn stop_signals_have_names_and_numbers() {
    for (text, number) in [
        ("SIGTERM", Some(15)),
        ("quit", Some(3)),
        ("9", Some(9)),
        ("SIGRTMIN+3", Some(37)),
        ("RTMAX-1", Some(63)),
        ("SIGWINCH", Some(28)),
        ("0", None),
        ("65", None),
        ("SIGRTMIN+99", None),
        ("SIGNONE", None),
    ] {
        assert_eq!(process::signal(text), number, "{text}");
    }
}

fn check_dns(spec: Value, server: Option<&str>, host: &str, stub: Option<&str>, expected: &Expect) {
    let cluster = dns::ClusterDns {
        server: server.map(|s| s.parse().unwrap()),
        domain: "cluster.local".into(),
    };
    let host = dns::HostDns { resolv_conf: host.into(), stub_upstreams: stub.map(str::to_owned) };
    let made = dns::resolv_conf(&pod(spec), &cluster, &host);
    let warnings: Vec<String> = made.warnings.iter().map(|w| format!("! {w}\n")).collect();
    expected.assert_eq(&format!("{}{}", made.text, warnings.concat()));
}

#[test]
fn dns_policies_choose_between_cluster_host_and_none() {
    let host = "nameserver 192.0.2.1\nsearch example.com\noptions edns0\n";
    check_dns(
        json!({"containers": []}),
        Some("10.43.0.10"),
        host,
        None,
        &expect![[r#"
            search default.svc.cluster.local svc.cluster.local cluster.local example.com
            nameserver 10.43.0.10
            options ndots:5
        "#]],
    );
    let plain = expect![[r#"
        search example.com
        nameserver 192.0.2.1
        options edns0
    "#]];
    check_dns(json!({"containers": []}), None, host, None, &plain);
    check_dns(
        json!({"containers": [], "dnsPolicy": "Default"}),
        Some("10.43.0.10"),
        host,
        None,
        &plain,
    );
    check_dns(
        json!({"containers": [], "hostNetwork": true}),
        Some("10.43.0.10"),
        host,
        None,
        &plain,
    );
    check_dns(
        json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["1.1.1.1"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}]}}),
        Some("10.43.0.10"),
        host,
        None,
        &expect![[r#"
            search a.b
            nameserver 1.1.1.1
            options ndots:2 rotate
        "#]],
    );
    check_dns(
        json!({"containers": [], "dnsConfig": {"nameservers": ["9.9.9.9", "10.43.0.10"], "options": [{"name": "ndots", "value": "1"}]}}),
        Some("10.43.0.10"),
        "",
        None,
        &expect![[r#"
            search default.svc.cluster.local svc.cluster.local cluster.local
            nameserver 10.43.0.10
            nameserver 9.9.9.9
            options ndots:1
        "#]],
    );
}

#[test]
fn loopback_resolvers_are_replaced_by_their_upstreams_or_told() {
    let stub = "nameserver 127.0.0.53\nsearch lan\n";
    let containers = json!({"containers": []});
    check_dns(
        containers.clone(),
        None,
        stub,
        Some("nameserver 192.0.2.53\n"),
        &expect![[r#"
            search lan
            nameserver 192.0.2.53
        "#]],
    );
    check_dns(
        containers,
        None,
        stub,
        None,
        &expect![[r#"
            search lan
            ! the host resolves names through a loopback address only and names no upstreams, so this pod has no name server
        "#]],
    );
}

#[test]
fn host_names_and_hosts_files() {
    let files = |spec: Value| {
        let made = pod_files(
            &pod(spec),
            &node(),
            &dns::HostDns::default(),
            "10.0.0.1 router\n",
            Some("10.42.0.7".parse().unwrap()),
        );
        let files = made.unwrap();
        format!("{}\n{}", files.hostname, files.hosts)
    };
    expect![[r##"
        h
        # Written for this pod.
        127.0.0.1	localhost
        ::1	localhost ip6-localhost ip6-loopback
        fe00::0	ip6-localnet
        fe00::0	ip6-mcastprefix
        fe00::1	ip6-allnodes
        fe00::2	ip6-allrouters
        10.42.0.7	h.s.default.svc.cluster.local	h

        # Entries added by HostAliases.
        1.2.3.4	a	b
    "##]]
    .assert_eq(&files(json!({
        "containers": [], "hostname": "h", "subdomain": "s",
        "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}],
    })));
    expect![[r#"
        box
        # The host's own /etc/hosts.
        10.0.0.1 router
    "#]]
    .assert_eq(&files(json!({"containers": [], "hostNetwork": true})));
}
