//! Every corpus of `fuzz/` through its target, with mutations that can be repeated: what was found once stays found.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use joey::hostile::TARGETS;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Mutations of each file.
fn mutations() -> u64 {
    let is_long = std::env::var_os("JOEY_TEST_LONG").is_some_and(|value| value == "1");
    if is_long { 20_000 } else { 200 }
}

/// Chance from a seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }
}

/// One to four changes: a bit, a byte of weight, a cut, a piece of itself or of a sibling elsewhere.
fn mutate(bytes: &mut Vec<u8>, siblings: &[Vec<u8>], chance: &mut Chance) {
    const WEIGHTY: &[u8] = b"\0\x7f\x80\xff\"\\/{}[]:,.-+&*!%=\n \t019eE~$";
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len() + 1);
        match chance.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            1 if at < bytes.len() => bytes[at] = WEIGHTY[chance.below(WEIGHTY.len())],
            2 => bytes.insert(at, WEIGHTY[chance.below(WEIGHTY.len())]),
            3 => bytes.truncate(at),
            4 if at < bytes.len() => {
                let end = (at + 1 + chance.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let source = &siblings[chance.below(siblings.len())];
                let from = chance.below(source.len() + 1);
                let to = (from + chance.below(64)).min(source.len());
                bytes.splice(at..at, source[from..to].iter().copied());
            }
        }
    }
}

#[test]
fn whatever_is_sent_is_answered_and_keeps_every_promise() {
    for (name, target) in TARGETS {
        let directory = fuzz().join("corpus").join(name);
        let files: Vec<Vec<u8>> =
            names(&directory).iter().map(|file| fs::read(directory.join(file)).unwrap()).collect();
        let mut chance = Chance(0x006a_6f65_7900_0000);
        for file in &files {
            let tries = std::iter::once(file.clone()).chain((0..mutations()).map(|_| {
                let mut bytes = file.clone();
                mutate(&mut bytes, &files, &mut chance);
                bytes
            }));
            for bytes in tries {
                if catch_unwind(AssertUnwindSafe(|| target(&bytes))).is_err() {
                    panic!("{name} breaks its promise with b\"{}\"", bytes.escape_ascii());
                }
            }
        }
    }
}

#[test]
fn every_target_can_be_fuzzed_and_has_a_corpus() {
    let known: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let programs = known.iter().map(|name| format!("{name}.rs")).collect::<BTreeSet<_>>();
    assert_eq!(names(&fuzz().join("fuzz_targets")), programs);
    assert_eq!(names(&fuzz().join("corpus")), known);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in &known {
        let corpus = names(&fuzz().join("corpus").join(name));
        assert!(corpus.len() >= 3, "{name} has {} files", corpus.len());
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} has no [[bin]]");
        let program = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        let all_of_it = format!(
            "#![no_main]\n\nlibfuzzer_sys::fuzz_target!(|bytes: &[u8]| joey::hostile::{name}(bytes));\n"
        );
        assert_eq!(program, all_of_it, "the target that runs here is the one that is fuzzed");
    }
}
