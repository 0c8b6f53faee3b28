//! A disk that can be told to fail, and that can lose power: what was not synced is then kept, torn or lost at random.

use std::io;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;

/// Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(super) struct TestDisk(Arc<Mutex<Platter>>);

#[derive(Debug, Default)]
struct Platter {
    /// What reads see.
    cached: Vec<u8>,
    /// What a power loss leaves for certain.
    synced: Vec<u8>,
    pending: Vec<Pending>,
    /// Operations that still succeed; `None` for all.
    good: Option<u64>,
    operations: u64,
}

#[derive(Debug)]
enum Pending {
    Resize(usize),
    Write(usize, Vec<u8>),
}

/// The unit a disk writes whole.
const SECTOR: usize = 512;

impl TestDisk {
    /// Every write, sync and resize after the next `good` ones fails.
    pub(super) fn fail_after(&self, good: u64) {
        self.0.lock().unwrap().good = Some(good);
    }

    pub(super) fn operations(&self) -> u64 {
        self.0.lock().unwrap().operations
    }

    /// The disk after a power loss: each unsynced sector is there or not, as `dice` says.
    pub(super) fn after_power_loss(&self, mut dice: Dice) -> TestDisk {
        let platter = self.0.lock().unwrap();
        let mut left = platter.synced.clone();
        for pending in &platter.pending {
            match pending {
                Pending::Resize(length) if dice.one_in(2) => left.resize(*length, 0),
                Pending::Resize(_) => {}
                Pending::Write(offset, data) => {
                    let fate = dice.below(4);
                    for (index, sector) in data.chunks(SECTOR).enumerate() {
                        let is_kept = match fate {
                            0 => true,
                            1 => false,
                            _ => dice.one_in(2),
                        };
                        if is_kept {
                            place(&mut left, offset + index * SECTOR, sector);
                        }
                    }
                }
            }
        }
        let platter = Platter {
            cached: left.clone(),
            synced: left,
            ..Platter::default()
        };
        TestDisk(Arc::new(Mutex::new(platter)))
    }

    fn operate(&self, effect: impl FnOnce(&mut Platter)) -> io::Result<()> {
        let mut platter = self.0.lock().unwrap();
        platter.operations += 1;
        match &mut platter.good {
            Some(0) => return Err(io::Error::other("the disk is on fire")),
            Some(good) => *good -= 1,
            None => {}
        }
        effect(&mut platter);
        Ok(())
    }
}

fn place(image: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(data);
}

impl StorageBackend for TestDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.0.lock().unwrap();
        let start = offset as usize;
        let found = platter.cached.get(start..start + out.len());
        out.copy_from_slice(found.ok_or_else(|| io::Error::other("beyond the end"))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.operate(|platter| {
            platter.cached.resize(len as usize, 0);
            platter.pending.push(Pending::Resize(len as usize));
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.operate(|platter| {
            for pending in std::mem::take(&mut platter.pending) {
                match pending {
                    Pending::Resize(length) => platter.synced.resize(length, 0),
                    Pending::Write(offset, data) => place(&mut platter.synced, offset, &data),
                }
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.operate(|platter| {
            place(&mut platter.cached, offset as usize, data);
            platter
                .pending
                .push(Pending::Write(offset as usize, data.to_vec()));
        })
    }
}

/// Replayable chance (xorshift64*).
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    pub(super) fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}
