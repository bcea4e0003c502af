//! One request with its name.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::mem;

use http::request::Parts;
use http::{Extensions, Method, StatusCode};

use crate::in_flight::{InFlightKind, InFlightStage, LayerHandle, Listed, Roster};
use crate::layers::cut_event::tell_by_name;
use crate::layers::upgrade::UpgradeGuard;
use crate::panic;
use crate::sync::{Arc, Weak};

/// Where requests are listed, and how they are named.
#[derive(Clone)]
pub(super) struct Names {
    /// The controller keeps it. Weak, so that it compares as equal to that of a spare box.
    pub(super) roster: Weak<Roster>,
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

/// What is known of a request. A spare one keeps the memory of `text`, and `roster`.
struct Live {
    // Declared first, so that it is off the list before an upgrade that was only offered is over.
    rare: Rare,
    /// Whether `rare` is not that of a spare box.
    is_rare: bool,
    /// The path, or the whole name.
    text: String,
    /// Weak, so that a spare box keeps nothing alive, and compares as equal to its own roster alone.
    roster: Weak<Roster>,
}

/// What a GET that ends in its first poll does not have.
struct Rare {
    listed: Option<Listed>,
    /// The stage under which the request is listed.
    stage: InFlightStage,
    /// The stage of the response's body while it waits.
    body: InFlightStage,
    prefix: Prefix,
    upgrade: Option<Upgrade>,
}

/// What a name has in front of its text.
enum Prefix {
    Get,
    Method(Method),
    Nothing,
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
    /// Lists a request that waits for the service, unless the controller is gone.
    #[cold]
    pub(super) fn list_unknown(&self) -> Option<Listed> {
        let (kind, stage) = (InFlightKind::Request, InFlightStage::Readiness);
        Some(self.roster.upgrade()?.list(kind, "a request", stage))
    }
}

// ===== impl Named =====

impl Named {
    /// Names a request by its method and path.
    ///
    /// Always inlined: if the addresses of the request's parts escape, the compiler moves the request once
    /// more.
    #[inline(always)]
    pub(super) fn of(names: &Names, method: &Method, path: &str, extensions: &Extensions) -> Self {
        let mut live = Live::take(names);
        // Both push. In the first, the compiler leaves out the check whether the text has to grow.
        if path.len() <= live.text.capacity() {
            live.text.push_str(path);
        } else {
            live.push_long(path);
        }
        if *method != Method::GET {
            live.set_prefix(Prefix::Method(method.clone()));
        }
        if !extensions.is_empty() {
            live.note_upgrade(method, extensions);
        }
        Self(Some(live))
    }

    /// Names a request by the closure, or one without a path, such as a CONNECT, by its target.
    #[cold]
    pub(super) fn of_unusual(names: &Names, request: &Parts) -> Self {
        let mut live = Live::take(names);
        match &names.name {
            Some(name) => {
                live.text = name(request);
                live.set_prefix(Prefix::Nothing);
            }
            None => {
                live.text = request.uri.to_string();
                live.set_prefix(Prefix::Method(request.method.clone()));
            }
        }
        live.note_upgrade(&request.method, &request.extensions);
        Self(Some(live))
    }

    /// Names nothing.
    pub(super) fn nothing() -> Self {
        Self(None)
    }

    /// Leaves nothing behind.
    #[inline]
    pub(super) fn take(&mut self) -> Self {
        Self(self.0.take())
    }

    /// Lists the request, which waits for its response.
    #[inline]
    pub(super) fn wait(&mut self) {
        if let Some(live) = &mut self.0 {
            live.wait(InFlightStage::Handler);
        }
    }

    /// Lists the request, whose body waits.
    #[inline]
    pub(super) fn wait_in_body(&mut self) {
        if let Some(live) = &mut self.0 {
            live.wait(live.rare.body);
        }
    }

    /// Notes the status of the response, and whether its body is a stream.
    #[inline]
    pub(super) fn answer(&mut self, status: StatusCode, is_stream: bool) {
        let Some(live) = &mut self.0 else { return };
        if is_stream {
            live.note_stream();
        }
        if live.is_rare && live.answer(status) {
            self.upgrade();
        }
    }

    /// Hands the place in the list to the connection.
    #[cold]
    #[inline(never)]
    fn upgrade(&mut self) {
        let Some(mut live) = self.0.take() else {
            return;
        };
        live.wait(InFlightStage::Stream);
        if let (Some(listed), Some(upgrade)) = (live.rare.listed.take(), live.rare.upgrade.take()) {
            upgrade.guard.list(listed.upgrade());
        }
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
        let live = self.0.as_ref();
        f.debug_struct("Named")
            .field("name", &live.map(|live| live.name()))
            .field(
                "listed",
                &live.is_some_and(|live| live.rare.listed.is_some()),
            )
            .finish()
    }
}

// ===== impl Live =====

impl Live {
    #[inline(always)]
    fn take(names: &Names) -> Box<Self> {
        // Not where the thread is ending: it has no spare one.
        let spare = SPARE.try_with(Cell::take).ok().flatten();
        let mut live = spare.unwrap_or_else(Self::new);
        if !live.roster.ptr_eq(&names.roster) {
            live.join(&names.roster);
        }
        live.text.clear();
        live
    }

    #[cold]
    #[inline(never)]
    fn new() -> Box<Self> {
        Box::new(Self {
            rare: Rare::NONE,
            is_rare: false,
            text: String::new(),
            roster: Weak::new(),
        })
    }

    #[cold]
    #[inline(never)]
    fn join(&mut self, roster: &Weak<Roster>) {
        self.roster = Weak::clone(roster);
    }

    /// Keeps the box for the next request of this thread.
    ///
    /// `extern "C"`, because panics in it are contained: then the compiler keeps no response in memory for
    /// one, which saves 8 instructions.
    #[inline(never)]
    extern "C" fn give_back(mut self: Box<Self>) {
        if self.is_rare {
            self.clear();
        }
        let _ = SPARE.try_with(|spare| spare.set(Some(self)));
    }

    #[inline(never)]
    fn clear(&mut self) {
        let rare = mem::replace(&mut self.rare, Rare::NONE);
        self.is_rare = false;
        panic::dropped(rare);
        if self.text.capacity() > MAX_SPARE {
            self.text = String::new();
        }
    }

    #[cold]
    #[inline(never)]
    fn push_long(&mut self, path: &str) {
        self.text.push_str(path);
        // Not longer than need be for the next request.
        self.is_rare = true;
    }

    /// Ends a request that is dropped before its end. After a force, it was cut.
    #[cold]
    #[inline(never)]
    fn drop_unfinished(self: Box<Self>) {
        if let Some(listed) = &self.rare.listed {
            if listed.is_forced() {
                tell_by_name(listed);
            }
        }
        self.give_back();
    }

    #[inline]
    fn wait(&mut self, stage: InFlightStage) {
        if self.rare.listed.is_none() || self.rare.stage != stage {
            self.list(stage);
        }
    }

    #[cold]
    #[inline(never)]
    fn list(&mut self, stage: InFlightStage) {
        match &self.rare.listed {
            Some(listed) => listed.set_stage(stage),
            None => {
                let roster = self.roster.upgrade();
                self.rare.listed =
                    roster.map(|roster| roster.list(InFlightKind::Request, &self.name(), stage));
            }
        }
        (self.rare.stage, self.is_rare) = (stage, true);
    }

    fn name(&self) -> Cow<'_, str> {
        let method = match &self.rare.prefix {
            Prefix::Get => "GET",
            Prefix::Method(method) => method.as_str(),
            Prefix::Nothing => return Cow::Borrowed(&self.text),
        };
        let mut name = String::with_capacity(method.len() + 1 + self.text.len());
        name.push_str(method);
        name.push(' ');
        name.push_str(&self.text);
        Cow::Owned(name)
    }

    #[inline(never)]
    fn set_prefix(&mut self, prefix: Prefix) {
        (self.rare.prefix, self.is_rare) = (prefix, true);
    }

    #[inline(never)]
    fn note_stream(&mut self) {
        (self.rare.body, self.is_rare) = (InFlightStage::Stream, true);
    }

    /// Notes the guard that a [`DrainLayer`](crate::DrainLayer) has put into a request, if it has.
    #[inline]
    fn note_upgrade(&mut self, method: &Method, extensions: &Extensions) {
        if let Some(guard) = extensions.get::<UpgradeGuard>() {
            self.is_rare = true;
            self.rare.upgrade = Some(Upgrade {
                guard: guard.clone(),
                is_connect: *method == Method::CONNECT,
            });
        }
    }

    /// Returns whether a response of this status upgrades the connection. If not, a request that is
    /// listed is in its body from now on.
    #[inline(never)]
    fn answer(&mut self, status: StatusCode) -> bool {
        let upgrade = self.rare.upgrade.as_ref();
        if upgrade.is_some_and(|upgrade| upgrade.is_done_by(status)) {
            return true;
        }
        if self.rare.listed.is_some() {
            self.wait(self.rare.body);
        }
        false
    }
}

// ===== impl Rare =====

impl Rare {
    const NONE: Self = Self {
        listed: None,
        stage: InFlightStage::Handler,
        body: InFlightStage::Body,
        prefix: Prefix::Get,
        upgrade: None,
    };
}

// ===== impl Upgrade =====

impl Upgrade {
    fn is_done_by(&self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || (self.is_connect && status.is_success())
    }
}
