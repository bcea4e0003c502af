//! Refused requests with a body: the body is read and discarded before the response, within limits.
//!
//! Most tests pause the service, which refuses in the same way as draining.

use std::convert::Infallible;
use std::future::Ready;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer, Service, service_fn};
use tower_lifecycle::layers::Drain;
use tower_lifecycle::layers::DrainFuture;
use tower_lifecycle::{DrainLayer, ShutdownConfig, ShutdownController, ShutdownReason};

use crate::support::loopback::loopback;
use crate::support::sockets::{Kind, Protocol, Server, client, eventually, in_time};

const PAUSED: &str = r#"{"error":"service is paused"}"#;
const REFUSED: &str = r#"{"error":"service is shutting down"}"#;

// ===== on sockets, under `axum::serve` =====

/// An axum server whose service is paused.
async fn paused_axum() -> SocketAddr {
    let ctl = ShutdownController::new();
    let address = axum(&ctl).await;
    ctl.pause();
    address
}

/// An axum server that keeps accepting, in any state.
async fn axum(ctl: &ShutdownController) -> SocketAddr {
    let app = Router::new()
        .route("/", post(|_: Bytes| async { "uploaded" }))
        .layer(DrainLayer::new(ctl.clone()));
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

/// Sends forty uploads of 8 MB, a few at a time, each on a separate connection. Returns the errors.
async fn lost_of_forty<F>(upload: impl Fn(Bytes) -> F) -> Vec<String>
where
    F: Future<Output = Result<(StatusCode, Bytes), String>> + Send + 'static,
{
    let data = Bytes::from(vec![b'x'; 8_000_000]);
    let mut lost = Vec::new();
    for _ in 0..10 {
        let mut uploads = JoinSet::new();
        for _ in 0..4 {
            uploads.spawn(in_time(upload(data.clone())));
        }
        for outcome in uploads.join_all().await {
            match outcome {
                Ok((StatusCode::SERVICE_UNAVAILABLE, text))
                    if text == PAUSED || text == REFUSED => {}
                other => lost.push(format!("{other:?}")),
            }
        }
    }
    lost
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reqwest_gets_the_answer_to_each_upload_that_is_refused_while_draining() {
    let config = ShutdownConfig::default().late_for(Duration::ZERO);
    let ctl = ShutdownController::with_config(config).unwrap();
    let address = axum(&ctl).await;
    let _at_work = ctl.track();
    ctl.trigger(ShutdownReason::Manual);
    let lost = lost_of_forty(|data| async move {
        let text = |error: reqwest::Error| format!("{error:?}");
        let request = client(Protocol::Http1).post(format!("http://{address}/"));
        let response = request.body(data).send().await.map_err(text)?;
        Ok((response.status(), response.bytes().await.map_err(text)?))
    });
    let lost = lost.await;
    assert!(lost.is_empty(), "{} lost: {lost:#?}", lost.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hyper_gets_the_answer_to_each_refused_upload_of_unknown_length() {
    let address = paused_axum().await;
    let lost = lost_of_forty(|data| async move {
        let text = |error: hyper::Error| format!("{error:?}");
        let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let handshake = hyper::client::conn::http1::handshake(io).await;
        let (mut sender, connection) = handshake.map_err(text)?;
        let connection = tokio::spawn(connection);
        let (body, feed) = Upload::new(None);
        for frame in data.chunks(100_000) {
            feed.send(Ok(Bytes::copy_from_slice(frame))).unwrap();
        }
        drop(feed);
        let request = Request::post("/").header("host", "test").body(body);
        let response = sender.send_request(request.unwrap()).await.map_err(text)?;
        let (parts, body) = response.into_parts();
        let answer = (parts.status, body.collect().await.map_err(text)?.to_bytes());
        drop(sender);
        connection.await.unwrap().map_err(text)?;
        Ok(answer)
    });
    let lost = lost.await;
    assert!(lost.is_empty(), "{} lost: {lost:#?}", lost.len());
}

/// A hand-written client that reads only after it has sent everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_late_gets_the_answer_to_each_refused_upload() {
    let address = paused_axum().await;
    let lost = lost_of_forty(|data| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n",
            data.len()
        );
        let text = |error: std::io::Error| error.to_string();
        stream.write_all(head.as_bytes()).await.map_err(text)?;
        stream.write_all(&data).await.map_err(text)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(text)?;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        Ok((
            StatusCode::SERVICE_UNAVAILABLE,
            Bytes::copy_from_slice(body.as_bytes()),
        ))
    });
    let lost = lost.await;
    assert!(lost.is_empty(), "{} lost: {lost:#?}", lost.len());
}

/// Sends only this, and reads the refusal.
async fn assert_refused(sent: &str) {
    let address = paused_axum().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(sent.as_bytes()).await.unwrap();
    let mut answer = String::new();
    in_time(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.ends_with(PAUSED), "{answer}");
}

#[tokio::test]
async fn a_client_that_expects_100_continue_is_refused_without_it() {
    assert_refused(
        "POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n",
    )
    .await;
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_of_its_upload_is_answered() {
    assert_refused("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\nhalf").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_over_http2_is_answered() {
    let address = paused_axum().await;
    let request = client(Protocol::Http2).post(format!("http://{address}/"));
    let request = request.body(vec![b'x'; 8_000_000]);
    let response = in_time(request.send()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.text().await.unwrap(), PAUSED);
}

// ===== reading, and its limits =====

/// A request body that the test sends, or that is always ready. It counts the frames read.
struct Upload {
    frames: Frames,
    length: Option<u64>,
    read: Arc<AtomicUsize>,
}

enum Frames {
    Fed(mpsc::UnboundedReceiver<Result<Bytes, &'static str>>),
    Endless(Bytes),
}

type Feed = mpsc::UnboundedSender<Result<Bytes, &'static str>>;

impl Upload {
    fn new(length: Option<u64>) -> (Self, Feed) {
        let (feed, frames) = mpsc::unbounded_channel();
        let frames = Frames::Fed(frames);
        let upload = Self {
            frames,
            length,
            read: Arc::default(),
        };
        (upload, feed)
    }

    /// Also returns the number of frames that were read.
    fn endless(frame: impl Into<Bytes>) -> (Self, Arc<AtomicUsize>) {
        let read = Arc::new(AtomicUsize::new(0));
        let upload = Self {
            frames: Frames::Endless(frame.into()),
            length: None,
            read: Arc::clone(&read),
        };
        (upload, read)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        let frame = match &mut self.frames {
            Frames::Fed(frames) => std::task::ready!(frames.poll_recv(cx)),
            Frames::Endless(frame) => Some(Ok(frame.clone())),
        };
        self.read.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(frame.map(|frame| frame.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

type Answer = Ready<Result<Response<Full<Bytes>>, Infallible>>;
type Refusing = DrainFuture<Answer, Upload>;

fn never_called(_: Request<Upload>) -> Answer {
    unreachable!("a refused request does not reach the inner service")
}

/// Sends a request to a paused service.
fn send(ctl: &ShutdownController, request: Request<Upload>) -> task::Spawn<Refusing> {
    ctl.pause();
    let mut service: Drain<_> = DrainLayer::new(ctl.clone()).layer(service_fn(never_called));
    let ready = std::future::poll_fn(|cx| Service::<Request<Upload>>::poll_ready(&mut service, cx));
    ready.now_or_never().unwrap().unwrap();
    task::spawn(service.call(request))
}

fn upload(ctl: &ShutdownController, body: Upload) -> task::Spawn<Refusing> {
    send(ctl, Request::post("/").body(body).unwrap())
}

/// Waits for the response. Returns the time that it took.
async fn time_of(refusing: task::Spawn<Refusing>) -> Duration {
    let begin = Instant::now();
    let response = refusing.into_inner().await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    begin.elapsed()
}

/// To the millisecond, which is the precision of tokio's timer.
fn assert_is_about(time: Duration, expected: Duration) {
    let late = time.checked_sub(expected);
    let is_in_time = late.is_some_and(|late| late <= Duration::from_millis(2));
    assert!(is_in_time, "{time:?}, and not {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn the_answer_comes_at_the_end_of_the_body() {
    let ctl = ShutdownController::new();
    let (body, feed) = Upload::new(None);
    let mut refusing = upload(&ctl, body);
    assert_pending!(refusing.poll());
    feed.send(Ok("some".into())).unwrap();
    assert!(refusing.is_woken());
    assert_pending!(refusing.poll());
    assert_eq!(format!("{:?}", *refusing), r#"ResponseFuture("refused")"#);

    drop(feed);
    assert!(refusing.is_woken());
    let response = assert_ready_ok!(refusing.poll());
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["connection"], "close");
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), PAUSED);
}

#[tokio::test(start_paused = true)]
async fn the_answer_comes_when_the_body_fails() {
    let ctl = ShutdownController::new();
    let (body, feed) = Upload::new(None);
    let mut refusing = upload(&ctl, body);
    assert_pending!(refusing.poll());
    feed.send(Err("the client is gone")).unwrap();
    assert_ready_ok!(refusing.poll());
    assert!(feed.is_closed(), "the body is dropped");
}

#[tokio::test(start_paused = true)]
async fn the_answer_comes_after_a_second_of_silence() {
    let ctl = ShutdownController::new();
    let (body, _feed) = Upload::new(Some(10));
    assert_is_about(time_of(upload(&ctl, body)).await, Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn each_kibibyte_ends_a_silence() {
    let ctl = ShutdownController::new();
    let (body, feed) = Upload::new(None);
    let feeding = tokio::spawn(async move {
        for _ in 0..3 {
            sleep(Duration::from_millis(900)).await;
            feed.send(Ok(vec![0; 1024].into())).unwrap();
        }
        feed
    });
    let time = time_of(upload(&ctl, body)).await;
    assert_is_about(time, Duration::from_millis(3 * 900 + 1_000));
    drop(feeding);
}

#[tokio::test(start_paused = true)]
async fn the_answer_comes_after_five_seconds_of_a_slow_body() {
    let ctl = ShutdownController::new();
    let (body, feed) = Upload::new(None);
    tokio::spawn(async move {
        while feed.send(Ok(vec![0; 512].into())).is_ok() {
            sleep(Duration::from_millis(300)).await;
        }
    });
    assert_is_about(time_of(upload(&ctl, body)).await, Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_only_drips_holds_the_answer_for_a_second() {
    let ctl = ShutdownController::new();
    let (body, feed) = Upload::new(None);
    tokio::spawn(async move {
        while feed.send(Ok("more".into())).is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    });
    assert_is_about(time_of(upload(&ctl, body)).await, Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn the_answer_comes_after_64_mib_of_a_fast_body() {
    let ctl = ShutdownController::new();
    let (body, read) = Upload::endless(vec![0; 1 << 20]);
    time_of(upload(&ctl, body)).await;
    assert_eq!(read.load(Ordering::Relaxed), 64 + 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_always_ready_keeps_neither_the_thread_nor_the_request() {
    let ctl = ShutdownController::new();
    let (body, read) = Upload::endless("");
    let mut refusing = upload(&ctl, body);
    assert_pending!(refusing.poll());
    assert!(refusing.is_woken(), "it goes on by itself");
    assert!(read.load(Ordering::Relaxed) <= 100);

    advance(Duration::from_secs(5)).await;
    assert_ready_ok!(refusing.poll());
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_drops_the_body() {
    let ctl = ShutdownController::new();
    let (body, feed) = Upload::new(None);
    let mut refusing = upload(&ctl, body);
    assert_pending!(refusing.poll());
    drop(refusing);
    assert!(feed.is_closed());
}

// ===== immediate refusals =====

/// Returns whether it is refused at the first poll, and its body then dropped unread.
fn is_refused_at_once(request: http::request::Builder, length: Option<u64>) -> bool {
    let ctl = ShutdownController::new();
    let (body, feed) = Upload::new(length);
    let read = Arc::clone(&body.read);
    feed.send(Ok("some".into())).unwrap();
    let mut refusing = send(&ctl, request.body(body).unwrap());
    let at_once = refusing.poll().is_ready();
    let unread = read.load(Ordering::Relaxed) == 0;
    assert_eq!((at_once, at_once), (feed.is_closed(), unread));
    at_once
}

#[tokio::test(start_paused = true)]
async fn over_http1_every_body_is_read() {
    for version in [Version::HTTP_10, Version::HTTP_11] {
        let request = || Request::post("/").version(version);
        assert!(!is_refused_at_once(request(), None));
        assert!(!is_refused_at_once(request(), Some(10)));
        let grpc_web = request().header(CONTENT_TYPE, "application/grpc-web");
        assert!(!is_refused_at_once(grpc_web, Some(10)));
    }
}

#[tokio::test(start_paused = true)]
async fn over_http2_a_body_of_known_length_is_read() {
    let request = || Request::post("/").version(Version::HTTP_2);
    assert!(!is_refused_at_once(request(), Some(10)));
    assert!(!is_refused_at_once(
        request().header(CONTENT_LENGTH, "10"),
        None
    ));
}

#[tokio::test(start_paused = true)]
async fn over_http2_a_stream_is_refused_at_once() {
    let request = || Request::post("/").version(Version::HTTP_2);
    assert!(is_refused_at_once(request(), None));
    assert!(is_refused_at_once(request().method(Method::CONNECT), None));
    for grpc in ["application/grpc", "application/grpc+proto"] {
        let request = || request().header(CONTENT_TYPE, grpc);
        assert!(is_refused_at_once(request(), None));
        assert!(is_refused_at_once(request(), Some(10)));
        assert!(is_refused_at_once(
            request().header(CONTENT_LENGTH, "10"),
            None
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn who_expects_100_continue_is_refused_at_once() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let request = Request::post("/").version(version);
        let request = request.header(EXPECT, "100-continue");
        assert!(is_refused_at_once(request, Some(10)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_a_head_has_no_body_also_when_the_request_had_one() {
    let ctl = ShutdownController::new();
    let (body, feed) = Upload::new(Some(4));
    let mut refusing = send(&ctl, Request::head("/").body(body).unwrap());
    assert_pending!(refusing.poll());
    feed.send(Ok("body".into())).unwrap();
    drop(feed);
    let response = assert_ready_ok!(refusing.poll());
    assert!(response.body().is_end_stream());
}

// ===== independent of the shutdown =====

#[tokio::test(start_paused = true)]
async fn what_is_read_is_not_in_flight_and_holds_no_drain_up() {
    let ctl = ShutdownController::new();
    let (body, _feed) = Upload::new(None);
    let mut refusing = upload(&ctl, body);
    assert_pending!(refusing.poll());
    assert_eq!(ctl.in_flight(), 0);

    let begin = Instant::now();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(report.is_graceful());
    assert_eq!(report.refused(), 1);
    assert!(begin.elapsed() < Duration::from_millis(500));
    assert_pending!(refusing.poll());
}

#[tokio::test(start_paused = true)]
async fn at_force_the_answer_comes_at_once() {
    let ctl = ShutdownController::new();
    let (body, _feed) = Upload::new(None);
    let mut refusing = upload(&ctl, body);
    assert_pending!(refusing.poll());
    let (endless, _) = Upload::endless("some");
    let mut always_ready = upload(&ctl, endless);
    assert_pending!(always_ready.poll());

    ctl.force();
    sleep(Duration::from_millis(1)).await;
    assert!(refusing.is_woken());
    let response = assert_ready_ok!(refusing.poll());
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_ready_ok!(always_ready.poll());
    assert_eq!(ctl.shutdown(ShutdownReason::Manual).await.aborted(), 0);
}

#[tokio::test]
async fn at_the_deadline_axum_does_not_wait_for_an_upload() {
    let config = ShutdownConfig::default()
        .shutdown_timeout(Duration::from_millis(500))
        .late_for(Duration::ZERO);
    let ctl = ShutdownController::with_config(config).unwrap();
    let app = Router::new().route("/", post(|_: Bytes| async { "uploaded" }));
    let server = Server::start(Kind::Axum, &ctl, app).await;
    ctl.pause();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let trickle = tokio::spawn(async move {
        while stream.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    eventually(|| ctl.metrics().refused == 1).await;

    let begin = Instant::now();
    ctl.trigger(ShutdownReason::Manual);
    let report = in_time(server.report()).await;
    let took = begin.elapsed();
    assert!(
        took < Duration::from_secs(4),
        "{took:?} of the five seconds"
    );
    assert_eq!(report.aborted(), 0);
    in_time(trickle).await.unwrap();
}

// ===== without a timer =====

/// Reads available data, and waits for nothing.
fn assert_reads_what_is_there() {
    let ctl = ShutdownController::new();
    let (body, feed) = Upload::new(None);
    let read = Arc::clone(&body.read);
    feed.send(Ok("some".into())).unwrap();
    let mut refusing = upload(&ctl, body);
    assert_ready_ok!(refusing.poll());
    assert_eq!(read.load(Ordering::Relaxed), 1);
}

#[test]
fn without_a_runtime_nothing_is_waited_for() {
    assert_reads_what_is_there();
}

#[test]
fn in_a_runtime_without_a_timer_nothing_is_waited_for() {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime
        .unwrap()
        .block_on(async { assert_reads_what_is_there() });
}

/// The timer belongs to a runtime that has ended.
#[test]
fn in_another_runtime_nothing_is_waited_for_when_the_first_has_ended() {
    let build = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().build().unwrap()
    };
    let ctl = ShutdownController::new();
    let (body, _feed) = Upload::new(None);
    let mut refusing = upload(&ctl, body);
    let first = build();
    first.block_on(async { assert_pending!(refusing.poll()) });
    drop(first);
    build().block_on(async { drop(assert_ready_ok!(refusing.poll())) });
}
