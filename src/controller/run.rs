//! Running a server until the shutdown is over.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::controller::ShutdownController;
use crate::error::{BoxError, Chain};
use crate::in_flight::{event, runtime_is_ending};
use crate::log::tell;
use crate::shutdown::{ENDED, IntoResult, ServerError, ShutdownReport, Wait};
use crate::state::ShutdownReason;
use crate::sync::Arc;

pin_project! {
    /// The future of [`ShutdownController::run`].
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::controller::Run;
    /// use tower_lifecycle::{ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let run: Run<_> = ctl.run(async { /* a server that ends by itself */ });
    /// assert_eq!(run.await.reason(), ShutdownReason::ServerExited);
    /// # }
    /// ```
    #[must_use = "futures do nothing unless polled, and dropping this one drops the server"]
    pub struct Run<F> {
        // Declared first, so that the server is dropped before its end is reported.
        #[pin]
        server: Option<F>,
        registration: Registration,
        drain_over: Wait,
        report: Wait<ShutdownReport>,
    }
}

/// Reports the end of a server to the controller once, at the latest when it is dropped.
#[derive(Debug)]
struct Registration {
    ctl: ShutdownController,
    is_registered: bool,
}

// ===== impl ShutdownController =====

impl ShutdownController {
    /// Runs `server` until it has ended and the shutdown is over, and returns the report.
    ///
    /// The server is polled inline, so it need not be `Send`. After the trigger it should end by
    /// itself when [`stop_accepting`](Self::stop_accepting) resolves. The drain is over only when the
    /// server has ended, because a count of zero does not mean that the last bytes have been written.
    /// After a force the server gets a short time to end, and is then dropped. Unless its own thread
    /// is blocked, this future ends by the final deadline. If something else holds up the shutdown, it
    /// ends 50 ms after the deadline, with the report of an
    /// [interrupted](ShutdownReason::Interrupted) shutdown.
    ///
    /// A server that ends without being asked to begins the shutdown. The reason is
    /// [`ServerExited`](ShutdownReason::ServerExited), or [`Error`](ShutdownReason::Error) if the
    /// server failed; its error is then in the report. A panic counts as a failure, and is resumed in
    /// the caller. Several servers can be run at once: the shutdown waits for all of them. A server
    /// that is run after the end is dropped without being polled.
    ///
    /// What is not promised: dropping a foreign server may leave tasks that it has spawned. With
    /// `axum::serve`, a connection whose client does not read stays open until the runtime ends. It
    /// is reported as [abandoned](ShutdownReport::abandoned). The end of the process is not promised
    /// either: see [`exit_code`](ShutdownReport::exit_code) for what may delay it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the server and begins the shutdown, which goes on without it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_lifecycle::{ShutdownController, ShutdownReason};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let stop = ctl.stop_accepting();
    /// let server = async move {
    ///     // accept and serve, until:
    ///     stop.await;
    ///     std::io::Result::Ok(())
    /// };
    /// # ctl.trigger(ShutdownReason::Manual);
    /// let report = ctl.run(server).await;
    /// assert!(report.is_graceful());
    /// # }
    /// ```
    pub fn run<S>(&self, server: S) -> Run<S::IntoFuture>
    where
        S: IntoFuture<Output: IntoResult>,
    {
        self.core().capture_runtime();
        Run::new(self, server.into_future())
    }
}

const PANICKED: &str = "the server panicked";

// ===== impl Run =====

impl<F> Run<F> {
    pub(crate) fn new(ctl: &ShutdownController, server: F) -> Self {
        ctl.core().servers.begin();
        Self {
            server: Some(server),
            registration: Registration {
                ctl: ctl.clone(),
                is_registered: true,
            },
            drain_over: Wait::new(ctl.core(), event::DROP_SERVERS | ENDED),
            report: Wait::new(ctl.core(), ENDED),
        }
    }
}

impl<F> Future for Run<F>
where
    F: Future,
    F::Output: IntoResult,
{
    type Output = ShutdownReport;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ShutdownReport> {
        let mut this = self.project();
        if let Some(server) = this.server.as_mut().as_pin_mut() {
            // Checked first: once the drain is over, the server is dropped and not polled again.
            if Pin::new(&mut *this.drain_over).poll(cx).is_ready() {
                let dropped = catch_unwind(AssertUnwindSafe(|| this.server.set(None)));
                this.registration.deregister(None);
                dropped.unwrap_or_else(|panic| resume_unwind(panic));
            } else {
                match catch_unwind(AssertUnwindSafe(|| server.poll(cx))) {
                    Ok(Poll::Ready(output)) => {
                        let dropped = catch_unwind(AssertUnwindSafe(|| this.server.set(None)));
                        let panicked = dropped.as_ref().map_err(|_| PANICKED.into());
                        let result = output.into_result().and(panicked.copied());
                        this.registration.server_ended(result);
                        dropped.unwrap_or_else(|panic| resume_unwind(panic));
                    }
                    Ok(Poll::Pending) => {}
                    Err(panic) => {
                        this.registration.server_ended(Err(PANICKED.into()));
                        resume_unwind(panic);
                    }
                }
            }
        }
        Pin::new(this.report).poll(cx)
    }
}

impl<F> fmt::Debug for Run<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("serving", &self.server.is_some())
            .finish_non_exhaustive()
    }
}

// ===== impl Registration =====

impl Registration {
    /// Handles a server that ended by itself. Begins the shutdown unless one was triggered before.
    fn server_ended(&mut self, result: Result<(), BoxError>) {
        let (reason, cause) = match result {
            Ok(()) => (ShutdownReason::ServerExited, None),
            Err(cause) => (ShutdownReason::Error, Some(Arc::from(cause))),
        };
        self.deregister(cause.clone());
        let requested = !self.ctl.trigger(reason);
        match cause {
            Some(cause) => tell!(error, cause = %Chain(&*cause), "server failed"),
            None => tell!(info, requested, "server ended"),
        }
    }

    fn deregister(&mut self, error: Option<ServerError>) {
        if std::mem::take(&mut self.is_registered) {
            let core = self.ctl.core();
            core.servers.end(error);
            core.milestones().reach(event::WORK_ENDED);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if self.is_registered {
            let core = self.ctl.core();
            if core.is_triggered() && runtime_is_ending() {
                core.servers.end_killed();
                core.milestones().reach(event::WORK_ENDED);
            } else {
                self.deregister(None);
            }
            self.ctl.trigger(ShutdownReason::ServerExited);
        }
    }
}
