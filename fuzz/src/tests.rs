//! The properties with a fixed number of random inputs, the same in each run.

use std::fmt::Debug;
use std::fs;
use std::panic;
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use arbitrary::{Arbitrary, Unstructured};

use super::*;

/// Counts panics, including those that a task catches.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Prints the input when the property panics.
struct Shown<T: Debug>(T);

impl<T: Debug> Drop for Shown<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input was {:#?}", self.0);
        }
    }
}

/// xorshift64*: small and deterministic.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.next() % 600;
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// Returns a copy with some bytes changed, removed or repeated.
    fn changed(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.next() % 4 {
            let at = self.next() as usize % (bytes.len() + 1);
            let to = bytes.len().min(at + self.next() as usize % 8);
            match self.next() % 3 {
                0 => bytes.insert(at, self.next() as u8),
                1 => drop(bytes.drain(at..to)),
                _ => bytes.extend_from_within(at..to),
            }
        }
        bytes
    }
}

fn holds<T: for<'a> Arbitrary<'a> + Debug>(target: &str, cases: usize, check: impl Fn(&T)) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            before(info);
        }));
    });
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(target);
    let seeds: Vec<_> = fs::read_dir(seeds)
        .into_iter()
        .flatten()
        .map(|seed| fs::read(seed.unwrap().path()).unwrap())
        .collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for case in 0..cases {
        let bytes = match seeds.get(case % (2 * seeds.len() + 1)) {
            Some(seed) if case < seeds.len() => seed.clone(),
            Some(seed) => random.changed(seed),
            None => random.bytes(),
        };
        let Ok(input) = T::arbitrary_take_rest(Unstructured::new(&bytes)) else {
            continue;
        };
        let input = Shown(input);
        check(&input.0);
        assert_eq!(PANICS.load(Ordering::SeqCst), 0, "a task panicked");
    }
}

#[test]
fn configuration_text() {
    holds("config", 20_000, config::check);
}

#[test]
fn environment_values() {
    holds("env", 20_000, env::check);
}

#[test]
fn health_requests() {
    holds("health", 5_000, health::check);
}

#[test]
fn refused_requests() {
    holds("refusal", 5_000, refusal::check);
}

#[test]
fn responses() {
    holds("response", 5_000, response::check);
}

#[test]
fn state_files() {
    holds("store", 2_000, store::check);
}

#[test]
fn bytes_on_a_connection() {
    holds("connection", 2_000, connection::check);
}
