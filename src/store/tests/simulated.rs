//! A disk of memory that remembers in order what was done to it, fails where it is told to, and tells what a power cut
//! would have left.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

/// What changes a disk.
#[derive(Debug, Clone)]
pub enum Effect {
    Write { offset: u64, data: Vec<u8> },
    Resize(u64),
    Sync,
}

/// Clones are the same disk.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// As reads see it.
    content: Vec<u8>,
    done: Vec<Effect>,
    fails_at: Option<usize>,
    has_failed: bool,
    after_failure: usize,
}

/// What the error of a failed step says.
pub const COMPLAINT: &str = "the medium is worn out";

impl Disk {
    pub fn of(content: Vec<u8>) -> Disk {
        Disk(Arc::new(Mutex::new(State {
            content,
            done: Vec::new(),
            fails_at: None,
            has_failed: false,
            after_failure: 0,
        })))
    }

    /// A disk whose effect number `step`, from 0, fails; all later ones would succeed, as on Linux after a failed fsync.
    pub fn failing_at(content: Vec<u8>, step: usize) -> Disk {
        let disk = Disk::of(content);
        disk.state().fails_at = Some(step);
        disk
    }

    pub fn content(&self) -> Vec<u8> {
        self.state().content.clone()
    }

    /// Everything that succeeded.
    pub fn effects(&self) -> Vec<Effect> {
        self.state().done.clone()
    }

    /// How much succeeded.
    pub fn steps(&self) -> usize {
        self.state().done.len()
    }

    pub fn has_failed(&self) -> bool {
        self.state().has_failed
    }

    /// How many effects were tried after the failure.
    pub fn after_failure(&self) -> usize {
        self.state().after_failure
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn perform(&self, effect: Effect) -> io::Result<()> {
        let mut state = self.state();
        if state.has_failed {
            state.after_failure += 1;
        } else if state.fails_at == Some(state.done.len()) {
            state.has_failed = true;
            if let Effect::Write { offset, mut data } = effect {
                // A write that fails may have come half the way.
                data.truncate(data.len() / 2);
                apply(&mut state.content, &Effect::Write { offset, data });
            }
            return Err(io::Error::other(COMPLAINT));
        }
        apply(&mut state.content, &effect);
        state.done.push(effect);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().content.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let from = offset as usize;
        let stretch = state.content.get(from..from + out.len());
        out.copy_from_slice(stretch.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.perform(Effect::Resize(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.perform(Effect::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.perform(Effect::Write { offset, data: data.to_vec() })
    }
}

fn apply(content: &mut Vec<u8>, effect: &Effect) {
    match effect {
        Effect::Write { offset, data } => {
            let from = *offset as usize;
            let to = from + data.len();
            if content.len() < to {
                content.resize(to, 0);
            }
            content[from..to].copy_from_slice(data);
        }
        Effect::Resize(len) => content.resize(*len as usize, 0),
        Effect::Sync => {}
    }
}

/// What survives of the effects since the last sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surviving {
    All,
    Nothing,
    /// Each sector by chance.
    Sectors,
}

/// What a disk with a volatile cache holds safely, and what is still on its way.
pub struct Platter {
    durable: Vec<u8>,
    unsynced: Vec<Effect>,
}

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

impl Platter {
    pub fn new(content: Vec<u8>) -> Platter {
        Platter { durable: content, unsynced: Vec::new() }
    }

    /// Takes in one more effect.
    pub fn step(&mut self, effect: &Effect) {
        match effect {
            Effect::Sync => {
                for effect in self.unsynced.drain(..) {
                    apply(&mut self.durable, &effect);
                }
            }
            Effect::Write { .. } | Effect::Resize(_) => self.unsynced.push(effect.clone()),
        }
    }

    /// The content after a power cut at this moment.
    pub fn cut(&self, surviving: Surviving, chance: &mut Chance) -> Vec<u8> {
        let mut content = self.durable.clone();
        for effect in &self.unsynced {
            let mut survives = || match surviving {
                Surviving::All => true,
                Surviving::Nothing => false,
                Surviving::Sectors => chance.below(2) == 0,
            };
            match effect {
                Effect::Write { offset, data } => {
                    let mut offset = *offset;
                    let mut rest = data.as_slice();
                    while !rest.is_empty() {
                        let to_border = SECTOR - offset as usize % SECTOR;
                        let (sector, later) = rest.split_at(to_border.min(rest.len()));
                        if survives() {
                            let data = sector.to_vec();
                            apply(&mut content, &Effect::Write { offset, data });
                        }
                        offset += sector.len() as u64;
                        rest = later;
                    }
                }
                Effect::Resize(_) | Effect::Sync => {
                    if survives() {
                        apply(&mut content, effect);
                    }
                }
            }
        }
        content
    }
}

/// Chance from a seed (splitmix64), so that a failure can be repeated.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// From `JOEY_TEST_SEED`, or new; prints which, as libtest shows of a test that fails.
    pub fn printed() -> Chance {
        let given = std::env::var("JOEY_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let mut seed = [0; 8];
            crate::sys::clock::random(&mut seed);
            u64::from_le_bytes(seed)
        });
        println!("repeat with JOEY_TEST_SEED={seed}");
        Chance(seed)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    /// A generator for a task of its own.
    pub fn fork(&mut self) -> Chance {
        Chance::new(self.below(usize::MAX) as u64)
    }
}

/// `JOEY_TEST_LONG=1` asks for the thorough form.
pub fn is_long() -> bool {
    std::env::var_os("JOEY_TEST_LONG").is_some_and(|value| value == "1")
}
