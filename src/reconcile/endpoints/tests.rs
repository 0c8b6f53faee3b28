use expect_test::{Expect, expect};

use super::*;
use crate::sys::clock;

fn service(spec: Value) -> Arc<core::Service> {
    let object = json!({
        "metadata": {"namespace": "shop", "name": "web", "uid": "u", "labels": {"app": "web"}},
        "spec": spec,
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn pod(number: usize, change: impl FnOnce(&mut Value)) -> Arc<core::Pod> {
    let mut object = json!({
        "metadata": {"namespace": "shop", "name": format!("web-{number}"), "uid": format!("p{number}"), "labels": {"app": "web"}},
        "spec": {"nodeName": "here", "containers": [
            {"name": "c", "ports": [{"name": "http", "containerPort": 8080}]},
        ]},
        "status": {"phase": "Running", "podIP": format!("10.42.{}.{}", number / 250, number % 250),
            "conditions": [{"type": "Ready", "status": "True"}]},
    });
    change(&mut object);
    Arc::new(serde_json::from_value(object).unwrap())
}

fn world(service: Arc<core::Service>, pods: Vec<Arc<core::Pod>>) -> World {
    World {
        service,
        pods,
        slices: Vec::new(),
        endpoints: None,
        balancers: Vec::new(),
        addresses: vec!["192.0.2.2".to_owned()],
        reserved: BTreeSet::new(),
    }
}

fn spec() -> Value {
    json!({"selector": {"app": "web"}, "clusterIP": "10.43.0.9", "ports": [{"port": 80, "targetPort": "http"}]})
}

fn decide(world: &World) -> Decision {
    Endpoints::decide(world, clock::now())
}

/// The endpoints of the slices that are made, a line each; then the ports.
fn check(world: &World, expected: Expect) {
    let mut text = String::new();
    for intent in decide(world).changes {
        let line = match intent.write {
            Write::Create { kind: Kind::EndpointSlice, object } => {
                let mut lines = format!("slice of {}\n", object["ports"]);
                for endpoint in object["endpoints"].as_array().unwrap() {
                    let hostname = endpoint["hostname"].as_str().unwrap_or("-");
                    lines.push_str(&format!(
                        "  {} {} {hostname}\n",
                        endpoint["addresses"][0], endpoint["conditions"]
                    ));
                }
                lines
            }
            Write::Create { kind, object } => format!("{kind:?} {}\n", object["subsets"]),
            other => format!("{other:?}\n"),
        };
        text.push_str(&line);
    }
    expected.assert_eq(&text);
}

#[test]
fn a_pod_that_ends_serves_but_is_not_ready_and_one_that_is_over_is_nothing() {
    let pods = vec![
        pod(1, |_| {}),
        pod(2, |pod| pod["status"]["conditions"][0]["status"] = json!("False")),
        pod(3, |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")),
        pod(4, |pod| pod["status"]["phase"] = json!("Succeeded")),
        pod(5, |pod| pod["status"]["podIP"] = Value::Null),
    ];
    check(
        &world(service(spec()), pods),
        expect![[r#"
        Endpoints [{"addresses":[{"ip":"10.42.0.1","targetRef":{"kind":"Pod","namespace":"shop","name":"web-1","uid":"p1"},"nodeName":"here"}],"notReadyAddresses":[{"ip":"10.42.0.2","targetRef":{"kind":"Pod","namespace":"shop","name":"web-2","uid":"p2"},"nodeName":"here"}],"ports":[{"name":"","port":8080,"protocol":"TCP"}]}]
        slice of [{"name":"","port":8080,"protocol":"TCP"}]
          "10.42.0.1" {"ready":true,"serving":true,"terminating":false} -
          "10.42.0.2" {"ready":false,"serving":false,"terminating":false} -
          "10.42.0.3" {"ready":false,"serving":true,"terminating":true} -
    "#]],
    );
}

#[test]
fn a_named_port_means_what_each_pod_says() {
    let pods = vec![
        pod(1, |_| {}),
        pod(2, |pod| pod["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(9090)),
        pod(3, |pod| pod["spec"]["containers"][0]["ports"] = json!([])),
        // A sidecar may be the one that says it, an init container not.
        pod(4, |pod| {
            let named = |name: &str, port: u16, policy: Value| {
                json!({"name": name, "restartPolicy": policy,
                       "ports": [{"name": "http", "containerPort": port}]})
            };
            pod["spec"]["containers"][0]["ports"] = json!([]);
            pod["spec"]["initContainers"] =
                json!([named("i", 7070, Value::Null), named("s", 9090, json!("Always"))]);
        }),
    ];
    check(
        &world(service(spec()), pods),
        expect![[r#"
            Endpoints [{"addresses":[{"ip":"10.42.0.1","targetRef":{"kind":"Pod","namespace":"shop","name":"web-1","uid":"p1"},"nodeName":"here"}],"ports":[{"name":"","port":8080,"protocol":"TCP"}]},{"addresses":[{"ip":"10.42.0.2","targetRef":{"kind":"Pod","namespace":"shop","name":"web-2","uid":"p2"},"nodeName":"here"},{"ip":"10.42.0.4","targetRef":{"kind":"Pod","namespace":"shop","name":"web-4","uid":"p4"},"nodeName":"here"}],"ports":[{"name":"","port":9090,"protocol":"TCP"}]}]
            slice of [{"name":"","port":8080,"protocol":"TCP"}]
              "10.42.0.1" {"ready":true,"serving":true,"terminating":false} -
            slice of [{"name":"","port":9090,"protocol":"TCP"}]
              "10.42.0.2" {"ready":true,"serving":true,"terminating":false} -
              "10.42.0.4" {"ready":true,"serving":true,"terminating":false} -
        "#]],
    );
}

#[test]
fn headless_and_not_ready_as_asked() {
    let mut headless = spec();
    headless["clusterIP"] = json!("None");
    headless["publishNotReadyAddresses"] = json!(true);
    headless["ports"] = json!([]);
    let pods = vec![pod(1, |pod| {
        pod["status"]["conditions"][0]["status"] = json!("False");
        pod["spec"]["hostname"] = json!("web-0");
        pod["spec"]["subdomain"] = json!("web");
    })];
    check(
        &world(service(headless), pods),
        expect![[r#"
        Endpoints [{"addresses":[{"ip":"10.42.0.1","targetRef":{"kind":"Pod","namespace":"shop","name":"web-1","uid":"p1"},"nodeName":"here","hostname":"web-0"}]}]
        slice of []
          "10.42.0.1" {"ready":true,"serving":false,"terminating":false} web-0
    "#]],
    );
}

#[test]
fn without_a_selector_what_somebody_wrote_is_mirrored() {
    let mut world = world(service(json!({"ports": [{"port": 80}]})), Vec::new());
    check(&world, expect![[r#""#]]);
    let endpoints = json!({
        "metadata": {"namespace": "shop", "name": "web"},
        "subsets": [{
            "addresses": [{"ip": "192.0.2.7"}], "notReadyAddresses": [{"ip": "192.0.2.8"}],
            "ports": [{"port": 5432}],
        }],
    });
    world.endpoints = Some(Arc::new(serde_json::from_value(endpoints).unwrap()));
    check(
        &world,
        expect![[r#"
        slice of [{"name":"","port":5432,"protocol":"TCP"}]
          "192.0.2.7" {"ready":true} -
          "192.0.2.8" {"ready":false} -
    "#]],
    );
}

/// Carries the decision out on the slices of `world`.
fn apply(world: &mut World) -> usize {
    let decision = decide(world);
    let count = decision.changes.len();
    for (number, intent) in decision.changes.into_iter().enumerate() {
        match intent.write {
            Write::Create { kind: Kind::EndpointSlice, mut object } => {
                let name = format!("web-{}-{number}", world.slices.len());
                object["metadata"]["name"] = json!(name);
                object["metadata"]["uid"] = json!(name);
                world.slices.push(Arc::new(serde_json::from_value(object).unwrap()));
            }
            Write::Create { object, .. } => {
                world.endpoints = Some(Arc::new(serde_json::from_value(object).unwrap()));
            }
            Write::Patch { kind, target, patch } => {
                let change = |held: &mut Value| {
                    for (field, value) in patch.as_object().unwrap() {
                        match field.as_str() {
                            "metadata" => held["metadata"]["labels"] = value["labels"].clone(),
                            other => held[other] = value.clone(),
                        }
                    }
                };
                if kind == Kind::Endpoints {
                    let mut held = serde_json::to_value(world.endpoints.as_ref().unwrap()).unwrap();
                    change(&mut held);
                    world.endpoints = Some(Arc::new(serde_json::from_value(held).unwrap()));
                } else {
                    let place = world
                        .slices
                        .iter()
                        .position(|slice| slice.metadata.uid.as_ref() == Some(&target.uid));
                    let slice = &mut world.slices[place.unwrap()];
                    let mut held = serde_json::to_value(slice.as_ref()).unwrap();
                    change(&mut held);
                    *slice = Arc::new(serde_json::from_value(held).unwrap());
                }
            }
            Write::Delete { target, .. } => {
                world.slices.retain(|slice| slice.metadata.uid.as_ref() != Some(&target.uid));
            }
            Write::Adopt { .. } => unreachable!("nothing is adopted"),
        }
    }
    count
}

fn addresses(world: &World) -> Vec<String> {
    let all = world.slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let mut all: Vec<String> = all.map(|endpoint| endpoint.addresses[0].clone()).collect();
    all.sort();
    all
}

#[test]
fn slices_hold_a_hundred_at_most_and_change_no_more_than_the_news() {
    let mut world = world(service(spec()), (0..250).map(|number| pod(number, |_| {})).collect());
    apply(&mut world);
    let sizes: Vec<usize> =
        world.slices.iter().map(|slice| slice.endpoints.iter().flatten().count()).collect();
    assert_eq!(sizes, [100, 100, 50]);
    assert_eq!(apply(&mut world), 0, "a world that is right is left alone");

    // One pod less, one more: each is one slice's news (and that of Endpoints).
    world.pods.remove(7);
    assert_eq!(apply(&mut world), 2);
    assert_eq!(addresses(&world).len(), 249);
    world.pods.push(pod(300, |_| {}));
    assert_eq!(apply(&mut world), 2);
    assert_eq!(addresses(&world).len(), 250);

    // Nobody left: one slice says so.
    world.pods.clear();
    apply(&mut world);
    assert_eq!(world.slices.len(), 1);
    assert_eq!(addresses(&world), Vec::<String>::new());
    assert_eq!(apply(&mut world), 0);
}

#[test]
fn the_oldest_that_wants_a_port_of_the_host_has_it() {
    let balancer = |name: &str, second: u32, port: u16| {
        let object = json!({
            "metadata": {"namespace": "shop", "name": name, "uid": name,
                "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
            "spec": {"type": "LoadBalancer", "ports": [{"port": port}]},
        });
        Arc::new(serde_json::from_value::<core::Service>(object).unwrap())
    };
    let status = |service: &Arc<core::Service>, others: Vec<Arc<core::Service>>| {
        let mut world = world(service.clone(), Vec::new());
        world.balancers = others;
        decide(&world).status
    };
    let (first, second, other) = (balancer("a", 2, 80), balancer("b", 1, 80), balancer("c", 3, 81));
    let one = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.2", "ipMode": "VIP"}]}});
    let given = Some(one.clone());
    assert_eq!(status(&second, vec![first.clone(), other.clone()]), given);
    assert_eq!(status(&first, vec![second.clone(), other.clone()]), None, "it waits");
    assert_eq!(status(&other, vec![first.clone(), second.clone()]), given);
    // The node's own ports are nobody's.
    let mut world = world(other.clone(), Vec::new());
    world.reserved.insert(("TCP".to_owned(), 81));
    assert_eq!(decide(&world).status, None);
    world.reserved = [("UDP".to_owned(), 81)].into();
    assert_eq!(decide(&world).status, given);
    // It loses the address when it is no LoadBalancer any more.
    let mut held = serde_json::to_value(second.as_ref()).unwrap();
    held["status"] = one;
    held["spec"]["type"] = json!("ClusterIP");
    let held = Arc::new(serde_json::from_value(held).unwrap());
    assert_eq!(status(&held, Vec::new()), Some(json!({"loadBalancer": {}})));
}

#[test]
fn endpoints_that_come_before_their_service_are_left_alone() {
    use std::sync::Mutex;

    use kube::runtime::watcher::Event;

    let caches = Caches::new();
    let woken = Arc::new(Mutex::new(Vec::new()));
    let log = woken.clone();
    let wake: Wake = Arc::new(move |key| log.lock().unwrap().push(key));
    Endpoints::wakes(&caches, &wake);
    let taken = || std::mem::take(&mut *woken.lock().unwrap());
    let endpoints = |name: &str, revision: &str, labels: Value| {
        let metadata = json!({"namespace": "shop", "name": name, "labels": labels, "resourceVersion": revision});
        Event::Apply(serde_json::from_value(json!({"metadata": metadata})).unwrap())
    };

    caches.endpoints.take(endpoints("web", "3", json!({})));
    let slice = json!({"metadata": {"namespace": "shop", "name": "web-1", "labels": {SERVICE: "web"}, "resourceVersion": "3"},
        "addressType": "IPv4", "endpoints": []});
    caches.endpoint_slices.take(Event::Apply(serde_json::from_value(slice).unwrap()));
    assert_eq!(taken(), [], "no Service yet: nothing of it to delete");

    let (mark, controller) = MANAGED_BY_ENDPOINTS;
    caches.endpoints.take(endpoints("left", "4", json!({mark: controller})));
    assert_eq!(taken(), [Key::new("shop", "left")]);

    let mut service = service(json!({"ports": []})).as_ref().clone();
    service.metadata.resource_version = Some("5".to_owned());
    caches.services.take(Event::Apply(service));
    caches.endpoints.take(endpoints("web", "6", json!({"a": "b"})));
    assert!(taken().contains(&Key::new("shop", "web")));
}

#[test]
fn a_balancer_that_waits_holds_no_port() {
    let balancer = |name: &str, ports: &[i32]| {
        let ports: Vec<Value> = ports.iter().map(|port| json!({"port": port})).collect();
        let mut made = service(json!({"type": "LoadBalancer", "ports": ports})).as_ref().clone();
        (made.metadata.name, made.metadata.uid) = (Some(name.to_owned()), Some(name.to_owned()));
        Arc::new(made)
    };
    // Of one age, so the name decides.
    let all = [balancer("a", &[80]), balancer("b", &[80, 443]), balancer("c", &[443])];
    let given = all.each_ref().map(|one| {
        let others: Vec<_> = all.iter().filter(|other| !Arc::ptr_eq(other, one)).cloned().collect();
        balancer::status(one, &others, &["192.0.2.2".to_owned()], &BTreeSet::new()).is_some()
    });
    assert_eq!(given, [true, false, true]);
}
