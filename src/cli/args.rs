//! What was typed: commands and flags, their help texts, completions and man pages.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser, Subcommand};

/// Kubernetes for one Linux host in a single binary.
///
/// `joey serve` runs the cluster; every other command works on one that runs, found by the same
/// --data-dir and --run-dir. The real kubectl works too: `joey kubeconfig --merge` introduces them.
#[derive(Debug, Parser)]
#[command(name = "joey", version, max_term_width = 100, propagate_version = true)]
pub struct Args {
    #[command(flatten)]
    pub settings: SettingFlags,
    #[command(subcommand)]
    pub command: Command,
}

/// Settings; each may also stand in the environment as JOEY_… or in the configuration file.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Settings (also as JOEY_… variables and as keys of the file)")]
pub struct SettingFlags {
    /// Configuration file [default: /etc/joey/config.yaml, which may be absent]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What outlives a reboot: store, images, certificates [default: /var/lib/joey]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// What a reboot ends: sockets, namespaces [default: /run/joey]
    #[arg(long, global = true, value_name = "DIR")]
    pub run_dir: Option<String>,
    /// Address of the Kubernetes API, repeatable [default: 127.0.0.1:6443]
    #[arg(long, global = true, value_name = "ADDRESS:PORT", hide_short_help = true)]
    pub listen: Vec<String>,
    /// Directory whose manifests are kept applied [default: /etc/joey/manifests]
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    pub manifests_dir: Option<String>,
    /// Name of this host's Node [default: the host name]
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub node_name: Option<String>,
    /// Addresses of pods [default: 10.42.0.0/16]
    #[arg(long, global = true, value_name = "CIDR", hide_short_help = true)]
    pub pod_cidr: Option<String>,
    /// Addresses of Services [default: 10.43.0.0/16]
    #[arg(long, global = true, value_name = "CIDR", hide_short_help = true)]
    pub service_cidr: Option<String>,
    /// DNS domain of the cluster [default: cluster.local]
    #[arg(long, global = true, value_name = "DOMAIN", hide_short_help = true)]
    pub cluster_domain: Option<String>,
    /// Whether a container that declares TCP ports and no readiness probe waits for them to be listened on
    /// [default: true]
    #[arg(long, global = true, value_name = "BOOLEAN", hide_short_help = true)]
    pub ready_when_listening: Option<String>,
    /// Where Ingresses are served over HTTP, or off [default: 0.0.0.0:80]
    #[arg(long, global = true, value_name = "ADDRESS:PORT", hide_short_help = true)]
    pub ingress_http: Option<String>,
    /// Where Ingresses are served over HTTPS, or off [default: 0.0.0.0:443]
    #[arg(long, global = true, value_name = "ADDRESS:PORT", hide_short_help = true)]
    pub ingress_https: Option<String>,
    /// Proxies in front of the ingress whose X-Forwarded headers are believed, repeatable
    #[arg(long, global = true, value_name = "CIDR", hide_short_help = true)]
    pub ingress_trusted: Vec<String>,
    /// Requests through the ingress that one address may have under way [default: 1024]
    #[arg(long, global = true, value_name = "COUNT", hide_short_help = true)]
    pub ingress_requests_per_client: Option<String>,
    /// Requests through the ingress that one pod may have under way [default: 4096]
    #[arg(long, global = true, value_name = "COUNT", hide_short_help = true)]
    pub ingress_requests_per_pod: Option<String>,
    /// Which requests through the ingress are logged: off, errors or all [default: errors]
    #[arg(long, global = true, value_name = "WHICH", hide_short_help = true)]
    pub ingress_access_log: Option<String>,
    /// Where Prometheus finds the metrics, or off [default: 127.0.0.1:9464]
    #[arg(long, global = true, value_name = "ADDRESS:PORT", hide_short_help = true)]
    pub metrics_listen: Option<String>,
    /// Registry spoken to over plain HTTP, repeatable
    #[arg(long, global = true, value_name = "HOST:PORT", hide_short_help = true)]
    pub plain_http_registry: Vec<String>,
    /// PEM file with authorities of registries
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub registry_ca_file: Option<String>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, global = true, value_name = "LEVEL", hide_short_help = true)]
    pub log_level: Option<String>,
    /// auto, text or json [default: auto: journal fields under systemd, else text]
    #[arg(long, global = true, value_name = "FORMAT", hide_short_help = true)]
    pub log_format: Option<String>,
}

impl SettingFlags {
    /// The typed values by setting name; settings that were not typed are absent.
    pub fn flags(&self) -> BTreeMap<&'static str, Vec<String>> {
        let one = |value: &Option<String>| value.iter().cloned().collect::<Vec<_>>();
        let all = [
            ("data-dir", one(&self.data_dir)),
            ("run-dir", one(&self.run_dir)),
            ("listen", self.listen.clone()),
            ("manifests-dir", one(&self.manifests_dir)),
            ("node-name", one(&self.node_name)),
            ("pod-cidr", one(&self.pod_cidr)),
            ("service-cidr", one(&self.service_cidr)),
            ("cluster-domain", one(&self.cluster_domain)),
            ("ready-when-listening", one(&self.ready_when_listening)),
            ("ingress-http", one(&self.ingress_http)),
            ("ingress-https", one(&self.ingress_https)),
            ("ingress-trusted", self.ingress_trusted.clone()),
            ("ingress-requests-per-client", one(&self.ingress_requests_per_client)),
            ("ingress-requests-per-pod", one(&self.ingress_requests_per_pod)),
            ("ingress-access-log", one(&self.ingress_access_log)),
            ("metrics-listen", one(&self.metrics_listen)),
            ("plain-http-registry", self.plain_http_registry.clone()),
            ("registry-ca-file", one(&self.registry_ca_file)),
            ("log-level", one(&self.log_level)),
            ("log-format", one(&self.log_format)),
        ];
        all.into_iter().filter(|(_, values)| !values.is_empty()).collect()
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the cluster in the foreground, for a person or a systemd unit
    ///
    /// Makes its certificates and <data-dir>/admin.kubeconfig at the first start. Pods outlive it: stop and
    /// start it as you like, or `joey reset` to be rid of everything.
    Serve,
    /// Install Joey on this host: binary, systemd unit, directories, completions, man pages, your kubeconfig
    ///
    /// Can be repeated, and is how a newer Joey takes the place of an older one: pods run on.
    Install {
        /// Only print what would be done
        #[arg(long)]
        dry_run: bool,
        /// Do not start it now
        #[arg(long)]
        no_start: bool,
        /// Lay the files of a package out below this directory and touch nothing else
        #[arg(long, value_name = "DIR", hide = true)]
        package_root: Option<PathBuf>,
    },
    /// Undo `joey install`: stop every pod, remove all data, leave this host as it was
    Uninstall {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Show objects
    Get(super::get::GetArgs),
    /// Show one object for people, with its events
    Describe(super::describe::DescribeArgs),
    /// Say in one sentence why something is not as declared, and show the evidence
    ///
    /// Exits with 0 when everything is as declared or on its way, with 1 when something has gone wrong.
    Why(super::why::WhyArgs),
    /// Declare objects from manifests
    Apply(super::apply::ApplyArgs),
    /// Delete objects, and wait until they are gone
    Delete(super::apply::DeleteArgs),
    /// Set how many pods there are to be
    Scale(super::rollout::ScaleArgs),
    /// Follow, undo, restart, pause and resume the rollouts of a Deployment
    #[command(subcommand)]
    Rollout(super::rollout::RolloutCommand),
    /// Watch what NetworkPolicies deny
    #[command(subcommand)]
    Policy(super::policy::PolicyCommand),
    /// Print a container's output
    Logs(super::logs::LogsArgs),
    /// Run a command in a container
    Exec(super::streams::ExecArgs),
    /// Run one pod from an image, attached
    Run(super::streams::RunArgs),
    /// Print every setting in force and where it came from
    Config,
    /// Look for what of this host will not work, and say how to mend it
    Doctor,
    /// Work with the images on this host
    #[command(subcommand)]
    Image(super::image::ImageCommand),
    /// Stop every pod of these directories and remove every trace
    Reset {
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Leave the data directory: the next start runs everything declared again
        #[arg(long)]
        keep_data: bool,
    },
    /// Print the administrator's kubeconfig
    Kubeconfig {
        /// Put it into your own kubeconfig (KUBECONFIG or ~/.kube/config) and make it current
        #[arg(long)]
        merge: bool,
        /// Used by install and uninstall, as the user whose kubeconfig it is: reads what to do from standard input
        #[arg(long, hide = true)]
        of_user: bool,
    },
    /// Walk through the story: from one container to Ingress, policy and metrics, each step proven
    ///
    /// Needs a running `joey serve`, kubectl, curl and the sample images (`make images`, `joey image import`).
    Learn(super::learn::LearnArgs),
    /// Print a shell completion script
    Completions {
        /// The shell that is to complete
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a directory
    Man {
        /// The directory, made if it is missing
        directory: PathBuf,
    },
}

/// The completion script for `shell`.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "joey", &mut script);
    script
}

/// One page a command: file name and text.
///
/// # Errors
/// A page cannot be rendered.
pub fn man_pages() -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = Args::command();
    // Subcommands inherit settings and version, and get their full names, only here.
    command.build();
    let mut pages = Vec::new();
    let mut queue = vec![command];
    while let Some(command) = queue.pop() {
        let children = command.get_subcommands().filter(|child| !child.is_hide_set());
        queue.extend(children.filter(|child| child.get_name() != "help").cloned());
        let page = clap_mangen::Man::new(command);
        let mut text = Vec::new();
        page.render(&mut text)?;
        pages.push((page.get_filename(), text));
    }
    pages.sort();
    Ok(pages)
}

/// Writes one page a command.
///
/// # Errors
/// The directory cannot be made or written.
pub fn write_man_pages(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    for (name, text) in man_pages()? {
        std::fs::write(directory.join(name), text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_setting_has_a_flag() {
        let command = Args::command();
        for setting in super::super::settings::SETTINGS {
            let found = command.get_arguments().any(|arg| arg.get_long() == Some(setting.name));
            assert!(found, "--{} is missing", setting.name);
        }
    }
    #[test]
    fn every_command_and_argument_says_what_it_is_for() {
        let mut command = Args::command();
        command.build();
        let mut queue = vec![command];
        let mut silent = Vec::new();
        while let Some(command) = queue.pop() {
            let name = command.get_bin_name().unwrap_or_default().to_owned();
            if command.get_about().is_none() {
                silent.push(name.clone());
            }
            let arguments = command.get_arguments().filter(|arg| !arg.is_hide_set());
            let without = arguments.filter(|arg| arg.get_help().is_none());
            silent.extend(without.map(|arg| format!("{name} {}", arg.get_id())));
            queue.extend(command.get_subcommands().filter(|c| !c.is_hide_set()).cloned());
        }
        assert_eq!(silent, Vec::<String>::new());
    }
}
