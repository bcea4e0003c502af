//! `serve` when accepting fails, or never pauses.

use std::future::{IntoFuture, pending, ready};
use std::io;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::DuplexStream;
use tokio::task::{JoinHandle, consume_budget};
use tokio::time::{Instant, sleep};
use tower_lifecycle::server::Listener;
use tower_lifecycle::{
    DrainLayer, ShutdownConfig, ShutdownController, ShutdownReason, ShutdownReport, serve,
};

use crate::support::log::Lines;
use crate::support::server::{Connector, Pipes, assert_at, in_time, pipes, start, trigger};
use crate::support::shutdown::{controller, ms};

/// A listener that has no descriptor for a connection, for a time.
struct OutOfDescriptors {
    until: Option<Instant>,
    pipes: Pipes,
}

impl Listener for OutOfDescriptors {
    type Io = DuplexStream;
    type Addr = u32;

    async fn accept(&mut self) -> io::Result<(DuplexStream, u32)> {
        if self.until.is_none_or(|until| Instant::now() < until) {
            return Err(io::Error::from_raw_os_error(24));
        }
        self.pipes.accept().await
    }
}

/// Serves with a listener that is out of descriptors until then; for ever if that is `None`.
fn serve_without_descriptors(
    ctl: &ShutdownController,
    until: Option<Instant>,
) -> (Connector, JoinHandle<ShutdownReport>) {
    let (connector, pipes) = pipes();
    let app = Router::new()
        .route("/", get(async || "ok"))
        .layer(DrainLayer::new(ctl.clone()));
    let listener = OutOfDescriptors { until, pipes };
    let server = serve(listener, app, ctl.clone()).into_future();
    (connector, tokio::spawn(server))
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_accept_ends_after_its_lame_duck() {
    let lame_duck = ShutdownConfig::default().lame_duck(ms(5_000));
    let refusing = ShutdownConfig::default().refuse_for(ms(500));
    for config in [lame_duck, refusing] {
        let ctl = controller(config);
        let (_connector, server) = serve_without_descriptors(&ctl, None);
        trigger(&ctl).await;
        assert!(in_time(server).await.unwrap().is_graceful());
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_accept_survives_a_lame_duck_that_is_called_off() {
    let ctl = controller(ShutdownConfig::default().lame_duck(ms(5_000)));
    let (_connector, server) = serve_without_descriptors(&ctl, None);
    trigger(&ctl).await;
    sleep(ms(1_300)).await;
    ctl.resume().unwrap();
    sleep(ms(3_000)).await;
    assert!(!server.is_finished());
    trigger(&ctl).await;
    assert!(in_time(server).await.unwrap().is_graceful());
}

#[tokio::test(start_paused = true)]
async fn who_waits_in_the_backlog_is_answered_when_there_are_descriptors_again() {
    let ctl = ShutdownController::new();
    let short = Instant::now() + ms(151);
    let (connector, server) = serve_without_descriptors(&ctl, Some(short));
    trigger(&ctl).await;
    let mut client = connector.http1();
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.text()), (200, "ok"));
    assert!(in_time(server).await.unwrap().is_graceful());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_accept_delays_neither_a_force_nor_the_deadline() {
    let ctl = ShutdownController::new();
    let (_connector, server) = serve_without_descriptors(&ctl, None);
    trigger(&ctl).await;
    sleep(ms(300)).await;
    let since = Instant::now();
    ctl.force();
    in_time(server).await.unwrap();
    assert_at(since, Duration::ZERO);

    // The drain is shorter than the grace.
    let config = ShutdownConfig::default()
        .shutdown_timeout(ms(500))
        .cleanup_reserve(ms(100));
    let ctl = controller(config);
    let (_connector, server) = serve_without_descriptors(&ctl, None);
    let since = trigger(&ctl).await;
    let report = in_time(server).await.unwrap();
    assert!(report.is_graceful() && !report.is_forced(), "{report}");
    assert!(since.elapsed() < ms(400), "{:?}", since.elapsed());
}

/// A listener that begins the shutdown after its last connection.
struct Last {
    left: usize,
    ctl: ShutdownController,
    pipes: Pipes,
}

impl Listener for Last {
    type Io = DuplexStream;
    type Addr = u32;

    async fn accept(&mut self) -> io::Result<(DuplexStream, u32)> {
        if self.left == 0 {
            return pending().await;
        }
        // It gives way for lack of budget only, and so often that the others come to their end.
        for _ in 0..3 {
            consume_budget().await;
        }
        let accepted = self.pipes.accept().await;
        self.left -= 1;
        if self.left == 0 {
            self.ctl.trigger(ShutdownReason::Manual);
        }
        accepted
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_have_ended_are_reaped_though_others_always_wait() {
    const CONNECTIONS: usize = 20_000;
    let lines = Lines::default();
    let _listening = lines.listen();
    let ctl = ShutdownController::new();
    let (connector, pipes) = pipes();
    for _ in 0..CONNECTIONS {
        connector.pipe(1);
    }
    let listener = Last {
        left: CONNECTIONS,
        ctl: ctl.clone(),
        pipes,
    };
    let failed = |_| ready(Err::<DuplexStream, _>(io::ErrorKind::InvalidData.into()));
    let server = serve(listener, Router::<()>::new(), ctl).handshake(failed);
    in_time(server.into_future()).await;
    let told = lines.containing("stopped accepting");
    let kept = told[0].split("connections=").nth(1).unwrap();
    let kept: usize = kept.split_whitespace().next().unwrap().parse().unwrap();
    assert!(kept < 1_000, "{kept}");
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_network_of_one_connection_delays_no_other() {
    let ctl = ShutdownController::new();
    let app = Router::<()>::new().route("/", get(async || "ok"));
    let (connector, server) = start(&ctl, app);
    let since = Instant::now();
    for kind in [
        io::ErrorKind::HostUnreachable,
        io::ErrorKind::NetworkUnreachable,
        io::ErrorKind::NetworkDown,
    ] {
        for _ in 0..100 {
            connector.accept(Err(kind.into()));
        }
    }
    assert_eq!(connector.http1().get("/").await.text(), "ok");
    assert_at(since, Duration::ZERO);
    trigger(&ctl).await;
    server.graceful().await;
}
