//! A Unix socket that removes its own file, and never another's.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tower_lifecycle::server::UnixSocket;
use tower_lifecycle::{ShutdownController, ShutdownReason, ShutdownReport, serve};

/// A unique path, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-lifecycle-{}-{number}.sock", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn exists(&self) -> bool {
        self.0.exists()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn start(ctl: &ShutdownController, socket: UnixSocket) -> JoinHandle<ShutdownReport> {
    let app: Router = Router::new().route("/", get(|| async { "hello" }));
    tokio::spawn(serve(socket, app, ctl.clone()).into_future())
}

async fn get_hello(place: &Place) -> io::Result<String> {
    let mut client = UnixStream::connect(&place.0).await?;
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    client.write_all(request).await?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn the_file_is_removed_at_the_end() {
    let (ctl, place) = (ShutdownController::new(), Place::new());
    let server = start(&ctl, UnixSocket::bind(&place.0).unwrap());
    // The application sets its permissions.
    fs::set_permissions(&place.0, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(get_hello(&place).await.unwrap().ends_with("hello"));
    assert!(place.exists());
    ctl.trigger(ShutdownReason::Manual);
    assert!(server.await.unwrap().is_graceful());
    assert!(!place.exists());
}

#[tokio::test]
async fn a_path_that_is_taken_is_not_bound() {
    let place = Place::new();
    let _first = UnixSocket::bind(&place.0).unwrap();
    let error = UnixSocket::bind(&place.0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(place.exists());
}

#[tokio::test]
async fn the_file_of_a_successor_that_has_bound_the_path_stays() {
    let (old, new, place) = (
        ShutdownController::new(),
        ShutdownController::new(),
        Place::new(),
    );
    let predecessor = start(&old, UnixSocket::bind(&place.0).unwrap());
    fs::remove_file(&place.0).unwrap();
    let successor = start(&new, UnixSocket::bind(&place.0).unwrap());

    old.trigger(ShutdownReason::Manual);
    assert!(predecessor.await.unwrap().is_graceful());
    assert!(get_hello(&place).await.unwrap().ends_with("hello"));
    new.trigger(ShutdownReason::Manual);
    assert!(successor.await.unwrap().is_graceful());
    assert!(!place.exists());
}

#[tokio::test]
async fn the_file_of_a_successor_that_was_renamed_to_the_path_stays() {
    let (place, elsewhere) = (Place::new(), Place::new());
    let predecessor = UnixSocket::bind(&place.0).unwrap();
    let _successor = UnixListener::bind(&elsewhere.0).unwrap();
    fs::rename(&elsewhere.0, &place.0).unwrap();
    drop(predecessor);
    assert!(UnixStream::connect(&place.0).await.is_ok());
}

#[tokio::test]
async fn a_file_of_another_kind_stays_and_a_missing_one_is_no_matter() {
    let place = Place::new();
    let socket = UnixSocket::bind(&place.0).unwrap();
    fs::remove_file(&place.0).unwrap();
    fs::write(&place.0, "theirs").unwrap();
    drop(socket);
    assert_eq!(fs::read_to_string(&place.0).unwrap(), "theirs");

    let other = Place::new();
    let socket = UnixSocket::bind(&other.0).unwrap();
    fs::remove_file(&other.0).unwrap();
    drop(socket);
}

#[tokio::test]
async fn the_file_stays_if_the_listener_is_taken_out() {
    let place = Place::new();
    let listener = UnixSocket::bind(&place.0).unwrap().into_inner();
    drop(listener);
    assert!(place.exists());
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn it_is_a_listener_of_axums_too() {
    use tower_lifecycle::DrainListener;

    let (ctl, place) = (ShutdownController::new(), Place::new());
    let app = Router::new().route("/", get(|| async { "hello" }));
    let listener = DrainListener::new(UnixSocket::bind(&place.0).unwrap(), &ctl);
    let stop = listener.graceful_shutdown();
    let server = axum::serve(listener, app).with_graceful_shutdown(stop);
    let run = tokio::spawn(ctl.run(server));
    assert!(get_hello(&place).await.unwrap().ends_with("hello"));
    ctl.trigger(ShutdownReason::Manual);
    assert!(run.await.unwrap().is_graceful());
    assert!(!place.exists());
}
