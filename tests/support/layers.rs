//! Shared code for tests of the layers: a service whose requests say how it responds, a scripted
//! body, and a log of polls and drops.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tower::util::ServiceFn;
use tower::{Service, service_fn};
use tower_lifecycle::error::Forced;
use tower_lifecycle::{ShutdownConfig, ShutdownController};

/// The inner service of most tests: its requests say how it responds.
pub type App = ServiceFn<fn(Request<Handler>) -> Handler>;

pub fn app() -> App {
    service_fn(|request: Request<Handler>| {
        let handler = request.into_body();
        assert!(!matches!(handler.plan, Plan::PanicInCall), "as planned");
        handler
    })
}

/// A controller whose layers refuse all requests while draining.
pub fn refusing() -> ShutdownController {
    let config = ShutdownConfig::default().late_for(Duration::ZERO);
    ShutdownController::with_config(config).expect("a valid configuration")
}

/// Polls readiness, which must be ready, and calls.
pub fn send<S: Service<R>, R>(service: &mut S, request: R) -> S::Future {
    let ready = std::future::poll_fn(|cx| service.poll_ready(cx)).now_or_never();
    assert!(matches!(ready, Some(Ok(()))), "the service is not ready");
    service.call(request)
}

type FrameOf<B> = Result<Frame<<B as Body>::Data>, <B as Body>::Error>;

/// Polls a body once, with a no-op waker.
pub fn frame<B: Body + Unpin>(body: &mut B) -> Poll<Option<FrameOf<B>>> {
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

/// Reads a body whose data is all available.
pub fn text<B>(body: B) -> Bytes
where
    B: Body<Error: fmt::Debug>,
{
    let collected = body.collect().now_or_never().expect("a body at hand");
    collected.expect("a whole body").to_bytes()
}

/// Returns all headers, sorted.
pub fn headers<B>(response: &Response<B>) -> Vec<(&str, &str)> {
    let pairs = response.headers().iter();
    let mut pairs: Vec<_> = pairs
        .map(|(name, value)| (name.as_str(), value.to_str().expect("text")))
        .collect();
    pairs.sort_unstable();
    pairs
}

/// Returns whether `error` was caused by force, at any depth of its sources.
pub fn comes_from_force(error: &(dyn Error + 'static)) -> bool {
    error.is::<Forced>() || error.source().is_some_and(comes_from_force)
}

// ===== the log =====

/// A controller, with a log of the futures and bodies made here.
#[derive(Debug, Clone)]
pub struct Stage {
    pub ctl: ShutdownController,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    polls: usize,
    drops: Vec<Dropped>,
}

/// The name of what was dropped, the number in flight at that time, and whether it had moved since
/// it was polled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    pub what: &'static str,
    pub in_flight: u64,
    pub in_place: bool,
}

/// The drop that P2 requires: in place, and before the guard.
pub fn dropped_first(what: &'static str) -> Dropped {
    Dropped {
        what,
        in_flight: 1,
        in_place: true,
    }
}

impl Stage {
    pub fn new() -> Self {
        Self::with(ShutdownController::new())
    }

    pub fn with(ctl: ShutdownController) -> Self {
        let seen = Arc::default();
        Self { ctl, seen }
    }

    pub fn request(&self, plan: Plan) -> Request<Handler> {
        let witness = self.witness("future");
        Request::new(Handler { plan, witness })
    }

    /// A body without a known length.
    pub fn body(&self, steps: impl IntoIterator<Item = Step>) -> Script {
        Script {
            steps: steps.into_iter().collect(),
            exact: false,
            ended: false,
            witness: self.witness("body"),
        }
    }

    /// A body with a known length, and so a known end.
    pub fn exact_body(&self, steps: impl IntoIterator<Item = Step>) -> Script {
        Script {
            exact: true,
            ..self.body(steps)
        }
    }

    /// Returns how many times futures and bodies were polled.
    pub fn polls(&self) -> usize {
        self.seen.lock().expect("no panic").polls
    }

    pub fn drops(&self) -> Vec<Dropped> {
        self.seen.lock().expect("no panic").drops.clone()
    }

    fn witness(&self, what: &'static str) -> Witness {
        Witness {
            what,
            polled_at: None,
            stage: self.clone(),
        }
    }
}

/// Logs when it is polled and dropped.
#[derive(Debug)]
struct Witness {
    what: &'static str,
    polled_at: Option<usize>,
    stage: Stage,
}

impl Witness {
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn polled(&mut self) {
        self.polled_at = Some(self.address());
        self.stage.seen.lock().expect("no panic").polls += 1;
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let dropped = Dropped {
            what: self.what,
            in_flight: self.stage.ctl.in_flight(),
            in_place: self.polled_at.is_none_or(|at| at == self.address()),
        };
        self.stage
            .seen
            .lock()
            .expect("no panic")
            .drops
            .push(dropped);
    }
}

// ===== the response future =====

/// What the handler does with a request.
#[derive(Debug)]
pub enum Plan {
    Respond(Box<Response<Script>>),
    Fail,
    /// Stays pending forever.
    Stall,
    /// Wakes itself and stays pending, forever.
    Spin,
    PanicInCall,
    PanicInPoll,
}

impl From<Script> for Plan {
    fn from(body: Script) -> Self {
        Response::new(body).into()
    }
}

impl From<Response<Script>> for Plan {
    fn from(response: Response<Script>) -> Self {
        Self::Respond(Box::new(response))
    }
}

/// The response future of [`app`].
#[derive(Debug)]
pub struct Handler {
    plan: Plan,
    witness: Witness,
}

impl Future for Handler {
    type Output = Result<Response<Script>, Broken>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.witness.polled();
        match std::mem::replace(&mut this.plan, Plan::Stall) {
            Plan::Respond(response) => Poll::Ready(Ok(*response)),
            Plan::Fail => Poll::Ready(Err(Broken)),
            Plan::Stall => Poll::Pending,
            Plan::Spin => {
                this.plan = Plan::Spin;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Plan::PanicInCall | Plan::PanicInPoll => panic!("as planned"),
        }
    }
}

/// An empty body, when used as a request body.
impl Body for Handler {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

// ===== the response body =====

/// The result of one poll of a [`Script`].
#[derive(Debug, Clone, Copy)]
pub enum Step {
    Data(&'static str),
    Trailers,
    Fail,
    /// Pending, once.
    Wait,
    /// The same data, forever.
    Flood,
    /// Pending, forever.
    Stall,
}

/// A body that follows a script. It must not be polled after its end.
#[derive(Debug)]
pub struct Script {
    steps: VecDeque<Step>,
    exact: bool,
    ended: bool,
    witness: Witness,
}

/// The error of handlers and bodies that fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken as planned")
    }
}

impl Error for Broken {}

impl Body for Script {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        this.witness.polled();
        assert!(!this.ended, "polled after its end");
        let step = this.steps.pop_front();
        if let Some(step @ (Step::Flood | Step::Stall)) = step {
            this.steps.push_front(step);
        }
        match step {
            Some(Step::Data(data)) => Poll::Ready(Some(Ok(Frame::data(data.into())))),
            Some(Step::Flood) => Poll::Ready(Some(Ok(Frame::data("flood".into())))),
            Some(Step::Trailers) => Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::new())))),
            Some(Step::Wait | Step::Stall) => Poll::Pending,
            Some(Step::Fail) => {
                this.ended = true;
                Poll::Ready(Some(Err(Broken)))
            }
            None => {
                this.ended = true;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.exact && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let data = self.steps.iter().map(|step| match step {
            Step::Data(data) => data.len() as u64,
            _ => 0,
        });
        let mut hint = SizeHint::new();
        hint.set_lower(data.sum());
        if self.exact {
            hint.set_upper(hint.lower());
        }
        hint
    }
}
