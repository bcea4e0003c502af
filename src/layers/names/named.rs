//! One request with its name.

use std::fmt;
use std::mem;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request};

use crate::controller::ShutdownController;
use crate::in_flight::{InFlightKind, InFlightStage, Listed, event};
use crate::log::{millis, tell_here};
use crate::sync::Arc;

/// Where requests are listed, and how they are named.
pub(super) struct Names {
    pub(super) ctl: ShutdownController,
    /// `None`: by method and path.
    pub(super) name: Option<NameFn>,
}

type NameFn = Box<dyn Fn(&Parts) -> String + Send + Sync>;

/// What a name is made of, once the request has to wait.
pub(super) enum Label {
    Path(Method, Option<PathAndQuery>),
    Text(String),
}

/// A request or its body. It is listed from its first wait until it is completed or dropped.
pub(super) struct Named(State);

enum State {
    Unlisted(Arc<Names>, Label),
    Listed(Arc<Names>, Listed, InFlightStage),
    Done,
}

// ===== impl Label =====

impl Label {
    #[inline]
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let path = request.uri().path_and_query();
        Self::Path(request.method().clone(), path.cloned())
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(method, Some(path)) => write!(f, "{method} {}", path.path()),
            Self::Path(method, None) => write!(f, "{method}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

// ===== impl Named =====

impl Named {
    #[inline]
    pub(super) fn new(names: &Arc<Names>, label: Label) -> Self {
        Self(State::Unlisted(Arc::clone(names), label))
    }

    /// Leaves nothing behind.
    #[inline]
    pub(super) fn take(&mut self) -> Self {
        Self(mem::replace(&mut self.0, State::Done))
    }

    /// Lists the request, which has to wait in `stage`.
    #[inline]
    pub(super) fn wait(&mut self, stage: InFlightStage) {
        match &self.0 {
            State::Listed(_, _, listed_stage) if *listed_stage == stage => {}
            State::Done => {}
            _ => self.list(stage),
        }
    }

    #[cold]
    #[inline(never)]
    fn list(&mut self, stage: InFlightStage) {
        self.0 = match mem::replace(&mut self.0, State::Done) {
            State::Unlisted(names, label) => {
                let roster = &names.ctl.core().roster;
                let listed = roster.list(InFlightKind::Request, &label.to_string(), stage);
                State::Listed(names, listed, stage)
            }
            State::Listed(names, listed, _) => {
                listed.set_stage(stage);
                State::Listed(names, listed, stage)
            }
            State::Done => State::Done,
        };
    }

    /// Notes that the response has begun.
    #[inline]
    pub(super) fn respond(&mut self) {
        if let State::Listed(..) = self.0 {
            self.wait(InFlightStage::Body);
        }
    }

    /// Ends the request, which nothing has cut.
    #[inline]
    pub(super) fn complete(mut self) {
        self.0 = State::Done;
    }
}

impl Drop for Named {
    #[inline]
    fn drop(&mut self) {
        if let State::Listed(names, listed, _) = &self.0 {
            drop_listed(names, listed);
        }
    }
}

/// A request that is dropped before its end, after a force, was cut.
#[cold]
#[inline(never)]
fn drop_listed(names: &Names, listed: &Listed) {
    if !names.ctl.core().milestones().has(event::FORCED) {
        return;
    }
    if let Some(item) = listed.cut() {
        tell_here!(
            warn,
            request = &*item.name,
            stage = item.stage.name(),
            age_ms = millis(item.age),
            "request cut by the shutdown"
        );
    }
}

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.0 {
            State::Unlisted(..) => "unlisted",
            State::Listed(..) => "listed",
            State::Done => "done",
        };
        f.debug_tuple("Named").field(&state).finish()
    }
}
