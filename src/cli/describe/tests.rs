use expect_test::{Expect, expect};
use serde_json::json;

use super::ingress::{Backend, Backends};
use super::*;

fn at_noon() -> Clock {
    Clock { now: "2026-11-23T12:00:00Z".parse().unwrap(), zone: TimeZone::UTC }
}

fn check(lay_out: impl FnOnce(&mut Text, &Clock), expected: &Expect) {
    let mut text = Text::default();
    lay_out(&mut text, &at_noon());
    expected.assert_eq(&text.aligned());
}

#[test]
fn a_pod_shows_what_it_is_and_how_it_does() {
    let pod = json!({
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web", "tier": "front"},
            "deletionTimestamp": "2026-11-23T11:59:50Z", "deletionGracePeriodSeconds": 30,
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-1", "controller": true}]},
        "spec": {
            "nodeName": "one", "priority": 0, "priorityClassName": "high", "serviceAccountName": "default",
            "securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "p.json"}},
            "initContainers": [{"name": "first", "image": "tool:1"}],
            "containers": [{
                "name": "web", "image": "web:1", "command": ["sh", "-c", "one\ntwo"],
                "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}, {"containerPort": 53, "protocol": "UDP"}],
                "resources": {"limits": {"cpu": "1000m"}, "requests": {"memory": "64Mi"}},
                "env": [
                    {"name": "NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "300m"}}},
                    {"name": "FREE", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
                ],
                "volumeMounts": [{"name": "s", "mountPath": "/z", "readOnly": true}, {"name": "s", "mountPath": "/a", "subPath": "in"}],
            }],
            "readinessGates": [{"conditionType": "example.com/fed"}],
            "volumes": [{"name": "s", "emptyDir": {"sizeLimit": "1024Mi"}}, {"name": "odd", "nfs": {}}],
            "topologySpreadConstraints": [{"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1, "labelSelector": {"matchLabels": {"a": "b"}}}],
        },
        "status": {"phase": "Running", "podIP": "10.42.0.9", "podIPs": [{"ip": "10.42.0.9"}], "hostIP": "192.0.2.1", "qosClass": "Burstable",
            "startTime": "2026-11-23T10:00:00Z",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "web", "ready": true, "restartCount": 2, "image": "web:1", "imageID": "web@sha256:1", "containerID": "joey://1",
                "state": {"running": {"startedAt": "2026-11-23T10:00:00Z"}},
                "lastState": {"terminated": {"exitCode": 137, "signal": 9, "reason": "OOMKilled",
                    "startedAt": "2026-11-23T09:00:00Z", "finishedAt": "2026-11-23T09:59:00Z"}}}]},
    });
    check(
        |text, clock| pod::lay_out(text, &pod, clock),
        &expect![[r#"
        Name:                      web
        Namespace:                 default
        Priority:                  0
        Priority Class Name:       high
        Service Account:           default
        Node:                      one/192.0.2.1
        Start Time:                Mon, 23 Nov 2026 10:00:00 +0000
        Labels:                    app=web
                                   tier=front
        Annotations:               <none>
        Status:                    Terminating (lasts 10s)
        Termination Grace Period:  30s
        SeccompProfile:            Localhost
        LocalhostProfile:          p.json
        IP:                        10.42.0.9
        IPs:
          IP:           10.42.0.9
        Controlled By:  ReplicaSet/web-1
        Init Containers:
          first:
            Image:        tool:1
            Port:         <none>
            Host Port:    <none>
            Environment:  <none>
            Mounts:       <none>
        Containers:
          web:
            Container ID:  joey://1
            Image:         web:1
            Image ID:      web@sha256:1
            Ports:         80/TCP (http), 53/UDP
            Host Ports:    0/TCP (http), 0/UDP
            Command:
              sh
              -c
              one
              two
            State:          Running
              Started:      Mon, 23 Nov 2026 10:00:00 +0000
            Last State:     Terminated
              Reason:       OOMKilled
              Exit Code:    137
              Signal:       9
              Started:      Mon, 23 Nov 2026 09:00:00 +0000
              Finished:     Mon, 23 Nov 2026 09:59:00 +0000
            Ready:          True
            Restart Count:  2
            Limits:
              cpu:  1
            Requests:
              memory:  64Mi
            Environment:
              NAME:  web (v1:metadata.name)
              CPU:   4 (limits.cpu)
              FREE:  node allocatable (limits.memory)
            Mounts:
              /a from s (rw,path="in")
              /z from s (ro)
        Readiness Gates:
          Type              Status
          example.com/fed   <none> 
        Conditions:
          Type    Status
          Ready   True 
        Volumes:
          s:
            Type:       EmptyDir (a temporary directory that shares a pod's lifetime)
            Medium:     
            SizeLimit:  1Gi
          odd:
          <unknown>
        QoS Class:                    Burstable
        Node-Selectors:               <none>
        Tolerations:                  <none>
        Topology Spread Constraints:  zone:DoNotSchedule when max skew 1 is exceeded for selector a=b
    "#]],
    );
}

#[test]
fn events_stand_in_the_order_in_which_they_were_seen() {
    let event = |reason: &str, first: &str, last: &str, count: i64| {
        json!({"type": "Normal", "reason": reason, "firstTimestamp": first, "lastTimestamp": last, "count": count,
            "source": {"component": "kubelet"}, "message": " done\n"})
    };
    let mut all = vec![
        event("Later", "2026-11-23T10:00:00Z", "2026-11-23T11:59:00Z", 3),
        event("Sooner", "2026-11-23T11:00:00Z", "2026-11-23T11:00:00Z", 1),
    ];
    all.push(json!({"type": "Warning", "reason": "Series", "eventTime": "2026-11-22T12:00:00.5Z", "message": "x",
        "series": {"count": 1, "lastObservedTime": "2026-11-23T11:59:59.5Z"}, "reportingComponent": "new",
        "involvedObject": {"fieldPath": "spec.containers{a}"}}));
    check(
        |text, clock| {
            events::lay_out(text, &[], clock);
            events::lay_out(text, &all, clock);
        },
        &expect![[r#"
            Events:  <none>
            Events:
              Type     Reason  Age                 From     Message
              ----     ------  ----                ----     -------
              Warning  Series  0s (x1 over 23h)    new      spec.containers{a}: x
              Normal   Sooner  60m                 kubelet  done
              Normal   Later   60s (x3 over 120m)  kubelet  done
        "#]],
    );
}

#[test]
fn workloads_show_their_template() {
    let template = json!({"metadata": {"labels": {"app": "web"}, "annotations": {"a": "b"}},
        "spec": {"serviceAccountName": "robot", "containers": [{"name": "web", "image": "web:1"}],
            "volumes": [{"name": "c", "configMap": {"name": "c"}}], "tolerations": [{"operator": "Exists"}]}});
    let deployment = json!({
        "metadata": {"name": "web", "namespace": "default", "creationTimestamp": "2026-11-23T10:00:00Z"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "x", "operator": "Exists"}]},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": 1}}, "template": template},
        "status": {"replicas": 3, "updatedReplicas": 2, "availableReplicas": 1, "unavailableReplicas": 2,
            "conditions": [{"type": "Available", "status": "False", "reason": "Few"}]},
    });
    let set = json!({"metadata": {"name": "web-1", "namespace": "default", "uid": "u"},
        "spec": {"replicas": 2, "selector": {}, "template": {"spec": {}}}, "status": {"replicas": 1}});
    let pods = ["Running", "Pending", "Running", "Failed"].map(|phase| {
        json!({"metadata": {"ownerReferences": [{"controller": true, "uid": "u"}]}, "status": {"phase": phase}})
    });
    check(
        |text, clock| {
            deployment::lay_out(text, &deployment, &[], clock);
            replica_set::lay_out(text, &set, &pods);
        },
        &expect![[r#"
            Name:                   web
            Namespace:              default
            CreationTimestamp:      Mon, 23 Nov 2026 10:00:00 +0000
            Labels:                 <none>
            Annotations:            <none>
            Selector:               app=web,x
            Replicas:               3 desired | 2 updated | 3 total | 1 available | 2 unavailable
            StrategyType:           RollingUpdate
            MinReadySeconds:        0
            RollingUpdateStrategy:  25% max unavailable, 1 max surge
            Pod Template:
              Labels:           app=web
              Annotations:      a: b
              Service Account:  robot
              Containers:
               web:
                Image:        web:1
                Port:         <none>
                Host Port:    <none>
                Environment:  <none>
                Mounts:       <none>
              Volumes:
               c:
                Type:          ConfigMap (a volume populated by a ConfigMap)
                Name:          c
                Optional:      false
              Node-Selectors:  <none>
              Tolerations:     op=Exists
            Conditions:
              Type        Status  Reason
              ----        ------  ------
              Available   False   Few
            Name:         web-1
            Namespace:    default
            Selector:     <none>
            Labels:       <none>
            Annotations:  <none>
            Replicas:     1 current / 2 desired
            Pods Status:  2 Running / 1 Waiting / 0 Succeeded / 1 Failed
            Pod Template:
              Labels:  <none>
              Containers: <none>
              Volumes:         <none>
              Node-Selectors:  <none>
              Tolerations:     <none>
        "#]],
    );
}

#[test]
fn services_and_ingresses_show_who_answers() {
    let service = json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "externalIPs": ["192.0.2.7", "192.0.2.8"], "sessionAffinity": "None", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30000,
            "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP", "nodePort": 30080, "appProtocol": "http"}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}, {"hostname": "h"}]}}});
    let slices = vec![
        json!({"ports": [{"name": "http", "port": 8080}], "endpoints": [{"addresses": ["10.42.0.2"], "conditions": {"ready": true}}]}),
    ];
    let ingress = json!({"metadata": {"name": "web", "namespace": "default", "annotations": {"a": "b"}},
    "spec": {"ingressClassName": "joey", "tls": [{"hosts": ["a", "b"]}],
        "defaultBackend": {"service": {"name": "gone", "port": {"name": "http"}}},
        "rules": [{"http": {"paths": [
            {"path": "/", "backend": {"service": {"name": "web", "port": {"number": 80}}}},
            {"path": "/r", "backend": {"resource": {"kind": "Bucket", "name": "b"}}}]}}]}});
    let backends = Backends::from([
        ("web".to_owned(), Ok(Backend { service: service.clone(), slices: slices.clone() })),
        ("gone".to_owned(), Err("services \"gone\" not found".to_owned())),
    ]);
    assert_eq!(ingress::services(&ingress), ["gone".to_owned(), "web".to_owned()].into());
    let bare = json!({"metadata": {"name": "bare"}, "spec": {"rules": [{"host": "h"}]}});
    check(
        |text, _| {
            service::lay_out(text, &service, &slices);
            ingress::lay_out(text, &ingress, &backends);
            ingress::lay_out(text, &bare, &backends);
        },
        &expect![[r#"
            Name:                     web
            Namespace:                default
            Labels:                   <none>
            Annotations:              <none>
            Selector:                 app=web
            Type:                     LoadBalancer
            IP Family Policy:         SingleStack
            IP Families:              IPv4
            IP:                       10.43.0.9
            IPs:                      10.43.0.9
            External IPs:             192.0.2.7,192.0.2.8
            LoadBalancer Ingress:     192.0.2.1 (VIP), h
            Port:                     http  80/TCP
            TargetPort:               web/TCP
            AppProtocol:              http
            NodePort:                 http  30080/TCP
            Endpoints:                10.42.0.2:8080
            Session Affinity:         None
            External Traffic Policy:  Local
            HealthCheck NodePort:     30000
            Name:                     web
            Labels:                   <none>
            Namespace:                default
            Address:                  
            Ingress Class:            joey
            Default backend:          gone:http (<error: services "gone" not found>)
            TLS:
              SNI routes a,b
            Rules:
              Host            Path  Backends
              ----            ----  --------
              *               
                              /    web:80 (10.42.0.2:8080)
                              /r   APIGroup: <none>, Kind: Bucket, Name: b
            Annotations:      a: b
            Name:             bare
            Labels:           <none>
            Namespace:        
            Address:          
            Ingress Class:    <none>
            Default backend:  <default>
            Rules:
              Host        Path  Backends
              ----        ----  --------
              *           *     <default>
            Annotations:  <none>
        "#]],
    );
}

#[test]
fn a_node_shows_what_its_pods_ask_of_it() {
    let node = json!({"metadata": {"name": "one", "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge"}, "creationTimestamp": "2026-11-23T10:00:00Z"},
        "spec": {"taints": [{"key": "b", "effect": "NoSchedule"}, {"key": "a", "value": "v", "effect": "NoExecute"}], "podCIDRs": ["10.42.0.0/24"], "podCIDR": "10.42.0.0/24"},
        "status": {"capacity": {"cpu": "2"}, "allocatable": {"cpu": "1900m", "memory": "1Gi", "example.com/thing": "4", "hugepages-2Mi": "0", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "well"}],
            "addresses": [{"type": "Hostname", "address": "one"}], "nodeInfo": {"architecture": "amd64"}}});
    let lease =
        Ok(json!({"spec": {"holderIdentity": "one", "renewTime": "2026-11-23T11:59:58.000000Z"}}));
    let pod = json!({"metadata": {"name": "web", "namespace": "default", "creationTimestamp": "2026-11-23T11:59:00Z"},
        "spec": {"containers": [{"resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "3", "example.com/thing": "1"}}}]}});
    check(
        |text, clock| node::lay_out(text, &node, &lease, &[pod], clock),
        &expect![[r#"
        Name:               one
        Roles:              control-plane,edge
        Labels:             kubernetes.io/role=edge
                            node-role.kubernetes.io/control-plane=
        Annotations:        <none>
        CreationTimestamp:  Mon, 23 Nov 2026 10:00:00 +0000
        Taints:             a=v:NoExecute
                            b:NoSchedule
        Unschedulable:      false
        Lease:
          HolderIdentity:  one
          AcquireTime:     <unset>
          RenewTime:       Mon, 23 Nov 2026 11:59:58 +0000
        Conditions:
          Type    Status  LastHeartbeatTime                 LastTransitionTime                Reason         Message
          ----    ------  -----------------                 ------------------                ------         -------
          Ready   True    Mon, 01 Jan 0001 00:00:00 +0000   Mon, 01 Jan 0001 00:00:00 +0000   KubeletReady   well
        Addresses:
          Hostname:  one
        Capacity:
          cpu:  2
        Allocatable:
          cpu:                1900m
          example.com/thing:  4
          hugepages-2Mi:      0
          memory:             1Gi
          pods:               110
        System Info:
          Machine ID:                 
          System UUID:                
          Boot ID:                    
          Kernel Version:             
          OS Image:                   
          Operating System:           
          Architecture:               amd64
          Container Runtime Version:  
          Kubelet Version:            
        PodCIDR:                      10.42.0.0/24
        PodCIDRs:                     10.42.0.0/24
        Non-terminated Pods:          (1 in total)
          Namespace                   Name    CPU Requests  CPU Limits  Memory Requests  Memory Limits  Age
          ---------                   ----    ------------  ----------  ---------------  -------------  ---
          default                     web     100m (5%)     3 (157%)    64Mi (6%)        0 (0%)         60s
        Allocated resources:
          (Total limits may be over 100 percent, i.e., overcommitted.)
          Resource           Requests   Limits
          --------           --------   ------
          cpu                100m (5%)  3 (157%)
          memory             64Mi (6%)  0 (0%)
          ephemeral-storage  0 (0%)     0 (0%)
          hugepages-2Mi      0 (0%)     0 (0%)
          example.com/thing  0          1
    "#]],
    );
    let bare = json!({"metadata": {"name": "bare"}});
    let lost = Err("leases \"bare\" not found".to_owned());
    let mut text = Text::default();
    node::lay_out(&mut text, &bare, &lost, &[], &at_noon());
    let text = text.aligned();
    assert!(
        text.contains("\nLease:              Failed to get lease: leases \"bare\" not found\n")
    );
    assert!(text.contains("\nCreationTimestamp:  Mon, 01 Jan 0001 00:00:00 +0000\n"));
}

#[test]
fn configuration_is_shown_and_secrets_are_not() {
    let metadata = json!({"name": "c", "namespace": "default"});
    let map = json!({"metadata": metadata, "data": {"b": "x\ty\nlong\tz", "a": "1"}, "binaryData": {"blob": "AAEC"}});
    let secret = json!({"metadata": metadata, "type": "Opaque", "data": {"password": "aHVudGVyMg==", "token": "YQ=="}});
    let token = json!({"metadata": metadata, "type": "kubernetes.io/service-account-token", "data": {"token": "YQ=="}});
    let account =
        json!({"metadata": metadata, "imagePullSecrets": [{"name": "one"}, {"name": "two"}]});
    let namespace = json!({"metadata": {"name": "n"}, "status": {"phase": "Terminating", "conditions": [
        {"type": "T", "status": "False", "reason": "R", "message": "m", "lastTransitionTime": "2026-11-23T10:00:00Z"}]}});
    check(
        |text, clock| {
            config::config_map(text, &map);
            config::secret(text, &secret);
            config::secret(text, &token);
            config::service_account(text, &account);
            config::namespace(text, &namespace, clock);
        },
        &expect![[r#"
            Name:         c
            Namespace:    default
            Labels:       <none>
            Annotations:  <none>

            Data
            ====
            a:
            ----
            1

            b:
            ----
            x     y
            long  z


            BinaryData
            ====
            blob: 3 bytes

            Name:         c
            Namespace:    default
            Labels:       <none>
            Annotations:  <none>

            Type:  Opaque

            Data
            ====
            password:     7 bytes
            token:        1 bytes
            Name:         c
            Namespace:    default
            Labels:       <none>
            Annotations:  <none>

            Type:  kubernetes.io/service-account-token

            Data
            ====
            token:               a
            Name:                c
            Namespace:           default
            Labels:              <none>
            Annotations:         <none>
            Image pull secrets:  one
                                 two
            Name:                n
            Labels:              <none>
            Annotations:         <none>
            Status:              Terminating
            Conditions:
              Type  Status  LastTransitionTime               Reason  Message
              ----  ------  ------------------               ------  -------
              T     False   Mon, 23 Nov 2026 10:00:00 +0000  R       m
        "#]],
    );
}

#[test]
fn a_network_policy_says_who_may_come_and_go() {
    let policy = json!({"metadata": {"name": "p", "namespace": "default", "creationTimestamp": "2026-11-23T10:00:00Z"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{"ports": [{"protocol": "UDP"}], "to": [{"namespaceSelector": {}}]}, {}]}});
    let other = json!({"metadata": {"name": "o"}, "spec": {"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": ["Ingress"],
        "ingress": [{"ports": [{"port": 90, "endPort": 99}], "from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.0.0/16"]}}]}]}});
    check(
        |text, clock| {
            network_policy::lay_out(text, &policy, clock);
            network_policy::lay_out(text, &other, clock);
        },
        &expect![[r#"
            Name:         p
            Namespace:    default
            Created on:   2026-11-23 10:00:00 +0000 UTC
            Labels:       <none>
            Annotations:  <none>
            Spec:
              PodSelector:     <none> (Allowing the specific traffic to all pods in this namespace)
              Allowing ingress traffic:
                <none> (Selected pods are isolated for ingress connectivity)
              Allowing egress traffic:
                To Port: <nil>/UDP
                To:
                  NamespaceSelector: <none>
                ----------
                To Port: <any> (traffic allowed to all ports)
                To: <any> (traffic not restricted by destination)
              Policy Types: Ingress, Egress
            Name:         o
            Namespace:    
            Created on:   0001-01-01 00:00:00 +0000 UTC
            Labels:       <none>
            Annotations:  <none>
            Spec:
              PodSelector:     a=b
              Allowing ingress traffic:
                To Port Range: 90-99/TCP
                From:
                  IPBlock:
                    CIDR: 10.0.0.0/8
                    Except: 10.1.0.0/16, 10.2.0.0/16
              Not affecting egress traffic
              Policy Types: Ingress
        "#]],
    );
}

#[test]
fn other_kinds_show_every_field() {
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "one", "namespace": "default", "uid": "u", "managedFields": [{}], "ownerReferences": [{"kind": "Node"}]},
        "spec": {"leaseDurationSeconds": 40, "list": ["a", null, true]}});
    let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.42.0.2"], "conditions": {"ready": false}, "targetRef": {"kind": "Pod", "name": "web"}}]});
    let endpoints = json!({"metadata": {"name": "e"}, "subsets": [{"notReadyAddresses": [{"ip": "10.42.0.2"}], "ports": [{"port": 80, "protocol": "TCP"}]}]});
    check(
        |text, _| {
            generic::lay_out(text, &lease);
            endpoints::slice(text, &slice);
            endpoints::slice(text, &json!({}));
            endpoints::endpoints(text, &endpoints);
        },
        &expect![[r#"
            Name:         one
            Namespace:    default
            Labels:       <none>
            Annotations:  <none>
            API Version:  coordination.k8s.io/v1
            Kind:         Lease
            Metadata:
              Owner References:
                Kind:  Node
              UID:     u
            Spec:
              Lease Duration Seconds:  40
              List:
                a
                <nil>
                true
            Name:         s
            Namespace:    
            Labels:       <none>
            Annotations:  <none>
            AddressType:  IPv4
            Ports:
              Name     Port  Protocol
              ----     ----  --------
              <unset>  80    TCP
            Endpoints:
              - Addresses:  10.42.0.2
                Conditions:
                  Ready:    false
                Hostname:   <unset>
                TargetRef:  Pod/web
                NodeName:   <unset>
                Zone:       <unset>
            Name:           
            Namespace:      
            Labels:         <none>
            Annotations:    <none>
            AddressType:    
            Ports: <unset>
            Endpoints: <none>
            Name:         e
            Namespace:    
            Labels:       <none>
            Annotations:  <none>
            Subsets:
              Addresses:          <none>
              NotReadyAddresses:  10.42.0.2
              Ports:
                Name     Port  Protocol
                ----     ----  --------
                <unset>  80    TCP

        "#]],
    );
}
