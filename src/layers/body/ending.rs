//! A response body that is ended at its turn while draining.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use crate::error::BoxError;
use crate::in_flight::{Entry, InFlightStage, interest};
use crate::layers::alarm::poll_alarm;
use crate::layers::cut::{Polled, cut};
use crate::layers::cut_event::drop_and_tell;
use crate::layers::long_lived::{Class, FinalFrame, Member};
use crate::log::tell_here;
use crate::sync::Arc;

pin_project! {
    /// A body that ends by itself, at its turn once draining has begun, or by force.
    pub(crate) struct Ending<B> {
        #[pin]
        state: State<B>,
        final_frame: FinalFrame,
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
    enum State<B> {
        Live {
            // Declared first, so that it is dropped before the guard.
            #[pin]
            inner: B,
            guard: Entry,
            member: Member,
            turn: Turn,
        },
        Ended,
    }
}

/// When draining ends a body.
enum Turn {
    /// Draining has not begun.
    None,
    At {
        at: Instant,
        alarm: Option<Pin<Box<Sleep>>>,
    },
    Never,
}

// ===== impl Ending =====

impl<B> Ending<B> {
    pub(crate) fn new(inner: B, guard: Entry, class: Arc<Class>, final_frame: FinalFrame) -> Self {
        Self {
            state: State::Live {
                inner,
                guard,
                member: Member::new(class),
                turn: Turn::None,
            },
            final_frame,
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
            // Both are checked before every poll of the inner body: a body that is always ready would
            // never end.
            if guard.is_forced() && !inner.is_end_stream() {
                let last = cut(guard);
                drop_and_tell(InFlightStage::Stream, || state.set(State::Ended));
                return Poll::Ready(Some(last));
            }
            if guard.is_draining() && turn.poll(cx, member).is_ready() {
                state.set(State::Ended);
                tell_here!(debug, "shutdown ended a long-lived response");
                return Poll::Ready(this.final_frame.frame().map(Ok));
            }
            match inner.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Nothing may follow trailers, not even the final frame.
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
                        Turn::At { .. } | Turn::Never => interest::FORCED,
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

    /// Returns the inner size hint without its lower bound, since this body may end early.
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
    /// Ready when the turn has come. Called only once draining has begun.
    fn poll(&mut self, cx: &mut Context<'_>, member: &Member) -> Poll<()> {
        if let Turn::None = self {
            *self = match member.take_turn() {
                Some(at) => Turn::At { at, alarm: None },
                None => Turn::Never,
            };
        }
        match self {
            // Checks the clock first: the timer may not run while a task never yields.
            Turn::At { at, .. } if Instant::now() >= *at => Poll::Ready(()),
            Turn::At { at, alarm } => poll_alarm(alarm, *at, cx),
            Turn::None | Turn::Never => Poll::Pending,
        }
    }
}
