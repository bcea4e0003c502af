//! Captures the log of the current thread.
#![allow(dead_code)] // Each of the programs uses a part of it.

use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use tracing::subscriber::{DefaultGuard, NoSubscriber, set_default};
use tracing::{Dispatch, Subscriber};
use tracing_subscriber::fmt::MakeWriter;

/// Makes `subscriber` receive this thread's events until the guard is dropped.
///
/// With a single live subscriber, tracing caches the interest of the first thread that reaches a
/// callsite, for all threads. A thread of another test has no subscriber, and would disable the
/// callsite. With a second live subscriber, tracing asks every subscriber. The second one here is
/// interested in nothing.
pub fn listen(subscriber: impl Subscriber + Send + Sync + 'static) -> DefaultGuard {
    static SECOND: OnceLock<Dispatch> = OnceLock::new();
    SECOND.get_or_init(|| Dispatch::new(NoSubscriber::default()));
    set_default(subscriber)
}

/// The logged lines.
#[derive(Debug, Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// Captures this thread's events until the guard is dropped.
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
