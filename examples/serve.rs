//! A whole server in one call: HTTP/1, HTTP/2 and WebSockets, from the listener to the exit code.
//!
//! ```text
//! cargo run -p examples --example serve
//! curl localhost:3000/                                 # or with --http2-prior-knowledge
//! curl -N localhost:3000/events                        # a stream without end
//! curl localhost:3000/slow & kill -TERM $(pgrep -x serve)
//! ```

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{ConnectInfo, Extension};
use axum::response::Response;
use axum::response::sse::{Event, Sse};
use axum::routing::{any, get};
use futures_util::{Stream, StreamExt, stream};
use tokio::net::TcpListener;
use tokio::time::interval;
use tower_lifecycle::{
    DrainLayer, HealthService, ShutdownConfig, ShutdownController, UpgradeGuard, serve,
};

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().log_internal_errors(false).init();
    let config = ShutdownConfig::default()
        .shutdown_timeout(Duration::from_secs(20))
        .lame_duck(Duration::from_secs(2));
    let ctl = ShutdownController::with_config(config)?;
    ctl.listen_for_signals()?;

    let app = Router::new()
        .route("/", get(hello))
        .route("/slow", get(slow))
        .route("/events", get(events))
        .route("/ws", any(ws))
        .layer(DrainLayer::new(ctl.clone()))
        .route_service("/health", HealthService::new(ctl.clone())) // after `.layer`: never refused
        .with_state(()); // prepares the handlers once, not for each request

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    let report = serve(listener, app, ctl)
        .extension(|peer: &SocketAddr| ConnectInfo(*peer))
        .await;
    let _ = writeln!(std::io::stdout(), "{report}");
    Ok(report.exit_code())
}

async fn hello(ConnectInfo(peer): ConnectInfo<SocketAddr>) -> String {
    format!("hello, {peer}\n")
}

async fn slow() -> &'static str {
    tokio::time::sleep(Duration::from_secs(5)).await;
    "done\n"
}

async fn events() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = stream::unfold(interval(Duration::from_secs(1)), |mut interval| async {
        interval.tick().await;
        Some(((), interval))
    });
    Sse::new(ticks.map(|()| Ok(Event::default().data("tick"))))
}

async fn ws(upgrade: WebSocketUpgrade, Extension(guard): Extension<UpgradeGuard>) -> Response {
    upgrade.on_upgrade(move |socket| echo(socket, guard))
}

/// Echoes messages. In flight while it holds the guard, which tells it when draining begins.
async fn echo(mut socket: WebSocket, guard: UpgradeGuard) {
    loop {
        tokio::select! {
            () = guard.draining() => break,
            message = socket.recv() => match message {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {} // pings are answered by axum
                Some(Err(_)) | None => return,
            },
        }
    }
    // "Going away" (RFC 6455 §7.4.1): the client reconnects, to another instance.
    let goodbye = CloseFrame {
        code: close_code::AWAY,
        reason: "shutting down".into(),
    };
    let _ = socket.send(Message::Close(Some(goodbye))).await;
}
