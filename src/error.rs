//! What a caller or a client is told when work is refused or cut.

use std::error::Error;
use std::fmt;

/// A boxed error, as the tower world passes them on.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The work was refused, and never begun: the service is shutting down.
///
/// It can be sent again elsewhere without harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShuttingDown;

/// The work was begun and then cut: it did not finish by the drain deadline, or before force.
///
/// Whether it can be repeated without harm is the application's to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forced;

impl fmt::Display for ShuttingDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("service is shutting down")
    }
}

impl fmt::Display for Forced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cut by the shutdown before it finished")
    }
}

impl Error for ShuttingDown {}
impl Error for Forced {}
