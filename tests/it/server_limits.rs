//! How long connections of `serve` live, and how many there are, outside a shutdown and in one.

mod age;
mod open;
mod requests;
mod sockets;
mod tunnels;

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::time::{Instant, sleep};
use tower_lifecycle::{
    DrainLayer, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason,
};

use crate::support::loopback::loopback;
use crate::support::server::{
    Alive, Connector, Event, Frame, GOAWAY, HEADERS, Http1, Http2, Server, assert_at, in_time,
    start_with, trigger,
};
use crate::support::shutdown::controller;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Of the connections of one test, without the jitter.
const AGE: Duration = Duration::from_secs(40);
/// The same with the whole jitter.
const OLDEST: Duration = Duration::from_secs(44);
const GRACE: Duration = Duration::from_secs(10);
/// How long the server waits for a good moment to ask a client to leave.
const PATIENCE: Duration = Duration::from_secs(5);

/// An app with `/`, and `/held`, which answers when it is released and lives until then.
#[derive(Clone)]
struct App {
    ctl: ShutdownController,
    entered: Event,
    released: Event,
    alive: Alive,
}

impl App {
    fn new() -> Self {
        Self::with(ShutdownConfig::default())
    }

    fn with(config: ShutdownConfig) -> Self {
        Self {
            ctl: controller(config),
            entered: Event::new(),
            released: Event::new(),
            alive: Alive::default(),
        }
    }

    fn routes(&self) -> Router {
        let app = self.clone();
        let held = get(async move || {
            let _life = app.alive.begin();
            app.entered.happens();
            app.released.wait().await;
            "at last"
        });
        let served = self.alive.clone();
        let ok = get(async move || {
            let _life = served.begin();
            "ok"
        });
        Router::new()
            .route("/", ok)
            .route("/held", held)
            .layer(DrainLayer::new(self.ctl.clone()))
            .with_state(())
    }

    async fn end(self, server: Server) {
        self.ctl.trigger(ShutdownReason::Manual);
        server.graceful().await;
    }
}

/// It is so long after that, at the earliest and at the latest.
#[track_caller]
fn assert_within(since: Instant, earliest: Duration, latest: Duration) {
    let now = since.elapsed();
    assert!(
        now + 3 * MS >= earliest && now <= latest + 3 * MS,
        "at {now:?}, not from {earliest:?} to {latest:?}"
    );
}
