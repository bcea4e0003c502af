//! A server under the controller's care.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tracing::{error, info};

use crate::controller::ShutdownController;
use crate::error::BoxError;
use crate::milestones::event;
use crate::report::ShutdownReport;
use crate::state::ShutdownReason;
use crate::wait::Wait;

/// What a server future may give: that it ended, or that it failed.
///
/// It is there for `()`, `Infallible`, `Result`s of these with any error that converts into a
/// [`BoxError`], and tuples of these, so also for a `JoinHandle` or a `join!` of several servers.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::{BoxError, ServerOutput, ShutdownController};
///
/// enum Ending {
///     Closed,
///     Broken(&'static str),
/// }
///
/// impl ServerOutput for Ending {
///     fn into_result(self) -> Result<(), BoxError> {
///         match self {
///             Ending::Closed => Ok(()),
///             Ending::Broken(cause) => Err(cause.into()),
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let report = ctl.run(async { Ending::Broken("out of memory") }).await;
/// assert_eq!(report.server_errors().len(), 1);
/// # assert!(Ending::Closed.into_result().is_ok());
/// # }
/// ```
pub trait ServerOutput {
    /// Returns the first error, if there is one.
    ///
    /// # Errors
    ///
    /// What the server failed with.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::ServerOutput;
    ///
    /// let (public, admin) = (Ok::<(), &str>(()), Err::<(), &str>("address in use"));
    /// let error = (public, admin).into_result().unwrap_err();
    /// assert_eq!(error.to_string(), "address in use");
    /// ```
    fn into_result(self) -> Result<(), BoxError>;
}

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
            stopping: Wait::new(ctl.core(), event::STOPPING | event::STOPPED | event::FAILED),
            report: Wait::new(ctl.core(), event::STOPPED),
        }
    }
}

impl<F> Future for Run<F>
where
    F: Future,
    F::Output: ServerOutput,
{
    type Output = ShutdownReport;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ShutdownReport> {
        let mut this = self.project();
        if let Some(server) = this.server.as_mut().as_pin_mut() {
            // Looked at first: from stopping on the server is not polled again, but dropped.
            if Pin::new(&mut *this.stopping).poll(cx).is_ready() {
                this.server.set(None);
                this.post.leave(Ok(()));
            } else if let Poll::Ready(output) = server.poll(cx) {
                this.server.set(None);
                this.post.server_ended(output.into_result());
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
                error!(%cause, "server failed");
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
            core.milestones().reach(event::SERVER_ENDED);
        }
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        if self.manned && std::thread::panicking() {
            self.leave(Err("the server panicked".into()));
            self.ctl.trigger(ShutdownReason::Error);
        } else if self.manned {
            self.leave(Ok(()));
            self.ctl.trigger(ShutdownReason::ServerExited);
        }
    }
}

// ===== impl ServerOutput =====

impl ServerOutput for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl ServerOutput for Infallible {
    fn into_result(self) -> Result<(), BoxError> {
        match self {}
    }
}

impl<T: ServerOutput, E: Into<BoxError>> ServerOutput for Result<T, E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)?.into_result()
    }
}

macro_rules! tuples {
    ($(($($name:ident)+))+) => {$(
        impl<$($name: ServerOutput),+> ServerOutput for ($($name,)+) {
            #[allow(non_snake_case)]
            fn into_result(self) -> Result<(), BoxError> {
                let ($($name,)+) = self;
                $($name.into_result()?;)+
                Ok(())
            }
        }
    )+};
}

tuples! {
    (A)
    (A B)
    (A B C)
    (A B C D)
    (A B C D E)
    (A B C D E F)
    (A B C D E F G)
    (A B C D E F G H)
}
