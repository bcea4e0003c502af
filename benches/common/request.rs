//! One request: what a server does with a service, without the server.

use std::convert::Infallible;
use std::future::poll_fn;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{Empty, Full};
use tower::{Service, service_fn};

/// Polls readiness, calls, polls the response and the body to their ends, and drops everything.
///
/// The future and the body are opaque to the compiler at each poll, as in a server that has them in
/// a task. Otherwise it computes the result of a service that does nothing at compile time.
///
/// # Panics
///
/// If the service is not ready, or fails.
#[inline(never)]
pub fn request<S, B>(service: &mut S, cx: &mut Context<'_>)
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>>,
    B: Body,
{
    let ready = service.poll_ready(cx);
    assert!(matches!(ready, Poll::Ready(Ok(()))), "it is always ready");
    let mut future = pin!(service.call(black_box(Request::new(Empty::new()))));
    let response = loop {
        if let Poll::Ready(response) = black_box(future.as_mut()).poll(cx) {
            break response;
        }
    };
    let Ok(response) = response else {
        panic!("it does not fail")
    };
    let mut body = pin!(response.into_body());
    loop {
        match black_box(body.as_mut()).poll_frame(cx) {
            Poll::Ready(None) => break,
            Poll::Ready(Some(frame)) => {
                black_box(frame.is_ok());
            }
            Poll::Pending => {}
        }
    }
}

/// The same on a clone of the service. Servers call a clone for each request.
#[inline(never)]
pub fn request_on_clone<S, B>(service: &S, cx: &mut Context<'_>)
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>> + Clone,
    B: Body,
{
    request(&mut service.clone(), cx);
}

// ===== the waker =====

/// A waker with the costs of a runtime's waker: an atomic reference count, and a flag.
pub fn waker() -> Waker {
    Arc::new(Task::default()).into()
}

#[derive(Debug, Default)]
struct Task {
    woken: AtomicBool,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
    }
}

// ===== the inner service =====

/// The body of the inner service's responses.
pub type Hello = Result<Response<Full<Bytes>>, Infallible>;

/// A service as a server requires it, without errors.
pub trait Served<B>:
    Service<
        Request<Empty<Bytes>>,
        Response = Response<B>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S, B> Served<B> for S where
    S: Service<
            Request<Empty<Bytes>>,
            Response = Response<B>,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// Responds at the first poll.
pub fn ready() -> impl Served<Full<Bytes>> {
    service_fn(hello)
}

/// Is pending for this many polls, each of which wakes, and then responds.
pub fn pending(times: u32) -> impl Served<Full<Bytes>> {
    service_fn(move |request: Request<Empty<Bytes>>| async move {
        for _ in 0..times {
            yield_now().await;
        }
        drop(request);
        respond()
    })
}

async fn hello(_: Request<Empty<Bytes>>) -> Hello {
    respond()
}

fn respond() -> Hello {
    Ok(Response::new(Full::new(Bytes::from_static(b"hello"))))
}

async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
