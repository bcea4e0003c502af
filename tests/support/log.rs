//! What is logged, for the thread that listens.
#![allow(dead_code)] // Each of the programs uses a part of it.

use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use tracing::subscriber::{DefaultGuard, NoSubscriber, set_default};
use tracing::{Dispatch, Subscriber};
use tracing_subscriber::fmt::MakeWriter;

/// Has `subscriber` listen to this thread until the guard is dropped.
///
/// While a single subscriber is alive, tracing has the thread that is the first to reach a message say
/// for all whether somebody wants it; a thread of another test has no subscriber, and says no. With a
/// second one alive, all are asked. This one wants nothing.
pub fn listen(subscriber: impl Subscriber + Send + Sync + 'static) -> DefaultGuard {
    static SECOND: OnceLock<Dispatch> = OnceLock::new();
    SECOND.get_or_init(|| Dispatch::new(NoSubscriber::default()));
    set_default(subscriber)
}

/// The lines that were logged.
#[derive(Debug, Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// Listens to this thread until the guard is dropped.
    pub fn listen(&self) -> DefaultGuard {
        let subscriber = tracing_subscriber::fmt()
            .with_writer(self.clone())
            .with_ansi(false)
            .without_time();
        listen(subscriber.finish())
    }

    pub fn containing(&self, text: &str) -> Vec<String> {
        let all = String::from_utf8(self.0.lock().expect("no panic").clone()).expect("text");
        let lines = all.lines().filter(|line| line.contains(text));
        lines.map(str::to_owned).collect()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
