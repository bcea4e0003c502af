//! One request with its name.

use std::cell::Cell;
use std::fmt;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Extensions, Method, StatusCode};

use crate::in_flight::{InFlightKind, InFlightStage, LayerHandle, Listed, Roster};
use crate::layers::cut_event::tell_by_name;
use crate::layers::upgrade::UpgradeGuard;
use crate::sync::Arc;

/// Where requests are listed, and how they are named.
#[derive(Clone)]
pub(super) struct Names {
    pub(super) roster: Arc<Roster>,
    /// `None`: by method and path.
    pub(super) name: Option<NameFn>,
}

/// The names, through a reference that each thread counts by itself.
pub(super) type NamesHandle = LayerHandle<Names>;

type NameFn = Arc<dyn Fn(&Parts) -> String + Send + Sync>;

/// A request or its body. It is listed from its first wait until it is completed or dropped.
///
/// In a box, because a request is moved many times.
pub(super) struct Named(Option<Box<Live>>);

struct Live {
    // Declared first, so that it is off the list before an upgrade that was only offered is over.
    listed: Option<Listed>,
    stage: InFlightStage,
    /// In front of the text, unless that is the whole name. Left as it is in a spare box.
    method: Option<Method>,
    text: String,
    upgrade: Option<Upgrade>,
    /// `None` while no request has the box.
    handle: Option<NamesHandle>,
}

/// An upgrade that was offered to a request.
struct Upgrade {
    guard: UpgradeGuard,
    is_connect: bool,
}

thread_local! {
    /// The box of the last request that ended on this thread. The next one takes it, and the text in it, so
    /// that a request that ends in its first poll allocates nothing.
    static SPARE: Cell<Option<Box<Live>>> = const { Cell::new(None) };
}

/// A longer name is not kept for the next request.
const MAX_SPARE: usize = 1024;

// ===== impl Names =====

impl Names {
    /// Lists a request that waits for the service.
    #[cold]
    pub(super) fn list_unknown(&self) -> Listed {
        let (kind, stage) = (InFlightKind::Request, InFlightStage::Readiness);
        self.roster.list(kind, "a request", stage)
    }
}

// ===== impl Named =====

impl Named {
    /// Names a request by its method and path.
    ///
    /// Always inlined: if the addresses of the request's parts escape, the compiler moves the request once
    /// more.
    #[inline(always)]
    pub(super) fn of(
        handle: &NamesHandle,
        method: &Method,
        path: &PathAndQuery,
        extensions: &Extensions,
    ) -> Self {
        let mut live = Live::take();
        live.method = Some(method.clone());
        live.text.push_str(path.path());
        if !extensions.is_empty() {
            live.note_upgrade(method, extensions);
        }
        live.handle = Some(handle.share());
        Self(Some(live))
    }

    /// Names a request by the closure, or one without a path, such as a CONNECT, by its target.
    #[cold]
    pub(super) fn of_unusual(handle: &NamesHandle, request: &Parts) -> Self {
        let mut live = Live::take();
        match &handle.layer.name {
            Some(name) => (live.method, live.text) = (None, name(request)),
            None => {
                live.method = Some(request.method.clone());
                live.text = request.uri.to_string();
            }
        }
        live.note_upgrade(&request.method, &request.extensions);
        live.handle = Some(handle.share());
        Self(Some(live))
    }

    /// Leaves nothing behind.
    #[inline]
    pub(super) fn take(&mut self) -> Self {
        Self(self.0.take())
    }

    /// Lists the request, which has to wait in `stage`.
    #[inline]
    pub(super) fn wait(&mut self, stage: InFlightStage) {
        if let Some(live) = &mut self.0 {
            if live.listed.is_none() || live.stage != stage {
                live.wait(stage);
            }
        }
    }

    /// Hands the place in the list to the connection if this status upgrades it.
    #[inline]
    pub(super) fn answer(&mut self, status: StatusCode) {
        let upgrade = self.0.as_ref().and_then(|live| live.upgrade.as_ref());
        if upgrade.is_some_and(|upgrade| upgrade.is_done_by(status)) {
            self.upgrade();
        }
    }

    #[cold]
    #[inline(never)]
    fn upgrade(&mut self) {
        let Some(mut live) = self.0.take() else {
            return;
        };
        live.wait(InFlightStage::Stream);
        if let (Some(listed), Some(upgrade)) = (live.listed.take(), live.upgrade.take()) {
            upgrade.guard.list(listed.upgrade());
        }
    }

    /// Returns whether the request is on the list.
    #[inline]
    pub(super) fn is_listed(&self) -> bool {
        self.0.as_ref().is_some_and(|live| live.listed.is_some())
    }

    /// Ends the request, which nothing has cut.
    #[inline]
    pub(super) fn complete(&mut self) {
        if let Some(live) = self.0.take() {
            live.give_back();
        }
    }
}

impl Drop for Named {
    #[inline]
    fn drop(&mut self) {
        if let Some(live) = self.0.take() {
            live.drop_unfinished();
        }
    }
}

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.as_ref().map(|live| live.name());
        f.debug_struct("Named")
            .field("name", &name)
            .field("listed", &self.is_listed())
            .finish()
    }
}

// ===== impl Live =====

impl Live {
    #[inline(always)]
    fn take() -> Box<Self> {
        // Not where the thread is ending: it has no spare one.
        let spare = SPARE.try_with(Cell::take).ok().flatten();
        spare.unwrap_or_else(Self::new)
    }

    #[cold]
    #[inline(never)]
    fn new() -> Box<Self> {
        Box::new(Self {
            listed: None,
            stage: InFlightStage::Handler,
            method: None,
            text: String::new(),
            upgrade: None,
            handle: None,
        })
    }

    /// Keeps the box for the next request of this thread.
    #[inline(never)]
    fn give_back(mut self: Box<Self>) {
        self.handle = None;
        if self.listed.is_some() || self.upgrade.is_some() {
            (self.listed, self.upgrade) = (None, None);
        }
        if self.text.capacity() > MAX_SPARE {
            self.text = String::new();
        }
        self.text.clear();
        let _ = SPARE.try_with(|spare| spare.set(Some(self)));
    }

    /// Ends a request that is dropped before its end. After a force, it was cut.
    #[cold]
    #[inline(never)]
    fn drop_unfinished(self: Box<Self>) {
        let is_forced = self
            .handle
            .as_ref()
            .is_some_and(|handle| handle.shard.is_forced());
        if let Some(listed) = self.listed.as_ref().filter(|_| is_forced) {
            tell_by_name(listed);
        }
        self.give_back();
    }

    #[cold]
    #[inline(never)]
    fn wait(&mut self, stage: InFlightStage) {
        match &self.listed {
            Some(listed) => listed.set_stage(stage),
            None => {
                let names = self.handle.as_ref().map(|handle| &handle.layer);
                let (kind, name) = (InFlightKind::Request, self.name());
                self.listed = names.map(|names| names.roster.list(kind, &name, stage));
            }
        }
        self.stage = stage;
    }

    fn name(&self) -> String {
        match &self.method {
            Some(method) => format!("{method} {}", self.text),
            None => self.text.clone(),
        }
    }

    /// Notes the guard that a [`DrainLayer`](crate::DrainLayer) has put into a request, if it has.
    #[inline]
    fn note_upgrade(&mut self, method: &Method, extensions: &Extensions) {
        if let Some(guard) = extensions.get::<UpgradeGuard>() {
            self.upgrade = Some(Upgrade {
                guard: guard.clone(),
                is_connect: *method == Method::CONNECT,
            });
        }
    }
}

impl Upgrade {
    fn is_done_by(&self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || (self.is_connect && status.is_success())
    }
}
