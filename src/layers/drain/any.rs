//! Draining for any tower service: requests are refused and cut with errors.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::Drain;
use super::entrance::Late;
use crate::error::{BoxError, Forced, POLLED_AFTER_COMPLETION, ShuttingDown};
use crate::in_flight::{Entry, Remembered};
use crate::layers::mode::AnyService;
use crate::log::tell_here;

pin_project! {
    /// The response future of [`Drain`] around any service.
    ///
    /// # Panics
    ///
    /// Panics if it is polled again after it has completed.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use std::task::{Context, Poll};
    /// use tower::{Layer, Service, ServiceExt, service_fn};
    /// use tower_lifecycle::layers::AnyDrainFuture;
    /// use tower_lifecycle::layers::{AnyService, Drain};
    /// use tower_lifecycle::{BoxError, DrainLayer, ShutdownController};
    ///
    /// struct Jobs<S>(Drain<S, AnyService>);
    ///
    /// impl<S: Service<u32, Error: Into<BoxError>>> Service<u32> for Jobs<S> {
    ///     type Response = S::Response;
    ///     type Error = BoxError;
    ///     type Future = AnyDrainFuture<S::Future>; // no box
    ///
    ///     fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
    ///         self.0.poll_ready(cx)
    ///     }
    ///
    ///     fn call(&mut self, job: u32) -> Self::Future {
    ///         self.0.call(job)
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let layer = DrainLayer::new(ShutdownController::new()).reject_with_error();
    /// let double = service_fn(|n: u32| async move { Ok::<_, Infallible>(2 * n) });
    /// assert_eq!(Jobs(layer.layer(double)).oneshot(21).await.unwrap(), 42);
    /// # }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct AnyResponseFuture<F> {
        #[pin]
        kind: AnyKind<F>,
    }

    impl<F> PinnedDrop for AnyResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            if let AnyKindProj::Admitted { guard, .. } = this.project().kind.project() {
                guard.note_unfinished();
            }
        }
    }
}

pin_project! {
    #[project = AnyKindProj]
    enum AnyKind<F> {
        Admitted {
            // Declared first, so that it is dropped before the guard.
            #[pin]
            inner: F,
            guard: Entry,
            remembered: Remembered,
        },
        // The request was refused, or the future has completed (`None`).
        Over { refused: Option<ShuttingDown> },
    }
}

impl<S, Req> Service<Req> for Drain<S, AnyService>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = AnyResponseFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let inner = &mut self.inner;
        let ready = self
            .entrance
            .poll_ready(cx, Late::Refused, |cx| inner.poll_ready(cx));
        ready.map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let kind = match self.entrance.admit(|_| false) {
            Ok(guard) => AnyKind::Admitted {
                inner: self.inner.call(request),
                guard,
                remembered: Remembered::NONE,
            },
            Err(_) => {
                let shard = self.entrance.handle.shard;
                shard.note_refused();
                AnyKind::Over {
                    refused: Some(ShuttingDown::new(shard.is_paused())),
                }
            }
        };
        AnyResponseFuture { kind }
    }
}

// ===== impl AnyResponseFuture =====

impl<F, T, E> Future for AnyResponseFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut kind = self.project().kind;
        let result = match kind.as_mut().project() {
            AnyKindProj::Admitted {
                inner,
                guard,
                remembered,
            } => {
                // Checked before every poll of the inner future: a future that wakes itself may be
                // polled before the wake-up for force arrives.
                if guard.is_forced() {
                    return Poll::Ready(Err(kind.cut()));
                }
                match inner.poll(cx) {
                    Poll::Ready(result) => result.map_err(Into::into),
                    Poll::Pending => {
                        ready!(guard.poll_forced_again(cx, remembered));
                        return Poll::Ready(Err(kind.cut()));
                    }
                }
            }
            AnyKindProj::Over { refused } => match refused.take() {
                Some(error) => Err(error.into()),
                None => panic!("{POLLED_AFTER_COMPLETION}"),
            },
        };
        kind.set(AnyKind::Over { refused: None });
        Poll::Ready(result)
    }
}

impl<F> AnyKind<F> {
    /// Drops the inner future and then the guard, and returns the error for the caller.
    #[cold]
    fn cut(mut self: Pin<&mut Self>) -> BoxError {
        if let AnyKindProj::Admitted { guard, .. } = self.as_mut().project() {
            guard.note_aborted();
        }
        self.set(AnyKind::Over { refused: None });
        tell_here!(warn, "call cut by the shutdown");
        Forced.into()
    }
}

impl<F> fmt::Debug for AnyResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            AnyKind::Admitted { .. } => "admitted",
            AnyKind::Over { refused: Some(_) } => "refused",
            AnyKind::Over { refused: None } => "done",
        };
        f.debug_tuple("AnyResponseFuture").field(&kind).finish()
    }
}
