//! What a second core costs: the same request loop on one thread and on two at a time.
//!
//! A layer that counts in one place has its cores fight for that cache line, and each request gets
//! dearer with every core; the peer that is measured beside ours does. The last column shows it, to
//! be read against that of the bare service, which has nothing to fight for: 1.0 on two cores of
//! their own, more where they share one (hyper-threads), or the machine is busy.
//!
//! ```text
//! cargo bench --bench contention
//! ```
//!
//! The candidates take turns, round after round, so that a busy moment of the machine hits all of
//! them. The lower quartiles are shown, for what disturbs a round only ever adds to it.

use std::convert::Infallible;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Barrier;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::{Layer, Service, service_fn};
use tower_http::metrics::InFlightRequestsLayer;
use tower_lifecycle::{DrainLayer, RequestTrackingLayer, ShutdownController};

const ROUNDS: usize = 200;
const REQUESTS: u32 = 100_000;

struct Candidate<'a> {
    name: &'static str,
    /// Runs the loop on so many threads, and gives the nanoseconds per request and thread.
    run: Box<dyn Fn(usize) -> f64 + 'a>,
    /// For one thread and for two.
    rounds: [Vec<f64>; 2],
}

fn main() {
    let ctl = ShutdownController::new();
    let bare = service_fn(respond);
    let (peer, _counter) = InFlightRequestsLayer::pair();
    let tracking = RequestTrackingLayer::new(ctl.clone()).layer(bare);
    let drain = DrainLayer::new(ctl.clone()).layer(bare);
    let peer = peer.layer(bare);
    let mut candidates = [
        candidate("bare", &bare),
        candidate("RequestTrackingLayer", &tracking),
        candidate("DrainLayer", &drain),
        candidate("InFlightRequestsLayer (tower-http)", &peer),
    ];

    for _ in 0..ROUNDS {
        for candidate in &mut candidates {
            for threads in [1, 2] {
                let ns = (candidate.run)(threads);
                candidate.rounds[threads - 1].push(ns);
            }
        }
    }

    println!("ns per request and thread, {ROUNDS} rounds of {REQUESTS} requests, lower quartile\n");
    println!(
        "{:36} {:>9} {:>9} {:>6}",
        "", "1 thread", "2 threads", "ratio"
    );
    for Candidate { name, rounds, .. } in candidates {
        let [one, two] = rounds.map(lower_quartile);
        println!("{name:36} {one:9.1} {two:9.1} {:6.2}", two / one);
    }
}

fn candidate<'a, S, B>(name: &'static str, service: &'a S) -> Candidate<'a>
where
    S: Service<Request<()>, Response = Response<B>> + Clone + Sync,
    B: Body,
{
    Candidate {
        name,
        run: Box::new(|threads| measure(service, threads)),
        rounds: Default::default(),
    }
}

fn measure<S, B>(service: &S, threads: usize) -> f64
where
    S: Service<Request<()>, Response = Response<B>> + Clone + Sync,
    B: Body,
{
    let start = Barrier::new(threads);
    let run = || {
        // As a server does: one clone for the connection, and of that one for each request.
        let connection = service.clone();
        request(&connection);
        start.wait();
        let began = Instant::now();
        for _ in 0..REQUESTS {
            request(&connection);
        }
        began.elapsed().as_secs_f64() * 1e9 / f64::from(REQUESTS)
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let times = running.into_iter().map(|thread| thread.join());
        let total: f64 = times.map(|ns| ns.expect("no panic in the loop")).sum();
        total / threads as f64
    })
}

fn request<S, B>(service: &S)
where
    S: Service<Request<()>, Response = Response<B>> + Clone,
    B: Body,
{
    let mut cx = Context::from_waker(Waker::noop());
    let mut service = service.clone();
    assert!(service.poll_ready(&mut cx).is_ready());
    let future = pin!(service.call(black_box(Request::new(()))));
    let Poll::Ready(Ok(response)) = future.poll(&mut cx) else {
        unreachable!("the service answers at the first poll")
    };
    let mut body = pin!(response.into_body());
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
        black_box(frame.is_ok());
    }
}

async fn respond(_: Request<()>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(b"hello"))))
}

fn lower_quartile(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 4]
}
