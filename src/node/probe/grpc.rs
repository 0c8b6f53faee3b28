//! The gRPC health check (grpc.health.v1.Health/Check), written by hand: one call needs no gRPC library.
//!
//! ```text
//! message = flag (u8, 0: not compressed), length (u32, big endian), protobuf
//! HealthCheckRequest { 1: service (string) }      HealthCheckResponse { 1: status (varint) }
//! ```
//! It never keeps a connection.

use bytes::Bytes;
use http::Request;
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_util::task::AbortOnDropHandle;

use super::{Answer, MOST_BYTES, Target, dial, shown};

const SERVING: u64 = 1;
/// gRPC's status UNIMPLEMENTED.
const UNIMPLEMENTED: &str = "12";

pub async fn probe(target: &Target, port: u16, service: &str) -> Answer {
    match check(target, port, service).await {
        Ok(SERVING) => Answer::Success,
        Ok(other) => {
            let word = match other {
                0 => "UNKNOWN".to_owned(),
                2 => "NOT_SERVING".to_owned(),
                3 => "SERVICE_UNKNOWN".to_owned(),
                other => other.to_string(),
            };
            Answer::Failure(format!("service unhealthy (responded with {word:?})"))
        }
        Err(reason) => Answer::Failure(reason),
    }
}

async fn check(target: &Target, port: u16, service: &str) -> Result<u64, String> {
    let address = shown(target, None, port);
    let failed = |reason: String| format!("error: failed to connect service {address:?}: {reason}");
    let stream = dial(target, None, port).await.map_err(failed)?;
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(error.to_string()))?;
    let connection = tokio::spawn(async move {
        // Its error is the call's as well.
        let _ = connection.await;
    });
    let _connection = AbortOnDropHandle::new(connection);
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, format!("kube-probe/{}", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from(question(service))))
        .map_err(|error| failed(error.to_string()))?;
    let answer = sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
    if !answer.status().is_success() {
        return Err(failed(format!("unexpected HTTP status code {}", answer.status().as_u16())));
    }
    let mut trailers = answer.headers().clone();
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| failed(error.to_string()))?;
        match frame.into_data() {
            Ok(data) if bytes.len() + data.len() <= MOST_BYTES => bytes.extend_from_slice(&data),
            Ok(_) => return Err(failed("the answer is too long".to_owned())),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    let header = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
    match header("grpc-status") {
        Some("0") => {
            status(&bytes).ok_or_else(|| failed("the answer is not understood".to_owned()))
        }
        Some(UNIMPLEMENTED) => Err(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            header("grpc-message").unwrap_or_default()
        )),
        code => Err(format!(
            "error: health rpc probe failed: rpc error: code = {} desc = {}",
            code.unwrap_or("none"),
            header("grpc-message").unwrap_or_default()
        )),
    }
}

fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        varint(service.len() as u64, &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(&message);
    framed
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The status in a framed answer; left out it is 0 (UNKNOWN).
fn status(framed: &[u8]) -> Option<u64> {
    let (head, rest) = framed.split_at_checked(5)?;
    let [flag, length @ ..] = head else { return None };
    let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
    let mut message = rest.get(..length).filter(|_| *flag == 0)?;
    let mut found = 0;
    while !message.is_empty() {
        let key = take_varint(&mut message)?;
        match key & 7 {
            0 => {
                let value = take_varint(&mut message)?;
                if key >> 3 == 1 {
                    found = value;
                }
            }
            // Fields of later versions.
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            5 => message = message.get(4..)?,
            _ => return None, // Groups are not in use any more.
        }
    }
    Some(found)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_question_names_its_service_or_nobody() {
        assert_eq!(question(""), [0, 0, 0, 0, 0]);
        assert_eq!(question("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = question(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
    }

    #[test]
    fn an_answer_is_its_first_field() {
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 2]), Some(2));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(status(&[0, 0, 0, 0, 5, 0x12, 1, b'x', 8, 1]), Some(1));
        for wrong in [&[][..], &[0, 0, 0, 0, 2, 8], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 1, 8]] {
            assert_eq!(status(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = status(&bytes);
        }
    }
}
