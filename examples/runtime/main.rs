//! A small runtime with three services, configuration, health and state that survives a restart.
//!
//! ```text
//! cargo run -p examples --example runtime -- --config examples/runtime.yaml
//!
//! curl -X PUT -d blue 127.0.0.1:8080/kv/colour     # the store, in a file
//! curl 127.0.0.1:8080/kv/colour
//! curl -d 'resize 1.png' 127.0.0.1:8080/jobs       # the worker's queue
//! nc 127.0.0.1 7007                                # the echo service
//! curl 127.0.0.1:8081/health                       # /livez, /metrics
//! curl -X POST 127.0.0.1:8081/pause                # /unpause, /resume
//! kill -TERM $(pgrep -x runtime)
//! ```
//!
//! Jobs that the worker has not done are saved, and done after the next start. With `--fail worker`
//! that service fails to start, and the services that did start are stopped again.

mod echo;
mod kv;
mod settings;
mod worker;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::response::Json;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tower_lifecycle::startup::{StartupError, step};
use tower_lifecycle::store::FileStore;
use tower_lifecycle::{
    BoxError, DrainLayer, HealthService, ShutdownController, ShutdownReport, Startup,
};

use self::echo::Echo;
use self::kv::Kv;
use self::settings::Settings;
use self::worker::Worker;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // Neither this nor `writeln!` panics when stderr is closed, as `println!` would.
        .log_internal_errors(false)
        .with_target(false)
        .init();
    let settings = match Settings::load() {
        Ok(settings) => settings,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "configuration: {}", chain(&*error));
            return ExitCode::from(2);
        }
    };
    match run(settings).await {
        Ok(report) => {
            let _ = writeln!(std::io::stdout(), "{report}");
            report.exit_code()
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{}", chain(&*error));
            match error.downcast_ref::<StartupError>() {
                Some(error) => {
                    let _ = writeln!(std::io::stdout(), "{}", error.report());
                    // A start-up that ends by a signal has not failed.
                    error.exit_code()
                }
                None => ExitCode::FAILURE,
            }
        }
    }
}

async fn run(settings: Settings) -> Result<ShutdownReport, BoxError> {
    let mut startup = Startup::new(settings.shutdown.clone())?;
    match start(&mut startup, &settings).await {
        Ok((listener, app)) => {
            let ctl = startup.finish().await?;
            let stop = ctl.stop_accepting();
            let server = axum::serve(listener, app).with_graceful_shutdown(stop);
            Ok(ctl.run(server).await)
        }
        // Stops all started services before the process ends.
        Err(error) => Err(startup.fail(error).await.into()),
    }
}

async fn start(
    startup: &mut Startup,
    settings: &Settings,
) -> Result<(TcpListener, Router), BoxError> {
    let ctl = startup.controller();
    ctl.listen_for_signals()?;

    // Probes are answered from the beginning, `starting`, to the end, `stopping`.
    let admin = TcpListener::bind(settings.admin).await?;
    let routes = admin_routes(&ctl);
    ctl.spawn_admin("admin", |closing| async move {
        axum::serve(admin, routes)
            .with_graceful_shutdown(closing)
            .await
    });

    // A second instance would load the same jobs, and overwrite the state of the first.
    let data = FileStore::new(&settings.data)?.exclusive()?;
    let kv = settings.checked("store", Kv::open(data.clone()));
    let kv = startup
        .start("store", kv, Kv::close)
        .timeout(Duration::from_secs(5))
        .await?;

    // These two are independent: they start at the same time, and stop at the same time.
    let echo = Echo::bind(settings.echo, ctl.clone());
    let worker = Worker::start(data.clone(), settings.job, ctl.clone());
    let (echo, worker) = startup
        .start_all((
            // The shutdown begins if the accept loop ends before it is stopped.
            step("echo", settings.checked("echo", echo), Echo::stop).watch(Echo::ended),
            step("worker", settings.checked("worker", worker), Worker::stop)
                .stop_timeout(Duration::from_secs(2)),
        ))
        .await?;

    let rest = worker.clone();
    ctl.persist(worker::QUEUE, data, || async move { Ok(rest.queue()) })?;
    let done = worker.clone();
    ctl.on_shutdown("tell what was done", |notice| async move {
        let left = notice.time_remaining();
        tracing::info!(jobs = done.done(), ?left, "done since the start");
        Ok(())
    })?;

    let app = Router::new()
        .merge(kv.routes())
        .merge(worker.routes())
        .layer(DrainLayer::new(ctl));
    let http = TcpListener::bind(settings.http).await?;
    let _ = writeln!(
        std::io::stdout(),
        "http://{}, admin http://{}, echo {}",
        http.local_addr()?,
        settings.admin,
        echo.address()
    );
    Ok((http, app))
}

/// Routes for operators, on a separate address: they need no layer and are never refused.
fn admin_routes(ctl: &ShutdownController) -> Router {
    let health = HealthService::new(ctl.clone()).version(env!("CARGO_PKG_VERSION"));
    let metrics = {
        let ctl = ctl.clone();
        move || async move { Json(ctl.metrics()) }
    };
    let act = |act: fn(&ShutdownController) -> String| {
        let ctl = ctl.clone();
        post(move || async move { act(&ctl) })
    };
    Router::new()
        .route_service("/livez", health.clone().liveness())
        .route_service("/health", health)
        .route("/metrics", get(metrics))
        .route(
            "/pause",
            act(|ctl| format!("newly paused: {}\n", ctl.pause())),
        )
        .route(
            "/unpause",
            act(|ctl| format!("unpaused: {}\n", ctl.unpause())),
        )
        .route(
            "/resume",
            act(|ctl| match ctl.resume() {
                Ok(()) => "the shutdown is called off\n".to_owned(),
                Err(error) => format!("{error}\n"),
            }),
        )
}

/// Returns an error and its causes.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
