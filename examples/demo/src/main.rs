//! A server under load is terminated, and no request is lost.
//!
//! ```text
//! cargo run -p demo
//! cargo run -p demo -- --stuck
//! ```
//!
//! An axum app under `serve` and the 240 HTTP clients of `drain-check` run in one process, each side on its
//! own runtime.
//! After a second and a half the process sends itself a real SIGTERM. Then it shows:
//!
//! - *lame duck*: the readiness probe turns red, all requests are still served, and responses ask
//!   clients to leave with `Connection: close`;
//! - *draining*: the listener is closed, requests that arrive on open connections are served and
//!   their clients asked to leave, slow and streaming responses are completed;
//! - *stopping*: the hook cleans up, and the server's runtime is dropped, as at the end of a
//!   process;
//! - the report, and the clients' counts: `sent = answered in full + refused + lost`, lost 0, equal
//!   to the server's counts. Clients go on until the server is gone: what they tried when nobody
//!   listened any more was never sent.
//!
//! With `--stuck` the app also has a handler and a body that never end. They are cut when their
//! time is up, the report says so, and the clients count them separately. A server would then exit
//! with 1, from `report.exit_code()`.
//!
//! The demo ends within ten seconds, and exits with 1 only if something was lost or the counts of
//! the clients and the server differ.

mod books;
mod clients;
mod screen;

use std::convert::Infallible;
use std::future::pending;
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::{Router, routing::get};
use futures_util::{Stream, StreamExt, stream};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tower_lifecycle::{
    DrainLayer, HealthService, ShutdownConfig, ShutdownController, ShutdownReport,
};

use crate::books::Books;
use crate::clients::Ledgers;

/// The time between two lines of a stream.
const LINE_INTERVAL: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let stuck = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--stuck" => true,
        _ => {
            let _ = writeln!(std::io::stderr(), "usage: demo [--stuck]");
            return ExitCode::from(2);
        }
    };
    match demo(stuck) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether the shutdown kept its guarantees.
fn demo(stuck: bool) -> io::Result<bool> {
    let ledgers = Ledgers::default();
    let runtime = Runtime::new()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;

    let (server_lives, server_ended) = oneshot::channel();
    let clients = thread::spawn({
        let ledgers = ledgers.clone();
        move || clients::run(address, stuck, ledgers, server_ended)
    });
    let (report, triggered_at) = runtime.block_on(serve(listener, stuck, &ledgers));
    // After this the server can write nothing more to its clients.
    drop(runtime);
    drop(server_lives);
    let first_red = clients.join().expect("no panic in the clients")?;

    let books = Books::close(&ledgers, first_red);
    let _ = writeln!(std::io::stdout(), "{report}\n{books}");
    let signal = ledgers.all.now().saturating_sub(triggered_at.elapsed());
    if let Some(order) = books.order(signal) {
        let _ = writeln!(std::io::stdout(), "  {order}");
    }
    let is_fine = books.agree_with(&report) && report.is_forced() == stuck;
    if is_fine {
        let _ = writeln!(
            std::io::stdout(),
            "as promised: nothing lost, and the server's books say the same"
        );
    } else {
        let _ = writeln!(std::io::stdout(), "NOT as promised");
    }
    Ok(is_fine)
}

async fn serve(listener: TcpListener, stuck: bool, ledgers: &Ledgers) -> (ShutdownReport, Instant) {
    // The longest stream takes three seconds, so a shutdown without `--stuck` is never forced.
    let total = Duration::from_secs(if stuck { 7 } else { 8 });
    let config = ShutdownConfig::default()
        .shutdown_timeout(total)
        .cleanup_reserve(Duration::from_secs(1))
        .lame_duck(Duration::from_millis(500));
    let ctl = ShutdownController::with_config(config).expect("the parts fit into the total");
    ctl.listen_for_signals().expect("inside a runtime");
    ctl.on_shutdown("close the pool", |_notice| async {
        sleep(Duration::from_millis(150)).await;
        Ok(())
    })
    .expect("the only hook of this name");

    let app = Router::new()
        .route("/quick", get(|| async { "quick\n" }))
        .route("/slow/{millis}", get(slow))
        .route("/stream/{lines}", get(stream))
        .route("/stuck", get(pending::<()>))
        .route("/endless", get(|| async { Body::from_stream(lines()) }))
        .layer(DrainLayer::new(ctl.clone()))
        .route_service("/health", HealthService::new(ctl.clone()));

    let screen = tokio::spawn(screen::show(ctl.clone(), ledgers.all.clone()));
    tokio::spawn(terminate_after(Duration::from_millis(1500), ctl.clone()));

    let report = tower_lifecycle::serve(listener, app, ctl.clone()).await;
    screen.await.expect("no panic in the screen");
    let notice = ctl.notice().expect("the shutdown is over");
    (report, notice.triggered_at().into_std())
}

async fn slow(Path(millis): Path<u64>) -> String {
    sleep(Duration::from_millis(millis)).await;
    format!("slow, {millis} ms\n")
}

async fn stream(Path(count): Path<usize>) -> Body {
    Body::from_stream(lines().take(count))
}

/// Yields numbered lines, without end.
fn lines() -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(1, |number| async move {
        sleep(LINE_INTERVAL).await;
        Some((Ok(Bytes::from(format!("line {number}\n"))), number + 1))
    })
}

async fn terminate_after(time: Duration, ctl: ShutdownController) {
    sleep(time).await;
    #[cfg(unix)]
    {
        use nix::sys::signal::{Signal, kill};
        use nix::unistd::Pid;
        drop(ctl);
        kill(Pid::this(), Signal::SIGTERM).expect("a process may signal itself");
    }
    #[cfg(not(unix))]
    ctl.trigger(tower_lifecycle::ShutdownReason::Manual);
}
