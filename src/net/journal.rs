//! Which pod holds which address and ports, on disk: a line per change, so a change costs the same at any size.
//!
//! A line is `{"hold": …}` or `{"free": …}`; opening replays them and writes the file anew with what is still held.
//! It decides nothing. A last line that a crash cut short never happened: its caller was never answered.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::host_port::Lease;

#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Hold {
        pod: String,
        lease: Lease,
    },
    Free {
        pod: String,
    },
    /// The address given away last, when its line is no longer there.
    Last {
        address: Ipv4Addr,
    },
}

/// What the file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    pub leases: BTreeMap<String, Lease>,
    pub last: Option<Ipv4Addr>,
}

#[derive(Debug)]
pub struct Journal {
    file: File,
    /// Of the whole lines.
    length_bytes: u64,
    /// A part of a line may stand behind them: the disk was full.
    is_torn: bool,
}

impl Journal {
    /// Reads and compacts the journal at `path`, durably.
    pub fn open(path: &Path) -> io::Result<(Journal, Recorded)> {
        let recorded = match fs::read_to_string(path) {
            Ok(text) => replay(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Recorded::default(),
            Err(error) => return Err(error),
        };
        let text = render(&recorded)?;
        replace(path, &text)?;
        let file = OpenOptions::new().append(true).open(path)?;
        Ok((Journal { file, length_bytes: text.len() as u64, is_torn: false }, recorded))
    }

    /// On disk when this returns: an address may not be given away twice, whatever happens next.
    pub fn hold(&mut self, pod: &str, lease: &Lease) -> io::Result<()> {
        let line = Line::Hold { pod: pod.to_owned(), lease: lease.clone() };
        self.append(&line)?;
        self.file.sync_data()
    }

    /// Survives our death at once, and power loss a little later: until then the pod merely seems to hold an
    /// address still, which its owner's next clean-up puts right.
    pub fn free(&mut self, pod: &str) -> io::Result<()> {
        self.append(&Line::Free { pod: pod.to_owned() })
    }

    fn append(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        if self.is_torn {
            // A line behind half of another could not be read any more.
            self.file.set_len(self.length_bytes)?;
        }
        self.is_torn = true;
        self.file.write_all(&text)?;
        self.is_torn = false;
        self.length_bytes += text.len() as u64;
        Ok(())
    }
}

/// Writes `text` to a new file beside `path`, then puts it there: afterwards one or the other is on disk, whole.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let fresh = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(directory)?.sync_all()
}

fn replay(text: &str) -> io::Result<Recorded> {
    let mut recorded = Recorded::default();
    for line in text.split_inclusive('\n') {
        let parsed = match serde_json::from_str(line) {
            Ok(parsed) if line.ends_with('\n') => parsed,
            Ok(_) => break,
            Err(_) if !line.ends_with('\n') => break,
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        };
        match parsed {
            Line::Hold { pod, lease } => {
                recorded.last = Some(lease.address);
                recorded.leases.insert(pod, lease);
            }
            Line::Free { pod } => drop(recorded.leases.remove(&pod)),
            Line::Last { address } => recorded.last = Some(address),
        }
    }
    Ok(recorded)
}

fn render(recorded: &Recorded) -> io::Result<String> {
    let held = recorded
        .leases
        .iter()
        .map(|(pod, lease)| Line::Hold { pod: pod.clone(), lease: lease.clone() });
    let last = recorded.last.map(|address| Line::Last { address });
    let mut text = String::new();
    for line in held.chain(last) {
        text.push_str(&serde_json::to_string(&line)?);
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(last: u8) -> Lease {
        Lease { address: Ipv4Addr::new(10, 42, 0, last), ports: Vec::new() }
    }

    #[test]
    fn a_cut_last_line_never_happened() {
        let whole = render(&Recorded {
            leases: BTreeMap::from([("a".to_owned(), lease(2)), ("b".to_owned(), lease(3))]),
            last: Some(Ipv4Addr::new(10, 42, 0, 9)),
        })
        .unwrap();
        let lines: Vec<_> = whole.split_inclusive('\n').collect();
        for cut in 0..=whole.len() {
            let recorded = replay(&whole[..cut]).unwrap();
            let complete = lines
                .iter()
                .scan(0, |end, line| {
                    *end += line.len();
                    Some(*end)
                })
                .filter(|end| *end <= cut)
                .count();
            assert_eq!(recorded.leases.len(), complete.min(2), "cut at {cut}");
        }
        assert!(replay("{\"hold\":\n{}\n").is_err());
    }

    #[test]
    fn what_a_full_disk_left_of_a_line_is_cut_off_before_the_next() {
        let directory = std::env::temp_dir().join(format!("journal-torn-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("pods.journal");
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.hold("a", &lease(2)).unwrap();
        journal.file.write_all(b"{\"hold\":{\"po").unwrap();
        journal.is_torn = true;
        journal.hold("b", &lease(3)).unwrap();
        let (_, recorded) = Journal::open(&path).unwrap();
        assert_eq!(recorded.leases.keys().collect::<Vec<_>>(), ["a", "b"]);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_freed_address_is_remembered_as_the_last_one() {
        let directory = std::env::temp_dir().join(format!("journal-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("pods.journal");
        let (mut journal, empty) = Journal::open(&path).unwrap();
        assert_eq!(empty, Recorded::default());
        journal.hold("a", &lease(2)).unwrap();
        journal.hold("b", &lease(3)).unwrap();
        journal.free("b").unwrap();
        for _ in 0..2 {
            let (_, recorded) = Journal::open(&path).unwrap();
            assert_eq!(recorded.leases, BTreeMap::from([("a".to_owned(), lease(2))]));
            assert_eq!(recorded.last, Some(Ipv4Addr::new(10, 42, 0, 3)));
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
