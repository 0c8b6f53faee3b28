//! The whole product beside its peers and the floor: `pods JOEY IMAGES STAMP KUBECTL`, run by tests/bench.sh.
//!
//! One round measures everything once, then the next round begins, so that all meet the same machine in the same
//! mood. It never judges; it prints. Needs root; works in the network and mount namespaces it is started in, which
//! must be its own. `ROUNDS=n` (20), `PODS=a,b,c` (1,10,100,300), `IDLE=seconds` (20),
//! `REPLICAS=n` (300), `RESTARTS=n` (5). `ONLY=deployments` leaves out the peers and the single pods.

mod cluster;
mod deployments;
mod floor;
mod measure;
mod peers;
mod restart;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use cluster::{Cluster, Sightings};
use measure::{Row, Work, now, since};
use peers::{KubePlay, Peer};

const IMAGE: &str = "bench:1";
const IDLE_PODS: usize = 30;

fn main() -> ExitCode {
    if let Some(code) = joey::runtime::dispatch() {
        return code;
    }
    let arguments: Vec<PathBuf> = std::env::args_os()
        .skip(1)
        // cargo bench says it to everyone.
        .filter(|argument| argument != "--bench")
        .map(PathBuf::from)
        .collect();
    if let [role, rootfs, scratch] = &arguments[..]
        && role == Path::new("floor")
    {
        return floor::run(rootfs, scratch);
    }
    let [joey, images, stamp, kubectl] = &arguments[..] else {
        println!("pods: run by tests/bench.sh, which names what to measure");
        return ExitCode::SUCCESS;
    };
    let place = std::env::temp_dir().join(format!("joey-bench-{}", std::process::id()));
    let done = prepare(&place, stamp).and_then(|()| {
        let tokio =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        tokio.block_on(everything(joey, images, kubectl, &place))
    });
    if let Err(error) = &done {
        eprintln!("pods: {error:#}");
        let log = fs::read_to_string(place.join("daemon.log")).unwrap_or_default();
        for line in log.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev() {
            eprintln!("  {line}");
        }
        // Whatever stands yet goes, too.
        let _ = cluster::run(cluster::command(joey, &place).args(["reset", "--yes"]));
    }
    // Mounts of peers may hold something: the namespace takes them with it.
    let _ = fs::remove_dir_all(&place);
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// A root file system with the payload, for everyone, and an image of it.
fn prepare(place: &Path, stamp: &Path) -> anyhow::Result<()> {
    let root = place.join("context/rootfs");
    for directory in ["proc", "dev", "sys", "etc", "tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::copy(stamp, root.join("stamp")).context("copying the payload")?;
    let file = "FROM scratch\nCOPY rootfs/ /\nENTRYPOINT [\"/stamp\"]\n";
    fs::write(place.join("context/Containerfile"), file)?;
    Ok(())
}

async fn everything(
    joey: &Path,
    images: &Path,
    kubectl: &Path,
    place: &Path,
) -> anyhow::Result<()> {
    let context = place.join("context");
    let archive = place.join("bench.oci.tar");
    let joey_command = || cluster::command(joey, place);
    cluster::run(joey_command().args(["image", "build", "-t", IMAGE]).arg(&context))?;
    cluster::run(joey_command().args(["image", "export", IMAGE]).arg(&archive))?;
    cluster::run(
        joey_command()
            .args(["image", "import"])
            .arg(images.join("kangaroo-backend-1.14.2.oci.tar")),
    )?;

    let first = Cluster::start(joey, place).await?;
    let cold = first.ready;
    let pid = nix::unistd::Pid::from_raw(first.daemon() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
    drop(first);
    let cluster = Cluster::start(joey, place).await?;
    println!(
        "joey serve until /readyz: {:.0} ms on empty directories, {:.0} ms afterwards",
        cold as f64 / 1e6,
        cluster.ready as f64 / 1e6
    );
    let client = cluster.client()?;
    let mut sightings = cluster::watch(client.clone()).await?;
    settle(&client).await?;
    let fresh = measure::memory(&[cluster.daemon()]);

    let is_everything = std::env::var_os("ONLY").is_none_or(|only| only != "deployments");
    if is_everything {
        one_pod(&cluster, &client, &mut sightings, kubectl, place).await?;
        many_pods(&cluster, &client, &mut sightings, fresh).await?;
    }
    deployments::run(&cluster, &client, IMAGE).await?;
    if is_everything {
        idle(&cluster, &client, &mut sightings).await?;
    }
    restart::watchers(&cluster).await?;
    restart::restart(cluster, joey, place, IMAGE).await?.stop()
}

/// The node must be there before its pods are timed.
async fn settle(client: &kube::Client) -> anyhow::Result<()> {
    use k8s_openapi::api::core::v1::Node;
    let nodes: kube::Api<Node> = kube::Api::all(client.clone());
    let end = now() + 60_000_000_000;
    while now() < end {
        let list = nodes.list(&Default::default()).await?;
        let mut conditions = list
            .items
            .iter()
            .filter_map(|node| node.status.as_ref()?.conditions.as_ref())
            .flatten();
        if conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True") {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("the node does not get ready")
}

async fn one_pod(
    cluster: &Cluster,
    client: &kube::Client,
    sightings: &mut Sightings,
    kubectl: &Path,
    place: &Path,
) -> anyhow::Result<()> {
    let rootfs = place.join("context/rootfs");
    let archive = place.join("bench.oci.tar");
    let manifest = place.join("pod.yaml");
    fs::write(
        &manifest,
        cluster::manifest("bench", &format!("docker.io/library/{IMAGE}")).to_string(),
    )?;
    let crun = Peer::bundle("crun", &["--cgroup-manager=disabled", "run"], &rootfs, place);
    let runc = Peer::bundle("runc", &["run"], &rootfs, place);
    let quiet = ["run", "--rm", "--pull", "never", "--cgroups", "disabled", "--network", "none"];
    let podman = Peer::podman(&quiet, &archive, place);
    let wired = ["run", "--rm", "--pull", "never", "--cgroups", "disabled"];
    let podman_wired = Peer::podman(&wired, &archive, place);
    let play = KubePlay::prepare(&manifest, place);
    let mut floor = floor::Floor::start(&rootfs, &place.join("floor"))?;

    let mut first = [
        Row::new("floor: clone3, veth, overlay, exec (ours)"),
        Row::new("joey: API create → first instruction"),
        Row::new("crun run, empty network namespace"),
        Row::new("runc run, empty network namespace"),
        Row::new("podman run --network none"),
        Row::new("podman run, network"),
    ];
    let mut whole = [
        Row::new("joey: API create answered"),
        Row::new("joey: API create → Running seen by a watch"),
        Row::new("joey: kubectl apply → Running seen by a watch"),
        Row::new("joey: API delete → gone, seen by a watch"),
        Row::new("crun run, whole"),
        Row::new("runc run, whole"),
        Row::new("podman run --network none, whole"),
        Row::new("podman kube play --network none"),
        Row::new("podman kube down"),
    ];
    let rounds = number("ROUNDS", 20);
    for round in 0..rounds {
        match floor.once() {
            Ok(time) => first[0].add(time),
            Err(reason) => first[0].refuse(reason),
        }
        let names = [format!("one-{round}")];
        let start = now();
        cluster::create(client, &names, IMAGE).await?;
        whole[0].add(since(start));
        whole[1].add(cluster::all(&names, false, sightings).await?.saturating_sub(start));
        let ran = cluster::first_instruction(client, &names[0]).await?;
        first[1].add(ran.saturating_sub(start));
        let start = now();
        cluster::delete(client, &names).await?;
        whole[3].add(cluster::all(&names, true, sightings).await?.saturating_sub(start));

        let names = ["bench".to_owned()];
        fs::write(place.join("apply.yaml"), cluster::manifest("bench", IMAGE).to_string())?;
        let start = now();
        let mut apply = Command::new(kubectl)
            .env("KUBECONFIG", cluster.kubeconfig())
            .env("HOME", place)
            .args(["apply", "-f"])
            .arg(place.join("apply.yaml"))
            .stdout(Stdio::null())
            .spawn()
            .context("running kubectl")?;
        whole[2].add(cluster::all(&names, false, sightings).await?.saturating_sub(start));
        apply.wait()?;
        cluster::delete(client, &names).await?;
        cluster::all(&names, true, sightings).await?;

        for (peer, at, total) in [
            (&crun, 2, Some(4)),
            (&runc, 3, Some(5)),
            (&podman, 4, Some(6)),
            (&podman_wired, 5, None),
        ] {
            match peer.as_ref().map_err(Clone::clone).and_then(Peer::once) {
                Ok(sample) => {
                    first[at].add(sample.first);
                    if let Some(total) = total {
                        whole[total].add(sample.whole);
                    }
                }
                Err(reason) => {
                    first[at].refuse(reason.clone());
                    if let Some(total) = total {
                        whole[total].refuse(reason);
                    }
                }
            }
        }
        if whole[7].runs() {
            match play.as_ref().map_err(Clone::clone).and_then(KubePlay::once) {
                Ok((up, down)) => {
                    whole[7].add(up);
                    whole[8].add(down);
                }
                Err(reason) => {
                    whole[7].refuse(reason.clone());
                    whole[8].refuse(reason);
                }
            }
        }
    }
    let versions: Vec<&str> =
        [&crun, &runc, &podman].into_iter().flatten().map(|peer| peer.version.as_str()).collect();
    println!("peers: {}", versions.join(", "));
    measure::print(
        &format!("To the first instruction of the container, {rounds} rounds in alternation"),
        &first,
    );
    // The first row of the other table is no floor, so the ratio is to it as it stands.
    measure::print("The whole operation (× is to the first row)", &whole);
    Ok(())
}

async fn many_pods(
    cluster: &Cluster,
    client: &kube::Client,
    sightings: &mut Sightings,
    fresh: measure::Memory,
) -> anyhow::Result<()> {
    let counts = std::env::var("PODS").unwrap_or_else(|_| "1,10,100,300".to_owned());
    println!("\nMany pods at once (16 requests in flight); memory while they run");
    println!(
        "  {:>5} {:>14} {:>9} {:>14} {:>9} {:>11} {:>11} {:>12} {:>12}",
        "pods",
        "Running, ms",
        "ms/pod",
        "gone, ms",
        "ms/pod",
        "daemon PSS",
        "zygote PSS",
        "shim PSS",
        "shim private"
    );
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    println!("  {:>5} {:>14} {:>9} {:>14} {:>9} {:>11}", 0, "", "", "", "", mib(fresh.pss));
    for count in counts.split(',').filter_map(|text| text.parse::<usize>().ok()) {
        let names: Vec<String> = (0..count).map(|n| format!("many-{count}-{n}")).collect();
        let start = now();
        cluster::create(client, &names, IMAGE).await?;
        let up = cluster::all(&names, false, sightings).await?.saturating_sub(start) as f64 / 1e6;
        let shims = cluster.shims();
        let daemon = measure::memory(&[cluster.daemon()]);
        let zygote = measure::memory(&cluster.zygotes());
        let shim = measure::memory(&shims);
        let each = |kib: u64| format!("{} KiB", kib / shims.len().max(1) as u64);
        let start = now();
        cluster::delete(client, &names).await?;
        let down = cluster::all(&names, true, sightings).await?.saturating_sub(start) as f64 / 1e6;
        println!(
            "  {count:>5} {up:>14.0} {:>9.1} {down:>14.0} {:>9.1} {:>11} {:>11} {:>12} {:>12}",
            up / count as f64,
            down / count as f64,
            mib(daemon.pss),
            mib(zygote.pss),
            each(shim.pss),
            each(shim.private)
        );
    }
    Ok(())
}

async fn idle(
    cluster: &Cluster,
    client: &kube::Client,
    sightings: &mut Sightings,
) -> anyhow::Result<()> {
    let seconds = number("IDLE", 20);
    println!("\nDoing nothing for {seconds} s, with nobody connected");
    println!(
        "  {:>5} {:>16} {:>16} {:>16} {:>16} {:>11}",
        "pods", "daemon, % core", "daemon wakes/s", "shims, % core", "shims wakes/s", "daemon RSS"
    );
    for count in [0, IDLE_PODS] {
        let names: Vec<String> = (0..count).map(|n| format!("idle-{n}")).collect();
        if count > 0 {
            cluster::create(client, &names, "kangaroo-backend:1.14.2").await?;
            cluster::all(&names, false, sightings).await?;
        }
        // What starting has left to do.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (daemon, shims) =
            (vec![cluster.daemon()], [cluster.zygotes(), cluster.shims()].concat());
        let before = (Work::of(&daemon), Work::of(&shims));
        let start = now();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let time = since(start) as f64;
        let after = (Work::of(&daemon), Work::of(&shims));
        let (daemon_work, shim_work) = (after.0.since(&before.0), after.1.since(&before.1));
        let share = |(cpu, _): (u64, u64)| cpu as f64 * 100.0 / time;
        let wakes = |(_, wakes): (u64, u64)| wakes as f64 * 1e9 / time;
        println!(
            "  {count:>5} {:>16.3} {:>16.1} {:>16.3} {:>16.1} {:>11}",
            share(daemon_work),
            wakes(daemon_work),
            share(shim_work),
            wakes(shim_work),
            format!("{:.1} MiB", measure::memory(&daemon).rss as f64 / 1024.0)
        );
        if count > 0 {
            cluster::delete(client, &names).await?;
            cluster::all(&names, true, sightings).await?;
        }
    }
    Ok(())
}
