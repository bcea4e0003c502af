//! The span of a shutdown, with a child for each of its phases.
//!
//! Spans are created, entered and closed on the log thread, in the order of the events.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::pin;

use tracing::level_filters::LevelFilter;
use tracing::{Span, info_span};

use super::queue::{Event, enqueue};
use crate::state::{LifecycleState, ShutdownReason};
use crate::sync::{Arc, Mutex, lock};

/// The spans of one shutdown. Events that are logged inside [`in_scope`](Self::in_scope) have the phase as
/// their parent.
pub(crate) struct Spans {
    reason: ShutdownReason,
    stage: Mutex<Stage>,
}

/// The spans that are open. Used on the log thread only.
enum Stage {
    NotYet,
    Open { shutdown: Span, phase: Span },
    Closed,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Spans>>> = const { RefCell::new(None) };
}

const TARGET: &str = "tower_lifecycle::shutdown";

// ===== impl Spans =====

impl Spans {
    pub(crate) fn new(reason: ShutdownReason) -> Arc<Self> {
        Arc::new(Self {
            reason,
            stage: Mutex::new(Stage::NotYet),
        })
    }

    /// Returns the spans if the caller is inside [`in_scope`](Self::in_scope).
    pub(crate) fn current() -> Option<Arc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Opens the span of the phase that `state` is, and closes that of the phase before.
    pub(crate) fn enter(self: &Arc<Self>, state: LifecycleState) {
        self.on_log_thread(move |spans| {
            let shutdown = spans.shutdown();
            let parent = shutdown.id();
            let phase = match state {
                LifecycleState::LameDuck => {
                    info_span!(target: TARGET, parent: parent, "lame_duck")
                }
                LifecycleState::Draining => info_span!(target: TARGET, parent: parent, "draining"),
                LifecycleState::Stopping => info_span!(target: TARGET, parent: parent, "stopping"),
                _ => {
                    spans.replace(Stage::Closed);
                    return;
                }
            };
            spans.replace(Stage::Open { shutdown, phase });
        });
    }

    /// Closes all spans.
    pub(crate) fn close(self: &Arc<Self>) {
        self.on_log_thread(|spans| spans.replace(Stage::Closed));
    }

    fn on_log_thread(self: &Arc<Self>, act: impl FnOnce(&Self) + Send + 'static) {
        if LevelFilter::current() >= LevelFilter::INFO {
            let spans = Arc::clone(self);
            enqueue(Box::new(move || act(&spans)));
        }
    }

    /// Calls `act`. Events that it logs have the phase as their parent.
    pub(crate) fn in_scope<T>(self: &Arc<Self>, act: impl FnOnce() -> T) -> T {
        let before = CURRENT.replace(Some(Arc::clone(self)));
        let _reset = Reset(before);
        act()
    }

    /// Completes like `future`. Events that it logs have the phase as their parent.
    pub(crate) async fn instrument<F: Future>(self: &Arc<Self>, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| self.in_scope(|| future.as_mut().poll(cx))).await
    }

    /// Logs an event. Called on the log thread.
    pub(super) fn log(&self, event: Event) {
        let shutdown = self.shutdown();
        let phase = match &*lock(&self.stage) {
            Stage::Open { phase, .. } if !phase.is_none() => phase.clone(),
            _ => shutdown,
        };
        phase.in_scope(event);
    }

    /// Returns the span of the shutdown. Opens it, if it is not open yet.
    fn shutdown(&self) -> Span {
        match &*lock(&self.stage) {
            Stage::Open { shutdown, .. } => return shutdown.clone(),
            Stage::Closed => return Span::none(),
            Stage::NotYet => {}
        }
        // Outside the lock, since it calls the subscriber. Only the log thread opens spans.
        let reason = self.reason;
        let shutdown = info_span!(target: TARGET, "shutdown", %reason);
        self.replace(Stage::Open {
            shutdown: shutdown.clone(),
            phase: Span::none(),
        });
        shutdown
    }

    /// Drops the former spans outside the lock, since that calls the subscriber.
    fn replace(&self, stage: Stage) {
        let before = mem::replace(&mut *lock(&self.stage), stage);
        drop(before);
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        let stage = mem::replace(&mut *lock(&self.stage), Stage::Closed);
        if let Stage::Open { .. } = stage {
            enqueue(Box::new(move || drop(stage)));
        }
    }
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans").finish_non_exhaustive()
    }
}

/// Resets the spans of the thread when dropped, also after a panic.
struct Reset(Option<Arc<Spans>>);

impl Drop for Reset {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}
