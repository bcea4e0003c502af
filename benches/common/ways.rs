//! Ways to track requests and to end all of them, from this crate and from others.
// Each bench is a separate program, and uses only a part of this module.
#![allow(dead_code)]

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use http_body::Body;
use http_body_util::Full;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Layer;
use tower_lifecycle::layers::ResponseBody;
use tower_lifecycle::{DrainLayer, ShutdownController};

use crate::common::by_hand::{self, TokenBody};
use crate::common::request::Served;

/// A way to end pending requests.
pub trait Way: Sized + 'static {
    const NAME: &'static str;
    /// Whether it needs a handle to each task.
    const ABORTS: bool = false;
    type Body: Body + Send + 'static;

    /// Must be called inside a runtime.
    fn new() -> Self;

    fn around(&self, inner: impl Served<Full<Bytes>>) -> impl Served<Self::Body>;

    /// Ends all pending requests.
    fn cut(&self, tasks: Vec<AbortHandle>);

    fn controller(&self) -> Option<&ShutdownController> {
        None
    }
}

/// No layer: each task is aborted, which is the cheapest way to end it.
pub struct Bare;

/// [`DrainLayer`].
pub struct Ours {
    ctl: ShutdownController,
    layer: DrainLayer,
}

/// [`by_hand::token_and_select`].
pub struct Select(Tokens);

/// [`by_hand::token_and_run_until_cancelled`].
pub struct UntilCancelled(Tokens);

#[derive(Default)]
struct Tokens {
    tracker: TaskTracker,
    force: CancellationToken,
}

/// [`by_hand::counter_and_watch`].
pub struct ByHand {
    in_flight: Arc<AtomicUsize>,
    shutdown: watch::Sender<bool>,
}

// ===== the compared ways =====

impl Way for Bare {
    const NAME: &'static str = "bare";
    const ABORTS: bool = true;
    type Body = Full<Bytes>;

    fn new() -> Self {
        Self
    }

    fn around(&self, inner: impl Served<Full<Bytes>>) -> impl Served<Full<Bytes>> {
        inner
    }

    fn cut(&self, tasks: Vec<AbortHandle>) {
        for task in tasks {
            task.abort();
        }
    }
}

impl Way for Ours {
    const NAME: &'static str = "DrainLayer";
    type Body = ResponseBody<Full<Bytes>>;

    fn new() -> Self {
        let ctl = ShutdownController::new();
        let layer = DrainLayer::new(ctl.clone());
        Self { ctl, layer }
    }

    fn around(&self, inner: impl Served<Full<Bytes>>) -> impl Served<Self::Body> {
        self.layer.layer(inner)
    }

    fn cut(&self, _: Vec<AbortHandle>) {
        self.ctl.force();
    }

    fn controller(&self) -> Option<&ShutdownController> {
        Some(&self.ctl)
    }
}

impl Way for Select {
    const NAME: &'static str = "TaskTracker, select!";
    type Body = TokenBody;

    fn new() -> Self {
        Self(Tokens::default())
    }

    fn around(&self, inner: impl Served<Full<Bytes>>) -> impl Served<TokenBody> {
        by_hand::token_and_select(inner, self.0.tracker.clone(), self.0.force.clone())
    }

    fn cut(&self, _: Vec<AbortHandle>) {
        self.0.cut();
    }
}

impl Way for UntilCancelled {
    const NAME: &'static str = "TaskTracker, run_until_cancelled";
    type Body = TokenBody;

    fn new() -> Self {
        Self(Tokens::default())
    }

    fn around(&self, inner: impl Served<Full<Bytes>>) -> impl Served<TokenBody> {
        by_hand::token_and_run_until_cancelled(inner, self.0.tracker.clone(), self.0.force.clone())
    }

    fn cut(&self, _: Vec<AbortHandle>) {
        self.0.cut();
    }
}

impl Tokens {
    fn cut(&self) {
        self.tracker.close();
        self.force.cancel();
    }
}

impl Way for ByHand {
    const NAME: &'static str = "AtomicUsize and watch";
    type Body = Full<Bytes>;

    fn new() -> Self {
        Self {
            in_flight: Arc::default(),
            shutdown: watch::Sender::new(false),
        }
    }

    fn around(&self, inner: impl Served<Full<Bytes>>) -> impl Served<Full<Bytes>> {
        by_hand::counter_and_watch(inner, self.in_flight.clone(), self.shutdown.subscribe())
    }

    fn cut(&self, _: Vec<AbortHandle>) {
        self.shutdown.send_replace(true);
    }
}
