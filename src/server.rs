//! The server of this crate, and helpers for other servers: a listener and a connection future.

// `serve` takes a listener and an application. `accept` accepts connections, `connection` serves one, and
// `orders` decides when it has to close. `watch` is for hyper connections of a user's own accept loop,
// `drain_listener` for `axum::serve`. No other part of the crate depends on this module.

#[cfg(feature = "server")]
mod accept;
#[cfg(feature = "server")]
mod activity;
#[cfg(feature = "server")]
mod alarm;
#[cfg(feature = "server")]
mod app;
mod backlog;
#[cfg(feature = "server")]
mod connection;
#[cfg(feature = "axum")]
mod drain_listener;
#[cfg(feature = "server")]
mod handshake;
#[cfg(feature = "server")]
mod idle;
#[cfg(feature = "server")]
mod lingering;
#[cfg(feature = "server")]
mod listener;
#[cfg(feature = "server")]
mod moment;
#[cfg(all(feature = "server", target_os = "linux"))]
mod newcomers;
#[cfg(feature = "server")]
mod orders;
#[cfg(feature = "server")]
mod panicked;
#[cfg(feature = "server")]
mod plan;
#[cfg(feature = "server")]
mod serve;
#[cfg(feature = "server")]
mod settings;
#[cfg(feature = "server")]
mod shared_io;
#[cfg(feature = "http2")]
mod streams;
#[cfg(unix)]
mod unix_socket;
#[cfg(feature = "server")]
mod watch;

#[cfg(feature = "server")]
pub use self::app::App;
#[cfg(feature = "axum")]
pub use self::drain_listener::{DrainIo, DrainListener, DrainSignal};
#[cfg(feature = "server")]
pub use self::handshake::{Handshake, HandshakeWith, NoHandshake};
#[cfg(feature = "server")]
pub use self::listener::Listener;
#[cfg(feature = "server")]
pub use self::serve::{Serve, Serving, serve};
#[cfg(feature = "http2")]
pub use self::streams::StreamExecutor;
#[cfg(unix)]
pub use self::unix_socket::UnixSocket;
#[cfg(feature = "server")]
pub use self::watch::{GracefulConnection, WatchError, WatchedConnection, WatchedHandshake};
