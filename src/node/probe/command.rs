//! Commands in the container: probes and hooks of kind `exec`.
//!
//! A command that outlives its time is killed with its process group. It never interprets output.

use std::time::Duration;

use futures::FutureExt;
use futures::future::FusedFuture;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Answer, MOST_BYTES, Target};
use crate::runtime::plan::{ExecPlan, ProcessPlan};
use crate::runtime::{RuntimeError, Session};

/// How long output may stay open after the command has ended: something that it started may hold it.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How long a kill may take to be carried out.
const KILL: Duration = Duration::from_secs(5);

type Stream = Option<Box<dyn AsyncRead + Send + Unpin>>;

pub async fn probe(target: &Target, argv: &[String], limit: Duration) -> Answer {
    let mut session = match start(target, argv).await {
        Ok(session) => session,
        Err(error) => return Answer::Error(error.to_string()),
    };
    match tokio::time::timeout(limit, finish(&mut session)).await {
        Ok(Ok((0, _))) => Answer::Success,
        Ok(Ok((_, output))) => Answer::Failure(output),
        Ok(Err(error)) => Answer::Error(error.to_string()),
        Err(_) => {
            kill(&mut session).await;
            let command = argv.join(" ");
            Answer::Failure(format!(
                "command timed out: {command:?} timed out after {}s",
                limit.as_secs()
            ))
        }
    }
}

/// Runs a hook to its end. Its output is not told: it may hold secrets.
pub async fn run(target: &Target, argv: &[String]) -> Result<(), String> {
    let mut session = start(target, argv).await.map_err(|error| error.to_string())?;
    match finish(&mut session).await {
        Ok((0, _)) => Ok(()),
        Ok((code, _)) => Err(format!("command {argv:?} exited with {code}")),
        Err(error) => Err(error.to_string()),
    }
}

async fn start(target: &Target, argv: &[String]) -> Result<Session, RuntimeError> {
    let not_running = || RuntimeError::NotRunning(target.container.clone());
    let pod = target.pod.as_ref().ok_or_else(not_running)?;
    let plan = target.plan.as_ref().ok_or_else(not_running)?;
    pod.exec(&ExecPlan {
        container: target.container.clone(),
        process: ProcessPlan {
            argv: argv.to_vec(),
            env: plan.process.env.clone(),
            cwd: plan.process.cwd.clone(),
        },
        security: plan.security.clone(),
        tty: false,
        stdin: false,
    })
    .await
}

/// The command's code and what it said.
async fn finish(session: &mut Session) -> Result<(i32, String), RuntimeError> {
    let mut said = Vec::new();
    let code = {
        let Session { stdout, stderr, control, .. } = session;
        let listen = listen(stdout, stderr, &mut said).fuse();
        let mut listen = std::pin::pin!(listen);
        let code = tokio::select! {
            code = control.wait() => code,
            () = &mut listen => control.wait().await,
        }?;
        if !listen.is_terminated() {
            let _ = tokio::time::timeout(LAST_WORDS, listen).await;
        }
        code
    };
    Ok((code, String::from_utf8_lossy(&said).into_owned()))
}

/// Both streams as they come. Beyond the bound they are read and dropped: a full pipe would stop the command.
async fn listen(stdout: &mut Stream, stderr: &mut Stream, said: &mut Vec<u8>) {
    let (mut out, mut err) = ([0; 4096], [0; 4096]);
    while stdout.is_some() || stderr.is_some() {
        let (bytes, from_stdout) = tokio::select! {
            length = read(stdout, &mut out) => (&out[..length], true),
            length = read(stderr, &mut err) => (&err[..length], false),
        };
        match (bytes.is_empty(), from_stdout) {
            (true, true) => *stdout = None,
            (true, false) => *stderr = None,
            (false, _) => {
                let room = MOST_BYTES.saturating_sub(said.len()).min(bytes.len());
                said.extend_from_slice(&bytes[..room]);
            }
        }
    }
}

async fn read(stream: &mut Stream, buffer: &mut [u8]) -> usize {
    match stream {
        Some(stream) => stream.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

async fn kill(session: &mut Session) {
    let killed = tokio::time::timeout(KILL, session.control.kill()).await;
    if !matches!(killed, Ok(Ok(()))) {
        tracing::warn!("a command that took too long could not be killed");
    }
}
