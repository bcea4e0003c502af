//! What is shown of an open connection.

use std::fmt;
use std::time::Duration;

use crate::sync::Arc;

/// An open connection of [`serve`](crate::serve()), or of your own accept loop if that names its peer.
///
/// Created by [`ShutdownController::in_flight_now`](crate::ShutdownController::in_flight_now).
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ConnectionItem {
    /// The address of the peer, as its `Debug` shows it.
    #[cfg_attr(feature = "serde", serde(serialize_with = "super::roster::text"))]
    pub peer: Arc<str>,
    /// What it is doing.
    pub stage: ConnectionStage,
    /// For how long it has been open.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "age_seconds", serialize_with = "crate::config::seconds")
    )]
    pub age: Duration,
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ConnectionStage {
    /// A handshake comes before HTTP, such as that of TLS.
    Handshake,
    /// It is a connection of your own accept loop, of which no more is known.
    Open,
    /// It waits for a request.
    Idle,
    /// Part of a request has arrived, on HTTP/1.
    Head,
    /// A request is in its handler, or a response is being written.
    Busy,
    /// The peer does not read, and a response is not sent completely.
    Stalled,
    /// It was upgraded, and is a tunnel now.
    Tunnel,
    /// All is written. The server waits for the peer to close its side.
    Closing,
}

// ===== impl ConnectionItem =====

impl fmt::Display for ConnectionItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, stage, age } = self;
        write!(f, "{peer} ({}, {age:.1?})", stage.name())
    }
}

// ===== impl ConnectionStage =====

impl ConnectionStage {
    /// Returns the name in lower snake case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Open => "open",
            Self::Idle => "idle",
            Self::Head => "head",
            Self::Busy => "busy",
            Self::Stalled => "stalled",
            Self::Tunnel => "tunnel",
            Self::Closing => "closing",
        }
    }
}
