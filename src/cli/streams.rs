//! `joey exec` and `joey run`: a process's output, and a terminal into it.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::{Context, bail};
use futures::{AsyncReadExt, SinkExt, StreamExt};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use kube::Api;
use kube::api::{AttachParams, AttachedProcess, DeleteParams, LogParams, PostParams, TerminalSize};
use kube::runtime::{WatchStreamExt, watcher};
use nix::sys::termios::{self, SetArg, Termios};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::pods;

#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// POD or pod/POD
    pod: String,
    /// Namespace of the pod
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Container of the pod [default: its first]
    #[arg(short, long)]
    container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the process a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// The command, after --
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub async fn exec(client: kube::Client, args: ExecArgs) -> anyhow::Result<ExitCode> {
    let name = pods::name(&args.pod)?;
    let mut container = args.container;
    if container.is_none() {
        let pod = pods::read(&client, &args.namespace, name).await?;
        let (default, notice) = pods::default_container(&pod);
        notice.inspect(|notice| eprintln!("{notice}"));
        container = Some(default);
    }
    let pods: Api<Pod> = Api::namespaced(client, &args.namespace);
    let tty = args.tty && std::io::stdin().is_terminal();
    if args.tty && !tty {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let mut params = AttachParams { container, ..AttachParams::default() };
    params = params.stdin(args.stdin).stdout(true).stderr(!tty).tty(tty);
    let process = pods.exec(name, args.command, &params).await?;
    join(process, tty).await
}

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The image to run
    image: String,
    /// Namespace of the pod
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Name of the pod [default: the image's, with a random end]
    #[arg(long)]
    name: Option<String>,
    /// Delete the pod at the end
    #[arg(long)]
    rm: bool,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the process a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// NAME=VALUE, repeatable
    #[arg(short, long)]
    env: Vec<String>,
    /// Arguments instead of the image's own
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub async fn run(client: kube::Client, args: RunArgs) -> anyhow::Result<ExitCode> {
    let tty = args.tty && std::io::stdin().is_terminal();
    let base = args.image.rsplit('/').next().unwrap_or_default();
    let base = base.split([':', '@']).next().unwrap_or_default();
    let metadata = match &args.name {
        Some(name) => json!({"name": name}),
        None => json!({"generateName": format!("{base}-")}),
    };
    let env: Vec<_> = args
        .env
        .iter()
        .map(|pair| {
            pair.split_once('=').with_context(|| format!("--env {pair}: must be NAME=VALUE"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let env: Vec<_> =
        env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": metadata,
        "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": base,
                "image": args.image,
                // What is here is used; `joey image pull` fetches a newer one.
                "imagePullPolicy": "IfNotPresent",
                "args": args.arguments,
                "env": env,
                "stdin": args.stdin,
                "stdinOnce": args.stdin,
                "tty": tty,
            }],
        },
    }))?;
    let pods: Api<Pod> = Api::namespaced(client, &args.namespace);
    let created = pods.create(&PostParams::default(), &pod).await?;
    let name = created.metadata.name.context("a created pod has a name")?;
    let mut interrupts = Interrupts::catch()?;
    let outcome = tokio::select! {
        outcome = attached(&pods, &name, &args, tty) => {
            if outcome.is_err() && !args.rm {
                eprintln!("pod/{name} stays; `joey delete pod {name}` removes it");
            }
            outcome
        }
        code = interrupts.next() => {
            if !args.rm {
                eprintln!("pod/{name} runs on; `joey delete pod {name}` ends it");
            }
            Ok(code)
        }
    };
    if args.rm {
        let uid = created.metadata.uid.unwrap_or_default();
        // Who interrupts this, too, does not want to wait.
        tokio::select! {
            deleted = delete(&pods, &name, &uid) => deleted?,
            code = interrupts.next() => {
                eprintln!("pod/{name} is still being deleted");
                return Ok(code);
            }
        }
    }
    outcome
}

/// Deletes the pod and waits until nothing of it is left.
async fn delete(pods: &Api<Pod>, name: &str, uid: &str) -> anyhow::Result<()> {
    match pods.delete(name, &DeleteParams::default()).await {
        // Somebody else was faster.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        deleted => deleted?,
    };
    let gone = kube::runtime::conditions::is_deleted(uid);
    kube::runtime::wait::await_condition(pods.clone(), name, gone).await?;
    Ok(())
}

/// The signals by which a person or a service manager ends us. With a terminal of its own the process gets `^C` as a
/// key, and we see none.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn catch() -> std::io::Result<Interrupts> {
        Ok(Interrupts {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The exit code of a program that the next signal ended, as a shell tells it.
    async fn next(&mut self) -> ExitCode {
        let kind = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        };
        ExitCode::from(128 + kind.as_raw_value() as u8)
    }
}

/// Waits for the container, joins its streams, and returns its exit code.
async fn attached(
    pods: &Api<Pod>,
    name: &str,
    args: &RunArgs,
    tty: bool,
) -> anyhow::Result<ExitCode> {
    await_started(pods, name).await?;
    if args.stdin || tty {
        let params = AttachParams::default().stdin(args.stdin).stdout(true).stderr(!tty).tty(tty);
        let joined = match pods.attach(name, &params).await {
            Ok(process) => join(process, tty).await.map(drop),
            Err(error) => Err(error.into()),
        };
        // It may be over before anybody could attach; its output is in the log.
        if joined.is_err() {
            print_log(pods, name).await?;
        }
    } else {
        // Without input the log is the better way: it has the output from the first byte.
        print_log(pods, name).await?;
    }
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events =
        std::pin::pin!(watcher(pods.clone(), config).default_backoff().applied_objects());
    while let Some(pod) = events.next().await {
        let statuses = pod?.status.and_then(|status| status.container_statuses).unwrap_or_default();
        let terminated = statuses.into_iter().find_map(|status| status.state?.terminated);
        if let Some(terminated) = terminated {
            if let Some(reason) = never_ran(&terminated) {
                eprintln!("{reason}");
            }
            return Ok(ExitCode::from(terminated.exit_code.clamp(0, 255) as u8));
        }
    }
    bail!("the pod went away before its container ended")
}

/// Why the container's program did not begin at all: no output of its own tells.
fn never_ran(terminated: &ContainerStateTerminated) -> Option<String> {
    let reason = terminated.reason.as_deref().filter(|reason| *reason == "StartError")?;
    Some(format!("{reason}: {}", terminated.message.as_deref().unwrap_or_default()))
}

/// Prints the container's output from its start to its end.
async fn print_log(pods: &Api<Pod>, name: &str) -> anyhow::Result<()> {
    let params = LogParams { follow: true, ..LogParams::default() };
    let mut log = pods.log_stream(name, &params).await?;
    let mut chunk = vec![0; 32 << 10];
    loop {
        let length = log.read(&mut chunk).await?;
        if length == 0 {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        out.write_all(&chunk[..length])?;
        out.flush()?;
    }
}

/// Reasons of a container that waits for an image which cannot be had as things are. The node goes on trying; who sits
/// in front of one pod wants to know.
const IMAGE_FAILURES: &[&str] =
    &["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"];

async fn await_started(pods: &Api<Pod>, name: &str) -> anyhow::Result<()> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events =
        std::pin::pin!(watcher(pods.clone(), config).default_backoff().applied_objects());
    let mut told = Vec::new();
    while let Some(pod) = events.next().await {
        let Some(status) = pod?.status else { continue };
        if status.phase.as_deref().is_some_and(|phase| phase != "Pending") {
            return Ok(());
        }
        let waiting =
            status.container_statuses.into_iter().flatten().find_map(|one| one.state?.waiting);
        let Some(waiting) = waiting else { continue };
        let reason = waiting.reason.unwrap_or_default();
        let message = waiting.message.unwrap_or_default();
        if IMAGE_FAILURES.contains(&reason.as_str()) {
            bail!("{reason}: {message}");
        }
        let transient = ["ContainerCreating", "PodInitializing", ""].contains(&reason.as_str());
        if !transient && !told.contains(&reason) {
            eprintln!("{reason}: {message}");
            told.push(reason);
        }
    }
    bail!("the pod went away before its container started")
}

/// Puts the terminal back when dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> anyhow::Result<RawTerminal> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw)?;
        Ok(RawTerminal(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that has gone needs no mending.
        let _ = termios::tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

/// Joins our standard streams with the process's; returns its exit code.
async fn join(mut process: AttachedProcess, tty: bool) -> anyhow::Result<ExitCode> {
    let _raw = if tty { Some(RawTerminal::enter()?) } else { None };
    if let (true, Some(mut sizes)) = (tty, process.terminal_size()) {
        tokio::spawn(async move {
            let Ok(mut changed) = signal(SignalKind::window_change()) else { return };
            loop {
                if let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdin()) {
                    let size = TerminalSize { width: size.ws_col, height: size.ws_row };
                    if sizes.send(size).await.is_err() {
                        return;
                    }
                }
                changed.recv().await;
            }
        });
    }
    if let Some(mut remote) = process.stdin() {
        tokio::spawn(async move {
            // The process may end before its input does.
            let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut remote).await;
            let _ = remote.shutdown().await;
        });
    }
    let stdout = process.stdout().map(|remote| tokio::spawn(copy(remote, tokio::io::stdout())));
    let stderr = process.stderr().map(|remote| tokio::spawn(copy(remote, tokio::io::stderr())));
    let status = process.take_status().context("the connection has no status")?.await;
    for task in [stdout, stderr].into_iter().flatten() {
        task.await??;
    }
    let Some(status) = status else { bail!("the connection ended before the process did") };
    if status.status.as_deref() == Some("Success") {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status.details.as_ref().and_then(|details| details.causes.as_ref());
    let code = causes
        .into_iter()
        .flatten()
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .and_then(|cause| cause.message.as_deref()?.parse::<u8>().ok());
    match code {
        Some(code) => {
            eprintln!("command terminated with exit code {code}");
            Ok(ExitCode::from(code))
        }
        None => bail!("{}", status.message.unwrap_or_default()),
    }
}

async fn copy(
    mut remote: impl tokio::io::AsyncRead + Unpin,
    mut local: impl tokio::io::AsyncWrite + Unpin,
) -> std::io::Result<()> {
    let mut chunk = vec![0; 32 << 10];
    loop {
        match remote.read(&mut chunk).await? {
            0 => return Ok(()),
            length => {
                local.write_all(&chunk[..length]).await?;
                local.flush().await?;
            }
        }
    }
}
