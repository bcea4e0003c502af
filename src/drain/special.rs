//! What is out of the ordinary: requests that may take their connection away from HTTP, those that are
//! let past the closed gate or refused there, and responses that are changed.

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::entrance::Refusal;
use super::{Drain, ResponseFuture};
use crate::body::Lasting;
use crate::error::ShuttingDown;
use crate::facts::Facts;
use crate::guard::Entry;
use crate::layer_shard::LayerShard;
use crate::long_lived::Farewell;
use crate::mode::Http;
use crate::reject::Admission;
use crate::upgrade::UpgradeGuard;

// ===== requests =====

impl<S> Drain<S, Http> {
    /// Puts a guard for what comes after the response into the extensions of an admitted request.
    #[cold]
    #[inline(never)]
    pub(super) fn offer_upgrade<ReqBody>(
        &mut self,
        guard: Admission,
        mut request: Request<ReqBody>,
    ) -> ResponseFuture<S::Future>
    where
        S: Service<Request<ReqBody>>,
    {
        let guard = guard.map_way(|way| {
            let handle = UpgradeGuard::new(&way.shard);
            let way = way.offering(handle.offer());
            request.extensions_mut().insert(handle);
            way
        });
        ResponseFuture::admitted(self.inner.call(request), guard)
    }

    /// Refuses a request, or lets it past the closed gate if it is exempt: uncounted and uncut.
    #[cold]
    #[inline(never)]
    pub(super) fn not_admitted<ReqBody>(
        &mut self,
        refusal: Refusal,
        mut request: Request<ReqBody>,
    ) -> ResponseFuture<S::Future>
    where
        S: Service<Request<ReqBody>>,
    {
        let LayerShard { shard, options, .. } = &*self.entrance.handle;
        if refusal.inner_is_ready && options.is_exempt(request.uri().path()) {
            let mut facts = Facts::of(&request);
            if facts.asks_to_upgrade() {
                // Whoever extracts a guard finds one; it counts nothing.
                let guard = UpgradeGuard::new(shard);
                request.extensions_mut().insert(guard);
            }
            if !shard.is_shedding() {
                facts = facts.keeping_connection(); // paused: nobody is asked to leave
            }
            let guard = facts.note(Entry::uncounted());
            return ResponseFuture::admitted(self.inner.call(request), guard);
        }
        shard.note_refused();
        let refused = ShuttingDown::new(shard.is_paused());
        ResponseFuture::refused(options.refuse(request, refused))
    }
}

// ===== responses =====

/// Whether a response is passed on as it is; else it is to be adapted.
#[inline]
pub(super) fn is_ordinary<B: Body>(response: &Response<B>, guard: &Admission) -> bool {
    !guard.is_shedding()
        && !Facts::noted(guard).asks_to_upgrade()
        && response.body().size_hint().exact().is_some()
}

/// Asks the client to leave, if that is due, and tells whether the response would outlast the drain.
#[cold]
#[inline(never)]
pub(super) fn adapt<B: Body>(response: &mut Response<B>, guard: &Admission) -> Option<Lasting> {
    let facts = Facts::noted(guard);
    let Some(way) = guard.way() else {
        // Let past the gate: while draining every response asks to leave.
        facts.close_connection(response.status(), response.headers_mut());
        return None;
    };
    if guard.is_shedding() {
        facts.ask_to_leave(response);
    }
    if facts.asks_to_upgrade() && facts.is_upgraded_by(response.status()) {
        let handle = way.offer.guard(&way.shard);
        // For a server that keeps it until the socket is closed.
        response.extensions_mut().insert(handle.clone());
        return Some(Lasting::Upgrade(handle));
    }
    let body = response.body();
    if body.is_end_stream() || body.size_hint().exact().is_some() {
        return None;
    }
    let classes = way.options.long_lived();
    let class = classes.of_response(facts.path_class(), response.headers())?;
    let farewell = Farewell::of(response.headers());
    Some(Lasting::Stream(class, farewell))
}
