use std::path::PathBuf;

use super::*;

struct Scene {
    directory: PathBuf,
    log: Log,
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn scene(rotate_bytes: u64, keep_files: u32) -> Scene {
    let name = format!("joey-log-{}", crate::sys::clock::uuid());
    let directory = std::env::temp_dir().join(name);
    let path = directory.join("0.log");
    let log = Log::open(OutputPlan { path, rotate_bytes, keep_files }).unwrap();
    Scene { directory, log }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_unix(second, 5)
}

/// All text of all files, oldest first.
fn everything(scene: &Scene) -> String {
    let mut paths: Vec<_> =
        fs::read_dir(&scene.directory).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths.rotate_left(1); // the current file has the shortest name and sorts first
    paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn lines_carry_time_stream_and_tag() {
    let mut s = scene(1 << 20, 2);
    let (mut out, mut err) = (Line::default(), Line::default());
    s.log.append(Stream::Stdout, &mut out, b"one\ntw", at(0));
    s.log.append(Stream::Stderr, &mut err, b"\n", at(1));
    s.log.append(Stream::Stdout, &mut out, b"o\nrest", at(2));
    s.log.finish(Stream::Stdout, &mut out, at(3));
    s.log.finish(Stream::Stderr, &mut err, at(3));
    assert_eq!(
        everything(&s),
        "1970-01-01T00:00:00.000000005Z stdout F one\n\
         1970-01-01T00:00:01.000000005Z stderr F \n\
         1970-01-01T00:00:02.000000005Z stdout F two\n\
         1970-01-01T00:00:03.000000005Z stdout F rest\n"
    );
}

#[test]
fn long_lines_are_cut_at_sixteen_kibibytes() {
    let mut s = scene(1 << 20, 2);
    let mut line = Line::default();
    for length in [LONGEST - 1, LONGEST, LONGEST + 1, 3 * LONGEST] {
        let mut text = vec![b'x'; length];
        text.push(b'\n');
        for piece in text.chunks(1000) {
            s.log.append(Stream::Stdout, &mut line, piece, at(0));
        }
    }
    let shape: Vec<(String, usize)> = everything(&s)
        .lines()
        .map(|record| {
            let mut fields = record.splitn(4, ' ').skip(2);
            (fields.next().unwrap().to_owned(), fields.next().unwrap().len())
        })
        .collect();
    let record = |tag: &str, length| (tag.to_owned(), length);
    assert_eq!(
        shape,
        [
            record("F", LONGEST - 1),
            record("F", LONGEST),
            record("P", LONGEST),
            record("F", 1),
            record("P", LONGEST),
            record("P", LONGEST),
            record("F", LONGEST),
        ]
    );
}

#[test]
fn rotation_keeps_the_sequence_and_the_number_of_files() {
    let mut s = scene(2_000, 1_000);
    let mut line = Line::default();
    let text: String = (0..1_000).map(|n| format!("line {n}\n")).collect();
    for piece in text.as_bytes().chunks(37) {
        s.log.append(Stream::Stdout, &mut line, piece, at(0));
    }
    let seen: String = everything(&s)
        .lines()
        .map(|record| format!("{}\n", record.splitn(4, ' ').nth(3).unwrap()))
        .collect();
    assert_eq!(seen, text);
    assert!(fs::read_dir(&s.directory).unwrap().count() > 10);

    let mut s = scene(2_000, 3);
    for piece in text.as_bytes().chunks(37) {
        s.log.append(Stream::Stdout, &mut line, piece, at(0));
    }
    assert_eq!(fs::read_dir(&s.directory).unwrap().count(), 3);
    assert!(everything(&s).ends_with("line 999\n"));
}

#[test]
fn a_line_without_end_does_not_escape_the_limit() {
    let mut s = scene(64 << 10, 2);
    let mut line = Line::default();
    for _ in 0..100 {
        s.log.append(Stream::Stdout, &mut line, &[b'x'; 16 << 10], at(0));
    }
    let total: u64 =
        fs::read_dir(&s.directory).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(total <= 320 << 10, "{total}");
}
