use super::*;

/// Every message as the first release wrote it. Lines may be added, never changed: shims that are
/// already running say and expect exactly this.
const GOLDEN: &str = include_str!("golden.jsonl");

#[test]
fn transcript_of_the_first_release_is_still_understood_and_spoken() {
    for line in GOLDEN.lines() {
        let (direction, json) = line.split_once(' ').unwrap();
        let again = match direction {
            ">" => serde_json::to_string(&serde_json::from_str::<Request>(json).unwrap()),
            _ => serde_json::to_string(&serde_json::from_str::<Message>(json).unwrap()),
        };
        assert_eq!(again.unwrap(), json);
    }
}

#[test]
fn frames_survive_any_cut() {
    let mut bytes = Vec::new();
    let call = Call::Kill { container: "web".to_owned() };
    encode(&Request { id: 7, call }, &mut bytes);
    encode(&Request { id: 8, call: Call::Shutdown }, &mut bytes);
    for cut in 0..bytes.len() {
        let mut inbox = Inbox::default();
        let mut ids = Vec::new();
        for part in [&bytes[..cut], &bytes[cut..]] {
            inbox.bytes.extend_from_slice(part);
            while let Some(request) = inbox.take::<Request>().unwrap() {
                ids.push(request.id);
            }
        }
        assert_eq!(ids, [7, 8]);
    }
}

#[test]
fn frames_over_the_limit_are_refused_before_they_arrive() {
    let inbox = Inbox { bytes: u32::MAX.to_le_bytes().to_vec(), ..Inbox::default() };
    assert!(matches!(inbox.complete(), Err(FrameError::TooLong(_))));
}

#[test]
fn unknown_calls_keep_their_id() {
    let raw: RawRequest = serde_json::from_str(r#"{"id":3,"call":{"Dream":{}}}"#).unwrap();
    assert_eq!(raw.id, 3);
    assert!(serde_json::from_str::<Call>(raw.call.get()).is_err());
}
