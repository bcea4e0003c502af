//! When `serve` closes connections in a lame duck and in a drain: late requests are served, idle
//! connections are closed, and the HTTP/2 GOAWAY waits for clients that fail streams in flight at a
//! GOAWAY.

use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::DuplexStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tower_lifecycle::{
    DrainLayer, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason, serve,
};

use crate::support::loopback::loopback;
use crate::support::server::{
    Event, Frame, GOAWAY, HEADERS, Http2, REFUSED, Server, assert_at, in_time, start, trigger,
};
use crate::support::shutdown::controller;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The time between the first and the last GOAWAY.
const ROUND_TRIP: Duration = Duration::from_millis(50);

/// A server with one HTTP/2 client, whose request to `/held` waits for the event.
struct Busy {
    ctl: ShutdownController,
    server: Server,
    client: Http2<DuplexStream>,
    released: Event,
}

impl Busy {
    async fn start(config: ShutdownConfig) -> Self {
        let (ctl, released) = (controller(config), Event::new());
        let (connector, server) = start(&ctl, app(&ctl, &released));
        let mut client = connector.http2().await;
        assert_eq!(client.get(1, "/").await, "ok");
        client.send(Frame::get(3, "/held")).await;
        sleep(MS).await;
        Self {
            ctl,
            server,
            client,
            released,
        }
    }

    async fn trigger(&self) -> Instant {
        trigger(&self.ctl).await
    }

    async fn next(&mut self) -> Frame {
        self.client.next().await.expect("still open")
    }

    /// Reads the GOAWAY frames, the first of them at this time, and acknowledges the PING.
    async fn assert_goodbye(&mut self, since: Instant, announced: Duration) {
        let ping = self.client.goodbye().await;
        assert_at(since, announced + ROUND_TRIP);
        self.client.send(ping.ack()).await;
    }

    /// Reads the last GOAWAY, which names this stream, and the end.
    async fn assert_end(mut self, last: u32) {
        assert_eq!(self.next().await.goaway(), (last, 0));
        assert_eq!(self.client.end().await, []);
        drop(self.client);
        self.server.graceful().await;
    }

    async fn assert_held_answer(&mut self) {
        self.released.happens();
        assert_eq!(self.client.answer(3).await.unwrap(), b"at last");
    }
}

fn app(ctl: &ShutdownController, released: &Event) -> Router {
    let released = released.clone();
    let held = get(async move || {
        released.wait().await;
        "at last"
    });
    Router::new()
        .route("/", get(async || "ok"))
        .route("/held", held)
        .layer(DrainLayer::new(ctl.clone()))
}

// ===== how long a drain takes =====

#[tokio::test(start_paused = true)]
async fn a_drain_takes_no_longer_than_its_connections() {
    let short = ShutdownConfig::default().shutdown_timeout(Duration::from_millis(400));
    for (config, idle) in [
        (ShutdownConfig::default(), 200 * MS),
        (ShutdownConfig::default().late_for(80 * MS), 80 * MS),
        (
            ShutdownConfig::default().late_for(Duration::ZERO),
            Duration::ZERO,
        ),
        (ShutdownConfig::default().refuse_for(700 * MS), 700 * MS),
        (short, 150 * MS), // half of the drain
    ] {
        for is_there in [false, true] {
            let ctl = controller(config.clone());
            let (connector, server) = start(&ctl, app(&ctl, &Event::new()));
            let mut client = connector.http1();
            assert!(!client.get("/").await.closes());
            let client = Some(client).filter(|_| is_there);
            let since = trigger(&ctl).await;
            let report = server.graceful().await;
            let refuses = config.refuse_for > Duration::ZERO;
            let expected = if is_there || refuses {
                idle
            } else {
                Duration::ZERO
            };
            assert_at(since, expected);
            assert_eq!(report.refused(), 0);
            drop(client);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn late_requests_are_served_for_a_while_and_then_refused() {
    let ctl = ShutdownController::new();
    let released = Event::new();
    let (connector, server) = start(&ctl, app(&ctl, &released));
    let mut client = connector.http2().await;
    client.send(Frame::get(1, "/held")).await;
    let mut idle = connector.http1();
    idle.get("/").await;
    let mut half = connector.http1();
    half.send("GET / HTTP/1.1\r\n").await;
    let since = trigger(&ctl).await;
    sleep(150 * MS).await;
    let answer = idle.get("/").await;
    assert!(answer.closes() && answer.text() == "ok", "{answer:?}");
    assert_eq!(idle.end().await, b"");
    sleep(800 * MS).await;
    half.send("host: test\r\n\r\n").await;
    let answer = half.answer().await;
    assert!(answer.closes() && answer.text() == "ok", "{answer:?}");
    assert_eq!(half.end().await, b"");
    assert_at(since, 950 * MS);
    sleep(100 * MS).await;
    assert_eq!(client.get(3, "/").await, REFUSED);
    released.happens();
    assert_eq!(client.answer(1).await.unwrap(), b"at last");
    drop(client);
    let report = server.graceful().await;
    assert_eq!(
        (report.late_requests(), report.refused()),
        (2, 1),
        "{report}"
    );
}

// ===== while draining =====

#[tokio::test(start_paused = true)]
async fn an_idle_http_2_client_is_said_goodbye_after_its_next_answer_or_200_ms() {
    for asks in [false, true] {
        let mut busy = Busy::start(ShutdownConfig::default()).await;
        busy.assert_held_answer().await;
        let since = busy.trigger().await;
        let (mut announced, mut last) = (200 * MS, 3);
        if asks {
            (announced, last) = (70 * MS, 5);
            sleep(announced).await;
            assert_eq!(busy.client.get(5, "/").await, "ok");
        }
        busy.assert_goodbye(since, announced).await;
        busy.assert_end(last).await;
        assert_at(since, announced + ROUND_TRIP);
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_http_2_client_is_said_goodbye_after_its_last_answer() {
    for wait in [100 * MS, 10 * SECOND] {
        let mut busy = Busy::start(ShutdownConfig::default()).await;
        let since = busy.trigger().await;
        sleep(wait).await;
        // The complete response comes first.
        busy.released.happens();
        assert_eq!(busy.next().await.kind, HEADERS);
        assert!(busy.next().await.ends());
        busy.assert_goodbye(since, wait).await;
        busy.assert_end(3).await;
        assert_at(since, wait + ROUND_TRIP);
    }
}

#[tokio::test(start_paused = true)]
async fn who_still_sends_requests_is_said_goodbye_before_they_are_refused() {
    for (late_for, moment) in [(1000, 800), (500, 400), (5000, 4800)] {
        let late_for = Duration::from_millis(late_for);
        let mut busy = Busy::start(ShutdownConfig::default().late_for(late_for)).await;
        let since = busy.trigger().await;
        sleep(100 * MS).await;
        assert_eq!(busy.client.get(5, "/").await, "ok");
        busy.assert_goodbye(since, moment * MS).await;
        // A request on its way is served.
        busy.client.send(Frame::get(7, "/")).await;
        assert_eq!(busy.next().await.goaway(), (5, 0));
        sleep(10 * SECOND).await;
        assert_eq!(busy.ctl.state(), LifecycleState::Draining);
        busy.assert_held_answer().await;
        assert_eq!(busy.client.end().await, []);
        drop(busy.client);
        let report = busy.server.graceful().await;
        assert_eq!((report.late_requests(), report.refused()), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_crosses_the_goodbye_is_served() {
    let mut busy = Busy::start(ShutdownConfig::default()).await;
    let since = busy.trigger().await;
    sleep(100 * MS).await;
    assert_eq!(busy.client.get(5, "/").await, "ok");
    let ping = busy.client.goodbye().await;
    assert_at(since, 850 * MS);
    sleep(50 * MS).await; // a long round trip
    assert_eq!(busy.client.get(7, "/").await, "ok");
    busy.client.send(ping.ack()).await;
    assert_eq!(busy.next().await.goaway(), (7, 0));
    busy.assert_held_answer().await;
    assert_eq!(busy.client.end().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_comes_too_late_on_a_busy_connection_is_refused_and_brings_the_goodbye() {
    for config in [
        ShutdownConfig::default(),
        ShutdownConfig::default().late_for(Duration::ZERO),
    ] {
        let mut busy = Busy::start(config).await;
        let since = busy.trigger().await;
        sleep(3 * SECOND).await;
        assert_eq!(busy.client.get(5, "/").await, REFUSED);
        busy.assert_goodbye(since, 3 * SECOND).await;
        assert_eq!(busy.next().await.goaway(), (5, 0));
        busy.assert_held_answer().await;
        assert_eq!(busy.client.end().await, []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_does_not_end_keeps_its_connection_for_three_quarters_of_the_drain() {
    let mut busy = Busy::start(ShutdownConfig::default()).await; // 25 s
    let since = busy.trigger().await;
    busy.assert_goodbye(since, 18_750 * MS).await;
    assert_eq!(busy.next().await.goaway(), (3, 0));
    sleep(3 * SECOND).await;
    busy.assert_held_answer().await;
    assert_eq!(busy.client.end().await, []);
    drop(busy.client);
    busy.server.graceful().await;
}

#[tokio::test(start_paused = true)]
async fn in_a_drain_without_a_deadline_a_busy_client_is_left_alone() {
    let config = ShutdownConfig::default().shutdown_timeout(Duration::MAX);
    let mut busy = Busy::start(config.late_for(Duration::MAX)).await;
    let since = busy.trigger().await;
    assert_eq!(busy.client.get(5, "/").await, "ok");
    sleep(3600 * SECOND).await;
    assert_eq!(busy.client.get(7, "/").await, "ok");
    busy.assert_held_answer().await;
    busy.assert_goodbye(since, 3600 * SECOND).await;
    busy.assert_end(7).await;
}

#[tokio::test(start_paused = true)]
async fn where_late_requests_are_refused_the_goodbye_comes_after_the_refusals() {
    let config = ShutdownConfig::default().refuse_for(2 * SECOND);
    for is_idle in [false, true] {
        let mut busy = Busy::start(config.clone()).await;
        if is_idle {
            busy.assert_held_answer().await;
        }
        let since = busy.trigger().await;
        for stream in [5, 7, 9] {
            sleep(500 * MS).await;
            assert_eq!(busy.client.get(stream, "/").await, REFUSED);
        }
        busy.assert_goodbye(since, 2 * SECOND).await;
        assert_eq!(busy.next().await.goaway(), (9, 0));
        if !is_idle {
            busy.assert_held_answer().await;
        }
        assert_eq!(busy.client.end().await, []);
        drop(busy.client);
        assert_eq!(busy.server.graceful().await.refused(), 3);
    }
}

// ===== in the lame duck =====

/// After half of it all connections have been asked to close.
fn lame_duck() -> ShutdownConfig {
    ShutdownConfig::default()
        .lame_duck(10 * SECOND)
        .shutdown_timeout(40 * SECOND)
}

#[tokio::test(start_paused = true)]
async fn in_a_lame_duck_the_goodbye_waits_for_the_last_answer() {
    let mut busy = Busy::start(lame_duck()).await;
    let since = busy.trigger().await;
    sleep(6 * SECOND).await;
    assert_eq!(busy.client.get(5, "/").await, "ok");
    busy.released.happens();
    assert_eq!(busy.next().await.kind, HEADERS);
    assert!(busy.next().await.ends());
    busy.assert_goodbye(since, 6 * SECOND).await;
    assert_eq!(busy.next().await.goaway(), (5, 0));
    assert_eq!(busy.client.end().await, []);
    assert_eq!(busy.ctl.state(), LifecycleState::LameDuck);
}

#[tokio::test(start_paused = true)]
async fn who_is_never_idle_in_a_lame_duck_is_said_goodbye_by_the_drain() {
    let mut busy = Busy::start(lame_duck()).await;
    let since = busy.trigger().await;
    sleep(10 * SECOND + 100 * MS).await;
    assert_eq!(busy.client.get(5, "/").await, "ok");
    busy.assert_goodbye(since, 10_800 * MS).await;
    assert_eq!(busy.next().await.goaway(), (5, 0));
    busy.assert_held_answer().await;
    assert_eq!(busy.client.end().await, []);
}

// ===== on threads =====

/// Streams end in their own tasks, on other threads than their connection: a GOAWAY that is sent
/// before the last response would make some clients fail it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_goodbye_overtakes_an_answer() {
    const CLIENTS: u32 = 40;
    for round in 0..10 {
        let config = ShutdownConfig::default().lame_duck(Duration::from_millis(round % 2 * 40));
        let ctl = controller(config);
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let count = Arc::new(AtomicU32::new(0));
        let entered = Arc::clone(&count);
        // Most end while the GOAWAYs are sent.
        let slow = get(async move || {
            let nth = entered.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_micros(u64::from(nth % 40) * 1500)).await;
            "slow"
        });
        let app: Router = Router::new()
            .route("/slow", slow)
            .layer(DrainLayer::new(ctl.clone()))
            .with_state(());
        let server = tokio::spawn(serve(listener, app, ctl.clone()).into_future());
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut client = Http2::new(TcpStream::connect(address).await.unwrap(), &[]).await;
            for stream in [1, 3, 5] {
                client.send(Frame::get(stream, "/slow")).await;
            }
            clients.push(client);
        }
        let mut reads = Vec::new();
        for mut client in clients {
            reads.push(tokio::spawn(async move {
                let mut open = 3;
                loop {
                    let frame = client.next().await.unwrap();
                    match frame.kind {
                        GOAWAY => return open,
                        _ if frame.ends() => open -= 1,
                        _ => {}
                    }
                }
            }));
        }
        in_time(async {
            while count.load(Ordering::Relaxed) < 3 * CLIENTS {
                sleep(MS).await;
            }
        })
        .await;
        ctl.trigger(ShutdownReason::Manual);
        for read in reads {
            assert_eq!(in_time(read).await.unwrap(), 0, "open at the goodbye");
        }
        in_time(server).await.unwrap();
    }
}
