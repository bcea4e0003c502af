//! The error of taking inherited sockets.

use std::error::Error;
use std::fmt;

use super::protocol::{LISTEN_FDNAMES, LISTEN_FDS};

/// The error that is returned when inherited sockets cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InheritError {
    kind: InheritErrorKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum InheritErrorKind {
    /// `LISTEN_FDS` is not a number of sockets.
    Count(String),
    /// There are not as many names as sockets.
    Names { names: usize, sockets: usize },
    /// There is a socket of this name, of another kind.
    Kind {
        name: String,
        wanted: &'static str,
        found: &'static str,
    },
}

impl fmt::Display for InheritError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            InheritErrorKind::Count(value) => write!(
                f,
                "{LISTEN_FDS} is {value:?}, but must be a number of descriptors, at most 65536"
            ),
            InheritErrorKind::Names { names, sockets } => write!(
                f,
                "{LISTEN_FDNAMES} has {names} names for {sockets} sockets, but must have one for each"
            ),
            InheritErrorKind::Kind {
                name,
                wanted,
                found,
            } => write!(
                f,
                "the inherited descriptor `{name}` is {found}, but {wanted} is asked for"
            ),
        }
    }
}

impl Error for InheritError {}

impl From<InheritErrorKind> for InheritError {
    fn from(kind: InheritErrorKind) -> Self {
        Self { kind }
    }
}
