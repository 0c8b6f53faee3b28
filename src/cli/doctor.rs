//! `joey doctor`: what of this host will not work for Joey, and how to mend it.
//!
//! It looks and never changes anything.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::instance;
use super::settings::Settings;
use crate::net::{limits, probe};

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Good(String),
    /// Works, with a limit that the text names, and its cure.
    Limited {
        finding: String,
        cure: String,
    },
    /// Joey cannot run like this.
    Bad {
        finding: String,
        cure: String,
    },
}

/// The oldest kernel that everything is tested on.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

const CONNTRACK_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// Prints every check; fails when one is bad.
pub fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    let checks: Vec<(&str, Verdict)> = vec![
        ("privilege", privilege()),
        ("kernel", kernel(&fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default())),
        ("cgroup v2", cgroup(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())),
        (
            "overlayfs",
            overlay(&fs::read_to_string("/proc/filesystems").unwrap_or_default(), &modules()),
        ),
        ("nftables", nftables()),
        ("forwarding", forwarding(settings)),
        ("connections", connections(fs::read_to_string(CONNTRACK_MAX).ok().as_deref())),
        ("disk", disk(&settings.data_dir())),
        ("API address", listen(settings)),
        ("ingress", ingress(settings)),
        ("metrics", metrics(settings)),
        ("name resolution", resolvers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())),
        ("network", network_problems(&settings.run_dir())),
        ("manifests", manifest_problems(settings)),
    ];
    let mut out = io::stdout().lock();
    let colour = out.is_terminal();
    let mut bad = 0;
    for (name, verdict) in &checks {
        let (mark, code, finding, cure) = match verdict {
            Verdict::Good(finding) => ("ok", "32", finding, None),
            Verdict::Limited { finding, cure } => ("limited", "33", finding, Some(cure)),
            Verdict::Bad { finding, cure } => ("bad", "31", finding, Some(cure)),
        };
        bad += usize::from(matches!(verdict, Verdict::Bad { .. }));
        let mark = format!("{mark:<7}");
        let mark = if colour { format!("\x1b[{code}m{mark}\x1b[0m") } else { mark };
        writeln!(out, "{mark}  {name:<15}  {finding}")?;
        if let Some(cure) = cure {
            writeln!(out, "{:26}→ {cure}", "")?;
        }
    }
    match bad {
        0 => Ok(ExitCode::SUCCESS),
        _ => Ok(ExitCode::FAILURE),
    }
}

fn privilege() -> Verdict {
    match nix::unistd::geteuid().is_root() {
        true => Verdict::Good("running as root".to_owned()),
        false => Verdict::Bad {
            finding: "not running as root".to_owned(),
            cure: "namespaces, mounts and nftables need root: sudo joey …".to_owned(),
        },
    }
}

fn kernel(release: &str) -> Verdict {
    let release = release.trim();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version >= OLDEST_KERNEL {
        true => Verdict::Good(format!("Linux {release}")),
        false => Verdict::Bad {
            finding: format!("Linux {release} is older than 6.1"),
            cure: "install a newer kernel; Debian 12 and Ubuntu 24.04 have one".to_owned(),
        },
    }
}

/// The mount point of cgroup v2 in the text of mountinfo, see proc(5).
pub fn cgroup_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let kind = after.split(' ').next()?;
        (kind == "cgroup2").then(|| before.split(' ').nth(4).map(PathBuf::from))?
    })
}

fn cgroup(mountinfo: &str) -> Verdict {
    let Some(mount) = cgroup_mount(mountinfo) else {
        return Verdict::Limited {
            finding: "not mounted; Joey mounts it for itself below its run directory".to_owned(),
            cure: "boot with systemd.unified_cgroup_hierarchy=1 for the usual place".to_owned(),
        };
    };
    let controllers = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    let missing: Vec<&str> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|wanted| !controllers.split_whitespace().any(|have| have == *wanted))
        .collect();
    let place = mount.display();
    match missing.is_empty() {
        true => Verdict::Good(format!("{place} with {}", controllers.trim())),
        false => Verdict::Limited {
            finding: format!(
                "{place} has no {}: pods that ask for such a limit are refused, requests and Joey's own caps have no effect",
                missing.join(", ")
            ),
            cure: "the controllers belong to cgroup v1 on this host; boot with \
                   systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all on the kernel's command line"
                .to_owned(),
        },
    }
}

/// What modprobe knows of, for the running kernel.
fn modules() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let directory = Path::new("/lib/modules").join(release.trim());
    ["modules.dep", "modules.builtin"]
        .iter()
        .filter_map(|name| fs::read_to_string(directory.join(name)).ok())
        .collect()
}

fn overlay(filesystems: &str, modules: &str) -> Verdict {
    let known = filesystems.lines().any(|line| line.split_whitespace().last() == Some("overlay"));
    // The kernel loads the module with the first mount.
    let loadable = modules
        .lines()
        .any(|line| line.split(':').next().is_some_and(|path| path.contains("/overlay.ko")));
    match (known, loadable) {
        (true, _) => Verdict::Good("known to the kernel".to_owned()),
        (false, true) => {
            Verdict::Good("a module that the kernel loads when it is needed".to_owned())
        }
        (false, false) => Verdict::Bad {
            finding: "the kernel does not know overlayfs, and has no module for it".to_owned(),
            cure: "install the kernel's modules package, or a kernel with CONFIG_OVERLAY_FS"
                .to_owned(),
        },
    }
}

fn nftables() -> Verdict {
    let version = Command::new("nft").arg("--version").output();
    let Ok(version) = version else {
        return Verdict::Bad {
            finding: "the program nft is missing".to_owned(),
            cure: "apt-get install nftables (dnf install nftables)".to_owned(),
        };
    };
    let text = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    // --check asks the kernel about the batch and commits nothing.
    let checked = Command::new("nft").args(["--check", "add table inet joey_doctor"]).output();
    match checked {
        Ok(output) if output.status.success() => Verdict::Good(text),
        Ok(output) => Verdict::Bad {
            finding: format!(
                "the kernel refuses: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ),
            cure: "modprobe nf_tables; inside a container, CAP_NET_ADMIN is needed".to_owned(),
        },
        Err(error) => Verdict::Bad {
            finding: format!("nft cannot run: {error}"),
            cure: "apt-get install --reinstall nftables".to_owned(),
        },
    }
}

fn forwarding(settings: &Settings) -> Verdict {
    let global = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap_or_default();
    let recorded = fs::read_to_string(settings.data_dir().join("network/forwarding.json"));
    match (global.trim(), recorded) {
        (_, Ok(text)) if text.trim() != "{}" && text.trim() != "[]" => Verdict::Good(format!(
            "set by this Joey and put back by `joey reset`: {}",
            text.split_whitespace().collect::<String>()
        )),
        ("1", _) => Verdict::Good("already on for the whole host".to_owned()),
        _ => Verdict::Good(
            "off; Joey turns it on for its own links and the uplink, drops foreign transit, and puts it back on reset"
                .to_owned(),
        ),
    }
}

/// `table` is missing before anybody tracks connections, as Joey will.
fn connections(table: Option<&str>) -> Verdict {
    let Some(table) = table.and_then(|table| table.trim().parse::<u64>().ok()) else {
        return Verdict::Good("not tracked yet; Joey has the kernel do so".to_owned());
    };
    match limits::shortage(table) {
        None => Verdict::Good(format!("the host tracks {table} at once")),
        Some(finding) => Verdict::Limited {
            finding,
            cure: format!(
                "echo net.netfilter.nf_conntrack_max={} > /etc/sysctl.d/90-conntrack.conf && sysctl --system",
                limits::ENOUGH
            ),
        },
    }
}

fn disk(data_dir: &Path) -> Verdict {
    let place = data_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let Ok(stat) = nix::sys::statvfs::statvfs(place) else {
        return Verdict::Bad {
            finding: format!("{} cannot be looked at", place.display()),
            cure: "choose another --data-dir".to_owned(),
        };
    };
    let size = stat.blocks() * stat.fragment_size();
    let free = stat.blocks_available() * stat.fragment_size();
    let finding = format!("{} MiB of {} MiB free at {}", free >> 20, size >> 20, place.display());
    match free >= (1 << 30) && free * 10 >= size {
        true => Verdict::Good(finding),
        false => Verdict::Limited {
            finding,
            cure: "images are refused when less than a tenth is free: make room".to_owned(),
        },
    }
}

fn listen(settings: &Settings) -> Verdict {
    match ports(&settings.listen(), "--listen", &settings.run_dir()) {
        Ok(good) => Verdict::Good(good),
        Err(Problem { finding, cure }) => Verdict::Bad { finding, cure },
    }
}

/// Without a door of the ingress the rest of Joey works.
fn ingress(settings: &Settings) -> Verdict {
    optional(
        &[
            (settings.ingress_http(), "--ingress-http"),
            (settings.ingress_https(), "--ingress-https"),
        ],
        &settings.run_dir(),
    )
}

fn metrics(settings: &Settings) -> Verdict {
    optional(&[(settings.metrics_listen(), "--metrics-listen")], &settings.run_dir())
}

fn optional(doors: &[(Option<SocketAddr>, &str)], run_dir: &Path) -> Verdict {
    let mut good = Vec::new();
    for (address, setting) in doors {
        let Some(address) = address else {
            good.push(format!("{setting} is off"));
            continue;
        };
        match ports(&[*address], setting, run_dir) {
            Ok(finding) => good.push(finding),
            Err(Problem { finding, cure }) => return Verdict::Limited { finding, cure },
        }
    }
    Verdict::Good(good.join(", "))
}

/// What stands in the way, and what helps.
struct Problem {
    finding: String,
    cure: String,
}

/// Whether a Joey can listen at `addresses`, or already does.
fn ports(addresses: &[SocketAddr], setting: &str, run_dir: &Path) -> Result<String, Problem> {
    let mut good = Vec::new();
    for address in addresses {
        match TcpListener::bind(address) {
            Ok(_) => good.push(format!("{address} is free")),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                match instance::holder(run_dir) {
                    Some(pid) => good.push(format!("{address} (this Joey runs, process {pid})")),
                    None if is_closed(&run_dir.join("lock")) => {
                        return Err(Problem {
                            finding: format!(
                                "{address} is in use, by this Joey or by another program"
                            ),
                            cure: format!(
                                "sudo joey doctor: only root may look into {}",
                                run_dir.display()
                            ),
                        });
                    }
                    None => {
                        return Err(Problem {
                            finding: format!("{address} is in use by another program"),
                            cure: format!(
                                "end it (ss -ltnp 'sport = :{}' names it) or choose another {setting}",
                                address.port()
                            ),
                        });
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Problem {
                    finding: format!("{address}: {error}"),
                    cure: "sudo joey doctor: ports below 1024 need root".to_owned(),
                });
            }
            Err(error) => {
                return Err(Problem {
                    finding: format!("{address}: {error}"),
                    cure: format!("choose an address of this host for {setting}"),
                });
            }
        }
    }
    Ok(good.join(", "))
}

fn is_closed(path: &Path) -> bool {
    fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn resolvers(resolv_conf: &str) -> Verdict {
    let servers: Vec<&str> = resolv_conf
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver"))
        .map(str::trim)
        .collect();
    let loopback = |server: &&str| server.starts_with("127.") || *server == "::1";
    match servers.iter().copied().find(|server| !loopback(server)) {
        Some(server) => {
            Verdict::Good(format!("pods ask Joey, which asks {server} for names outside"))
        }
        None if Path::new("/run/systemd/resolve/resolv.conf").exists() => Verdict::Good(
            "pods ask Joey, which asks the upstreams of systemd-resolved for names outside"
                .to_owned(),
        ),
        None => Verdict::Limited {
            finding: "the host has no resolver that a pod can reach".to_owned(),
            cure: "put a nameserver that is not a loopback address into /etc/resolv.conf"
                .to_owned(),
        },
    }
}

/// What a daemon has told in a file; nothing, if it has told nothing.
fn told(path: &Path) -> Result<String, Verdict> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Verdict::Limited {
            finding: format!("unknown: {} cannot be read: {error}", path.display()),
            cure: "sudo joey doctor".to_owned(),
        }),
    }
}

/// The daemon tries with packets and writes down what of the host stands in the way.
fn network_problems(run_dir: &Path) -> Verdict {
    let text = match told(&run_dir.join(probe::PROBLEMS)) {
        Ok(text) => text,
        Err(unknown) => return unknown,
    };
    let problems: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    match problems.as_slice() {
        [] => Verdict::Good("nothing of the host is known to stand in the way of pods".to_owned()),
        problems => Verdict::Limited {
            finding: problems.join(&format!("\n{:26}", "")),
            cure: "add the rules named above; Joey notices, rules of iptables-legacy when it is restarted"
                .to_owned(),
        },
    }
}

fn manifest_problems(settings: &Settings) -> Verdict {
    let directory = settings.manifests_dir();
    let text = match told(&settings.run_dir().join(super::manifests::PROBLEMS)) {
        Ok(text) => text,
        Err(unknown) => return unknown,
    };
    match text.trim() {
        "" => Verdict::Good(format!("nothing is wrong with {}", directory.display())),
        problems => Verdict::Limited {
            finding: problems.replace('\n', "; "),
            cure: format!("mend the files in {}; Joey notices", directory.display()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_older_than_the_tested_one_are_bad() {
        for (release, good) in [
            ("6.1.0-56-amd64\n", true),
            ("6.18.44", true),
            ("7.0.0-rc1", true),
            ("5.15.0-91-generic", false),
            ("6.0.9", false),
            ("", false),
        ] {
            assert_eq!(matches!(kernel(release), Verdict::Good(_)), good, "{release}");
        }
    }

    #[test]
    fn cgroup_v2_is_found_wherever_it_is_mounted() {
        let hybrid = "29 23 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      39 23 0:36 / /sys/fs/cgroup/unified rw,relatime shared:1 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup_mount(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(cgroup_mount("29 23 0:26 / / rw - ext4 /dev/vda rw\n"), None);
    }

    #[test]
    fn overlayfs_may_be_a_module_that_is_not_loaded_yet() {
        let modules = "kernel/fs/overlayfs/overlay.ko.xz: kernel/x.ko\n";
        assert!(matches!(overlay("nodev\toverlay\n", ""), Verdict::Good(_)));
        assert!(matches!(overlay("\text4\n", modules), Verdict::Good(_)));
        assert!(matches!(overlay("\text4\n", ""), Verdict::Bad { .. }));
    }

    #[test]
    fn a_small_table_of_connections_is_told_with_its_cure() {
        assert!(matches!(connections(None), Verdict::Good(_)));
        assert!(matches!(connections(Some("262144\n")), Verdict::Good(_)));
        let Verdict::Limited { finding, cure } = connections(Some("65536\n")) else {
            panic!("two pods fill it")
        };
        assert!(finding.contains("2 pods") && cure.contains("nf_conntrack_max=262144"), "{cure}");
    }

    #[test]
    fn loopback_resolvers_are_told() {
        assert!(matches!(
            resolvers("nameserver 127.0.0.11\nnameserver 9.9.9.9\n"),
            Verdict::Good(_)
        ));
    }
    #[test]
    fn ports_of_other_programs_are_told_with_the_setting_that_helps() {
        let nowhere = Path::new("/nonexistent");
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = other.local_addr().unwrap();
        let doors = [(None, "--ingress-http"), (Some(taken), "--ingress-https")];
        let Verdict::Limited { finding, cure } = optional(&doors, nowhere) else {
            panic!("the port is taken");
        };
        assert_eq!(finding, format!("{taken} is in use by another program"));
        assert!(cure.ends_with("or choose another --ingress-https"), "{cure}");
        drop(other);
        let Verdict::Good(finding) = optional(&doors, nowhere) else { panic!("it is free now") };
        assert_eq!(finding, format!("--ingress-http is off, {taken} is free"));
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_nothing() {
        let run_dir =
            std::env::temp_dir().join(format!("joey-doctor-{}", crate::sys::clock::uuid()));
        fs::create_dir(&run_dir).unwrap();
        assert!(matches!(network_problems(&run_dir), Verdict::Good(_)));
        // Root may read every file, but none of them is a directory.
        fs::create_dir(run_dir.join("network-problems")).unwrap();
        let Verdict::Limited { finding, .. } = network_problems(&run_dir) else {
            panic!("nobody knows");
        };
        assert!(finding.starts_with("unknown: "), "{finding}");
        fs::remove_dir_all(&run_dir).unwrap();
    }
}
