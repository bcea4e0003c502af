//! Many pending requests at once, each in its own task.
// Each bench is a separate program, and uses only a part of this module.
#![allow(dead_code)]

use std::convert::Infallible;
use std::future::pending;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{Empty, Full};
use pin_project_lite::pin_project;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tower::service_fn;

use crate::common::request::{Hello, Served};

/// How many tasks start the others, as the workers of a server do.
const STARTERS: usize = 2;

/// A service that never responds. Its future holds the request and `SIZE` more bytes.
pub fn never<const SIZE: usize>() -> impl Served<Full<Bytes>> {
    service_fn(|request: Request<Empty<Bytes>>| async move {
        let held = black_box([0_u8; SIZE]);
        pending::<()>().await;
        black_box((&request, &held));
        Hello::Ok(Response::new(Full::default()))
    })
}

/// Calls a clone of the service, as a server does.
pub fn respond<S: Served<B>, B>(service: &S) -> S::Future {
    let mut service = service.clone();
    let ready = service.poll_ready(&mut Context::from_waker(Waker::noop()));
    assert!(ready.is_ready(), "it always is");
    service.call(Request::new(Empty::new()))
}

/// Starts as many requests as the countdown expects, each in a task. Returns their handles if asked
/// to.
pub async fn start<S, B>(service: &S, countdown: &Arc<Countdown>, handles: bool) -> Vec<AbortHandle>
where
    S: Served<B>,
    B: Body + Send + 'static,
{
    let starters = [(); STARTERS].map(|()| {
        let (service, countdown) = (service.clone(), countdown.clone());
        // In tasks, so that the threads that run the requests also make the calls.
        tokio::spawn(async move {
            let count = countdown.requests / STARTERS;
            let mut tasks = Vec::with_capacity(if handles { count } else { 0 });
            for _ in 0..count {
                let task = tokio::spawn(Exchange::Response {
                    response: respond(&service),
                    ticket: countdown.ticket(),
                });
                if handles {
                    tasks.push(task.abort_handle());
                }
            }
            tasks
        })
    });
    let mut tasks = Vec::new();
    for starter in starters {
        tasks.extend(starter.await.expect("no panic in the service"));
    }
    tasks
}

pin_project! {
    /// Runs a request until its response's body has ended. No larger than what it waits for.
    #[project = ExchangeProj]
    enum Exchange<F, B> {
        Response {
            #[pin]
            response: F,
            ticket: Ticket,
        },
        Body {
            #[pin]
            body: B,
            ticket: Ticket,
        },
    }
}

impl<F, B> Future for Exchange<F, B>
where
    F: Future<Output = Result<Response<B>, Infallible>>,
    B: Body,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.as_mut().project() {
                ExchangeProj::Response { response, ticket } => {
                    let polled = response.poll(cx);
                    ticket.note_poll();
                    let Ok(response) = ready!(polled);
                    let (body, ticket) = (response.into_body(), ticket.hand_over());
                    self.set(Exchange::Body { body, ticket });
                }
                ExchangeProj::Body { body, .. } => match ready!(body.poll_frame(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Poll::Ready(()),
                },
            }
        }
    }
}

// ===== the countdown =====

/// Counts the requests that have been polled, and those that have not ended.
pub struct Countdown {
    requests: usize,
    unpolled: AtomicUsize,
    left: AtomicUsize,
    ended: Mutex<Option<Instant>>,
}

/// Held by a request until all of its state is dropped.
struct Ticket {
    countdown: Option<Arc<Countdown>>,
    polled: bool,
}

impl Countdown {
    pub fn of(requests: usize) -> Arc<Self> {
        assert_eq!(requests % STARTERS, 0, "each starts the same");
        Arc::new(Self {
            requests,
            unpolled: AtomicUsize::new(requests),
            left: AtomicUsize::new(requests),
            ended: Mutex::default(),
        })
    }

    /// Waits until each request has been polled.
    pub async fn all_pending(&self) {
        while self.unpolled.load(Ordering::Acquire) > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(self.left.load(Ordering::Acquire), self.requests);
    }

    /// Waits until all requests are dropped. Returns the time of the last drop.
    pub async fn all_gone(&self) -> Instant {
        loop {
            let ended = *self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(ended) = ended {
                return ended;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn ticket(self: &Arc<Self>) -> Ticket {
        Ticket {
            countdown: Some(self.clone()),
            polled: false,
        }
    }
}

impl Ticket {
    fn note_poll(&mut self) {
        if let (false, Some(countdown)) = (self.polled, &self.countdown) {
            countdown.unpolled.fetch_sub(1, Ordering::Release);
            self.polled = true;
        }
    }

    fn hand_over(&mut self) -> Self {
        Self {
            countdown: self.countdown.take(),
            polled: self.polled,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(countdown) = self.countdown.take() else {
            return;
        };
        if countdown.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let now = Some(Instant::now());
            *countdown
                .ended
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = now;
        }
    }
}
