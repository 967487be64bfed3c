//! Everything that parses what others send, on the corpus and on what is made of it, without nightly tools.
//!
//! The inputs are the same on each run, so that what fails here fails everywhere. `FUZZ_RUNS` makes more of them; cargo-fuzz
//! goes on where this stops (`fuzz/README.md`). What is said of each input is in `fuzz/targets.rs`.

#[path = "../../fuzz/targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use targets::{TARGETS, Target};

/// Inputs made for each target, where `FUZZ_RUNS` does not say how many.
const RUNS: usize = 3000;

/// Longest input, as of a seed.
const BYTES_MAX: usize = 4096;

/// Seeds of each target, at least.
const SEEDS_MIN: usize = 8;

/// Faults shown of each target.
const FAULTS_MAX: usize = 3;

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The corpus of a target, by file name.
fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(home().join("corpus").join(name)).unwrap_or_else(|error| panic!("corpus of {name}: {error}"));
    let mut seeds: Vec<(String, Vec<u8>)> = files
        .map(|file| file.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect();
    seeds.sort(); // a directory has no order
    seeds
}

/// What a target said of an input that it did not bear.
fn fault(run: fn(&[u8]), input: &[u8]) -> Option<String> {
    let panic = catch_unwind(|| run(input)).err()?;
    let said = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
    Some(said.unwrap_or_else(|| "a panic without words".into()))
}

/// A fault with its input, which is also kept as a file, to be added to the corpus.
fn report(name: &str, said: &str, input: &[u8]) -> String {
    let file = std::env::temp_dir().join(format!("tidegate-fuzz-{name}-{:016x}", hash(input)));
    let kept = match std::fs::write(&file, input) {
        Ok(()) => format!("kept as {}", file.display()),
        Err(error) => format!("not kept: {error}"),
    };
    let said: String = said.chars().take(1000).collect();
    format!("{name}: {said}\n  on {} bytes, {kept}:\n  {}", input.len(), input.escape_ascii())
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn every_file_of_the_corpus_is_read_or_refused() {
    let mut faults = Vec::new();
    for (name, run) in TARGETS {
        for (file, seed) in corpus(name) {
            if let Some(said) = fault(*run, &seed) {
                faults.push(format!("{name}/{file}: {said}"));
            }
        }
    }
    assert!(faults.is_empty(), "{} seeds fail:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn whatever_is_made_of_the_corpus_is_read_or_refused() {
    let runs = std::env::var("FUZZ_RUNS").map_or(RUNS, |runs| runs.parse().expect("FUZZ_RUNS is a number"));
    let faults: Vec<String> = std::thread::scope(|scope| {
        let tries: Vec<_> = TARGETS.iter().map(|target| scope.spawn(move || try_made(target, runs))).collect();
        tries.into_iter().flat_map(|tries| tries.join().unwrap()).collect()
    });
    assert!(faults.is_empty(), "{} inputs fail:\n{}", faults.len(), faults.join("\n"));
}

/// Tries so many inputs made for a target; ends after a few faults.
fn try_made((name, run): &Target, runs: usize) -> Vec<String> {
    let seeds: Vec<Vec<u8>> = corpus(name).into_iter().map(|(_, seed)| seed).collect();
    let mut chance = Chance(hash(name.as_bytes()) | 1);
    let mut faults = Vec::new();
    for _ in 0..runs {
        let input = chance.make(&seeds);
        if let Some(said) = fault(*run, &input) {
            faults.push(report(name, &said, &input));
            if faults.len() == FAULTS_MAX {
                break;
            }
        }
    }
    faults
}

#[test]
fn every_target_has_its_corpus_and_its_entry_for_cargo_fuzz_and_there_are_no_others() {
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len(), "a name stands twice");
    for dir in ["corpus", "fuzz_targets"] {
        let files = std::fs::read_dir(home().join(dir)).unwrap().map(|file| file.unwrap().path());
        let found: BTreeSet<String> = files.map(|file| file.file_stem().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(found, names, "in fuzz/{dir}");
    }
    let manifest = std::fs::read_to_string(home().join("Cargo.toml")).unwrap();
    assert_eq!(manifest.matches("[[bin]]").count(), names.len(), "in fuzz/Cargo.toml");
    for name in &names {
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n")), "{name} in fuzz/Cargo.toml");
        let entry = std::fs::read_to_string(home().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(entry.contains(&format!("targets::{name}(data)")), "fuzz/fuzz_targets/{name}.rs runs another target");
        let seeds = corpus(name);
        assert!(seeds.len() >= SEEDS_MIN, "{name} has {} seeds", seeds.len());
        for (file, seed) in seeds {
            assert!(seed.len() <= BYTES_MAX, "fuzz/corpus/{name}/{file} has {} bytes", seed.len());
        }
    }
}

/// What breaks parsers, and what the formats are made of.
const TOKENS: &[&[u8]] = &[
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\",
    b"/",
    b"~1",
    b"~",
    b"\n",
    b" ",
    b"\0",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xc3\xa9",
    b"\xee\x80\x80",
    b"\xf0\x9f\x98\x80",
    b"\\u0000",
    b"\\ud800",
    b"\\udc00",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"\"\"",
    b"\"id\":\"01970f5e-0000-7000-8000-000000000000\",",
    b",\"a\":1",
    b"\"set\":{\"/a\":1}",
    b"\"delete\":true",
    b"\"$ref\":\"#\"",
    b"\"x-merge\":\"counter\"",
    b"eu:1",
    b"us:9007199254740992",
    b"shop",
    b"+",
    b"-",
    b".",
    b"*",
    b">",
    b"=",
    b"T23:59:60Z",
    b"-23:59",
    b"9999-12-31",
];

/// What stands where a number stood.
const NUMBERS: &[&[u8]] = &[
    b"0",
    b"-1",
    b"-0",
    b"01",
    b"1.5",
    b"1e999",
    b"1e-999",
    b"5e-324",
    b"1.7976931348623157e308",
    b"255",
    b"65536",
    b"2147483648",
    b"4294967295",
    b"9007199254740991",
    b"9007199254740992",
    b"9007199254740993",
    b"9223372036854775807",
    b"18446744073709551615",
    b"100000000000000000000000000000000000000000",
];

/// Chance out of one number: xorshift64* (Vigna, 2016).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end.max(1)
    }

    fn pick<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        items[self.below(items.len())]
    }

    /// A seed, changed in a few ways.
    fn make(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        // Mostly little, so that what is behind the first check is reached too.
        for _ in 0..=self.below(4) {
            let other = self.below(seeds.len());
            self.change(&mut input, &seeds[other]);
        }
        input.truncate(BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(input.len() + 1);
        let chunk = at..(at + 1 + self.below(24)).min(input.len());
        match self.below(10) {
            0 | 1 if at < input.len() => input[at] ^= 1 << self.below(8),
            2 if at < input.len() => input[at] = self.below(256) as u8,
            3 => drop(input.drain(chunk)),
            4 => {
                let copy = input[chunk].to_vec();
                let to = self.below(input.len() + 1);
                drop(input.splice(to..to, copy));
            }
            5 => {
                // So often that it counts as nesting.
                let copy = input[chunk].repeat(2 + self.below(200));
                drop(input.splice(at..at, copy));
            }
            6 => {
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            7 => {
                if let Some(begin) = (at..input.len()).find(|place| input[*place].is_ascii_digit()) {
                    let end = (begin..input.len()).find(|place| !input[*place].is_ascii_digit()).unwrap_or(input.len());
                    let number = self.pick(NUMBERS);
                    drop(input.splice(begin..end, number.iter().copied()));
                }
            }
            8 if at + 1 < input.len() => input.truncate(at),
            _ => {
                let token = self.pick(TOKENS);
                drop(input.splice(at..at, token.iter().copied()));
            }
        }
    }
}
