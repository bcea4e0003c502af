//! The auto traits of every public type. A new field could remove one.

use std::fmt::Debug;
use std::future::Ready;
use std::marker::PhantomPinned;

use bytes::Bytes;
use http_body_util::Full;
use tower_lifecycle::config::ConfigError;
use tower_lifecycle::controller::Run;
use tower_lifecycle::controller::{HookError, Readiness, TaskPolicy};
use tower_lifecycle::error::{Forced, ShuttingDown};
use tower_lifecycle::future::{GuardWait, Wait};
use tower_lifecycle::layers::{AnyDrainFuture, DrainFuture, RequestTrackingFuture};
use tower_lifecycle::layers::{
    AnyService, Drain, Http, Rejection, RequestTracking, ResponseBody, TrackedBody,
};
use tower_lifecycle::report::{HookReport, Outcome, PhaseReport, TaskReport};
use tower_lifecycle::{
    BoxError, DrainLayer, Hook, InFlightGuard, LifecycleState, LongLived, Platform,
    RequestTrackingLayer, ShutdownConfig, ShutdownController, ShutdownNotice, ShutdownReason,
    ShutdownReport, Task, UpgradeGuard,
};

fn is_all<T: Send + Sync + Unpin + Debug + 'static>() {}
fn is_send<T: Send + Unpin + Debug + 'static>() {}
fn is_clone<T: Clone>() {}
fn is_error<T: std::error::Error + Send + Sync + 'static>() {}

/// Neither `Send` nor `Sync`. A mode is not a value, so this must not matter.
type Mode = *const ();

type Service = tower::util::ServiceFn<fn(u32) -> Ready<Result<u32, BoxError>>>;

#[test]
fn the_handle_and_what_it_gives_are_send_and_sync() {
    is_all::<ShutdownController>();
    is_all::<ShutdownConfig>();
    is_all::<Platform>();
    is_all::<ShutdownNotice>();
    is_all::<ShutdownReport>();
    is_all::<ShutdownReason>();
    is_all::<LifecycleState>();
    is_all::<PhaseReport>();
    is_all::<HookReport>();
    is_all::<TaskReport>();
    is_all::<TaskPolicy>();
    is_all::<Outcome>();
    is_all::<InFlightGuard>();
    is_all::<GuardWait<'static>>();
    is_all::<UpgradeGuard>();
    is_all::<Wait>();
    is_all::<Readiness>();
    is_all::<Wait<LifecycleState>>();
    is_all::<Wait<ShutdownReport>>();
    is_all::<Run<Ready<()>>>();
    // A hook runs once, in one task: its captures need not be `Sync`.
    is_send::<Hook>();
    // The same for a task.
    is_send::<Task>();
}

#[test]
fn layers_services_futures_and_bodies_are_send_and_sync() {
    is_all::<Http>();
    is_all::<AnyService>();
    is_all::<DrainLayer>();
    is_all::<LongLived>();
    is_all::<Rejection>();
    is_all::<DrainLayer<Mode>>();
    is_all::<Drain<Service>>();
    is_all::<Drain<Service, Mode>>();
    is_all::<DrainFuture<Ready<()>, Full<Bytes>>>();
    // Some request bodies are not `Sync`, and some are not `Unpin`.
    is_all::<DrainFuture<Ready<()>, axum::body::Body>>();
    is_all::<DrainFuture<Ready<()>, PhantomPinned>>();
    is_all::<AnyDrainFuture<Ready<()>>>();
    is_all::<RequestTrackingLayer>();
    is_all::<RequestTrackingLayer<Mode>>();
    is_all::<RequestTracking<Service>>();
    is_all::<RequestTracking<Service, Mode>>();
    is_all::<RequestTrackingFuture<Ready<()>>>();
    is_all::<RequestTrackingFuture<Ready<()>, Mode>>();
    is_all::<ResponseBody<Full<Bytes>>>();
    is_all::<TrackedBody<Full<Bytes>>>();
}

#[test]
fn errors_are_errors_that_can_be_boxed() {
    is_all::<BoxError>();
    is_error::<Forced>();
    is_error::<ShuttingDown>();
    is_error::<ConfigError>();
    is_error::<HookError>();
}

#[test]
fn handles_layers_services_and_values_can_be_cloned() {
    is_clone::<ShutdownController>();
    is_clone::<ShutdownConfig>();
    is_clone::<ShutdownNotice>();
    is_clone::<ShutdownReport>();
    is_clone::<HookReport>();
    is_clone::<TaskPolicy>();
    is_clone::<HookError>();
    is_clone::<ConfigError>();
    is_clone::<UpgradeGuard>();
    is_clone::<LongLived>();
    is_clone::<Rejection>();
    is_clone::<DrainLayer<Mode>>();
    is_clone::<Drain<Service, Mode>>();
    is_clone::<RequestTrackingLayer<Mode>>();
    is_clone::<RequestTracking<Service, Mode>>();
}

#[cfg(feature = "health")]
#[test]
fn the_health_service_is_send_sync_and_clone() {
    is_all::<tower_lifecycle::HealthService>();
    is_clone::<tower_lifecycle::HealthService>();
    is_all::<tower_lifecycle::health::HealthServiceFuture>();
}

#[cfg(feature = "signal")]
#[test]
fn the_signal_error_is_an_error() {
    is_error::<tower_lifecycle::signal::SignalError>();
}

#[cfg(feature = "signal")]
#[test]
fn the_choice_of_signals_is_send_sync_and_clone() {
    is_all::<tower_lifecycle::signal::Signals>();
    is_clone::<tower_lifecycle::signal::Signals>();
}

/// A server runs in one task: it need not be `Sync`.
#[cfg(feature = "http2")]
#[test]
fn servers_and_watched_connections_are_send() {
    use tower_lifecycle::server::{
        NoHandshake, Serve, Serving, StreamExecutor, WatchError, WatchedConnection,
        WatchedHandshake,
    };

    type Connection = hyper::server::conn::http2::Connection<
        hyper_util::rt::TokioIo<tokio::net::TcpStream>,
        hyper_util::service::TowerToHyperService<axum::Router>,
        StreamExecutor,
    >;

    is_send::<Serve<tokio::net::TcpListener, axum::Router>>();
    is_send::<Serving>();
    is_send::<WatchedConnection<Connection>>();
    is_send::<WatchedHandshake<Ready<std::io::Result<Connection>>, Connection>>();
    is_error::<WatchError<std::io::Error, hyper::Error>>();
    is_error::<WatchError<std::io::Error, BoxError>>();
    is_all::<NoHandshake>();
    is_all::<StreamExecutor>();
    is_clone::<StreamExecutor>();
}

#[cfg(feature = "axum")]
#[test]
fn the_listener_for_axum_is_send() {
    use tower_lifecycle::DrainListener;
    use tower_lifecycle::server::{DrainIo, DrainSignal};

    is_all::<DrainListener<tokio::net::TcpListener>>();
    is_all::<DrainIo<tokio::net::TcpStream>>();
    is_all::<DrainSignal>();
}

#[cfg(all(unix, any(feature = "http2", feature = "axum")))]
#[test]
fn the_unix_socket_is_send() {
    is_all::<tower_lifecycle::server::UnixSocket>();
}

#[cfg(all(unix, feature = "systemd"))]
#[test]
fn the_error_of_notifying_systemd_can_be_boxed() {
    is_error::<tower_lifecycle::systemd::SystemdError>();
}

#[cfg(all(unix, feature = "restart"))]
#[test]
fn the_parts_of_a_hand_over_are_send_and_their_errors_can_be_boxed() {
    use tower_lifecycle::restart::{
        Given, HandOver, HandOverError, HandingOver, InheritError, Inherited, RestartSignal,
    };

    is_all::<Given<std::net::TcpListener>>();
    is_all::<HandOver>();
    is_all::<HandingOver>();
    is_all::<Inherited>();
    is_all::<RestartSignal>();
    is_error::<HandOverError>();
    is_error::<InheritError>();
}
