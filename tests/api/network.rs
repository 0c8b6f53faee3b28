//! Services, endpoints, policies, ingresses and autoscalers without what serves them: what is accepted,
//! allocated, shown and refused.

use expect_test::expect;
use serde_json::{Value, json};

use crate::harness::{Cluster, cluster};
use crate::transcripts::check;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

impl Cluster {
    async fn service(&self, name: &str, spec: Value) -> Value {
        let reply = self.post(SERVICES, service(name, spec)).await;
        assert_eq!(reply.code, 201, "{}", reply.text);
        reply.json()
    }

    async fn change(&self, name: &str, patch: Value) -> Value {
        let reply = self.merge(&format!("{SERVICES}/{name}"), patch).await;
        assert_eq!(reply.code, 200, "{}", reply.text);
        reply.json()
    }
}

#[tokio::test]
async fn addresses_are_given_kept_and_given_back() {
    let cluster = cluster().await;
    let ports = json!([{"port": 80}]);
    let a = cluster.service("a", json!({"ports": ports})).await;
    let spec = &a["spec"];
    let address = spec["clusterIP"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.43."), "{address}");
    assert_eq!(spec["clusterIPs"], json!([address]));
    assert_eq!(
        (&spec["ipFamilies"], &spec["ipFamilyPolicy"]),
        (&json!(["IPv4"]), &"SingleStack".into())
    );
    assert_eq!(spec["ports"], json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]));
    assert_eq!(a["status"], json!({"loadBalancer": {}}));

    // A replacement that does not know the address keeps it.
    let put = service("a", json!({"ports": [{"port": 81}]}));
    let replaced = cluster.put(&format!("{SERVICES}/a"), put).await.json();
    assert_eq!(replaced["spec"]["clusterIP"], *address);

    let taken = json!({"ports": ports, "clusterIP": address});
    let (code, message) = cluster.post(SERVICES, service("b", taken.clone())).await.refusal();
    assert_eq!(code, 422);
    assert_eq!(
        message,
        format!(
            r#"Service "b" is invalid: spec.clusterIPs: Invalid value: []string{{"{address}"}}: failed to allocate IP {address}: provided IP is already allocated"#
        )
    );
    // A dry run takes nothing, and neither does a refusal.
    let free = json!({"ports": ports, "clusterIP": "10.43.0.77"});
    let path = format!("{SERVICES}?dryRun=All");
    assert_eq!(cluster.post(&path, service("b", free.clone())).await.code, 201);
    let (code, _) = cluster.post(SERVICES, service("My", free.clone())).await.refusal();
    assert_eq!(code, 422);
    cluster.service("b", free).await;

    assert_eq!(
        cluster.delete(&format!("{SERVICES}/a"), json!(null)).await.json()["kind"],
        "Service"
    );
    let again = cluster.service("c", taken).await;
    assert_eq!(again["spec"]["clusterIP"], *address);
}

#[tokio::test]
async fn an_address_may_not_change_but_goes_and_comes_with_the_type() {
    let cluster = cluster().await;
    let a = cluster.service("a", json!({"ports": [{"port": 80}], "clusterIP": "10.43.0.9"})).await;
    assert_eq!(a["spec"]["clusterIP"], "10.43.0.9");
    let change = json!({"spec": {"clusterIP": "10.43.0.8"}});
    let (_, message) = cluster.merge(&format!("{SERVICES}/a"), change).await.refusal();
    assert_eq!(
        message,
        r#"Service "a" is invalid: spec.clusterIPs[0]: Invalid value: []string{"10.43.0.8"}: may not change once set"#
    );
    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
    let spec = &cluster.change("a", external).await["spec"];
    assert_eq!(spec.get("clusterIP"), None, "{spec}");
    // The address is free now.
    cluster.service("b", json!({"ports": [{"port": 80}], "clusterIP": "10.43.0.9"})).await;
    let back = json!({"spec": {"type": "ClusterIP", "externalName": null}});
    let spec = &cluster.change("a", back).await["spec"];
    assert!(spec["clusterIP"].as_str().unwrap().starts_with("10.43."));
    assert_ne!(spec["clusterIP"], "10.43.0.9");
}

#[tokio::test]
async fn node_ports_are_one_to_a_service_and_follow_its_type() {
    let cluster = cluster().await;
    let port = |service: &Value, index: usize| service["spec"]["ports"][index]["nodePort"].as_i64();
    let dns = json!([
        {"name": "u", "port": 53, "protocol": "UDP"}, {"name": "t", "port": 53, "protocol": "TCP"},
    ]);
    let a = cluster.service("a", json!({"type": "NodePort", "ports": dns})).await;
    let first = port(&a, 0).unwrap();
    assert!((30000..=32767).contains(&first));
    assert_eq!(port(&a, 1), Some(first), "one number for both protocols");
    assert_eq!(a["spec"]["externalTrafficPolicy"], "Cluster");

    let wanted = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": first}]});
    let (_, message) = cluster.post(SERVICES, service("b", wanted)).await.refusal();
    assert_eq!(
        message,
        format!(
            r#"Service "b" is invalid: spec.ports[0].nodePort: Invalid value: {first}: provided port is already allocated"#
        )
    );
    let outside = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]});
    let (_, message) = cluster.post(SERVICES, service("b", outside)).await.refusal();
    assert_eq!(
        message,
        r#"Service "b" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"#
    );

    // Without a number in the manifest the port stays; with the type it goes.
    let patch = json!({"spec": {"ports": [{"name": "u", "port": 54, "protocol": "UDP"}]}});
    assert_eq!(port(&cluster.change("a", patch).await, 0), Some(first));
    let inner = cluster.change("a", json!({"spec": {"type": "ClusterIP"}})).await;
    assert_eq!(port(&inner, 0), None);
    assert_eq!(inner["spec"].get("externalTrafficPolicy"), None);
    let b = json!({"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": first}]});
    let b = cluster.service("b", b).await;
    assert_eq!(
        (port(&b, 0), &b["spec"]["allocateLoadBalancerNodePorts"]),
        (Some(first), &true.into())
    );
    let c = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]});
    assert_eq!(port(&cluster.service("c", c).await, 0), None);
}

#[tokio::test]
async fn many_at_once_never_share_an_address() {
    let cluster = cluster().await;
    let one = |n: usize| {
        let cluster = &cluster;
        async move {
            let spec = json!({"type": "NodePort", "ports": [{"port": 80}]});
            cluster.service(&format!("s{n}"), spec).await["spec"].clone()
        }
    };
    let specs = futures::future::join_all((0..60).map(one)).await;
    let mut addresses: Vec<String> =
        specs.iter().map(|spec| spec["clusterIP"].to_string()).collect();
    let mut ports: Vec<i64> =
        specs.iter().filter_map(|s| s["ports"][0]["nodePort"].as_i64()).collect();
    addresses.sort();
    addresses.dedup();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!((addresses.len(), ports.len()), (60, 60));
    // All want the same one: one gets it.
    let same = |n: usize| {
        let spec = json!({"ports": [{"port": 80}], "clusterIP": "10.43.0.5"});
        let cluster = &cluster;
        async move { cluster.post(SERVICES, service(&format!("t{n}"), spec)).await.code.as_u16() }
    };
    let mut codes = futures::future::join_all((0..20).map(same)).await;
    codes.sort_unstable();
    assert_eq!(codes[..2], [201, 422]);
}

/// Addresses that lead to the host itself or that different programs read differently (C6).
#[tokio::test]
async fn endpoints_never_point_at_the_host() {
    let cluster = cluster().await;
    let wrong = [
        "127.0.0.1",
        "127.1.2.3",
        "0127.0.0.1",
        "127.1",
        "0x7f.0.0.1",
        "2130706433",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "169.254.0.1",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        "010.0.0.1",
        "10.0.0.256",
        "10.0.0",
        "10.0.0.1 ",
        " 10.0.0.1",
        "10.0.0.1/32",
        "10.0.0.1:80",
        "",
        "localhost",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "ff02::1",
        "ff0e::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "0:0:0:0:0:ffff:a9fe:a9fe",
    ];
    for address in wrong {
        let subsets = json!([{"addresses": [{"ip": address}], "ports": [{"port": 80}]}]);
        let body = json!({"metadata": {"name": "a"}, "subsets": subsets});
        let reply = cluster.post("/api/v1/namespaces/default/endpoints", body).await;
        assert_eq!(reply.code, 422, "{address:?} {}", reply.text);
        let family = if address.contains(':') { "IPv6" } else { "IPv4" };
        let body = json!({
            "metadata": {"name": "a"}, "addressType": family,
            "endpoints": [{"addresses": [address]}], "ports": [{"port": 80}],
        });
        let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        let reply = cluster.post(path, body).await;
        assert_eq!(reply.code, 422, "{address:?} {}", reply.text);
    }
    let right = json!([{"addresses": [{"ip": "10.42.0.3"}], "ports": [{"port": 80}]}]);
    let body = json!({"metadata": {"name": "a"}, "subsets": right});
    assert_eq!(cluster.post("/api/v1/namespaces/default/endpoints", body).await.code, 201);
}

#[tokio::test]
async fn an_autoscaler_is_one_object_in_two_versions() {
    let cluster = cluster().await;
    let path = |version: &str| {
        format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers")
    };
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let old = json!({
        "metadata": {"name": "h"},
        "spec": {"scaleTargetRef": target, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50},
    });
    let made = cluster.post(&path("v1"), old).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(made.json()["spec"]["minReplicas"], 1);
    let shown = cluster.get(&format!("{}/h", path("v2"))).await.json();
    assert_eq!(shown["apiVersion"], "autoscaling/v2");
    assert_eq!(
        shown["spec"]["metrics"],
        json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}])
    );
    let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
    let patch = json!({"spec": {"metrics": [memory]}});
    assert_eq!(cluster.merge(&format!("{}/h", path("v2")), patch).await.code, 200);
    let shown = cluster.get(&format!("{}/h", path("v1"))).await.json();
    assert_eq!(shown["spec"].get("targetCPUUtilizationPercentage"), None);
    assert!(
        shown["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"].is_string()
    );
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(cluster.merge(&format!("{}/h", path("v1")), label).await.code, 200);
    let shown = cluster.get(&format!("{}/h", path("v2"))).await.json();
    assert_eq!(shown["spec"]["metrics"], json!([memory]));
    assert_eq!(shown["metadata"]["annotations"], Value::Null);
    let (_, message) = cluster
        .merge(&format!("{}/h", path("v2")), json!({"spec": {"minReplicas": 5}}))
        .await
        .refusal();
    assert_eq!(
        message,
        r#"HorizontalPodAutoscaler.autoscaling "h" is invalid: spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"#
    );
}

#[tokio::test]
async fn an_ingress_without_a_class_gets_the_default_one() {
    let cluster = cluster().await;
    let classes = "/apis/networking.k8s.io/v1/ingressclasses";
    let ingresses = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    let ingress = |name: &str| {
        let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
        json!({"metadata": {"name": name}, "spec": {"defaultBackend": backend}})
    };
    let before = cluster.post(ingresses, ingress("a")).await.json();
    assert_eq!(before["spec"].get("ingressClassName"), None);
    for (name, is_default) in [("other", "false"), ("joey", "true")] {
        let annotations = json!({"ingressclass.kubernetes.io/is-default-class": is_default});
        let metadata = json!({"name": name, "annotations": annotations});
        let class = json!({"metadata": metadata, "spec": {"controller": "joey.dev/ingress"}});
        assert_eq!(cluster.post(classes, class).await.code, 201);
    }
    let after = cluster.post(ingresses, ingress("b")).await.json();
    assert_eq!(after["spec"]["ingressClassName"], "joey");
    let mut named = ingress("c");
    named["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "nginx"});
    let named = cluster.post(ingresses, named).await.json();
    assert_eq!(named["spec"].get("ingressClassName"), None);
}

#[tokio::test]
async fn the_network_as_kubectl_shows_it() {
    let script = "$ create -f -
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, clusterIP: 10.43.0.20, ports: [{port: 80}]}
$ create service clusterip headless --clusterip=None --tcp=80:8080
$ create service externalname out --external-name=example.com
$ create -f -
apiVersion: v1
kind: Service
metadata: {name: node}
spec: {type: NodePort, clusterIP: 10.43.0.21, ports: [{name: a, port: 80, nodePort: 30080}, {name: b, port: 53, protocol: UDP, nodePort: 30053}]}
$ create -f -
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec: {type: LoadBalancer, clusterIP: 10.43.0.22, ports: [{port: 443, nodePort: 30443}]}
$ get services -o wide
$ get svc --field-selector=spec.type=NodePort -o name
$ create -f -
apiVersion: v1
kind: Endpoints
metadata: {name: web}
subsets: [{addresses: [{ip: 10.42.0.2}, {ip: 10.42.0.3}], ports: [{port: 8080}]}]
$ get endpoints web
$ create -f -
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-abc, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.42.0.2], conditions: {ready: true}}]
ports: [{port: 8080}]
$ get endpointslices
$ describe service web
$ create -f -
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: np}
spec: {podSelector: {matchLabels: {app: web}}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 80, endPort: 90}]}]}
$ get netpol
$ get netpol np -o jsonpath={.spec.policyTypes}{.spec.egress[0].ports}{.metadata.generation}
$ describe netpol np
$ create -f -
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: kangaroo}
spec: {controller: joey.dev/ingress}
$ get ingressclass
$ create ingress web --class=kangaroo --rule=example.com/foo*=web:80,tls=cert
$ get ingress
$ describe ingress web
$ create -f -
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: x:1}]}}}
$ expose deployment web --name=exposed --port=80 --target-port=8080 --cluster-ip=10.43.0.30
$ get service exposed
$ autoscale deployment web --min=2 --max=5
$ get hpa
$ patch service web -p {\"spec\":{\"ports\":[{\"port\":80,\"targetPort\":\"http\"}]}}
$ get service web -o jsonpath={.spec.ports}{.spec.clusterIP}
$ set selector service web app=other
$ explain service.spec.type --recursive=false
$ delete service web
$ api-resources --no-headers=true -o name --sort-by=name
";
    check(script, expect![[r#"
        $ create -f -
        service/web created
        $ create service clusterip headless --clusterip=None --tcp=80:8080
        service/headless created
        $ create service externalname out --external-name=example.com
        service/out created
        $ create -f -
        service/node created
        $ create -f -
        service/balanced created
        $ get services -o wide
        NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR
        balanced LoadBalancer 10.43.0.22 <pending> 443:30443/TCP AGE <none>
        headless ClusterIP None <none> 80/TCP AGE app=headless
        node NodePort 10.43.0.21 <none> 80:30080/TCP,53:30053/UDP AGE <none>
        out ExternalName <none> example.com <none> AGE app=out
        web ClusterIP 10.43.0.20 <none> 80/TCP AGE app=web
        $ get svc --field-selector=spec.type=NodePort -o name
        service/node
        $ create -f -
        endpoints/web created
        $ get endpoints web
        NAME ENDPOINTS AGE
        web 10.42.0.2:8080,10.42.0.3:8080 AGE
        $ create -f -
        endpointslice.discovery.k8s.io/web-abc created
        $ get endpointslices
        NAME ADDRESSTYPE PORTS ENDPOINTS AGE
        web-abc IPv4 8080 10.42.0.2 AGE
        $ describe service web
        Name: web
        Namespace: default
        Labels: <none>
        Annotations: <none>
        Selector: app=web
        Type: ClusterIP
        IP Family Policy: SingleStack
        IP Families: IPv4
        IP: 10.43.0.20
        IPs: 10.43.0.20
        Port: <unset> 80/TCP
        TargetPort: 80/TCP
        Endpoints: 10.42.0.2:8080
        Session Affinity: None
        Internal Traffic Policy: Cluster
        Events: <none>
        $ create -f -
        networkpolicy.networking.k8s.io/np created
        $ get netpol
        NAME POD-SELECTOR AGE
        np app=web AGE
        $ get netpol np -o jsonpath={.spec.policyTypes}{.spec.egress[0].ports}{.metadata.generation}
        ["Ingress","Egress"][{"endPort":90,"port":80,"protocol":"TCP"}]1
        $ describe netpol np
        Name: np
        Namespace: default
        Labels: <none>
        Annotations: <none>
        Spec:
        PodSelector: app=web
        Allowing ingress traffic:
        <none> (Selected pods are isolated for ingress connectivity)
        Allowing egress traffic:
        To Port Range: 80-90/TCP
        To:
        IPBlock:
        CIDR: 10.0.0.0/8
        Except: 10.1.0.0/16
        Policy Types: Ingress, Egress
        $ create -f -
        ingressclass.networking.k8s.io/kangaroo created
        $ get ingressclass
        NAME CONTROLLER PARAMETERS AGE
        kangaroo joey.dev/ingress <none> AGE
        $ create ingress web --class=kangaroo --rule=example.com/foo*=web:80,tls=cert
        ingress.networking.k8s.io/web created
        $ get ingress
        NAME CLASS HOSTS ADDRESS PORTS AGE
        web kangaroo example.com 80, 443 AGE
        $ describe ingress web
        Name: web
        Labels: <none>
        Namespace: default
        Address:
        Ingress Class: kangaroo
        Default backend: <default>
        TLS:
        cert terminates example.com
        Rules:
        Host Path Backends
        ---- ---- --------
        example.com
        /foo web:80 (10.42.0.2:8080)
        Annotations: <none>
        Events: <none>
        $ create -f -
        deployment.apps/web created
        $ expose deployment web --name=exposed --port=80 --target-port=8080 --cluster-ip=10.43.0.30
        service/exposed exposed
        $ get service exposed
        NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE
        exposed ClusterIP 10.43.0.30 <none> 80/TCP AGE
        $ autoscale deployment web --min=2 --max=5
        horizontalpodautoscaler.autoscaling/web autoscaled
        $ get hpa
        NAME REFERENCE TARGETS MINPODS MAXPODS REPLICAS AGE
        web Deployment/web cpu: <unknown>/80% 2 5 0 AGE
        $ patch service web -p {"spec":{"ports":[{"port":80,"targetPort":"http"}]}}
        service/web patched
        $ get service web -o jsonpath={.spec.ports}{.spec.clusterIP}
        [{"port":80,"protocol":"TCP","targetPort":"http"}]10.43.0.20
        $ set selector service web app=other
        service/web selector updated
        $ explain service.spec.type --recursive=false
        KIND: Service
        VERSION: v1
        FIELD: type <string>
        ENUM:
        ClusterIP
        ExternalName
        LoadBalancer
        NodePort
        DESCRIPTION:
        type determines how the Service is exposed. Defaults to ClusterIP. Valid
        options are ExternalName, ClusterIP, NodePort, and LoadBalancer. "ClusterIP"
        allocates a cluster-internal IP address for load-balancing to endpoints.
        Endpoints are determined by the selector or if that is not specified, by
        manual construction of an Endpoints object or EndpointSlice objects. If
        clusterIP is "None", no virtual IP is allocated and the endpoints are
        published as a set of endpoints rather than a virtual IP. "NodePort" builds
        on ClusterIP and allocates a port on every node which routes to the same
        endpoints as the clusterIP. "LoadBalancer" builds on NodePort and creates an
        external load-balancer (if supported in the current cloud) which routes to
        the same endpoints as the clusterIP. "ExternalName" aliases this service to
        the specified externalName. Several other fields do not apply to
        ExternalName services. More info:
        https://kubernetes.io/docs/concepts/services-networking/service/#publishing-services-service-types

        $ delete service web
        service "web" deleted
        $ api-resources --no-headers=true -o name --sort-by=name
        configmaps
        deployments.apps
        endpoints
        endpointslices.discovery.k8s.io
        events
        events.events.k8s.io
        horizontalpodautoscalers.autoscaling
        ingressclasses.networking.k8s.io
        ingresses.networking.k8s.io
        leases.coordination.k8s.io
        namespaces
        networkpolicies.networking.k8s.io
        nodes
        nodes.metrics.k8s.io
        pods
        pods.metrics.k8s.io
        replicasets.apps
        secrets
        selfsubjectaccessreviews.authorization.k8s.io
        selfsubjectreviews.authentication.k8s.io
        selfsubjectrulesreviews.authorization.k8s.io
        serviceaccounts
        services
    "#]]).await;
}

#[tokio::test]
async fn mistakes_about_the_network_are_told_in_the_words_of_kubernetes() {
    let one = |group: &str, kind: &str, spec: &str| {
        format!("$ create -f -\napiVersion: {group}\nkind: {kind}\nmetadata: {{name: x}}\n{spec}\n")
    };
    let service = |spec: &str| one("v1", "Service", &format!("spec: {{{spec}}}"));
    let policy = |spec: &str| {
        one(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            &format!("spec: {{podSelector: {{}}, {spec}}}"),
        )
    };
    let ingress = |spec: &str| one("networking.k8s.io/v1", "Ingress", &format!("spec: {{{spec}}}"));
    let backend = "backend: {service: {name: web, port: {number: 80}}}";
    let script = [
        service(""),
        service("ports: [{port: 80}, {port: 81}]"),
        service("ports: [{port: 0}]"),
        service("ports: [{name: A, port: 80, protocol: ICMP, targetPort: under_score}]"),
        service("ports: [{name: a, port: 80}, {name: a, port: 80}]"),
        service("ports: [{port: 80, nodePort: 30080}]"),
        service("type: Cloud, ports: [{port: 80}]"),
        service("type: NodePort, clusterIP: None, ports: [{port: 80}]"),
        service("type: ExternalName"),
        service("type: ExternalName, externalName: a.b, clusterIP: 10.43.0.9"),
        service("clusterIP: 10.99.0.1, ports: [{port: 80}]"),
        service("clusterIP: 10.43.00.1, ports: [{port: 80}]"),
        service("externalIPs: [1.1.1.1], ports: [{port: 80}]"),
        service("ipFamilies: [IPv6], ports: [{port: 80}]"),
        service("ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]"),
        service("sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 90000}}, ports: [{port: 80}]"),
        service("externalTrafficPolicy: Local, ports: [{port: 80}]"),
        service("type: LoadBalancer, loadBalancerIP: 1.2.3.4, ports: [{port: 80}]"),
        policy("ingress: [{from: [{}]}]"),
        policy("ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]"),
        policy("ingress: [{from: [{ipBlock: {cidr: 10.0.0.1/8}}, {ipBlock: {cidr: 010.0.0.0/8}}, {ipBlock: {}}]}]"),
        policy("ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8, 11.0.0.0/16, x]}}]}]"),
        policy("egress: [{ports: [{port: 90, endPort: 80}, {port: http, endPort: 80}, {endPort: 80}, {port: 70000, protocol: ICMP}]}]"),
        policy("policyTypes: [Ingres]"),
        ingress(""),
        ingress(&format!("rules: [{{host: 1.2.3.4, http: {{paths: [{{path: /, {backend}}}]}}}}]")),
        ingress(&format!("rules: [{{host: \"*.*.x\", http: {{paths: [{{path: foo, pathType: Prefix, {backend}}}, {{path: /a//b, pathType: Exact, {backend}}}]}}}}]")),
        ingress("defaultBackend: {service: {name: web}}"),
        ingress("defaultBackend: {resource: {apiGroup: a, kind: B, name: c}}"),
        one("networking.k8s.io/v1", "IngressClass", "spec: {controller: joey}"),
    ]
    .concat();
    check(&script, expect![[r#"
        $ create -f -
        The Service "x" is invalid: spec.ports: Required value
        $ create -f -
        The Service "x" is invalid:
        * spec.ports[0].name: Required value
        * spec.ports[1].name: Required value
        $ create -f -
        The Service "x" is invalid:
        * spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive
        * spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive
        $ create -f -
        The Service "x" is invalid:
        * spec.ports[0].name: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name', or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
        * spec.ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"
        * spec.ports[0].targetPort: Invalid value: "under_score": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)
        $ create -f -
        The Service "x" is invalid:
        * spec.ports[1].name: Duplicate value: "a"
        * spec.ports[1]: Duplicate value: {"protocol":"TCP","port":80}
        $ create -f -
        The Service "x" is invalid: spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'
        $ create -f -
        The Service "x" is invalid: spec.type: Unsupported value: "Cloud": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"
        $ create -f -
        The Service "x" is invalid: spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services
        $ create -f -
        The Service "x" is invalid: spec.externalName: Required value
        $ create -f -
        The Service "x" is invalid: spec.clusterIPs: Forbidden: may not be set for ExternalName services
        $ create -f -
        The Service "x" is invalid: spec.clusterIPs: Invalid value: []string{"10.99.0.1"}: failed to allocate IP 10.99.0.1: the provided IP (10.99.0.1) is not in the valid range. The range of valid IPs is 10.43.0.0/16
        $ create -f -
        The Service "x" is invalid: spec.clusterIPs[0]: Invalid value: "10.43.00.1": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
        $ create -f -
        Error from server (Forbidden): error when creating "STDIN": services "x" is forbidden: Use of external IPs is denied by admission control
        $ create -f -
        The Service "x" is invalid: spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster
        $ create -f -
        The Service "x" is invalid: spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services
        $ create -f -
        The Service "x" is invalid: spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 90000: must be greater than 0 and less than 86400
        $ create -f -
        The Service "x" is invalid: spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services
        $ create -f -
        The Service "x" is invalid: spec.loadBalancerIP: Forbidden: not implemented by this version of Joey
        $ create -f -
        The NetworkPolicy "x" is invalid: spec.ingress[0].from[0]: Required value: must specify a peer
        $ create -f -
        The NetworkPolicy "x" is invalid: spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer
        $ create -f -
        The NetworkPolicy "x" is invalid:
        * spec.ingress[0].from[0].ipBlock.cidr: Invalid value: "10.0.0.1/8": must not have bits set beyond the prefix length
        * spec.ingress[0].from[1].ipBlock.cidr: Invalid value: "010.0.0.0/8": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)
        * spec.ingress[0].from[2].ipBlock.cidr: Required value
        $ create -f -
        The NetworkPolicy "x" is invalid:
        * spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: "10.0.0.0/8": must be a strict subset of `cidr`
        * spec.ingress[0].from[0].ipBlock.except[1]: Invalid value: "11.0.0.0/16": must be a strict subset of `cidr`
        * spec.ingress[0].from[0].ipBlock.except[2]: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)
        $ create -f -
        The NetworkPolicy "x" is invalid:
        * spec.egress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`
        * spec.egress[0].ports[1].endPort: Invalid value: 80: may not be specified when `port` is non-numeric
        * spec.egress[0].ports[2].endPort: Invalid value: 80: may not be specified when `port` is not specified
        * spec.egress[0].ports[3].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"
        * spec.egress[0].ports[3].port: Invalid value: 70000: must be between 1 and 65535, inclusive
        $ create -f -
        The NetworkPolicy "x" is invalid: spec.policyTypes[0]: Unsupported value: "Ingres": supported values: "Egress", "Ingress"
        $ create -f -
        The Ingress "x" is invalid: spec: Invalid value: []string{}: either `defaultBackend` or `rules` must be specified
        $ create -f -
        The Ingress "x" is invalid:
        * spec.rules[0].host: Invalid value: "1.2.3.4": must be a DNS name, not an IP address
        * spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified
        $ create -f -
        The Ingress "x" is invalid:
        * spec.rules[0].host: Invalid value: "*.*.x": a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        * spec.rules[0].http.paths[0].path: Invalid value: "foo": must be an absolute path
        * spec.rules[0].http.paths[1].path: Invalid value: "/a//b": must not contain '//'
        $ create -f -
        The Ingress "x" is invalid: spec.defaultBackend: Required value: port name or number is required
        $ create -f -
        The Ingress "x" is invalid: spec.defaultBackend.resource: Forbidden: not implemented by this version of Joey
        $ create -f -
        The IngressClass "x" is invalid: spec.controller: Invalid value: "joey": must be a domain-prefixed path (such as "acme.io/foo")
    "#]]).await;
}
