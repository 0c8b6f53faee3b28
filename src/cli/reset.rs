//! `joey reset`: stops every pod of these directories, removes every trace, and proves it.

use std::cmp::Reverse;
use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use nix::mount::{MntFlags, umount2};

use super::instance::{self, IN_DATA, IN_RUN, Instance};
use super::settings::Settings;
use crate::model::cidr::Cidr;
use crate::net::{Footprint, Network, NetworkConfig};
use crate::runtime::{Runtime, RuntimeConfig};

/// What survives a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    Nothing,
    /// The data directory: what was declared, images, volumes.
    Data,
}

impl Keep {
    /// From the flag as it was typed.
    pub fn data(typed: bool) -> Keep {
        if typed { Keep::Data } else { Keep::Nothing }
    }
}

/// Asks, removes, and fails when anything is left.
pub fn run(settings: &Settings, yes: bool, keep: Keep) -> anyhow::Result<ExitCode> {
    let (data_dir, run_dir) = (settings.data_dir(), settings.run_dir());
    if !data_dir.exists() && !run_dir.exists() {
        println!(
            "nothing to remove: {} and {} do not exist",
            data_dir.display(),
            run_dir.display()
        );
        return Ok(ExitCode::SUCCESS);
    }
    instance::check_removable(settings)?;
    if !yes && !confirmed(&data_dir, &run_dir, keep)? {
        bail!("nothing was removed");
    }
    let instance = Instance::take(settings)?;
    let network = super::serve::network_config(settings, &instance);
    let footprint = Network::footprint(&network).context("reading the records of the network")?;
    let zygote = crate::runtime::zygote::Zygote::spawn()?;
    let pods = super::asynchronous(stop_pods(&network, &instance, zygote))?;
    println!("stopped {pods} {}", if pods == 1 { "pod" } else { "pods" });
    unmount_below(&[&data_dir, &run_dir])?;
    let (id, cgroup) = (instance.id.clone(), instance.cgroup());
    let mut directories: Vec<(&Path, &[&str])> = vec![(&run_dir, &IN_RUN)];
    if keep == Keep::Nothing {
        directories.push((&data_dir, &IN_DATA));
    }
    // One may lie in the other.
    directories.sort_by_key(|(directory, _)| Reverse(directory.components().count()));
    directories.iter().try_for_each(|(directory, own)| empty(directory, own))?;
    drop(instance);
    let mut removed = Vec::new();
    for (directory, _) in directories {
        if remove(directory)? {
            removed.push(directory);
        }
    }
    let left = traces(&id, &cgroup, &footprint, &removed)
        .context("everything was removed, but it cannot be proven")?;
    for trace in &left {
        eprintln!("left behind: {trace}");
    }
    match left.is_empty() {
        true => {
            println!("nothing is left: no process, mount, namespace, link, rule or cgroup");
            Ok(ExitCode::SUCCESS)
        }
        false => {
            bail!("{} traces are left; a second `joey reset` or a reboot removes them", left.len())
        }
    }
}

pub fn confirmed(data_dir: &Path, run_dir: &Path, keep: Keep) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("joey reset removes every pod and all data; say --yes where nobody can be asked");
    }
    let (data, run) = (data_dir.display(), run_dir.display());
    match keep {
        Keep::Nothing => {
            print!("This stops every pod and removes all data of {data} and {run}. Go on? [y/N] ");
        }
        Keep::Data => print!("This stops every pod of {data}. Go on? [y/N] "),
    }
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

/// Removes pods, network and cgroups; returns how many pods there were.
async fn stop_pods(
    network: &NetworkConfig,
    instance: &Instance,
    zygote: crate::runtime::zygote::Zygote,
) -> anyhow::Result<usize> {
    let config = RuntimeConfig {
        data_dir: instance.data_dir.clone(),
        run_dir: instance.run_dir.clone(),
        cgroup: instance.cgroup(),
    };
    let runtime = Runtime::start(config, zygote).await?;
    let found = runtime.adopt().await?;
    let count = found.len();
    let mut failures = Vec::new();
    for pod in found {
        if let Err(error) = pod.pod.remove().await {
            failures.push(format!("{}: {error}", pod.plan.title));
        }
    }
    runtime.remove_cgroup().await?;
    Network::reset(network).await?;
    match failures.is_empty() {
        true => Ok(count),
        false => bail!("{}", failures.join("; ")),
    }
}

/// Detaches every mount below the directories, the innermost first. One at a directory itself is not ours.
fn unmount_below(directories: &[&Path]) -> anyhow::Result<()> {
    for point in mounts_below(directories)?.into_iter().rev() {
        umount2(point.as_str(), MntFlags::MNT_DETACH)
            .with_context(|| format!("unmounting {point}"))?;
    }
    Ok(())
}

fn mounts_below(directories: &[&Path]) -> anyhow::Result<Vec<String>> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points
        .map(|point| point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        .filter(|point| is_below(Path::new(point), directories))
        .collect())
}

fn is_below(point: &Path, directories: &[&Path]) -> bool {
    directories.iter().any(|directory| point != *directory && point.starts_with(directory))
}

/// Removes what this program makes in a directory and nothing else. What tells that the directory is ours goes last, so that
/// a reset that dies on the way can be run again.
fn empty(directory: &Path, own: &[&str]) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let removing = || format!("removing {}", path.display());
        let is_mark = ["instance", "lock"].iter().any(|mark| entry.file_name() == *mark);
        if is_mark || !instance::is_own(&entry.file_name(), own) {
            continue;
        }
        match path.symlink_metadata().with_context(removing)?.is_dir() {
            true => fs::remove_dir_all(&path).with_context(removing)?,
            false => fs::remove_file(&path).with_context(removing)?,
        }
    }
    for mark in ["instance", "lock"].map(|mark| directory.join(mark)) {
        match fs::remove_file(&mark) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.with_context(|| format!("removing {}", mark.display()))?,
        }
    }
    Ok(())
}

/// Removes an empty directory; false, and told, where it has to stay.
fn remove(directory: &Path) -> anyhow::Result<bool> {
    let why = match fs::remove_dir(directory) {
        Ok(()) => {
            println!("removed {}", directory.display());
            return Ok(true);
        }
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => "something is mounted there",
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            "it holds what joey has not made"
        }
        Err(error) => {
            return Err(error).with_context(|| format!("removing {}", directory.display()));
        }
    };
    println!("emptied {}, which stays: {why}", directory.display());
    Ok(false)
}

/// What of this instance can still be found on the machine. Fails where it cannot look.
fn traces(
    id: &str,
    cgroup: &str,
    footprint: &Footprint,
    directories: &[&Path],
) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut look = |what: &str, lines: Vec<String>| {
        found.extend(lines.into_iter().map(|line| format!("{what} {line}")));
    };
    look("mount", mounts_below(directories)?);
    let links = output_lines("ip", &["-o", "link"])?;
    look("link", links.iter().filter(|line| line.contains(id)).cloned().collect());
    // Numbers, whatever names /etc/iproute2 gives them.
    let protocol = footprint.protocol.to_string();
    let mark = ["proto", protocol.as_str()];
    let rules = output_lines("ip", &["-N", "rule"])?.into_iter().filter(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.windows(2).any(|pair| pair == mark) && names_one_of(line, &footprint.ranges)
    });
    look("rule", rules.collect());
    let routes = ["-N", "route", "show", "table", "all", mark[0], mark[1]];
    let mut routes = output_lines("ip", &routes)?;
    routes.retain(|line| names_one_of(line, &footprint.ranges));
    look("route", routes);
    // What another instance needs stays.
    if !links.iter().any(|line| line.split_whitespace().any(|word| word.starts_with("jy"))) {
        let is_on = |link: &&String| {
            let value = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{link}/forwarding"));
            value.is_ok_and(|value| value.trim() == "1")
        };
        let all = String::from("all");
        let left = footprint.forwarding.iter().filter(is_on);
        look("forwarding of", if is_on(&&all) { Vec::new() } else { left.cloned().collect() });
    }
    let tables = output_lines("nft", &["list", "tables"])?;
    look("nftables", tables.into_iter().filter(|line| line.contains(id)).collect());
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    let groups = [cgroup.to_owned(), format!("{cgroup}.scope")];
    let mount = super::doctor::cgroup_mount(&mountinfo);
    let cgroups = groups.iter().filter_map(|group| Some(mount.as_ref()?.join(group)));
    look(
        "cgroup",
        cgroups.filter(|path| path.exists()).map(|path| path.display().to_string()).collect(),
    );
    let paths = directories.iter().filter(|directory| directory.exists());
    look("directory", paths.map(|directory| directory.display().to_string()).collect());
    look("process", processes(&groups));
    Ok(found)
}

/// Whether a line of ip(8) holds an address or a range that lies in one of `ranges`.
fn names_one_of(line: &str, ranges: &[Cidr]) -> bool {
    line.split_whitespace().any(|word| {
        let address = word.split('/').next().unwrap_or(word);
        address.parse().is_ok_and(|address| ranges.iter().any(|range| range.contains(address)))
    })
}

/// Processes that are in one of the groups.
fn processes(groups: &[String]) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let place = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
            let within = place.lines().any(|line| {
                line.strip_prefix("0::").is_some_and(|path| {
                    path.split('/').any(|part| groups.iter().any(|g| g == part))
                })
            });
            // A zombie holds nothing; whoever is its parent will collect it.
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let zombie = status.lines().any(|line| line.starts_with("State:\tZ"));
            (within && !zombie && pid != own).then(|| pid.to_string())
        })
        .collect()
}

fn output_lines(program: &str, args: &[&str]) -> anyhow::Result<Vec<String>> {
    let output =
        Command::new(program).args(args).output().with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", args.join(" "), words.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_range_is_found_in_the_words_of_ip() {
        let ranges = ["10.77.0.0/16".parse().unwrap()];
        for (line, expected) in [
            ("80:\tfrom all to 10.77.0.0/16 iif lo goto 84 proto 74", true),
            ("unreachable 10.77.0.0/16 metric 77", true),
            ("10.77.3.4 dev jyabc123-1 scope link", true),
            ("10.43.0.0/16 dev jyabc123 scope link src 10.77.0.1", true),
            ("80:\tfrom all to 10.42.0.0/16 iif lo goto 84 proto 74", false),
            ("default via 192.0.2.1 dev up0", false),
            ("", false),
        ] {
            assert_eq!(names_one_of(line, &ranges), expected, "{line}");
        }
    }

    #[test]
    fn emptying_takes_what_is_ours_and_nothing_else() {
        let place = std::env::temp_dir().join(format!("joey-reset-{}", crate::sys::clock::uuid()));
        for directory in ["pods", "lost+found"] {
            fs::create_dir_all(place.join(directory)).unwrap();
        }
        for file in ["instance", "lock", "store.redb", "notes.txt"] {
            fs::write(place.join(file), "").unwrap();
        }
        empty(&place, &IN_DATA).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["lost+found", "notes.txt"]);
        fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn what_cannot_be_asked_is_no_clean_answer() {
        assert!(output_lines("joey-has-no-such-program", &[]).is_err());
        let refused = output_lines("sh", &["-c", "echo no >&2; exit 3"]).unwrap_err();
        assert_eq!(refused.to_string(), "sh -c echo no >&2; exit 3: no");
    }
}
