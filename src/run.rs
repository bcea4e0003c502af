//! A server under the controller's care.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tracing::{error, info};

use crate::controller::ShutdownController;
use crate::core::ENDED;
use crate::error::{BoxError, Chain};
use crate::into_result::IntoResult;
use crate::milestones::event;
use crate::report::ShutdownReport;
use crate::state::ShutdownReason;
use crate::wait::Wait;

pin_project! {
    /// The future of [`ShutdownController::run`].
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::{Run, ShutdownController, ShutdownReason};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let run: Run<_> = ctl.run(async { /* a server that ends by itself */ });
    /// assert_eq!(run.await.reason(), ShutdownReason::ServerExited);
    /// # }
    /// ```
    #[must_use = "futures do nothing unless polled, and dropping this one drops the server"]
    pub struct Run<F> {
        // Declared first, so that the server is dropped before its end is told.
        #[pin]
        server: Option<F>,
        post: Post,
        stopping: Wait,
        report: Wait<ShutdownReport>,
    }
}

/// Tells the controller that a server has ended, once, on whatever path.
#[derive(Debug)]
struct Post {
    ctl: ShutdownController,
    manned: bool,
}

// ===== impl Run =====

impl<F> Run<F> {
    pub(crate) fn new(ctl: &ShutdownController, server: F) -> Self {
        ctl.core().servers.begin();
        Self {
            server: Some(server),
            post: Post {
                ctl: ctl.clone(),
                manned: true,
            },
            stopping: Wait::new(ctl.core(), event::CLEANUP | ENDED),
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
            // Looked at first: from stopping on the server is not polled again, but dropped.
            if Pin::new(&mut *this.stopping).poll(cx).is_ready() {
                this.server.set(None);
                this.post.leave(Ok(()));
            } else {
                match catch_unwind(AssertUnwindSafe(|| server.poll(cx))) {
                    Ok(Poll::Ready(output)) => {
                        this.server.set(None);
                        this.post.server_ended(output.into_result());
                    }
                    Ok(Poll::Pending) => {}
                    Err(panic) => {
                        this.post.server_ended(Err("the server panicked".into()));
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

// ===== impl Post =====

impl Post {
    /// The server has ended by itself: on request, or else that begins the shutdown.
    fn server_ended(&mut self, result: Result<(), BoxError>) {
        let reason = match &result {
            Ok(()) => {
                info!(asked = self.ctl.notice().is_some(), "server ended");
                ShutdownReason::ServerExited
            }
            Err(cause) => {
                error!(cause = %Chain(&**cause), "server failed");
                ShutdownReason::Error
            }
        };
        self.leave(result);
        self.ctl.trigger(reason);
    }

    fn leave(&mut self, result: Result<(), BoxError>) {
        if std::mem::take(&mut self.manned) {
            let core = self.ctl.core();
            core.servers.end(result);
            core.milestones().reach(event::WORK_ENDED);
        }
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        if self.manned {
            self.leave(Ok(()));
            self.ctl.trigger(ShutdownReason::ServerExited);
        }
    }
}
