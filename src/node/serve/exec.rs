//! exec and attach: picks the transport, finds the container, joins both.

use std::time::Duration;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::sync::{mpsc, oneshot};

use super::remote::{self, BACKLOG, Ending, Outgoing, Remote, parse_size};
use super::spdy::{Connection, Stream, StreamReader};
use super::{
    AnyRequest, PodContainer, Refusal, ServeState, container, query_flag, query_pairs, websocket,
};
use crate::node::pods::PodEntry;
use crate::runtime::plan::{ExecPlan, ProcessPlan};
use crate::runtime::{RuntimeError, Session};

/// How long a SPDY client may take to open its streams.
const STREAMS_WITHIN: Duration = Duration::from_secs(30);
/// A message of a client; stdin comes in chunks of 32 KiB.
const LONGEST_MESSAGE: usize = 4 << 20;

/// The SPDY protocol versions that we speak, best first.
const STREAM_PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// What a client asked for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Wanted {
    fn of(query: &str) -> Result<Wanted, Refusal> {
        let tty = query_flag(query, "tty");
        let wanted = Wanted {
            stdin: query_flag(query, "stdin"),
            stdout: query_flag(query, "stdout"),
            // A terminal has one output.
            stderr: query_flag(query, "stderr") && !tty,
            tty,
        };
        match wanted.stdin || wanted.stdout || wanted.stderr {
            true => Ok(wanted),
            false => {
                Err(Refusal::bad_request("you must specify at least 1 of stdin, stdout, stderr"))
            }
        }
    }
}

/// `/exec/{namespace}/{pod}/{container}?command=…`
pub async fn exec(
    State(serve): ServeState,
    Path((namespace, name, container_name)): PodContainer,
    request: AnyRequest,
) -> Result<Response, Refusal> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let wanted = Wanted::of(&query)?;
    let command: Vec<String> =
        query_pairs(&query).filter(|(key, _)| key == "command").map(|(_, value)| value).collect();
    if command.is_empty() {
        return Err(Refusal::bad_request("you must specify at least 1 command"));
    }
    let pod = serve.pod(&namespace, &name)?;
    let entry = container(&pod, &container_name)?;
    let Some(plan) = &entry.plan else {
        return Err(Refusal::bad_request(format!("container not found (\"{container_name}\")")));
    };
    let mut env = plan.process.env.clone();
    if wanted.tty && !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    let exec = ExecPlan {
        container: container_name,
        process: ProcessPlan { argv: command, env, cwd: plan.process.cwd.clone() },
        security: plan.security.clone(),
        tty: wanted.tty,
        stdin: wanted.stdin,
    };
    let start = move || async move {
        match &pod.pod {
            Some(running) => running.exec(&exec).await,
            None => Err(RuntimeError::NotRunning(exec.container)),
        }
    };
    upgrade(request, wanted, Ending::ExitCode, start).await
}

/// `/attach/{namespace}/{pod}/{container}`
pub async fn attach(
    State(serve): ServeState,
    Path((namespace, name, container_name)): PodContainer,
    request: AnyRequest,
) -> Result<Response, Refusal> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let wanted = Wanted::of(&query)?;
    let pod = serve.pod(&namespace, &name)?;
    container(&pod, &container_name)?;
    let start = move || join(pod, container_name, wanted.stdin);
    upgrade(request, wanted, Ending::Detach, start).await
}

async fn join(
    pod: std::sync::Arc<PodEntry>,
    container: String,
    stdin: bool,
) -> Result<Session, RuntimeError> {
    match &pod.pod {
        Some(running) => running.attach(&container, stdin).await,
        None => Err(RuntimeError::NotRunning(container)),
    }
}

/// Accepts the client's transport; the process is started once the streams exist, so that a client that
/// never completes its upgrade starts nothing.
async fn upgrade<F, Fut>(
    request: AnyRequest,
    wanted: Wanted,
    ending: Ending,
    start: F,
) -> Result<Response, Refusal>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<Session, RuntimeError>> + Send,
{
    if is_upgrade_to(request.headers(), "websocket") {
        let offered = request.headers().contains_key(header::SEC_WEBSOCKET_PROTOCOL);
        let (mut parts, _) = request.into_parts();
        let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
            .await
            .map_err(|rejection| Refusal::bad_request(rejection.to_string()))?
            .max_message_size(LONGEST_MESSAGE)
            .protocols(websocket::PROTOCOLS);
        if offered && upgrade.selected_protocol().is_none() {
            return Err(Refusal::bad_request(format!(
                "none of the offered protocols is spoken here; these are: {}",
                websocket::PROTOCOLS.join(", ")
            )));
        }
        return Ok(upgrade.on_upgrade(move |socket| async move {
            let remote = websocket::remote(socket);
            remote::run(remote, start().await, ending).await;
        }));
    }
    if is_upgrade_to(request.headers(), "spdy/3.1") {
        let protocol = choose(request.headers(), &STREAM_PROTOCOLS)?;
        return spdy_upgrade(request, protocol, move |connection| async move {
            if let Some((remote, connection)) = spdy_remote(connection, wanted).await {
                remote::run(remote, start().await, ending).await;
                connection.await;
            }
        });
    }
    Err(Refusal::bad_request("you must upgrade the connection: websocket or SPDY/3.1"))
}

/// Whether the client wants to leave HTTP for `protocol`.
pub fn is_upgrade_to(headers: &HeaderMap, protocol: &str) -> bool {
    let has = |name, wanted: &str| {
        headers.get_all(name).iter().any(|value| {
            value.to_str().is_ok_and(|text| {
                text.split(',').any(|part| part.trim().eq_ignore_ascii_case(wanted))
            })
        })
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, protocol)
}

/// The first of `spoken` that the client lists in X-Stream-Protocol-Version.
pub fn choose(headers: &HeaderMap, spoken: &[&'static str]) -> Result<&'static str, Refusal> {
    let offered: Vec<&str> = headers
        .get_all("x-stream-protocol-version")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .collect();
    spoken.iter().copied().find(|protocol| offered.contains(protocol)).ok_or_else(|| Refusal {
        code: StatusCode::FORBIDDEN,
        reason: "Forbidden",
        message: format!(
            "unable to negotiate protocol: client supports {offered:?}, server supports {spoken:?}"
        ),
    })
}

/// Answers 101 and hands the SPDY connection to `serve` once the bytes flow.
pub fn spdy_upgrade<F, Fut>(
    mut request: AnyRequest,
    protocol: &'static str,
    serve: F,
) -> Result<Response, Refusal>
where
    F: FnOnce(Connection) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => serve(Connection::new(TokioIo::new(upgraded))).await,
            Err(error) => tracing::debug!(%error, "a client asked for SPDY and went away"),
        }
    });
    let headers = [
        (header::CONNECTION.as_str(), "Upgrade"),
        (header::UPGRADE.as_str(), "SPDY/3.1"),
        ("x-stream-protocol-version", protocol),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// Waits for the streams that the client announced and turns them into a remote. The second value
/// resolves when everything has been written and the peer has closed.
async fn spdy_remote(
    mut connection: Connection,
    wanted: Wanted,
) -> Option<(Remote, impl Future<Output = ()> + Send)> {
    let mut expected = vec!["error"];
    expected.extend(wanted.stdin.then_some("stdin"));
    expected.extend(wanted.stdout.then_some("stdout"));
    expected.extend(wanted.stderr.then_some("stderr"));
    expected.extend(wanted.tty.then_some("resize"));
    let mut streams: std::collections::BTreeMap<String, Stream> = Default::default();
    let gathered = tokio::time::timeout(STREAMS_WITHIN, async {
        while !expected.iter().all(|kind| streams.contains_key(*kind)) {
            let stream = connection.next().await?;
            let kind = stream.headers.get("streamtype").cloned().unwrap_or_default();
            streams.insert(kind, stream);
        }
        Some(())
    });
    gathered.await.ok()??;

    let (stdin_sender, stdin) = mpsc::channel(BACKLOG);
    let (resize_sender, resize) = mpsc::channel(BACKLOG);
    let (out, mut queue) = mpsc::channel(BACKLOG);
    let (gone_sender, gone) = oneshot::channel();
    if let Some(stream) = streams.remove("stdin") {
        tokio::spawn(forward(stream.reader, stdin_sender));
    }
    if let Some(mut stream) = streams.remove("resize") {
        tokio::spawn(async move {
            while let Some(text) = stream.reader.next().await {
                if let Some(size) = parse_size(&text) {
                    // A size that nobody waits for is of no use to anybody.
                    let _ = resize_sender.try_send(size);
                }
            }
        });
    }
    let error = streams.remove("error")?.writer;
    let stdout = streams.remove("stdout").map(|stream| stream.writer);
    let stderr = streams.remove("stderr").map(|stream| stream.writer);
    let (written_sender, written) = oneshot::channel();
    tokio::spawn(async move {
        while let Some(outgoing) = queue.recv().await {
            let sent = match outgoing {
                Outgoing::Stdout(bytes) => match &stdout {
                    Some(writer) => writer.send(bytes).await,
                    None => Ok(()),
                },
                Outgoing::Stderr(bytes) => match &stderr {
                    Some(writer) => writer.send(bytes).await,
                    None => Ok(()),
                },
                Outgoing::Status(status) => {
                    for writer in [&stdout, &stderr].into_iter().flatten() {
                        // The status below fails as well when the peer has gone.
                        let _ = writer.finish().await;
                    }
                    let _ = error.send(Bytes::from(status.to_string())).await;
                    let _ = error.finish().await;
                    break;
                }
            };
            if sent.is_err() {
                break;
            }
        }
        let _ = written_sender.send(());
    });
    // The end of the connection is the end of the peer.
    let (close_sender, close) = oneshot::channel::<()>();
    let watch = tokio::spawn(async move {
        let mut close = std::pin::pin!(close);
        let ended = tokio::select! {
            () = async { while connection.next().await.is_some() {} } => true,
            _ = &mut close => false,
        };
        let _ = gone_sender.send(());
        if !ended {
            let _ = tokio::time::timeout(Duration::from_secs(10), connection.close()).await;
        }
    });
    let farewell = async move {
        let _ = written.await;
        let _ = close_sender.send(());
        let _ = watch.await;
    };
    Some((Remote { stdin, resize, out, gone }, farewell))
}

async fn forward(mut reader: StreamReader, sender: mpsc::Sender<Bytes>) {
    while let Some(chunk) = reader.next().await {
        if sender.send(chunk).await.is_err() {
            return;
        }
    }
}
