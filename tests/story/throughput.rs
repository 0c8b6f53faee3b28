//! "More replicas, more requests at a time": what goes through a Service is shared among all that answer.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Cluster;
use crate::service::TOOLS;

/// Each replica serves one request at a time, for a tenth of a second, and says when: it is full however fast the
/// machine is, and has room however slow.
const COUNTER: &str = "\
apiVersion: v1
kind: Service
metadata: {name: counter}
spec: {clusterIP: 10.43.0.78, selector: {app: counter}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: counter}
spec:
  replicas: 1
  selector: {matchLabels: {app: counter}}
  template:
    metadata: {labels: {app: counter}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: counter
        image: toolbox
        imagePullPolicy: IfNotPresent
        ports: [{containerPort: 80}]
        command:
        - /bin/bash
        - -c
        - |
          mkdir -p /www/cgi-bin
          cat >/www/cgi-bin/serve <<'END'
          #!/bin/bash
          until mkdir /tmp/busy 2>/dev/null; do usleep 5000; done
          read -r begun _ </proc/uptime
          usleep 100000
          read -r ended _ </proc/uptime
          rmdir /tmp/busy
          printf 'Content-Type: text/plain\\r\\n\\r\\n%s %s %s\\n' \"$(hostname)\" $begun $ended
          END
          chmod +x /www/cgi-bin/serve
          exec httpd -f -p 80 -h /www
---
";

/// What one request was served by, and when, in hundredths of a second since the machine started.
struct Served {
    by: String,
    begun: u64,
    ended: u64,
}

/// Twelve clients with four requests each.
fn ask(cluster: &Cluster) -> Vec<Served> {
    let script = "for client in $(seq 12); do \
        (for n in $(seq 4); do fetch -T 60 -qO- http://10.43.0.78/cgi-bin/serve || echo failed; done) & \
        done; wait";
    let answers = cluster.kubectl(&["exec", "tools", "--", "/bin/bash", "-c", script]).ok();
    let served: Vec<Served> = answers
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [by, begun, ended] = words[..] else { panic!("not served: {line}") };
            let hundredths = |text: &str| text.replace('.', "").parse().expect("a time");
            Served { by: by.to_owned(), begun: hundredths(begun), ended: hundredths(ended) }
        })
        .collect();
    assert_eq!(served.len(), 48, "{answers}");
    served
}

/// The most requests that were being served at one time, and how many were served a second.
fn measure(served: &[Served]) -> (i64, f64) {
    let mut changes: BTreeMap<u64, i64> = BTreeMap::new();
    for served in served {
        *changes.entry(served.begun).or_default() += 1;
        *changes.entry(served.ended).or_default() -= 1;
    }
    let mut now = 0;
    let at_a_time = changes.values().map(|change| {
        now += change;
        now
    });
    let most = at_a_time.max().unwrap_or(0);
    let begun = served.iter().map(|served| served.begun).min().unwrap_or(0);
    let ended = served.iter().map(|served| served.ended).max().unwrap_or(0);
    (most, served.len() as f64 * 100.0 / (ended - begun) as f64)
}

#[test]
fn what_goes_through_a_service_rises_with_its_replicas() {
    let mut cluster = Cluster::start("throughput");
    cluster.apply(&(COUNTER.to_owned() + TOOLS)).ok();
    cluster.wait_running("tools");
    for replicas in [1, 3] {
        let count = replicas.to_string();
        cluster.kubectl(&["scale", "deployment/counter", "--replicas", &count]).ok();
        cluster.kubectl(&["rollout", "status", "deployment/counter", "--timeout=120s"]).ok();
        cluster.wait_for("all of them are asked at a time", |cluster| {
            let served = ask(cluster);
            let (most, rate) = measure(&served);
            let by: BTreeSet<&str> = served.iter().map(|served| served.by.as_str()).collect();
            println!("{replicas} replicas: {most} at a time, {rate:.1} a second, by {by:?}");
            // A replica alone never does more; several do as soon as the kernel's dice have met all of them at once.
            assert!(most <= replicas, "{most} at a time from {replicas}");
            most == replicas
        });
    }
    cluster.finish();
}
