//! The readiness probe.

use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time::sleep;

use super::once::{Once, once};
use crate::ledger::Ledger;
use crate::target::Target;

/// Between two attempts.
pub(crate) const PERIOD: Duration = Duration::from_millis(20);
/// The time limit of an attempt.
const LIMIT: Duration = Duration::from_secs(5);

/// The question whether a server is ready.
#[derive(Debug)]
pub struct Probe {
    target: Target,
    path: String,
    by_http2: bool,
}

impl Probe {
    /// Asks a path of a server, by HTTP/1.
    pub fn new(target: impl Into<Target>, path: impl Into<String>) -> Self {
        Self {
            target: target.into(),
            path: path.into(),
            by_http2: false,
        }
    }

    /// Sets whether it asks by HTTP/2, without TLS.
    #[must_use]
    pub fn by_http2(mut self, by_http2: bool) -> Self {
        self.by_http2 = by_http2;
        self
    }

    /// Asks once, on a connection of its own.
    ///
    /// # Errors
    ///
    /// What went wrong, if there is no answer.
    pub async fn send(&self) -> Result<StatusCode, String> {
        let ask = Once {
            target: &self.target,
            address: self.target.addresses[0],
            method: Method::GET,
            path: &self.path,
            by_http2: self.by_http2,
            head_only: true,
        };
        let answer = once(ask, LIMIT).await;
        answer.map(|(status, _)| status)
    }

    /// Asks every 20 ms, until an answer says that it is not. Returns when that came, by the ledger's clock.
    pub async fn turns_red(self, ledger: Ledger) -> Duration {
        loop {
            if self.send().await.is_ok_and(|status| !status.is_success()) {
                return ledger.now();
            }
            sleep(PERIOD).await;
        }
    }
}
