//! A short run of every fuzz target: the kept corpus as it is, then mutations of it.
//!
//! `LATEEN_FUZZ_SECONDS` makes the runs longer, `LATEEN_FUZZ_SEED` repeats one. A failure prints seed and input; the
//! input belongs into `fuzz/corpus/TARGET` once it is understood.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use lateen_proxy::fuzz::{TARGETS, Target};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// More than this is not found by length.
const LONGEST: usize = 16 * 1024;
/// Bounds a run on a fast machine; the time bounds it on a slow one.
const ITERATIONS: u32 = 20_000;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}: a corpus has at least one input", folder.display());
    files.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// A place in `bytes`, and one after it.
fn range(random: &mut SmallRng, bytes: &[u8]) -> std::ops::Range<usize> {
    let start = random.random_range(0..=bytes.len());
    let length = random.random_range(0..=(bytes.len() - start).min(64));
    start..start + length
}

fn mutate(random: &mut SmallRng, input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&[u8]]) {
    for _ in 0..=random.random_range(0..4) {
        let place = range(random, input);
        match random.random_range(0..8) {
            0 if !input.is_empty() => {
                let at = random.random_range(0..input.len());
                input[at] ^= 1 << random.random_range(0..8);
            }
            1 if !input.is_empty() => {
                let at = random.random_range(0..input.len());
                input[at] = random.random();
            }
            2 => drop(input.drain(place)),
            3 => {
                let copy = input[place.clone()].to_vec();
                input.splice(place.end..place.end, copy);
            }
            4 if !words.is_empty() => {
                let word = words[random.random_range(0..words.len())];
                input.splice(place, word.iter().copied());
            }
            5 if !words.is_empty() => {
                let word = words[random.random_range(0..words.len())];
                input.splice(place.start..place.start, word.iter().copied());
            }
            6 => {
                let other = &corpus[random.random_range(0..corpus.len())];
                let part = other[range(random, other)].to_vec();
                input.splice(place, part);
            }
            _ => input.truncate(place.end),
        }
    }
    input.truncate(LONGEST);
}

fn run_target(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let corpus = corpus(target);
    let seed = setting("LATEEN_FUZZ_SEED").unwrap_or_else(|| rand::rng().next_u64());
    let time = Duration::from_secs(setting("LATEEN_FUZZ_SECONDS").unwrap_or(2));
    let longer = setting("LATEEN_FUZZ_SECONDS").is_some();
    println!("{name}: LATEEN_FUZZ_SEED={seed}");
    let check = |input: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
            eprintln!("{name}: LATEEN_FUZZ_SEED={seed}, input: \"{}\"", input.escape_ascii());
            std::panic::resume_unwind(panic);
        }
    };
    for input in &corpus {
        check(input);
    }
    let mut random = SmallRng::seed_from_u64(seed);
    let begun = Instant::now();
    let mut iterations = 0;
    while begun.elapsed() < time && (longer || iterations < ITERATIONS) {
        let mut input = corpus[random.random_range(0..corpus.len())].clone();
        mutate(&mut random, &mut input, &corpus, target.words);
        check(&input);
        iterations += 1;
    }
    println!("{name}: {iterations} inputs in {:?}", begun.elapsed());
}

/// One test a target, so that they run side by side; the last test says when one is missing.
macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { run_target(stringify!($name)); })*

        #[test]
        fn every_target_is_run() {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

targets!(
    http1_request,
    http1_response,
    http1_chunks,
    http2_server,
    tls_inspector,
    http_inspector,
    proxy_protocol,
    config_bootstrap,
    config_resource,
);
