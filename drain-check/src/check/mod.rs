//! The check of a program: its processes, the balancer before them, and the report.

mod address;
mod balancer;
mod cause;
mod diagnosis;
mod error;
mod options;
mod picture;
mod process;
mod progress;
mod report;
mod run;
mod words;

pub use cause::Cause;
pub use diagnosis::{Finding, Severity};
pub use error::Error;
pub use options::{Options, Via};
pub use report::{Report, Restart};
pub use run::check;
