//! `serve` hands its socket over to a successor, while tonic's gRPC clients call without a pause.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tower_lifecycle::{
    DrainLayer, ShutdownConfig, ShutdownController, ShutdownReason, ShutdownReport, serve,
};

use crate::support::grpc::{Echo, EchoClient};
use crate::support::loopback::loopback;
use crate::support::sockets::in_time;

const CALLERS: u64 = 32;
const ROUNDS: u64 = 2;

fn start(listener: TcpListener, ctl: &ShutdownController) -> JoinHandle<ShutdownReport> {
    let (echo, _feeds) = Echo::new();
    let app = echo.routes().into_axum_router();
    let app = app.layer(DrainLayer::new(ctl.clone()));
    tokio::spawn(serve(listener, app, ctl.clone()).shared(true).into_future())
}

/// The outcomes of the calls: how many got a response, and the errors of the others.
#[derive(Debug, Default)]
struct Ledger {
    answered: u64,
    errors: BTreeMap<String, u64>,
}

impl Ledger {
    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }
}

async fn call_until(client: EchoClient, end: Instant, pause: Duration) -> Ledger {
    let mut ledger = Ledger::default();
    while Instant::now() < end {
        match client.unary("quick").await {
            Ok(_) => ledger.answered += 1,
            Err(error) => *ledger.errors.entry(format!("{error:?}")).or_default() += 1,
        }
        sleep(pause).await;
    }
    ledger
}

async fn round(connections: u64, lame_duck: Duration, pause: Duration) -> Ledger {
    let socket = std::net::TcpListener::bind(loopback()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let listener = |socket: &std::net::TcpListener| {
        TcpListener::from_std(socket.try_clone().unwrap()).unwrap()
    };
    let config = ShutdownConfig::default()
        .lame_duck(lame_duck)
        .shutdown_timeout(Duration::from_secs(30));
    let old = ShutdownController::with_config(config).unwrap();
    let server = start(listener(&socket), &old);
    let mut channels = Vec::new();
    for _ in 0..connections {
        channels.push(EchoClient::connect(address).await);
    }
    let end = Instant::now() + lame_duck + Duration::from_millis(1500);
    let mut callers = JoinSet::new();
    for nth in 0..CALLERS {
        let client = channels[(nth % connections) as usize].clone();
        callers.spawn(call_until(client, end, pause));
    }
    sleep(Duration::from_millis(100)).await;
    let new = ShutdownController::new();
    let successor = start(listener(&socket), &new);
    old.trigger(ShutdownReason::Manual);
    let mut ledger = Ledger::default();
    for caller in in_time(callers.join_all()).await {
        ledger.add(caller);
    }
    drop(channels);
    let report = in_time(server).await.unwrap();
    assert!(report.is_graceful(), "{report}");
    assert_eq!(report.refused(), 0, "{report}");
    new.trigger(ShutdownReason::Manual);
    let successor = in_time(successor).await.unwrap();
    let seen = report.admitted() + successor.admitted();
    let unanswered = seen - ledger.answered;
    // In about one of a hundred hand-overs of a connection that is never idle, a call was admitted
    // that its client has failed. The client may have done so at the GOAWAY, after the head; that
    // is not proved.
    let failed_by_client = if pause.is_zero() { 1 } else { 0 };
    assert!(
        unanswered <= failed_by_client,
        "{unanswered} of {ledger:?}\n{report}\n{successor}"
    );
    ledger
}

/// Every call that a server has seen gets a response, with one exception where clients never pause.
/// tonic's client also fails some calls that it has not sent when its connection closes: almost
/// none if it pauses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_of_tonic_s_is_lost_that_has_arrived() {
    for lame_duck in [0, 300].map(Duration::from_millis) {
        for (connections, pause) in [(1, 0), (32, 0), (32, 20)] {
            let pause = Duration::from_millis(pause);
            let mut sum = Ledger::default();
            for _ in 0..ROUNDS {
                sum.add(round(connections, lame_duck, pause).await);
            }
            println!("lame duck {lame_duck:?}, {connections} connections, {pause:?}: {sum:?}");
            let failed: u64 = sum.errors.values().sum();
            assert!(
                failed <= ROUNDS * CALLERS,
                "one for each caller and hand-over: {sum:?}"
            );
        }
    }
}
