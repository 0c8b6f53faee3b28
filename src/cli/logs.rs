//! `joey logs`: a container's output, followed past the death of the daemon.
//!
//! It never reads a log file: the API is its only source.

use std::borrow::Cow;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::{AsyncBufRead, AsyncReadExt, StreamExt};
use serde_json::Value;
use tokio::time::Instant;

use super::get::encode;
use super::{pods, report};

#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// POD or pod/POD
    #[arg(required_unless_present = "selector", conflicts_with = "selector")]
    pod: Option<String>,
    /// Namespace of the pod
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The container [default: the pod's first]
    #[arg(short, long, conflicts_with = "all_containers")]
    container: Option<String>,
    /// All containers of the pod, init containers first
    #[arg(long)]
    all_containers: bool,
    /// The pods that a label selector chooses, such as app=web
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Put the pod and the container before every line
    #[arg(long)]
    prefix: bool,
    /// Go on as the container writes, also when the daemon is restarted meanwhile
    #[arg(short, long)]
    follow: bool,
    /// The container's run before this one
    #[arg(short, long)]
    previous: bool,
    /// Only so many lines from the end; -1 means all [default: all, 10 with a selector]
    #[arg(long, allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Only what is younger, such as 5s, 2m or 1h30m
    #[arg(long, conflicts_with = "since_time")]
    since: Option<String>,
    /// Only what was written from this moment (RFC 3339) on
    #[arg(long, value_name = "TIME")]
    since_time: Option<String>,
    /// Put the moment of writing before every line
    #[arg(long)]
    timestamps: bool,
    /// So many logs may be followed at a time
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    max_log_requests: usize,
}

const CHUNK: usize = 32 << 10;
/// How long a follower waits for a daemon that went away.
const RETURN_LIMIT: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// How many lines of each pod a selector shows when nothing else is said, as with kubectl.
const TAIL_OF_SELECTED: i64 = 10;

pub async fn logs(client: kube::Client, args: LogsArgs) -> anyhow::Result<ExitCode> {
    let sources = sources(&client, &args).await?;
    if args.follow {
        bounded(sources.len(), args.max_log_requests)?;
    }
    let mut range = Vec::new();
    let tail = args.tail.or(args.selector.is_some().then_some(TAIL_OF_SELECTED));
    range.extend(tail.filter(|lines| *lines >= 0).map(|lines| format!("tailLines={lines}")));
    if let Some(since) = &args.since {
        range.push(format!("sinceSeconds={}", seconds(since)?));
    }
    range.extend(args.since_time.as_ref().map(|time| format!("sinceTime={}", encode(time))));
    let range = range.join("&");
    let one = |source: Source| {
        let (client, args, range) = (&client, &args, &range);
        async move {
            match args.follow && !args.previous {
                true => follow(client, &source, range, args.timestamps).await,
                false => print(client, &source, range, args).await,
            }
        }
    };
    // Together, as otherwise the first would keep the others from being heard.
    let outcomes = match args.follow {
        true => futures::future::join_all(sources.into_iter().map(one)).await,
        false => futures::stream::iter(sources).then(one).collect().await,
    };
    let mut failures: Vec<anyhow::Error> = outcomes.into_iter().filter_map(Result::err).collect();
    let last = failures.pop();
    for failure in &failures {
        report::failure(failure);
    }
    last.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Each followed log holds a connection; one alone is always followed.
fn bounded(logs: usize, at_most: usize) -> anyhow::Result<()> {
    if logs > 1 && logs > at_most {
        bail!(
            "you are attempting to follow {logs} log streams, but maximum allowed concurrency is {at_most}, use --max-log-requests to increase the limit"
        );
    }
    Ok(())
}

/// One container's log.
struct Source {
    /// The path to ask, up to the query's first parameters.
    path: String,
    /// Stands before every line.
    prefix: Vec<u8>,
}

/// The logs that are meant, in the order in which kubectl prints them.
async fn sources(client: &kube::Client, args: &LogsArgs) -> anyhow::Result<Vec<Source>> {
    let collection = format!("/api/v1/namespaces/{}/pods", args.namespace);
    let pods: Vec<Value> = match (&args.pod, &args.selector) {
        (Some(pod), _) => vec![pods::read(client, &args.namespace, pods::name(pod)?).await?],
        (None, selector) => {
            let selector = encode(selector.as_deref().unwrap_or_default());
            let path = format!("{collection}?labelSelector={selector}");
            let mut list: Value =
                client.request(http::Request::get(path).body(Vec::new())?).await?;
            let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
            if items.is_empty() {
                eprintln!("No resources found in {} namespace.", args.namespace);
            }
            items
        }
    };
    let mut sources = Vec::new();
    for pod in &pods {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let containers: Vec<String> = match (&args.container, args.all_containers) {
            (Some(container), _) => vec![container.clone()],
            (None, true) => ["initContainers", "containers", "ephemeralContainers"]
                .iter()
                .flat_map(|field| pods::names(pod, field).map(str::to_owned))
                .collect(),
            (None, false) => {
                let (container, notice) = pods::default_container(pod);
                notice.inspect(|notice| eprintln!("{notice}"));
                vec![container]
            }
        };
        sources.extend(containers.into_iter().map(|container| Source {
            path: format!("{collection}/{name}/log?container={}&", encode(&container)),
            prefix: match args.prefix {
                true => format!("[pod/{name}/{container}] ").into_bytes(),
                false => Vec::new(),
            },
        }));
    }
    Ok(sources)
}

/// Prints what is there.
async fn print(
    client: &kube::Client,
    source: &Source,
    range: &str,
    args: &LogsArgs,
) -> anyhow::Result<()> {
    let (path, previous, timestamps) = (&source.path, args.previous, args.timestamps);
    let path = format!("{path}previous={previous}&timestamps={timestamps}&{range}");
    let mut stream = open(client, path).await?;
    let (mut chunk, mut out, mut is_new) = (vec![0; CHUNK], io::stdout(), true);
    loop {
        match stream.read(&mut chunk).await? {
            0 => return Ok(()),
            length => write(&mut out, &prefixed(&source.prefix, &chunk[..length], &mut is_new))?,
        }
    }
}

/// The bytes with the prefix before each line that begins in them. `is_new` tells whether the bytes begin one.
fn prefixed<'a>(prefix: &[u8], bytes: &'a [u8], is_new: &mut bool) -> Cow<'a, [u8]> {
    if prefix.is_empty() {
        return Cow::Borrowed(bytes);
    }
    let mut text = Vec::with_capacity(bytes.len() + prefix.len());
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if *is_new {
            text.extend_from_slice(prefix);
        }
        text.extend_from_slice(line);
        *is_new = line.ends_with(b"\n");
    }
    Cow::Owned(text)
}

async fn open(
    client: &kube::Client,
    path: String,
) -> Result<impl AsyncBufRead + Unpin, kube::Error> {
    let request = http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
    Ok(Box::pin(client.request_stream(request).await?))
}

fn write(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}

/// Prints until the container has ended. An answer that breaks off is asked for again from its last line
/// on: the container has outlived the daemon, and its log is complete.
async fn follow(
    client: &kube::Client,
    source: &Source,
    range: &str,
    timestamps: bool,
) -> anyhow::Result<()> {
    let Source { path, prefix } = source;
    let mut is_new = true;
    let mut place = Place::new(timestamps);
    let mut chunk = vec![0; CHUNK];
    let mut out = io::stdout();
    let mut is_first = true;
    let (mut pause, mut lost) = (FIRST_PAUSE, Instant::now());
    loop {
        let range = place.resume().unwrap_or_else(|| range.to_owned());
        let broken = match open(client, format!("{path}follow=true&timestamps=true&{range}")).await
        {
            Ok(mut stream) => {
                (is_first, pause) = (false, FIRST_PAUSE);
                let broken = loop {
                    match stream.read(&mut chunk).await {
                        Ok(0) => {
                            let rest = place.finish();
                            write(&mut out, &prefixed(prefix, &rest, &mut is_new))?;
                            return Ok(());
                        }
                        Ok(length) => {
                            let lines = place.take(&chunk[..length]);
                            write(&mut out, &prefixed(prefix, &lines, &mut is_new))?;
                        }
                        Err(error) => break anyhow::Error::from(error),
                    }
                };
                lost = Instant::now();
                broken
            }
            Err(error) if is_first || is_final(&error) => return Err(error.into()),
            Err(error) => error.into(),
        };
        if lost.elapsed() > RETURN_LIMIT {
            return Err(broken).context("the daemon went away and did not return");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether a further try cannot help: the pod itself is gone, or not ours to see. A daemon that has just
/// started says other things while it finds its pods again.
fn is_final(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let of_pod = status.details.as_ref().is_some_and(|details| details.kind == "pods");
    matches!(status.code, 401 | 403) || (status.code == 404 && of_pod)
}

/// How far a followed log has been printed: what to ask for next, and what of the answer is known already.
///
/// Lines come as `TIME TEXT`; several may bear the same time.
struct Place {
    timestamps: bool,
    time: Vec<u8>,
    /// Lines of `time` that were printed.
    printed: usize,
    /// Lines of `time` that come once more.
    known: usize,
    /// The beginning of a line.
    rest: Vec<u8>,
}

impl Place {
    fn new(timestamps: bool) -> Place {
        Place { timestamps, time: Vec::new(), printed: 0, known: 0, rest: Vec::new() }
    }

    /// What to print of the next bytes: whole lines that were not printed yet.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let rest = self.rest.split_off(end + 1);
        let lines = std::mem::replace(&mut self.rest, rest);
        let mut news = Vec::with_capacity(lines.len());
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            self.line(line, &mut news);
        }
        news
    }

    fn line(&mut self, line: &[u8], news: &mut Vec<u8>) {
        let space = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len() - 1);
        let (time, text) = (&line[..space], &line[space + 1..]);
        let is_same = time == self.time;
        if is_same && self.known > 0 {
            self.known -= 1;
            return;
        }
        if !is_same {
            (self.time, self.printed) = (time.to_owned(), 0);
        }
        (self.printed, self.known) = (self.printed + 1, 0);
        news.extend_from_slice(if self.timestamps { line } else { text });
    }

    /// The answer broke off: the query that continues it, once anything was printed.
    fn resume(&mut self) -> Option<String> {
        self.rest.clear();
        self.known = self.printed;
        let time = std::str::from_utf8(&self.time).ok().filter(|time| !time.is_empty())?;
        Some(format!("sinceTime={}", encode(time)))
    }

    /// The last line, if the container ended within it.
    fn finish(&mut self) -> Vec<u8> {
        let mut news = Vec::new();
        if !self.rest.is_empty() {
            let line = std::mem::take(&mut self.rest);
            self.line(&line, &mut news);
        }
        news
    }
}

/// `90s`, `5m`, `1h30m` or plain seconds; parts of a second count as one, as kubectl has it.
fn seconds(text: &str) -> anyhow::Result<u64> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let wrong = || format!("{text:?} is no time span such as 5s, 2m or 1h30m");
    let (mut rest, mut milliseconds) = (text, 0u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).with_context(wrong)?;
        let (number, unit) = rest.split_at(digits);
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let worth = match &unit[..end] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => bail!(wrong()),
        };
        let number: u64 = number.parse().with_context(wrong)?;
        let more = number.checked_mul(worth).and_then(|more| more.checked_add(milliseconds));
        milliseconds = more.with_context(|| format!("{text:?} is too long"))?;
        rest = &unit[end..];
    }
    if text.is_empty() {
        bail!(wrong());
    }
    Ok(milliseconds.div_ceil(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_seconds_minutes_or_hours() {
        for (text, expected) in [
            ("5s", Some(5)),
            ("2m", Some(120)),
            ("3h", Some(10_800)),
            ("7", Some(7)),
            ("1h30m", Some(5400)),
            ("1m30s", Some(90)),
            ("1500ms", Some(2)),
            ("0s", Some(0)),
            ("90 s", None),
            ("5d", None),
            ("h", None),
            ("1h30", None),
            ("-5s", None),
            ("99999999999999999999s", None),
            ("9999999999999999999h", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(seconds(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn more_logs_than_allowed_are_not_followed() {
        for (logs, at_most, fits) in [(5, 5, true), (6, 5, false), (2, 0, false), (1, 0, true)] {
            assert_eq!(bounded(logs, at_most).is_ok(), fits, "{logs} of {at_most}");
        }
        assert_eq!(
            bounded(6, 5).unwrap_err().to_string(),
            "you are attempting to follow 6 log streams, but maximum allowed concurrency is 5, use --max-log-requests to increase the limit"
        );
    }

    /// Three lines, two of one moment, and the end of a line that was cut.
    const LOG: &str = "T1 a\nT2 b\nT2 c\nT3 d";

    #[test]
    fn an_answer_cut_anywhere_continues_without_loss_or_repetition() {
        for cut in 0..=LOG.len() {
            let mut place = Place::new(false);
            let mut shown = place.take(&LOG.as_bytes()[..cut]);
            // The server repeats what is as young as the last line printed, or everything.
            let again = match place.resume().as_deref() {
                None => LOG,
                Some("sinceTime=T1") => LOG,
                Some("sinceTime=T2") => &LOG[5..],
                Some(other) => panic!("{other}"),
            };
            shown.extend(place.take(again.as_bytes()));
            shown.extend(place.finish());
            assert_eq!(String::from_utf8_lossy(&shown), "a\nb\nc\nd", "cut at {cut}");
        }
    }

    #[test]
    fn every_line_gets_its_prefix_however_the_answer_is_cut() {
        let log = b"a\n\nbc\nd";
        for cut in 0..=log.len() {
            let mut is_new = true;
            let mut shown = prefixed(b"[p] ", &log[..cut], &mut is_new).into_owned();
            shown.extend_from_slice(&prefixed(b"[p] ", &log[cut..], &mut is_new));
            assert_eq!(shown, b"[p] a\n[p] \n[p] bc\n[p] d", "cut at {cut}");
        }
    }

    #[test]
    fn times_are_shown_when_asked_for() {
        let mut place = Place::new(true);
        assert_eq!(place.take(b"T1 a\nT2"), b"T1 a\n");
        assert_eq!(place.take(b" \n"), b"T2 \n");
        assert_eq!(place.finish(), b"");
    }
}
