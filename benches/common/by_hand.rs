//! Graceful shutdown as people write it by hand: an async block around the call.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use drain::Watch;
use http::{Response, StatusCode};
use http_body_util::Full;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::service_fn;

use super::keep::{KeepBody, keep_in_body};
use super::request::{Hello, Served};

/// The body of the services that count until its end.
pub type TokenBody = KeepBody<Full<Bytes>, TaskTrackerToken>;

/// Counts until the end of the response. Waits for all requests. Neither refuses nor cuts.
pub fn track_future(
    mut inner: impl Served<Full<Bytes>>,
    tracker: TaskTracker,
) -> impl Served<Full<Bytes>> {
    service_fn(move |request| tracker.track_future(inner.call(request)))
}

/// Counts until the end of the body. Refuses once the tracker is closed. Waits for all requests.
/// Cuts the response, not the body.
pub fn token_and_select(
    mut inner: impl Served<Full<Bytes>>,
    tracker: TaskTracker,
    force: CancellationToken,
) -> impl Served<TokenBody> {
    service_fn(move |request| {
        let refused = tracker.is_closed();
        let token = tracker.token();
        let forced = force.clone().cancelled_owned();
        let response = inner.call(request);
        async move {
            let response = if refused {
                unavailable()
            } else {
                tokio::select! {
                    response = response => response,
                    () = forced => unavailable(),
                }
            };
            response.map(|response| keep_in_body(response, token))
        }
    })
}

/// The same with `run_until_cancelled` instead of `select!`.
pub fn token_and_run_until_cancelled(
    mut inner: impl Served<Full<Bytes>>,
    tracker: TaskTracker,
    force: CancellationToken,
) -> impl Served<TokenBody> {
    service_fn(move |request| {
        let refused = tracker.is_closed();
        let token = tracker.token();
        let force = force.clone();
        let response = inner.call(request);
        async move {
            let response = if refused {
                unavailable()
            } else {
                let response = force.run_until_cancelled(response).await;
                response.unwrap_or_else(unavailable)
            };
            response.map(|response| keep_in_body(response, token))
        }
    })
}

/// Counts until the end of the response. Refuses and cuts as soon as the shutdown begins. The
/// waiter has to poll the count.
pub fn counter_and_watch(
    mut inner: impl Served<Full<Bytes>>,
    in_flight: Arc<AtomicUsize>,
    shutdown: watch::Receiver<bool>,
) -> impl Served<Full<Bytes>> {
    service_fn(move |request| {
        let in_flight = Count::of(&in_flight);
        let mut shutdown = shutdown.clone();
        let response = inner.call(request);
        async move {
            let _in_flight = in_flight;
            tokio::select! {
                response = response => response,
                _ = shutdown.wait_for(|began| *began) => unavailable(),
            }
        }
    })
}

/// Held until the end of the response. Waits for all requests. Neither counts nor refuses nor cuts.
pub fn release_after(
    mut inner: impl Served<Full<Bytes>>,
    drain: Watch,
) -> impl Served<Full<Bytes>> {
    service_fn(move |request| {
        let release = drain.clone().ignore_signaled();
        release.release_after(inner.call(request))
    })
}

/// Adds one to the count until it is dropped.
struct Count(Arc<AtomicUsize>);

impl Count {
    fn of(in_flight: &Arc<AtomicUsize>) -> Self {
        in_flight.fetch_add(1, Ordering::Relaxed);
        Self(in_flight.clone())
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

fn unavailable() -> Hello {
    let mut response = Response::new(Full::new(Bytes::from_static(b"shutting down")));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    Ok(response)
}
