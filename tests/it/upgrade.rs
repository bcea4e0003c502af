//! Upgrades: in flight as one request, from the handshake to the end of the socket.

mod tunnels;

use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::routing::any;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tokio_tungstenite::tungstenite;
use tower::{Layer, Service, service_fn};
use tower_lifecycle::error::Forced;
use tower_lifecycle::layers::ResponseBody;
use tower_lifecycle::{
    DrainLayer, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason, ShutdownReport,
    UpgradeGuard,
};

use self::tunnels::{drain_tunnel, serve_tunnel};
use crate::support::layers::{Broken, Script, Stage, Step, app, dropped_first, frame, send, text};
use crate::support::loopback::loopback;
use crate::support::shutdown::settle;
use crate::support::sockets::{Event, Kind, Server, in_time};

const MANUAL: ShutdownReason = ShutdownReason::Manual;

type Text = Full<Bytes>;

/// A handler whose response comes from the test, which receives the guard.
struct Exchange {
    guard: Option<UpgradeGuard>,
    respond: oneshot::Sender<Response<Text>>,
}

/// Polls the future of such a handler, and panics if the test tells it to.
type Handler = Pin<Box<dyn Future<Output = Result<Response<Text>, Broken>> + Send>>;

fn handler(
    exchanges: tokio::sync::mpsc::UnboundedSender<Exchange>,
) -> impl Service<Request<String>, Response = Response<Text>, Error = Broken, Future = Handler> + Clone
{
    service_fn(move |request: Request<String>| -> Handler {
        let guard = request.extensions().get::<UpgradeGuard>().cloned();
        drop(request);
        let (respond, response) = oneshot::channel();
        exchanges.send(Exchange { guard, respond }).unwrap();
        Box::pin(async move { response.await.map_err(|_| Broken) })
    })
}

fn websocket() -> Request<String> {
    let request = Request::get("/socket").header(CONNECTION, "upgrade");
    request
        .header(UPGRADE, "websocket")
        .body(String::new())
        .unwrap()
}

fn connect(version: Version) -> Request<String> {
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri("example.com:443");
    request.version(version).body(String::new()).unwrap()
}

fn answer(status: u16) -> Response<Text> {
    let mut response = Response::new(Full::from(if status == 101 { "" } else { "text" }));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// A service with the layer, and one call that has reached the handler.
struct Call<F: Future> {
    ctl: ShutdownController,
    future: task::Spawn<F>,
    guard: Option<UpgradeGuard>,
    respond: Option<oneshot::Sender<Response<Text>>>,
}

type Answer = Result<Response<ResponseBody<Text>>, Broken>;

/// Calls through this layer, after which this many are in flight.
fn call_through(
    layer: &DrainLayer,
    ctl: &ShutdownController,
    request: Request<String>,
    in_flight: u64,
) -> Call<impl Future<Output = Answer> + use<>> {
    let (sender, mut exchanges) = tokio::sync::mpsc::unbounded_channel();
    let mut service = layer.layer(handler(sender));
    let mut future = task::spawn(send(&mut service, request));
    assert_eq!(ctl.in_flight(), in_flight);
    assert_pending!(future.poll());
    let Exchange { guard, respond } = exchanges.try_recv().unwrap();
    Call {
        ctl: ctl.clone(),
        future,
        guard,
        respond: Some(respond),
    }
}

fn call(request: Request<String>) -> Call<impl Future<Output = Answer>> {
    let ctl = ShutdownController::new();
    call_through(&DrainLayer::new(ctl.clone()), &ctl, request, 1)
}

/// A call whose upgrade was accepted, and its guard.
fn upgraded() -> (Call<impl Future<Output = Answer>>, UpgradeGuard) {
    let mut call = call(websocket());
    let guard = call.guard();
    drop(call.answer(101));
    (call, guard)
}

impl<F: Future<Output = Answer>> Call<F> {
    fn guard(&mut self) -> UpgradeGuard {
        self.guard.take().expect("the request carries one")
    }

    fn answer(&mut self, status: u16) -> Response<ResponseBody<Text>> {
        self.respond.take().unwrap().send(answer(status)).unwrap();
        assert_ready_ok!(self.future.poll())
    }
}

// ===== the count =====

#[tokio::test(start_paused = true)]
async fn an_upgrade_counts_as_one_from_the_call_to_the_end_of_the_task() {
    for (request, status) in [
        (websocket(), 101),
        (connect(Version::HTTP_11), 200),
        (connect(Version::HTTP_2), 204),
    ] {
        let mut call = call(request);
        let guard = call.guard();
        let clone = guard.clone();
        let in_flight = || call.ctl.in_flight();
        assert_eq!(in_flight(), 1);
        let ctl = call.ctl.clone();
        let response = call.answer(status);
        assert_eq!(ctl.in_flight(), 1);
        drop(call.future);
        assert_eq!(ctl.in_flight(), 1);
        let (head, body) = response.into_parts();
        drop(body);
        assert_eq!(ctl.in_flight(), 1);
        drop(head);
        assert_eq!(ctl.in_flight(), 1);
        drop(guard);
        assert_eq!(ctl.in_flight(), 1);
        drop(clone);
        assert_eq!(ctl.in_flight(), 0);

        let report = ctl.shutdown(MANUAL).await;
        assert!(report.is_graceful(), "{report}");
        assert_eq!((report.admitted(), report.aborted()), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_keep_it_is_counted_as_long_as_anybody_holds_the_response() {
    type End = fn(Response<ResponseBody<Text>>, &ShutdownController);
    let ends: [End; 2] = [
        |response, ctl| {
            let (head, body) = response.into_parts();
            drop(head);
            assert_eq!(ctl.in_flight(), 1);
            drop(body);
        },
        |response, ctl| {
            let (mut head, body) = response.into_parts();
            drop(body);
            assert_eq!(ctl.in_flight(), 1);
            // Like a server that closes the socket later.
            let guard = head.extensions.remove::<UpgradeGuard>().unwrap();
            drop(head);
            assert_eq!(ctl.in_flight(), 1);
            drop(guard);
        },
    ];
    for end in ends {
        let mut call = call(websocket());
        drop(call.guard());
        let response = call.answer(101);
        end(response, &call.ctl);
        assert_eq!(call.ctl.in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_no_upgrade_counts_to_the_end_of_its_body_and_no_longer() {
    for (request, status) in [
        (websocket(), 200),
        (websocket(), 400),
        (websocket(), 426),
        (connect(Version::HTTP_11), 407),
        (connect(Version::HTTP_2), 302),
    ] {
        let mut call = call(request);
        let guard = call.guard();
        let mut response = call.answer(status);
        assert!(response.extensions().get::<UpgradeGuard>().is_none());
        assert_eq!(call.ctl.in_flight(), 1);
        assert!(assert_ready!(frame(response.body_mut())).is_some());
        // The text was its last frame; the guard that is left counts nothing.
        assert_eq!(call.ctl.in_flight(), 0);
        call.ctl.force();
        drop((response, guard));
        assert_eq!(call.ctl.shutdown(MANUAL).await.aborted(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_in_answer_to_an_upgrade_is_of_a_class_as_any_other() {
    let ctl = ShutdownController::new();
    let stage = Stage::with(ctl.clone());
    let mut service = DrainLayer::new(ctl.clone()).layer(app());
    let mut response = Response::new(stage.body([Step::Stall]));
    let sse = "text/event-stream".parse().unwrap();
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, sse);
    let mut request = stage.request(response.into());
    let h2c = "h2c".parse().unwrap();
    request.headers_mut().insert(UPGRADE, h2c);
    let mut response = assert_ready_ok!(task::spawn(send(&mut service, request)).poll());
    assert!(frame(response.body_mut()).is_pending());
    ctl.trigger(MANUAL);
    assert!(matches!(frame(response.body_mut()), Poll::Ready(None)));
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_known_length_to_an_upgrade_is_of_no_class() {
    let ctl = ShutdownController::new();
    let events = || async {
        let mut response = Response::new(Text::from("whole"));
        let sse = "text/event-stream".parse().unwrap();
        response.headers_mut().insert(CONTENT_TYPE, sse);
        Ok::<_, Infallible>(response)
    };
    let mut service =
        DrainLayer::new(ctl.clone()).layer(service_fn(move |_: Request<String>| events()));
    let response = send(&mut service, websocket()).await.unwrap();
    assert_eq!(response.body().size_hint().exact(), Some(5));
    ctl.trigger(MANUAL);
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "whole");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_upgrade_carries_no_guard() {
    let plain = || Request::get("/").body(String::new()).unwrap();
    assert!(call(plain()).guard.is_none());
    // HTTP/1.0 has no upgrades (RFC 9110 §7.8), and HTTP/2 only has CONNECT.
    for version in [
        Version::HTTP_09,
        Version::HTTP_10,
        Version::HTTP_2,
        Version::HTTP_3,
    ] {
        let mut request = websocket();
        *request.version_mut() = version;
        let mut call = call(request);
        assert!(call.guard.is_none(), "{version:?}");
        let response = call.answer(101);
        assert!(response.extensions().get::<UpgradeGuard>().is_none());
        drop(response);
        assert_eq!(call.ctl.in_flight(), 0);
    }
}

// ===== failures =====

#[tokio::test(start_paused = true)]
async fn a_future_that_is_dropped_releases_whoever_holds_the_guard() {
    let mut call = call(websocket());
    let guard = call.guard();
    drop(call.future);
    assert_eq!(call.ctl.in_flight(), 0);
    drop(guard);
    assert_eq!(call.ctl.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fails_or_panics_releases() {
    let mut failed = call(websocket());
    let _guard = failed.guard();
    drop(failed.respond.take());
    assert!(assert_ready!(failed.future.poll()).is_err());
    assert_eq!(failed.ctl.in_flight(), 0);

    let ctl = ShutdownController::new();
    let panics = service_fn(|_: Request<String>| async { panic!("as planned") });
    let mut service = DrainLayer::new(ctl.clone()).layer(panics);
    let mut future: Pin<Box<dyn Future<Output = Answer>>> =
        Box::pin(send(&mut service, websocket()));
    assert_eq!(ctl.in_flight(), 1);
    let poll = || {
        future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
    };
    assert!(catch_unwind(AssertUnwindSafe(poll)).is_err());
    drop(future);
    assert_eq!(ctl.in_flight(), 0);

    let in_call = service_fn(|_: Request<String>| -> Handler { panic!("as planned") });
    let mut service = DrainLayer::new(ctl.clone()).layer(in_call);
    let call = || drop(send(&mut service, websocket()));
    assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
    assert_eq!(ctl.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_releases() {
    let (call, guard) = upgraded();
    let task = tokio::spawn(async move {
        guard.draining().await;
        panic!("as planned");
    });
    settle().await;
    assert_eq!(call.ctl.in_flight(), 1);
    call.ctl.trigger(MANUAL);
    assert!(task.await.unwrap_err().is_panic());
    assert_eq!(call.ctl.in_flight(), 0);
}

// ===== draining =====

#[tokio::test(start_paused = true)]
async fn the_guard_says_when_draining_begins_and_holds_the_drain() {
    let (call, guard) = upgraded();
    let clone = guard.clone();
    let mut draining = task::spawn(async move { clone.draining().await });
    assert_pending!(draining.poll());
    call.ctl.trigger(MANUAL);
    settle().await;
    assert!(draining.is_woken());
    assert_ready!(draining.poll());
    drop(draining);
    assert_pending!(task::spawn(guard.forced()).poll());
    assert_eq!(call.ctl.state(), LifecycleState::Draining);
    assert!(format!("{guard:?}").contains("upgraded: true"));

    drop(guard);
    let report = call.ctl.shutdown(MANUAL).await;
    assert!(report.is_graceful(), "{report}");
    assert_eq!(report.aborted(), 0);
}

#[tokio::test(start_paused = true)]
async fn http_1_is_told_to_close_by_a_refusal_of_the_upgrade_but_not_by_the_upgrade() {
    for (status, closes) in [(101, false), (400, true)] {
        let mut call = call(websocket());
        call.ctl.trigger(MANUAL);
        let response = call.answer(status);
        assert_eq!(response.headers().contains_key(CONNECTION), closes);
    }
    let mut call = call(connect(Version::HTTP_11));
    call.ctl.trigger(MANUAL);
    assert!(!call.answer(200).headers().contains_key(CONNECTION));
}

#[tokio::test(start_paused = true)]
async fn a_late_upgrade_is_served_and_holds_the_drain() {
    for (request, status) in [(websocket(), 101), (connect(Version::HTTP_2), 200)] {
        let ctl = ShutdownController::new();
        let busy = ctl.track();
        ctl.trigger(MANUAL);
        let mut call = call_through(&DrainLayer::new(ctl.clone()), &ctl, request, 2);
        let guard = call.guard();
        let response = call.answer(status);
        assert_eq!(response.status(), status);
        assert!(!response.headers().contains_key(CONNECTION));
        assert_ready!(task::spawn(guard.draining()).poll());
        drop((response, call.future, busy));
        assert_eq!(ctl.in_flight(), 1);
        assert_pending!(task::spawn(ctl.drained()).poll());

        drop(guard);
        let report = ctl.shutdown(MANUAL).await;
        assert!(report.is_graceful(), "{report}");
        assert_eq!((report.admitted(), report.late_requests()), (2, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_upgrade_is_refused_while_draining() {
    for request in [
        websocket(),
        connect(Version::HTTP_11),
        connect(Version::HTTP_2),
    ] {
        let config = ShutdownConfig::default().late_for(Duration::ZERO);
        let ctl = ShutdownController::with_config(config).unwrap();
        ctl.trigger(MANUAL);
        let (sender, mut exchanges) = tokio::sync::mpsc::unbounded_channel();
        let mut service = DrainLayer::new(ctl.clone()).layer(handler(sender));
        let refusal = assert_ready_ok!(task::spawn(send(&mut service, request)).poll());
        assert_eq!(refusal.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refusal.headers()["retry-after"], "1");
        assert!(exchanges.try_recv().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn an_exempt_upgrade_is_served_while_draining_with_a_guard_that_counts_nothing() {
    let ctl = ShutdownController::new();
    let layer = DrainLayer::new(ctl.clone()).exempt_paths(["/socket"]);
    let busy = ctl.track();
    ctl.trigger(MANUAL);
    let mut call = call_through(&layer, &ctl, websocket(), 1);
    let guard = call.guard();
    assert_eq!(call.answer(101).status(), 101);
    assert_ready!(task::spawn(guard.draining()).poll());
    assert_eq!(ctl.in_flight(), 1);
    drop(busy);
    assert_eq!(ctl.in_flight(), 0);
}

// ===== force =====

#[tokio::test(start_paused = true)]
async fn force_before_the_response_answers_503_and_drops_the_handler() {
    for waits in [true, false] {
        let mut call = call(websocket());
        let guard = call.guard();
        if waits {
            call.ctl.force();
            settle().await;
            assert!(call.future.is_woken());
        } else {
            // Too late: force is checked first.
            call.respond.take().unwrap().send(answer(101)).unwrap();
            call.ctl.force();
        }
        let response = assert_ready_ok!(call.future.poll());
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!response.headers().contains_key("retry-after"));
        let body = text(response.into_body());
        assert!(body.starts_with(b"{\"error\":\"service stopped before"));
        assert!(
            call.respond
                .take()
                .is_none_or(|respond| respond.is_closed())
        );
        assert_eq!(call.ctl.in_flight(), 0);
        assert_ready!(task::spawn(guard.forced()).poll());
        drop(guard);
        assert_eq!(call.ctl.shutdown(MANUAL).await.aborted(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn force_while_upgraded_is_told_and_what_is_let_go_then_is_aborted() {
    let (call, guard) = upgraded();
    let task = tokio::spawn(async move { guard.forced().await });
    settle().await;
    assert_eq!(call.ctl.in_flight(), 1);
    call.ctl.force();
    task.await.unwrap();
    assert_eq!(call.ctl.in_flight(), 0);
    let report = call.ctl.shutdown(MANUAL).await;
    assert!(!report.is_graceful());
    assert_eq!((report.aborted(), report.abandoned()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_kept_after_a_force_is_abandoned() {
    let (call, guard) = upgraded();
    call.ctl.force();
    let report = call.ctl.shutdown(MANUAL).await;
    assert_eq!((report.aborted(), report.abandoned()), (0, 1));
    drop(guard);
    assert_eq!(call.ctl.in_flight(), 0);
}

type Polled = Poll<Option<Result<http_body::Frame<Bytes>, tower_lifecycle::BoxError>>>;

fn poll_body(body: &mut task::Spawn<ResponseBody<Script>>) -> Polled {
    body.enter(|cx, body| http_body::Body::poll_frame(body, cx))
}

/// Responds to a CONNECT with a body through which a server may pass the tunnel.
fn tunnel_in_body(stage: &Stage, step: Step) -> ResponseBody<Script> {
    let mut service = DrainLayer::new(stage.ctl.clone()).layer(app());
    let mut request = stage.request(stage.body([Step::Data("a"), step]).into());
    *request.method_mut() = Method::CONNECT;
    let response = assert_ready_ok!(task::spawn(send(&mut service, request)).poll());
    response.into_body()
}

#[tokio::test(start_paused = true)]
async fn force_cuts_the_body_of_an_upgrade_that_is_still_read() {
    for step in [Step::Stall, Step::Flood] {
        let stage = Stage::new();
        let mut body = task::spawn(tunnel_in_body(&stage, step));
        assert!(assert_ready!(poll_body(&mut body)).is_some());
        assert_eq!(
            poll_body(&mut body).is_pending(),
            matches!(step, Step::Stall)
        );
        stage.ctl.force();
        settle().await;
        assert_eq!(body.is_woken(), matches!(step, Step::Stall));
        let cut = assert_ready!(poll_body(&mut body)).unwrap();
        assert!(cut.unwrap_err().is::<Forced>());
        assert!(assert_ready!(poll_body(&mut body)).is_none());
        assert_eq!(stage.ctl.in_flight(), 0);
        assert_eq!(stage.drops(), ["future", "body"].map(dropped_first));
        assert_eq!(stage.ctl.shutdown(MANUAL).await.aborted(), 1);
    }
}

struct Nobody;

impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn an_upgraded_connection_does_not_keep_the_waker_of_its_request() {
    let nobody = Arc::new(Nobody);
    let waker = Waker::from(Arc::clone(&nobody));
    let mut cx = Context::from_waker(&waker);
    let mut call = call(websocket());
    assert!(
        call.future
            .enter(|_, future| future.poll(&mut cx))
            .is_pending()
    );
    assert_eq!(Arc::strong_count(&nobody), 4); // the handler has one, too
    drop(call.answer(101));
    assert_eq!(Arc::strong_count(&nobody), 2);
    assert_eq!(call.ctl.in_flight(), 1);
    drop(call.guard());
    assert_eq!(call.ctl.in_flight(), 0);
}

#[test]
fn nobody_is_woken_for_the_body_of_an_upgrade_that_is_gone() {
    let nobody = Arc::new(Nobody);
    let waker = Waker::from(Arc::clone(&nobody));
    let mut cx = Context::from_waker(&waker);
    let stage = Stage::new(); // holds the waker's slot
    let mut body = tunnel_in_body(&stage, Step::Stall);
    let mut poll = || http_body::Body::poll_frame(Pin::new(&mut body), &mut cx);
    assert!(poll().is_ready());
    assert!(poll().is_pending());
    assert_eq!(Arc::strong_count(&nobody), 3);
    drop(body);
    assert_eq!(Arc::strong_count(&nobody), 2);
}

// ===== real sockets =====

type Client = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>;

/// Echoes until draining begins, and then signals that, as in the documentation.
async fn echo(mut socket: WebSocket, guard: UpgradeGuard, ended: Event) {
    let _ended = Ended(ended);
    loop {
        tokio::select! {
            message = socket.recv() => {
                let Some(Ok(message)) = message else { return };
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            () = guard.draining() => break,
        }
    }
    let going_away = CloseFrame {
        code: 1001,
        reason: "shutting down".into(),
    };
    let goodbye = async {
        let _ = socket.send(Message::Close(Some(going_away))).await;
        while let Some(Ok(_)) = socket.recv().await {}
    };
    tokio::select! {
        () = goodbye => {}
        () = guard.forced() => {}
    }
}

struct Ended(Event);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.happens();
    }
}

fn sockets(ended: &Event) -> Router {
    let ended = ended.clone();
    let accept = |ws: WebSocketUpgrade, Extension(guard): Extension<UpgradeGuard>| async move {
        ws.on_upgrade(move |socket| echo(socket, guard, ended))
    };
    Router::new().route("/socket", any(accept))
}

/// A server, a client that got an echo, and an event for the end of its socket.
async fn greeted() -> (ShutdownController, Server, Client, Event) {
    let (ctl, ended) = (ShutdownController::new(), Event::new());
    let server = Server::start(Kind::Axum, &ctl, sockets(&ended)).await;
    let url = format!("ws://{}/socket", server.address);
    let mut client = tokio_tungstenite::connect_async(url).await.unwrap().0;
    client.send("hello".into()).await.unwrap();
    let echo = client.next().await.unwrap().unwrap();
    assert_eq!(echo.to_text().unwrap(), "hello");
    assert_eq!(ctl.in_flight(), 1);
    (ctl, server, client, ended)
}

#[tokio::test]
async fn a_websocket_is_closed_with_1001_and_the_shutdown_is_graceful() {
    in_time(async {
        let (ctl, server, mut client, ended) = greeted().await;
        ctl.trigger(MANUAL);
        let close = client.next().await.unwrap().unwrap();
        let tungstenite::Message::Close(Some(close)) = close else {
            panic!("{close:?}")
        };
        assert_eq!(u16::from(close.code), 1001);
        // The close reply is sent while the client reads on, to the end of the connection.
        while let Some(Ok(_)) = client.next().await {}
        ended.happened().await;
        let report = server.report().await;
        assert!(report.is_graceful(), "{report}");
        assert_eq!((report.aborted(), report.abandoned()), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn a_websocket_whose_client_goes_is_no_longer_counted() {
    in_time(async {
        let (ctl, server, client, ended) = greeted().await;
        drop(client);
        ended.happened().await;
        ctl.trigger(MANUAL);
        ctl.drained().await;
        assert!(server.report().await.is_graceful());
    })
    .await;
}

#[tokio::test]
async fn a_websocket_whose_client_does_not_answer_is_cut_by_force() {
    in_time(async {
        let (ctl, server, mut client, ended) = greeted().await;
        ctl.trigger(MANUAL);
        // It reads nothing, so it does not respond to the close.
        ctl.force();
        ended.happened().await;
        let report = server.report().await;
        assert!(!report.is_graceful());
        assert_eq!((report.aborted(), report.abandoned()), (1, 0), "{report}");
        while let Some(Ok(_)) = client.next().await {}
    })
    .await;
}

#[tokio::test]
async fn a_new_websocket_is_refused_with_503_while_draining() {
    in_time(async {
        let config = ShutdownConfig::default().refuse_for(Duration::from_millis(200));
        let ctl = ShutdownController::with_config(config).unwrap();
        let ended = Event::new();
        let server = Server::start(Kind::Axum, &ctl, sockets(&ended)).await;
        let busy = ctl.track();
        ctl.trigger(MANUAL);
        let url = format!("ws://{}/socket", server.address);
        let error = tokio_tungstenite::connect_async(url).await.unwrap_err();
        let tungstenite::Error::Http(refusal) = error else {
            panic!("{error:?}")
        };
        assert_eq!(refusal.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(busy);
        assert_eq!(server.report().await.refused(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_of_hypers_own_is_counted_to_the_end_of_its_task() {
    for head in [
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n",
    ] {
        in_time(async {
            let ctl = ShutdownController::new();
            let mut stream = TcpStream::connect(serve_tunnel(&ctl).await).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                answer.push(stream.read_u8().await.unwrap());
            }
            let report = drain_tunnel(&ctl, &mut stream).await;
            assert_eq!(report.admitted(), 1);
        })
        .await;
    }
}

#[tokio::test]
async fn an_extended_connect_of_http_2_is_counted_to_the_end_of_its_task() {
    in_time(async {
        let ctl = ShutdownController::new();
        let stream = TcpStream::connect(serve_tunnel(&ctl).await).await.unwrap();
        let io = TokioIo::new(stream);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
        let (mut sender, connection) = handshake.await.unwrap();
        let connection = tokio::spawn(connection);
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = "http://a/socket".parse().unwrap();
        let protocol = hyper::ext::Protocol::from_static("websocket");
        request.extensions_mut().insert(protocol);
        // The server's SETTINGS, which allow it, may still be on their way.
        let response = loop {
            match sender.send_request(request.clone()).await {
                Ok(response) => break response,
                Err(error) => assert!(sender.ready().await.is_ok(), "{error:?}"),
            }
        };
        assert_eq!(response.status(), StatusCode::OK);
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        drain_tunnel(&ctl, &mut stream).await;
        drop((stream, sender));
        let _ = connection.await.unwrap();
    })
    .await;
}
