//! Connections of a custom accept loop, counted from before their handshake, with a paused clock.

use std::future::{Pending, pending, ready};
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use hyper::server::conn::http1::{Builder, Connection};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tower_lifecycle::server::{WatchError, WatchedHandshake};
use tower_lifecycle::{DrainLayer, ShutdownController, ShutdownReason};

use crate::support::shutdown::ms;

type Http1<I> = Connection<TokioIo<I>, TowerToHyperService<Router>>;

fn http1<I>(ctl: &ShutdownController, stream: I) -> Http1<I>
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let app = Router::new()
        .route("/", get(|| async { "hello" }))
        .layer(DrainLayer::new(ctl.clone()));
    Builder::new().serve_connection(TokioIo::new(stream), TowerToHyperService::new(app))
}

type Endless = Pending<io::Result<Http1<DuplexStream>>>;

/// A handshake that never completes.
fn endless(ctl: &ShutdownController) -> WatchedHandshake<Endless, Http1<DuplexStream>> {
    ctl.watch_handshake(pending())
}

async fn get_hello<I: AsyncRead + AsyncWrite + Unpin>(mut client: I) -> String {
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_in_its_handshake_at_the_trigger_is_served() {
    let ctl = ShutdownController::new();
    let (client, pipe) = duplex(1024);
    let (finish, finished) = oneshot::channel();
    let builder = ctl.clone();
    let connection = tokio::spawn(
        ctl.watch_handshake(async move { finished.await.map(|()| http1(&builder, pipe)) }),
    );

    let mut shutdown = ctl.shutdown(ShutdownReason::Manual);
    assert!(timeout(ms(500), &mut shutdown).await.is_err(), "too early");
    finish.send(()).unwrap();
    let answer = get_hello(client).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    connection.await.unwrap().unwrap();
    assert!(shutdown.await.is_graceful());
}

/// Returns the listed connections.
fn listed(ctl: &ShutdownController) -> Vec<String> {
    let now = ctl.in_flight_now();
    now.connection_items
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn one_that_names_its_peer_is_listed_from_the_call_to_the_end() {
    let ctl = ShutdownController::new();
    let (client, pipe) = duplex(1024);
    let (finish, finished) = oneshot::channel();
    let builder = ctl.clone();
    let handshake = async move { finished.await.map(|()| http1(&builder, pipe)) };
    let connection = ctl.watch_handshake(handshake);
    assert_eq!(listed(&ctl), [""; 0]);
    let connection = tokio::spawn(connection.peer("first name").peer("client"));
    sleep(ms(1_000)).await;
    assert_eq!(listed(&ctl), ["\"client\" (handshake, 1.0s)"]);
    finish.send(()).unwrap();
    sleep(ms(1_000)).await;
    assert_eq!(listed(&ctl), ["\"client\" (open, 2.0s)"]);

    drop(client);
    let _ = connection.await.unwrap();
    assert_eq!(listed(&ctl), [""; 0]);
    assert_eq!(ctl.in_flight_now().connections, 0);

    let (_client, pipe) = duplex(1024);
    let _watched = ctl.watch(http1(&ctl, pipe)).peer(7);
    assert_eq!(listed(&ctl), ["7 (open, 0.0ns)"]);
}

#[tokio::test(start_paused = true)]
async fn it_is_counted_from_the_call_on_and_not_from_the_first_poll() {
    let ctl = ShutdownController::new();
    let handshake = endless(&ctl);
    let mut shutdown = ctl.shutdown(ShutdownReason::Manual);
    assert!(
        timeout(ms(5_000), &mut shutdown).await.is_err(),
        "too early"
    );
    drop(handshake);
    assert!(shutdown.await.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn a_handshake_holds_the_drain_for_a_second_at_most() {
    let ctl = ShutdownController::new();
    let handshake = tokio::spawn(endless(&ctl));
    sleep(ms(3_000)).await;

    let began = Instant::now();
    let mut shutdown = ctl.shutdown(ShutdownReason::Manual);
    let work = ctl.track();
    assert!(timeout(ms(500), &mut shutdown).await.is_err());
    let late = tokio::spawn(endless(&ctl));
    handshake.await.unwrap().unwrap();
    assert_eq!(began.elapsed(), ms(1_000));
    late.await.unwrap().unwrap();
    assert_eq!(began.elapsed(), ms(1_500));
    drop(work);
    assert!(shutdown.await.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn a_handshake_has_a_limit_of_its_own() {
    let ctl = ShutdownController::new();
    let began = Instant::now();
    let short = tokio::spawn(endless(&ctl).timeout(ms(3_000)));
    let endless = tokio::spawn(endless(&ctl));
    let is_timeout = |result| matches!(result, Err(WatchError::TimedOut));
    assert!(is_timeout(short.await.unwrap()));
    assert_eq!(began.elapsed(), ms(3_000));
    assert!(is_timeout(endless.await.unwrap()));
    assert_eq!(began.elapsed(), ms(10_000));
    assert!(ctl.shutdown(ShutdownReason::Manual).await.is_graceful());
    assert_eq!(began.elapsed(), ms(10_000));
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_a_handshake_does_not_end_its_connection() {
    let ctl = ShutdownController::new();
    let (client, pipe) = duplex(1024);
    let handshake = ready(io::Result::Ok(http1(&ctl, pipe)));
    let connection = tokio::spawn(ctl.watch_handshake(handshake).timeout(ms(100)));
    sleep(ms(60_000)).await;
    ctl.trigger(ShutdownReason::Manual);
    assert!(get_hello(client).await.starts_with("HTTP/1.1 200"));
    connection.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_failed_is_told() {
    let ctl = ShutdownController::new();
    let failing = ready(Err::<Http1<DuplexStream>, _>("no cipher in common"));
    let error = ctl.watch_handshake(failing).await.unwrap_err();
    assert!(matches!(
        error,
        WatchError::Handshake("no cipher in common")
    ));
    assert_eq!(error.to_string(), "handshake failed: no cipher in common");

    let (mut client, pipe) = duplex(1024);
    let connection = ready(io::Result::Ok(http1(&ctl, pipe)));
    let connection = tokio::spawn(ctl.watch_handshake(connection));
    client.write_all(b"nonsense\r\n\r\n").await.unwrap();
    match connection.await.unwrap() {
        Err(WatchError::Connection(error)) => assert!(error.is_parse(), "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(ctl.shutdown(ShutdownReason::Manual).await.is_graceful());
}

#[tokio::test(start_paused = true)]
async fn force_drops_a_handshake() {
    let ctl = ShutdownController::new();
    let handshake = tokio::spawn(endless(&ctl));
    let began = Instant::now();
    ctl.force();
    handshake.await.unwrap().unwrap();
    assert!(began.elapsed() < ms(126), "{:?}", began.elapsed());
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(report.abandoned(), 0, "{report}");
}

/// A server and a client that trusts it.
fn tls() -> (TlsAcceptor, TlsConnector) {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let client = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server).into(), Arc::new(client).into())
}

#[tokio::test(start_paused = true)]
async fn clients_of_tls_that_begin_their_handshake_after_the_trigger_are_served() {
    let ctl = ShutdownController::new();
    let (acceptor, connector) = tls();
    let accepted: Vec<_> = (0..20)
        .map(|_| {
            let (client, pipe) = duplex(1024);
            let (builder, acceptor) = (ctl.clone(), acceptor.clone());
            let connection = ctl.watch_handshake(async move {
                let stream = acceptor.accept(pipe).await?;
                io::Result::Ok(http1(&builder, stream))
            });
            (client, tokio::spawn(connection))
        })
        .collect();

    let shutdown = ctl.shutdown(ShutdownReason::Manual);
    for (client, connection) in accepted {
        let name = ServerName::try_from("localhost").unwrap();
        let client = connector.connect(name, client).await.unwrap();
        let answer = get_hello(client).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        connection.await.unwrap().unwrap();
    }
    assert!(shutdown.await.is_graceful());
}
