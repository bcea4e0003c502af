//! A response body that can be cut.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::ending::Ending;
use super::{is_last, rebuilt};
use crate::error::BoxError;
use crate::in_flight::{Entry, Held, InFlightStage};
use crate::layers::cold_box::ColdBox;
use crate::layers::cut::{Polled, cut, poll_or_cut};
use crate::layers::cut_event::drop_and_tell;
use crate::layers::facts::Facts;
use crate::layers::long_lived::{Class, FinalFrame};
use crate::layers::upgrade::{UpgradeGuard, UpgradedHold};
use crate::sync::Arc;

pin_project! {
    /// The response body of [`Drain`](crate::layers::Drain).
    ///
    /// It is in flight until it ends, fails or is dropped, and is cut by force. A body that is cut ends
    /// with the boxed error [`Forced`](crate::error::Forced), and never as if it were complete, so that
    /// no client takes a part for the whole. A gRPC stream over HTTP/2 ends with trailers instead, with
    /// status 14 `UNAVAILABLE`. A gRPC-Web stream, and a stream whose length is known, end with the
    /// error. Only a body of a [long-lived class](crate::LongLived), of which any part is complete,
    /// ends cleanly before the inner body does. `ResponseBody` implements `Default` if the inner body
    /// does, as `CorsLayer` and other layers require.
    ///
    /// # Examples
    ///
    /// ```
    /// use axum::{Router, body::Body, http::Request, routing::get};
    /// use http_body_util::BodyExt;
    /// use tower::{Layer, ServiceExt};
    /// use tower_lifecycle::error::Forced;
    /// use tower_lifecycle::{DrainLayer, ShutdownController};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let ctl = ShutdownController::new();
    /// let app = Router::new().route("/", get(|| async { "hello" }));
    /// let app = DrainLayer::new(ctl.clone()).layer(app);
    /// let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
    ///
    /// ctl.force(); // before the body has been read
    /// let error = response.into_body().collect().await.unwrap_err();
    /// assert!(error.is::<Forced>());
    /// # }
    /// ```
    #[must_use = "dropping a body ends it"]
    pub struct ResponseBody<B> {
        #[pin]
        state: State<B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<B> {
        /// The request was admitted.
        Admitted {
            // Declared first, so that it is dropped before the guard.
            #[pin]
            inner: B,
            guard: Held,
        },
        /// Boxed, so that it does not make `Admitted` larger. `none` once the body has ended.
        Special { special: ColdBox<Pin<Box<Special<B>>>> },
    }
}

pin_project! {
    #[project = SpecialProj]
    enum Special<B> {
        /// A response that the layer created.
        Refusal { text: Option<Bytes> },
        /// A stream that is ended when draining begins.
        LongLived { #[pin] inner: Ending<B> },
        /// A response that upgrades the connection.
        Upgraded {
            #[pin]
            inner: B,
            guard: UpgradedHold,
        },
    }
}

/// A response that would outlast the drain.
pub(crate) enum Lasting {
    /// A stream of a class that is ended when draining begins.
    Stream(Arc<Class>, FinalFrame),
    /// A response that upgrades the connection.
    Upgrade(UpgradeGuard),
}

/// Returns whether `frame` carries the status of a gRPC call. It is the last frame of the call, and is
/// sent only once: by the inner body, or by a cut.
fn is_status<D>(frame: &Frame<D>, facts: Facts) -> bool {
    frame.is_trailers() && facts.ends_with_status()
}

// ===== impl ResponseBody =====

impl<B> ResponseBody<B> {
    #[inline]
    pub(crate) fn new(inner: B, guard: Entry) -> Self {
        Self {
            state: State::Admitted {
                inner,
                guard: Held::new(guard),
            },
        }
    }

    /// Creates the body of a response that would outlast the drain.
    #[cold]
    pub(crate) fn lasting(inner: B, guard: Entry, lasting: Lasting) -> Self {
        Self::special(match lasting {
            Lasting::Stream(class, final_frame) => Special::LongLived {
                inner: Ending::new(inner, guard, class, final_frame),
            },
            Lasting::Upgrade(handle) => {
                handle.count(guard);
                let guard = UpgradedHold::new(handle);
                Special::Upgraded { inner, guard }
            }
        })
    }

    pub(crate) fn refusal(text: Bytes) -> Self {
        Self::special(Special::Refusal {
            text: (!text.is_empty()).then_some(text),
        })
    }

    fn special(special: Special<B>) -> Self {
        let special = ColdBox::of(Box::pin(special));
        Self {
            state: State::Special { special },
        }
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body,
    B::Data: From<Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut state = self.project().state;
        if let StateProj::Admitted { mut inner, guard } = state.as_mut().project() {
            // Checked before every poll of the inner body: a body that is always ready would never be
            // cut.
            if !guard.is_forced() && !Facts::noted(guard).ends_with_status() {
                // Each outcome returns by itself, so that the compiler moves no more than it has.
                match inner.as_mut().poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        if inner.is_end_stream() {
                            state.end();
                        }
                        return Poll::Ready(Some(Ok(rebuilt(frame))));
                    }
                    Poll::Ready(Some(Err(error))) => {
                        let error = error.into();
                        state.end();
                        return Poll::Ready(Some(Err(error)));
                    }
                    Poll::Ready(None) => {
                        state.end();
                        return Poll::Ready(None);
                    }
                    Poll::Pending => {
                        if guard.poll_forced(cx).is_pending() {
                            return Poll::Pending;
                        }
                    }
                }
            }
        } else if state.has_ended() {
            return Poll::Ready(None);
        }
        state.poll_special(cx)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Admitted { inner, .. } => inner.is_end_stream(),
            State::Special { special } => is_special_at_end(special),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Admitted { inner, .. } => inner.size_hint(),
            State::Special { special } => special_size_hint(special),
        }
    }
}

#[cold]
#[inline(never)]
fn is_special_at_end<B>(special: &ColdBox<Pin<Box<Special<B>>>>) -> bool
where
    B: Body<Error: Into<BoxError>>,
    B::Data: From<Bytes>,
{
    special
        .as_ref()
        .is_none_or(|special| special.is_end_stream())
}

#[cold]
#[inline(never)]
fn special_size_hint<B>(special: &ColdBox<Pin<Box<Special<B>>>>) -> SizeHint
where
    B: Body<Error: Into<BoxError>>,
    B::Data: From<Bytes>,
{
    match special.as_ref() {
        Some(special) => special.size_hint(),
        None => SizeHint::with_exact(0),
    }
}

impl<B> State<B> {
    /// Returns the state of a body that has ended.
    ///
    /// Not a constant: the compiler would copy the whole state.
    #[inline]
    fn ended() -> Self {
        Self::Special {
            special: ColdBox::none(),
        }
    }

    #[inline]
    fn has_ended(&self) -> bool {
        matches!(self, Self::Special { special } if special.as_ref().is_none())
    }

    /// Ends an admitted body: drops the inner body, and then its entry.
    #[inline]
    fn end(mut self: Pin<&mut Self>) {
        // Declared first, so that it is dropped last if dropping the inner body panics.
        let taken;
        if let StateProj::Admitted { guard, .. } = self.as_mut().project() {
            taken = guard.take();
            self.set(Self::ended());
            drop(taken);
        }
    }
}

impl<B> State<B>
where
    B: Body<Error: Into<BoxError>>,
    B::Data: From<Bytes>,
{
    /// Cuts an admitted body.
    fn cut(mut self: Pin<&mut Self>) -> Polled<B::Data> {
        let StateProj::Admitted { guard, .. } = self.as_mut().project() else {
            return Poll::Ready(None);
        };
        let last = cut(&**guard);
        drop_and_tell(InFlightStage::Body, || self.end());
        Poll::Ready(Some(last))
    }

    /// Polls a body for which force has come, that ends with a gRPC status, that is special, or that
    /// has ended.
    #[cold]
    #[inline(never)]
    fn poll_special(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<B::Data> {
        if let StateProj::Admitted { mut inner, guard } = self.as_mut().project() {
            let facts = Facts::noted(guard);
            if guard.is_forced() && !inner.is_end_stream() {
                return self.cut();
            }
            let polled = match inner.as_mut().poll_frame(cx) {
                Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.map_err(Into::into))),
                Poll::Pending if guard.poll_forced(cx).is_ready() => return self.cut(),
                Poll::Pending => return Poll::Pending,
            };
            let is_at_end = |frame: &_| inner.is_end_stream() || is_status(frame, facts);
            if is_last(&polled, is_at_end) {
                self.end();
            }
            return polled;
        }
        let StateProj::Special { special } = self.as_mut().project() else {
            return Poll::Ready(None);
        };
        let Some(special) = special.as_mut() else {
            return Poll::Ready(None); // it has ended
        };
        let polled = special.as_mut().poll_frame(cx);
        if is_last(&polled, |_| special.is_end_stream()) {
            self.set(State::ended());
        }
        polled
    }
}

impl<B> Special<B>
where
    B: Body<Error: Into<BoxError>>,
    B::Data: From<Bytes>,
{
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<B::Data> {
        match self.project() {
            SpecialProj::Refusal { text } => {
                let frame = text.take().map(|text| Frame::data(text.into()));
                Poll::Ready(frame.map(Ok))
            }
            SpecialProj::LongLived { inner } => inner.poll_frame(cx),
            SpecialProj::Upgraded { inner, guard } => poll_or_cut(inner, guard, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Special::Upgraded { inner, .. } => inner.is_end_stream(),
            Special::Refusal { text } => text.is_none(),
            Special::LongLived { inner } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Special::Upgraded { inner, .. } => inner.size_hint(),
            Special::Refusal { text } => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            Special::LongLived { inner } => inner.size_hint(),
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.state {
            State::Admitted { .. } => "admitted",
            State::Special { special } => match special.as_ref().map(|special| &**special) {
                Some(Special::Refusal { .. }) => "refusal",
                Some(Special::LongLived { .. }) => "long-lived",
                Some(Special::Upgraded { .. }) => "upgraded",
                None => "ended",
            },
        };
        f.debug_struct("ResponseBody")
            .field("kind", &kind)
            .finish_non_exhaustive()
    }
}

impl<B: Default> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::new(B::default(), Entry::uncounted())
    }
}
