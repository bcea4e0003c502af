//! Admin servers: up from the beginning to the end.

use std::future::{pending, ready};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tower_lifecycle::future::Wait;
use tower_lifecycle::{
    BoxError, HealthService, Hook, LifecycleState, ShutdownConfig, ShutdownController,
    ShutdownReason, Startup,
};

use crate::support::loopback::loopback;
use crate::support::shutdown::{Dropped, ms, shut_down};

const MANUAL: ShutdownReason = ShutdownReason::Manual;

/// Sends a probe on a new connection. Returns the code and the status.
async fn probe(address: SocketAddr) -> Result<(String, String), BoxError> {
    let ask = async {
        let mut tcp = TcpStream::connect(address).await?;
        let request = b"GET /health HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n";
        tcp.write_all(request).await?;
        let mut text = String::new();
        tcp.read_to_string(&mut text).await?;
        Ok::<_, BoxError>(text)
    };
    let text = timeout(Duration::from_secs(30), ask).await??;
    let code = text.split(' ').nth(1).unwrap_or_default();
    let status = text.split("\"status\":\"").nth(1).unwrap_or_default();
    let status = status.split('"').next().unwrap_or_default();
    Ok((code.to_owned(), status.to_owned()))
}

fn answer(code: &str, status: &str) -> (String, String) {
    (code.to_owned(), status.to_owned())
}

async fn bound() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn routes(ctl: &ShutdownController) -> Router {
    Router::new().route_service("/health", HealthService::new(ctl.clone()))
}

/// The `spawn_admin` call, for axum.
async fn spawn_axum(ctl: &ShutdownController) -> SocketAddr {
    let (listener, address) = bound().await;
    let routes = routes(ctl);
    ctl.spawn_admin("admin", |closing| async move {
        axum::serve(listener, routes)
            .with_graceful_shutdown(closing)
            .await
    });
    address
}

/// The same for this crate's server, which has its own controller.
#[cfg(feature = "http2")]
async fn spawn_serve(ctl: &ShutdownController) -> SocketAddr {
    let (listener, address) = bound().await;
    let routes = routes(ctl);
    let quick = ShutdownConfig::default()
        .shutdown_timeout(ms(200))
        .late_for(Duration::ZERO);
    let own = ShutdownController::with_config(quick).unwrap();
    ctl.spawn_admin("admin", |closing| async move {
        let server = tower_lifecycle::serve(listener, routes, own.clone());
        let end = async {
            closing.await;
            own.trigger(MANUAL);
        };
        tokio::join!(server, end);
    });
    address
}

/// Sends probes in every state, and after the end.
async fn is_answered_to_the_end<F>(spawn: impl AsyncFnOnce(&ShutdownController) -> F)
where
    F: Into<SocketAddr>,
{
    let config = ShutdownConfig::default().lame_duck(Duration::from_secs(20));
    let mut startup = Startup::new(config).unwrap();
    let ctl = startup.controller();
    let address = spawn(&ctl).await.into();
    assert_eq!(probe(address).await.unwrap(), answer("503", "starting"));

    let (answers, mut seen) = mpsc::unbounded_channel();
    let told = answers.clone();
    ctl.on_shutdown("probe", move |_| async move {
        told.send(probe(address).await?)?;
        Ok(())
    })
    .unwrap();
    let stop = move |()| async move {
        answers.send(probe(address).await?)?;
        Ok::<_, BoxError>(())
    };
    startup
        .start("probing", ready(Ok::<_, BoxError>(())), stop)
        .await
        .unwrap();
    startup.finish().await.unwrap();
    assert_eq!(probe(address).await.unwrap(), answer("200", "healthy"));

    let request = ctl.track();
    let (end, ended) = oneshot::channel();
    let server = tokio::spawn(ctl.run(ended));
    ctl.trigger(MANUAL);
    assert_eq!(ctl.state(), LifecycleState::LameDuck);
    assert_eq!(probe(address).await.unwrap(), answer("503", "draining"));
    end.send(()).unwrap(); // ends the lame duck
    ctl.draining().await;
    assert_eq!(probe(address).await.unwrap(), answer("503", "draining"));
    drop(request);

    let report = server.await.unwrap();
    assert!(report.is_graceful(), "{report}");
    assert_eq!(seen.recv().await, Some(answer("503", "stopping")), "a hook");
    assert_eq!(seen.recv().await, Some(answer("503", "stopping")), "a stop");
    let refused = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn axum_answers_to_the_end() {
    is_answered_to_the_end(spawn_axum).await;
}

#[cfg(feature = "http2")]
#[tokio::test]
async fn our_server_answers_to_the_end() {
    is_answered_to_the_end(spawn_serve).await;
}

#[tokio::test]
async fn a_failed_start_up_is_answered_until_it_is_rolled_back() {
    let mut startup = Startup::new(ShutdownConfig::default()).unwrap();
    let ctl = startup.controller();
    let address = spawn_axum(&ctl).await;
    let (told, mut seen) = mpsc::unbounded_channel();
    let stop = move |()| async move {
        told.send(probe(address).await?)?;
        Ok::<_, BoxError>(())
    };
    startup
        .start("probing", ready(Ok::<_, BoxError>(())), stop)
        .await
        .unwrap();
    let error = startup.fail("no port").await;
    assert!(error.rollback()[0].is_completed(), "{}", error.report());
    assert_eq!(seen.recv().await, Some(answer("503", "draining")));
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!(ctl.state(), LifecycleState::Failed);
}

// ===== notice, and time limits =====

/// An admin server that records the state in which it is told to close, and then takes a while.
fn spawn_noting(
    ctl: &ShutdownController,
    takes: Duration,
) -> oneshot::Receiver<(LifecycleState, Instant)> {
    let (told, was_told) = oneshot::channel();
    let other = ctl.clone();
    ctl.spawn_admin("admin", move |closing: Wait| async move {
        closing.await;
        told.send((other.state(), Instant::now())).unwrap();
        sleep(takes).await;
    });
    was_told
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_it_before_the_end_and_the_state_is_stopping_then() {
    let ctl = ShutdownController::new();
    let mut told = spawn_noting(&ctl, ms(100));
    ctl.add_hook(Hook::new("slow", |_| async {
        sleep(ms(1_000)).await;
        Ok(())
    }))
    .unwrap();
    sleep(ms(1)).await;
    let began = Instant::now();
    let report = shut_down(&ctl).await;
    let (state, at) = told.try_recv().unwrap();
    assert_eq!((state, at - began), (LifecycleState::Stopping, ms(1_000)));
    assert_eq!(
        began.elapsed(),
        ms(1_100),
        "its last answers were waited for"
    );
    assert!(report.is_graceful(), "{report}");
}

/// Returns how long a shutdown takes with an admin server that does not close, and that is gone
/// after it.
async fn takes_with_one_that_hangs(config: ShutdownConfig, hook: Option<Hook>) -> Duration {
    let ctl = ShutdownController::with_config(config).unwrap();
    let (dropped, gone) = Dropped::new();
    ctl.spawn_admin("admin", |_closing| async move {
        let _dropped = dropped;
        pending::<()>().await
    });
    let hangs = hook.is_some();
    if let Some(hook) = hook {
        ctl.add_hook(hook).unwrap();
    }
    sleep(ms(1)).await;
    let began = Instant::now();
    let report = shut_down(&ctl).await;
    let took = began.elapsed();
    assert!(gone.load(Ordering::SeqCst), "it lives on");
    assert!(report.tasks().is_empty(), "{report}");
    assert_eq!(report.is_graceful(), !hangs, "{report}");
    took
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_close_is_dropped_shortly_after_and_harms_nothing() {
    let took = takes_with_one_that_hangs(ShutdownConfig::default(), None).await;
    assert_eq!(took, ms(250));
}

#[tokio::test(start_paused = true)]
async fn it_has_no_time_beyond_the_final_deadline() {
    let config = ShutdownConfig::default()
        .shutdown_timeout(ms(2_000))
        .cleanup_reserve(ms(1_000));
    let hook = Hook::new("hangs", |_| pending());
    let took = takes_with_one_that_hangs(config.clone(), Some(hook)).await;
    assert_eq!(took, ms(2_000));
    let hook = Hook::new("hangs", |_| pending()).timeout(ms(1_900));
    let took = takes_with_one_that_hangs(config, Some(hook)).await;
    assert_eq!(took, ms(2_000));
}

#[tokio::test(start_paused = true)]
async fn a_force_while_stopping_leaves_it_no_time() {
    let ctl = ShutdownController::new();
    ctl.spawn_admin("admin", |_closing| pending::<()>());
    ctl.add_hook(Hook::new("hangs", |_| pending())).unwrap();
    sleep(ms(1)).await;
    ctl.trigger(MANUAL);
    sleep(ms(100)).await;
    let forced = Instant::now();
    ctl.force();
    let report = shut_down(&ctl).await;
    assert!(forced.elapsed() <= ms(5), "{:?}", forced.elapsed());
    assert!(report.tasks().is_empty(), "{report}");
}

#[test]
fn a_shutdown_that_is_given_up_drops_it() {
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    let (driving, others) = (runtime(), runtime());
    let ctl = driving.block_on(async { ShutdownController::new() });
    let (dropped, gone) = Dropped::new();
    let admin = {
        let _entered = others.enter();
        ctl.spawn_admin("admin", |_closing| async move {
            let _dropped = dropped;
            pending::<()>().await
        })
    };
    ctl.on_shutdown("hangs", |_| pending()).unwrap();
    driving.block_on(async {
        ctl.trigger(MANUAL);
        ctl.wait_for(LifecycleState::Stopping).await;
    });
    drop(driving);
    let report = others.block_on(async {
        let cancelled = timeout(Duration::from_secs(30), admin).await.unwrap();
        assert!(cancelled.unwrap_err().is_cancelled());
        ctl.shutdown(MANUAL).await
    });
    assert!(gone.load(Ordering::SeqCst));
    assert_eq!(report.reason(), ShutdownReason::Interrupted);
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_too_late_is_dropped_at_once() {
    let ctl = ShutdownController::new();
    shut_down(&ctl).await;
    let late = ctl.spawn_admin("admin", |_closing| async { panic!("it was polled") });
    assert!(late.await.unwrap_err().is_cancelled());
}

/// A scrape that is in progress at the end.
#[tokio::test]
async fn a_scrape_that_is_under_way_is_finished() {
    let ctl = ShutdownController::new();
    let (listener, address) = bound().await;
    let (asked, mut was_asked) = mpsc::unbounded_channel();
    let slow = get(move || {
        let _ = asked.send(());
        async {
            sleep(ms(50)).await;
            "the last figures"
        }
    });
    let routes = Router::new().route("/metrics", slow);
    ctl.spawn_admin("admin", |closing| async move {
        axum::serve(listener, routes)
            .with_graceful_shutdown(closing)
            .await
    });
    let scrape = tokio::spawn(scrape(address));
    was_asked.recv().await.unwrap();
    let report = shut_down(&ctl).await;
    assert!(report.is_graceful(), "{report}");
    assert!(scrape.await.unwrap().ends_with("the last figures"));
}

async fn scrape(address: SocketAddr) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n";
    tcp.write_all(request).await.unwrap();
    let mut text = String::new();
    tcp.read_to_string(&mut text).await.unwrap();
    text
}
