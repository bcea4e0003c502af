//! The HTTP clients, on their own runtime.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use drain_check::Ledger;
use drain_check::client::{Ask, Expected, Job, Load, Probe};
use tokio::sync::oneshot;

/// What all clients write down.
#[derive(Debug, Default, Clone)]
pub struct Ledgers {
    /// Of the requests that must not be lost.
    pub all: Ledger,
    /// Of those that cannot be answered in full, with `--stuck`.
    pub stuck: Ledger,
}

/// Between two requests of a client whose answers are quick, at most. Shorter than the lame duck, so that each
/// connection is asked to leave.
const PAUSE: Duration = Duration::from_millis(200);
/// The same after an answer that may have begun before the lame duck, and ends after it: shorter than the time
/// for which the server then keeps the connection.
const SHORT_PAUSE: Duration = Duration::from_millis(20);

/// Runs all clients until the server has ended. Returns when a probe first saw red.
pub fn run(
    address: SocketAddr,
    stuck: bool,
    ledgers: Ledgers,
    server_ended: oneshot::Receiver<()>,
) -> io::Result<Option<Duration>> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let (slow, streams) = ((1..=60).map(|n| n * 31), (0..40).map(|n| 10 + n / 2));
        let slow: Vec<_> = slow.map(|millis| format!("/slow/{millis}")).collect();
        let streams: Vec<_> = streams.map(|lines| format!("/stream/{lines}")).collect();

        let job = Job::new(address, &ledgers.all).pause(PAUSE);
        let mut quick = Load::new(job.expect("/quick", Expected::exactly("quick\n")), 1);
        quick.http1(140, &Ask::get(["/quick"]));

        let mut job = Job::new(address, &ledgers.all).pause(SHORT_PAUSE);
        for path in slow.iter().chain(&streams) {
            job = job.expect(path, Expected::exactly(body_of(path)));
        }
        let mut long = Load::new(job, 2);
        for path in slow.iter().chain(&streams) {
            long.http1(1, &Ask::get([path]));
        }

        let mut unending = Load::new(Job::new(address, &ledgers.stuck), 3);
        for path in ["/stuck", "/endless"].iter().filter(|_| stuck) {
            unending.http1(1, &Ask::get([*path]));
        }
        let probe = Probe::new(address, "/health").turns_red(ledgers.all.clone());
        let probe = tokio::spawn(probe);

        // The sender is only dropped, never used.
        let _ = server_ended.await;
        tokio::join!(quick.end(), long.end(), unending.end());
        probe.abort();
        Ok(probe.await.ok())
    })
}

/// Returns the only right answer.
fn body_of(path: &str) -> String {
    match path.trim_start_matches('/').split_once('/') {
        Some(("slow", millis)) => format!("slow, {millis} ms\n"),
        Some((_, lines)) => {
            let count: usize = lines.parse().expect("a number");
            (1..=count).map(|line| format!("line {line}\n")).collect()
        }
        None => String::new(),
    }
}
