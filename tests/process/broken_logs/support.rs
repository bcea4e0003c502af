//! Faulty subscribers, and the messages in the sources.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Metadata, Subscriber};

/// The fault of a subscriber.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    None,
    /// At a message that contains this.
    PanicAt(String),
    PanicAlways,
    BlockAt(String),
}

/// The messages that a subscriber received.
#[derive(Clone, Default)]
pub(crate) struct Messages(Arc<Mutex<BTreeSet<String>>>);

impl Messages {
    pub(crate) fn seen(&self) -> BTreeSet<String> {
        self.0.lock().unwrap().clone()
    }
}

struct Broken {
    fault: Fault,
    messages: Messages,
}

/// Subscribes the calling thread until the guard is dropped.
pub(crate) fn listen(fault: Fault, messages: &Messages) -> DefaultGuard {
    let messages = messages.clone();
    crate::support::log::listen(Broken { fault, messages })
}

/// Subscribes the whole process.
pub(crate) fn init(fault: Fault, messages: &Messages) {
    let messages = messages.clone();
    tracing::subscriber::set_global_default(Broken { fault, messages }).unwrap();
}

impl Subscriber for Broken {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tower_lifecycle")
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut message = Message::default();
        event.record(&mut message);
        let Message(message) = message;
        let breaks = match &self.fault {
            Fault::None => false,
            Fault::PanicAlways => true,
            Fault::PanicAt(at) | Fault::BlockAt(at) => message.contains(at),
        };
        self.messages.0.lock().unwrap().insert(message);
        match self.fault {
            Fault::BlockAt(_) if breaks => loop {
                thread::park();
            },
            // Like `panic!`, without the output of the hook.
            _ if breaks => resume_unwind(Box::new("failed printing to stderr: Broken pipe")),
            _ => {}
        }
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Formats all fields, like any subscriber that writes them.
        let value = format!("{value:?}");
        if field.name() == "message" {
            self.0 = value;
        }
    }
}

/// Returns the messages in the crate's sources.
pub(crate) fn told() -> BTreeSet<String> {
    let mut told = BTreeSet::new();
    find(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut told,
    );
    told
}

fn find(folder: &Path, told: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("src/log") || path.ends_with("src/log.rs") {
            continue;
        }
        if path.is_dir() {
            find(&path, told);
        } else {
            let source = fs::read_to_string(&path).unwrap();
            // The macros are named nowhere else.
            assert!(
                !source.contains("use tracing::"),
                "{path:?} may log past `log.rs`"
            );
            for macros in [
                "tracing::debug!",
                "tracing::info!",
                "tracing::warn!",
                "tracing::error!",
            ] {
                assert!(!source.contains(macros), "{path:?} logs past `log.rs`");
            }
            for name in ["tell!(", "tell_here!("] {
                told.extend(source.split(name).skip(1).filter_map(message));
            }
        }
    }
}

/// Returns the message of a call: the last literal in it.
fn message(call: &str) -> Option<String> {
    let mut quotes = call.match_indices('"').map(|(at, _)| at);
    let end = quotes.find(|at| call[at + 1..].trim_start().starts_with(')'))?;
    let text = &call[..end];
    let text = &text[text.rfind('"')? + 1..];
    let mut message = String::new();
    for line in text.split("\\\n") {
        message += line.trim_start();
    }
    Some(message)
}
