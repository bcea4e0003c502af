//! The fate of each request, as its client saw it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many answered requests are kept one by one, for the picture; all are counted.
const KEPT: usize = 400_000;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "program", derive(serde::Serialize))]
#[cfg_attr(feature = "program", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Fate {
    /// With the expected status and the whole body; a stream or a WebSocket with its proper end.
    Answered,
    /// In a way that tells the client to send it again.
    Refused(Refusal),
    /// No byte of it was written.
    NeverSent(Unsent),
    /// Written to a kept HTTP/1 connection, which the server was closing: the one race that the
    /// protocol leaves open (RFC 9112 §9.6). Clients send a GET again, and not a POST.
    Ambiguous,
    /// Anything else.
    Lost(Loss),
}

/// How a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "program", derive(serde::Serialize))]
#[cfg_attr(feature = "program", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Refusal {
    /// 503 or 429 with `Retry-After`.
    Later,
    /// 503 with `Connection: close`.
    Closing,
    /// An HTTP/2 stream that was refused, or is past the last one of a GOAWAY (RFC 9113 §8.7).
    Unprocessed,
}

/// Why a request was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "program", derive(serde::Serialize))]
#[cfg_attr(feature = "program", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Unsent {
    /// There was no connection: nobody listens, or nobody accepts.
    Refused,
    /// The connection was closed before the request was written to it.
    Closed,
}

/// How a request was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "program", derive(serde::Serialize))]
#[cfg_attr(feature = "program", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Loss {
    /// The connection was reset or closed after the request was sent, and before the answer.
    NoAnswer,
    /// The same on a new connection, without a byte by the server: the kernel took it, and the server
    /// perhaps did not. For HTTP/2 this is certain, since a server begins with its settings.
    NotAccepted,
    /// The body of the answer ends in the middle.
    Truncated,
    /// The connection was reset or closed while the request's body was sent.
    Upload,
    /// An event stream ends in an error, without its last chunk or END_STREAM.
    Events,
    /// A WebSocket ends without a close frame.
    WebSocket,
    /// 503 without `Retry-After`: a client cannot know whether it may send again.
    Unavailable,
    /// Another status than without a restart.
    Status(u16),
    /// Another body than the only right one.
    Content,
    /// Nothing came in time.
    TimedOut,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "program", derive(serde::Serialize))]
#[cfg_attr(feature = "program", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Work {
    /// A GET.
    Request,
    /// A POST whose body takes its time.
    Upload,
    /// An event stream.
    Events,
    /// A WebSocket.
    #[cfg_attr(feature = "program", serde(rename = "session"))]
    WebSocket,
}

/// Who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "program", derive(serde::Serialize))]
#[cfg_attr(feature = "program", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Sender {
    /// hyper's client on one kept HTTP/1 connection.
    Http1,
    /// hyper's client, several streams on one HTTP/2 connection.
    Http2,
    /// reqwest with its pool, on HTTP/1.
    Reqwest1,
    /// reqwest with its pool, on HTTP/2.
    Reqwest2,
    /// tungstenite.
    #[cfg_attr(feature = "program", serde(rename = "websocket"))]
    WebSocket,
}

impl Sender {
    /// Returns its name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Reqwest1 => "reqwest1",
            Self::Reqwest2 => "reqwest2",
            Self::WebSocket => "websocket",
        }
    }
}

impl Work {
    /// Returns its name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Upload => "upload",
            Self::Events => "events",
            Self::WebSocket => "session",
        }
    }
}

/// A request. Its times are since the beginning of the run.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The number of the client, from 0. A client sends one request at a time.
    pub client: u32,
    /// What kind of client it is.
    pub sender: Sender,
    /// What it asked for.
    pub work: Work,
    /// When it began to connect or to send.
    pub began: Duration,
    /// When its fate was known.
    pub ended: Duration,
    /// How it ended.
    pub fate: Fate,
    /// What the client saw, if it was not answered.
    pub seen: Option<Box<str>>,
}

/// How many requests had which fate.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "program", derive(serde::Serialize))]
pub struct Counts {
    /// See [`Fate::Answered`].
    pub answered: u64,
    /// See [`Fate::Refused`].
    pub refused: u64,
    /// See [`Fate::NeverSent`].
    pub never_sent: u64,
    /// See [`Fate::Ambiguous`].
    pub ambiguous: u64,
    /// See [`Fate::Lost`].
    pub lost: u64,
}

impl Counts {
    /// Counts one more.
    pub fn add(&mut self, fate: Fate) {
        *match fate {
            Fate::Answered => &mut self.answered,
            Fate::Refused(_) => &mut self.refused,
            Fate::NeverSent(_) => &mut self.never_sent,
            Fate::Ambiguous => &mut self.ambiguous,
            Fate::Lost(_) => &mut self.lost,
        } += 1;
    }
}

/// The entries of a run. Clones share them.
#[derive(Debug, Clone)]
pub struct Ledger {
    epoch: Instant,
    book: Arc<Mutex<Book>>,
}

#[derive(Debug, Default)]
struct Book {
    counts: Counts,
    answered: usize,
    entries: Vec<Entry>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            book: Arc::default(),
        }
    }
}

impl Ledger {
    /// Returns the time since the beginning.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Enters a request that ended now.
    pub fn note(&self, entry: Entry) {
        let mut book = self.book();
        book.counts.add(entry.fate);
        if entry.fate == Fate::Answered {
            book.answered += 1;
            if book.answered > KEPT {
                return;
            }
        }
        book.entries.push(entry);
    }

    /// Returns how many requests had which fate until now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.book().counts
    }

    /// Takes out the entries, in the order of their ends.
    #[must_use]
    pub fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut self.book().entries)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
