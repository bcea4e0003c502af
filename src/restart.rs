//! Restart in place: a new process takes over the listening sockets of this one.
//!
//! [`Inherited`] takes the sockets that this process was given, by systemd or by its predecessor.
//! [`HandOver`] starts a successor, gives it the sockets, and shuts this process down once the successor is
//! ready. Both use the protocol of sd_listen_fds(3).
//!
//! ```no_run
//! use tower_lifecycle::ShutdownController;
//! use tower_lifecycle::restart::{HandOver, Inherited, RestartSignal};
//!
//! # async fn serve(_: tokio::net::TcpListener, _: ShutdownController) {}
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut inherited = Inherited::from_env()?;
//! let ctl = ShutdownController::new();
//! let listener = inherited.tcp("http")?.or_bind("0.0.0.0:3000").await?;
//! HandOver::new(&ctl)?
//!     .listener("http", &listener)?
//!     .on_signal(RestartSignal::User2)?;
//! inherited.ready_with(&ctl); // the predecessor shuts down
//! serve(listener, ctl).await; // `tower_lifecycle::serve`, for example
//! # Ok(()) }
//! ```
//!
//! The same program then restarts by `kill -USR2`, and a first start needs no other code.

// `successor` is the parent's view of the new process, and `inherited` is the new process's. They agree on
// `protocol`. No other wing uses this one; systemd is told of a hand-over by `core.hand_over`.

mod hand_over;
mod hand_over_error;
mod inherit_error;
mod inherited;
mod program;
mod protocol;
mod signal;
mod sockets;
mod successor;

pub use self::hand_over::{HandOver, HandingOver};
pub use self::hand_over_error::HandOverError;
pub use self::inherit_error::InheritError;
pub use self::inherited::{Given, Inherited};
pub use self::signal::RestartSignal;
