//! Lines of a container's log as the shim writes them, and what of them a reader asked for.
//!
//! Pure. A record is `<RFC 3339 time> <stdout|stderr> <F|P> <content>\n`; `P` marks a part of a line that
//! is longer than 16 KiB (CRI logging format, KEP-2258 and kubelet's `cri_logs`).

use std::collections::VecDeque;

use bytes::{BufMut, BytesMut};

use crate::model::time::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One record, without its newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    pub time: &'a str,
    pub stream: Stream,
    /// The line goes on in the next record of this stream.
    pub partial: bool,
    pub content: &'a [u8],
}

/// Reads one record; `None` for what a shim never writes (a disk that lost a block).
pub fn parse(line: &[u8]) -> Option<Record<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let partial = match parts.next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    Some(Record { time, stream, partial, content: parts.next().unwrap_or_default() })
}

/// What a reader asked for, and where in a line its output stands.
#[derive(Debug, Clone)]
pub struct Filter {
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    /// Bytes that may still be written.
    pub limit: Option<u64>,
    /// `None`: both.
    pub stream: Option<Stream>,
    /// The last record written was a part, so the next one goes on in the same line.
    pub within_line: bool,
}

impl Filter {
    /// Appends what the reader sees of `record`. Returns false when the reader has got all it wants.
    pub fn render(&mut self, record: Record<'_>, out: &mut BytesMut) -> bool {
        if self.limit == Some(0) {
            return false;
        }
        if self.stream.is_some_and(|wanted| wanted != record.stream) {
            return true;
        }
        if let Some(since) = self.since {
            match record.time.parse::<Timestamp>() {
                Ok(time) if time >= since => {}
                Ok(_) | Err(_) => return true,
            }
        }
        let start = out.len();
        if self.timestamps && !self.within_line {
            out.put_slice(record.time.as_bytes());
            out.put_u8(b' ');
        }
        out.put_slice(record.content);
        if !record.partial {
            out.put_u8(b'\n');
        }
        self.within_line = record.partial;
        if let Some(limit) = &mut self.limit {
            let written = (out.len() - start) as u64;
            if written >= *limit {
                out.truncate(start + *limit as usize);
                *limit = 0;
                return false;
            }
            *limit -= written;
        }
        true
    }
}

/// Finds where the last lines of a text start, fed in pieces from its beginning.
#[derive(Debug)]
pub struct TailFinder {
    wanted: usize,
    /// Offsets at which whole lines begin, the newest `wanted` of them.
    starts: VecDeque<u64>,
    offset: u64,
    /// The next record begins a line.
    fresh: bool,
    carry: Vec<u8>,
}

impl TailFinder {
    pub fn new(wanted: usize) -> TailFinder {
        TailFinder { wanted, starts: VecDeque::new(), offset: 0, fresh: true, carry: Vec::new() }
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.carry.extend_from_slice(bytes);
        let mut done = 0;
        while let Some(length) = self.carry[done..].iter().position(|byte| *byte == b'\n') {
            let line = &self.carry[done..done + length];
            let partial = parse(line).is_some_and(|record| record.partial);
            if self.fresh && self.wanted > 0 {
                if self.starts.len() == self.wanted {
                    self.starts.pop_front();
                }
                self.starts.push_back(self.offset);
            }
            self.fresh = !partial;
            self.offset += length as u64 + 1;
            done += length + 1;
        }
        self.carry.drain(..done);
    }

    /// How many lines were found (at most the wanted number), and where the first of them begins.
    pub fn finish(self) -> (usize, u64) {
        (self.starts.len(), self.starts.front().copied().unwrap_or(self.offset))
    }
}

/// The files of one attempt, oldest first: `3.log.<time>` in the order of their times, then `3.log`.
pub fn in_order(names: impl IntoIterator<Item = String>, attempt: u32) -> Vec<String> {
    let current = format!("{attempt}.log");
    let rotated = format!("{current}.");
    let mut files: Vec<String> = Vec::new();
    let mut has_current = false;
    for name in names {
        if name == current {
            has_current = true;
        } else if name.starts_with(&rotated) {
            files.push(name);
        }
    }
    files.sort();
    files.extend(has_current.then_some(current));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
2026-11-23T10:00:00.000000001Z stdout F one
2026-11-23T10:00:01.000000000Z stderr P two-
2026-11-23T10:00:01.500000000Z stderr F half
2026-11-23T10:00:02.000000000Z stdout F 
garbage
2026-11-23T10:00:03.000000000Z stdout F four words in it
";

    fn filter() -> Filter {
        Filter { since: None, timestamps: false, limit: None, stream: None, within_line: false }
    }

    fn seen(mut filter: Filter) -> String {
        let mut out = BytesMut::new();
        for line in LOG.lines() {
            if let Some(record) = parse(line.as_bytes())
                && !filter.render(record, &mut out)
            {
                break;
            }
        }
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn lines_come_out_as_they_were_written() {
        assert_eq!(seen(filter()), "one\ntwo-half\n\nfour words in it\n");
    }

    #[test]
    fn each_option_selects() {
        let cases = [
            (
                Filter { timestamps: true, ..filter() },
                "2026-11-23T10:00:00.000000001Z one\n2026-11-23T10:00:01.000000000Z two-half\n2026-11-23T10:00:02.000000000Z \n2026-11-23T10:00:03.000000000Z four words in it\n",
            ),
            (
                Filter { since: "2026-11-23T10:00:02Z".parse().ok(), ..filter() },
                "\nfour words in it\n",
            ),
            (Filter { limit: Some(7), ..filter() }, "one\ntwo"),
            (Filter { limit: Some(0), ..filter() }, ""),
            (Filter { stream: Some(Stream::Stderr), ..filter() }, "two-half\n"),
        ];
        for (filter, expected) in cases {
            assert_eq!(seen(filter.clone()), expected, "{filter:?}");
        }
    }

    #[test]
    fn the_tail_counts_lines_and_not_records() {
        for (wanted, lines, starts_with) in [
            (0, 0, ""),
            (1, 1, "2026-11-23T10:00:03"),
            (4, 4, "2026-11-23T10:00:01.0"),
            (9, 5, "2026-11-23T10:00:00"),
        ] {
            for step in [1, 7, LOG.len()] {
                let mut finder = TailFinder::new(wanted);
                for piece in LOG.as_bytes().chunks(step) {
                    finder.feed(piece);
                }
                let (found, offset) = finder.finish();
                assert_eq!(found, lines);
                assert!(LOG[offset as usize..].starts_with(starts_with), "{wanted}: {offset}");
            }
        }
    }

    #[test]
    fn files_of_an_attempt_are_read_oldest_first() {
        let names = [
            "2.log",
            "1.log",
            "1.log.20261123T100100",
            "1.log.20261123T100000",
            "11.log",
            "1.log.part",
        ];
        let order = in_order(names.map(str::to_owned), 1);
        assert_eq!(
            order,
            ["1.log.20261123T100000", "1.log.20261123T100100", "1.log.part", "1.log"]
        );
    }
}
