//! Faults that an operator may meet: panics in user code, racing ends, and misleading reports. A
//! reviewer wrote most of these tests to prove bugs.

mod bad_drops;
mod bad_errors;
mod bad_neighbours;
mod forces_and_pauses;
mod stress;
mod tasks_and_start_ups;

use std::error::Error;
use std::fmt;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tokio::time::timeout;
use tower_lifecycle::controller::*;
use tower_lifecycle::startup::*;
use tower_lifecycle::{error::*, *};

use crate::support::log::listen;
use crate::support::runtime::{one_thread, threads};

fn lame() -> ShutdownConfig {
    ShutdownConfig::default().lame_duck(Duration::from_secs(5))
}

/// For example a guard that spawns its clean-up when it is dropped, and needs a runtime.
struct SpawnsOnDrop;

impl Drop for SpawnsOnDrop {
    fn drop(&mut self) {
        drop(tokio::spawn(async {}));
    }
}

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("drop")
        }
    }
}

fn ends(ctl: &ShutdownController) -> bool {
    one_thread().block_on(async { timeout(Duration::from_secs(3), ctl.stopped()).await.is_ok() })
}

// ===== shared helpers =====

/// Asserts that no fault was seen in many rounds; prints some of them.
#[track_caller]
fn assert_none(odd: &[String]) {
    let few = &odd[..odd.len().min(6)];
    assert!(odd.is_empty(), "{} odd: {few:#?}", odd.len());
}

/// A subscriber that panics at one message, as if its output were a closed pipe.
struct Panics(&'static str);

impl tracing::Subscriber for Panics {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Message(String);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn fmt::Debug) {
                self.0 += &format!("{value:?} ");
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        if !self.0.is_empty() && message.0.contains(self.0) {
            panic!("failed printing to stderr: Broken pipe");
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}
