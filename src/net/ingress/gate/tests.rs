//! The gate over a pair of buffers, in virtual time.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

fn gate() -> (DuplexStream, Gate<DuplexStream>, Arc<Conversation>) {
    let (client, server) = duplex(64 << 10);
    let talk = Arc::new(Conversation::default());
    let gate = Gate::http1(server, Bytes::new(), Arc::clone(&talk), Patience::default());
    (client, gate, talk)
}

async fn next(gate: &mut Gate<DuplexStream>) -> String {
    let mut block = vec![0; 64 << 10];
    let read = gate.read(&mut block).await.unwrap();
    String::from_utf8(block[..read].to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_message_at_a_time_is_handed_over() {
    let (mut client, mut gate, _talk) = gate();
    let first = "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
    let second = "POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = "1\r\nx\r\n0\r\n\r\n";
    client.write_all(format!("{first}abc{second}{chunks}").as_bytes()).await.unwrap();
    drop(client);
    for expected in [first, "abc", second, chunks, ""] {
        assert_eq!(next(&mut gate).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_head_becomes_a_question_and_then_silence() {
    let (mut client, mut gate, talk) = gate();
    client.write_all(b"GET / HTTP/1.1\r\nHost : a\r\n\r\nGET /2 HTTP/1.1\r\n").await.unwrap();
    assert!(next(&mut gate).await.starts_with(REFUSED_METHOD));
    assert_eq!(talk.refusal(), Some(Refusal::HeaderName));
    let more = tokio::time::timeout(Duration::from_secs(3600), next(&mut gate)).await;
    assert!(more.is_err(), "nothing is read after a refusal: {more:?}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_its_framing_is_an_error() {
    let (mut client, mut gate, talk) = gate();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(format!("{head}5;x\r\nhello").as_bytes()).await.unwrap();
    assert_eq!(next(&mut gate).await, head);
    assert!(gate.read(&mut [0; 16]).await.is_err());
    assert_eq!(talk.refusal(), Some(Refusal::ChunkSize));
}

const UPGRADE: &str =
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn what_follows_an_upgrade_waits_for_the_answer() {
    for granted in [true, false] {
        let (mut client, mut gate, talk) = gate();
        client.write_all(format!("{UPGRADE}\0\x01\x02").as_bytes()).await.unwrap();
        assert_eq!(next(&mut gate).await, UPGRADE);
        let early = tokio::time::timeout(Duration::from_secs(3600), next(&mut gate)).await;
        assert!(early.is_err(), "handed over before the answer: {early:?}");
        match granted {
            true => {
                talk.grant_upgrade();
                assert_eq!(next(&mut gate).await, "\0\x01\x02");
            }
            false => {
                talk.deny_upgrade();
                assert!(next(&mut gate).await.starts_with(REFUSED_METHOD));
            }
        }
    }
}

async fn waits(gate: &mut Gate<DuplexStream>) -> Duration {
    let start = tokio::time::Instant::now();
    let error = gate.read(&mut [0; 16]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn stalling_clients_are_let_go() {
    let Patience { idle, head, stall, .. } = Patience::default();
    let near = |span: Duration, expected: Duration| {
        assert!(span >= expected && span < expected + Duration::from_secs(1), "{span:?}");
    };
    let (_client, mut idler, _talk) = gate();
    near(waits(&mut idler).await, idle);

    // Slowloris: a byte a second does not move the end of a head's time.
    let (mut client, mut slow, _talk) = gate();
    let dripping = tokio::spawn(async move {
        for byte in b"GET / HTTP/1.1\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy" {
            let _ = client.write_all(&[*byte]).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    near(waits(&mut slow).await, head);
    dripping.abort();

    let (mut client, mut stalled, _talk) = gate();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n").await.unwrap();
    next(&mut stalled).await;
    near(waits(&mut stalled).await, stall);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_its_answer_is_not_idle() {
    let (mut client, mut gate, talk) = gate();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    next(&mut gate).await;
    let busy = talk.busy();
    let hour = Duration::from_secs(3600);
    assert!(tokio::time::timeout(hour, gate.read(&mut [0; 16])).await.is_err());
    drop(busy);
    waits(&mut gate).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_is_let_go() {
    let (_client, mut gate, _talk) = gate();
    let start = tokio::time::Instant::now();
    let error = gate.write_all(&vec![0; 1 << 20]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(start.elapsed() >= Patience::default().stall);
}
