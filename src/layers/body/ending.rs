//! The body that ends when its turn has come.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::BoxError;
use crate::in_flight::interest;
use crate::layers::admission::Admission;
use crate::layers::cut::{Polled, cut};
use crate::layers::long_lived::{Class, Farewell, Member};
use crate::log::tell_here;
use crate::sync::Arc;

pin_project! {
    /// A body that ends by itself, at its turn after draining has begun, or by force.
    #[derive(Debug)]
    pub(crate) struct Ending<B> {
        #[pin]
        state: State<B>,
        farewell: Farewell,
    }

    impl<B> PinnedDrop for Ending<B> {
        fn drop(this: Pin<&mut Self>) {
            if let StateProj::Live { guard, .. } = this.project().state.project() {
                guard.note_unfinished();
            }
        }
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<B> {
        Live {
            // Declared first, so that it is dropped first; the guard after it.
            #[pin]
            inner: B,
            guard: Admission,
            member: Member,
            turn: Turn,
        },
        Ended,
    }
}

/// When a body is ended.
#[derive(Debug)]
enum Turn {
    /// Draining has not begun.
    None,
    At(Pin<Box<Sleep>>),
    Never,
}

// ===== impl Ending =====

impl<B> Ending<B> {
    pub(crate) fn new(inner: B, guard: Admission, class: Arc<Class>, farewell: Farewell) -> Self {
        Self {
            state: State::Live {
                inner,
                guard,
                member: Member::new(class),
                turn: Turn::None,
            },
            farewell,
        }
    }
}

impl<B> Ending<B>
where
    B: Body<Error: Into<BoxError>>,
    B::Data: From<Bytes>,
{
    pub(crate) fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<B::Data> {
        let this = self.project();
        let mut state = this.state;
        loop {
            let StateProj::Live {
                mut inner,
                guard,
                member,
                turn,
            } = state.as_mut().project()
            else {
                return Poll::Ready(None);
            };
            // Both before every poll of the inner: one that is always ready would never end.
            if guard.is_forced() && !inner.is_end_stream() {
                let last = cut(guard);
                state.set(State::Ended);
                return Poll::Ready(Some(last));
            }
            if guard.is_draining() && turn.poll(cx, member).is_ready() {
                state.set(State::Ended);
                tell_here!(debug, "ended by the shutdown: a long-lived response");
                return Poll::Ready(this.farewell.frame().map(Ok));
            }
            match inner.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // After trailers there is nothing, and least of all ours.
                    if frame.is_trailers() || inner.is_end_stream() {
                        state.set(State::Ended);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(last) => {
                    state.set(State::Ended);
                    return Poll::Ready(last.map(|frame| frame.map_err(Into::into)));
                }
                Poll::Pending => {
                    let interests = match turn {
                        Turn::None => interest::DRAINING | interest::FORCED,
                        Turn::At(_) | Turn::Never => interest::FORCED,
                    };
                    if guard.register(cx, interests) {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Live { inner, .. } => inner.is_end_stream(),
            State::Ended => true,
        }
    }

    /// It may end before what the inner body promises at least.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Live { inner, .. } => {
                let mut hint = SizeHint::new();
                if let Some(upper) = inner.size_hint().upper() {
                    hint.set_upper(upper);
                }
                hint
            }
            State::Ended => SizeHint::with_exact(0),
        }
    }
}

// ===== impl Turn =====

impl Turn {
    /// Ready when the turn has come; draining has begun.
    fn poll(&mut self, cx: &mut Context<'_>, member: &Member) -> Poll<()> {
        if let Turn::None = self {
            *self = match member.take_turn() {
                // Without a runtime there is nobody who would wake it at its turn.
                Some(_) if Handle::try_current().is_err() => return Poll::Ready(()),
                Some(at) if at > Instant::now() => Turn::At(Box::pin(sleep_until(at))),
                Some(_) => return Poll::Ready(()),
                None => Turn::Never,
            };
        }
        match self {
            // The clock first: a task that never waits is not told by the timer.
            Turn::At(sleep) if Instant::now() >= sleep.deadline() => Poll::Ready(()),
            Turn::At(sleep) => sleep.as_mut().poll(cx),
            Turn::None | Turn::Never => Poll::Pending,
        }
    }
}
