//! A whole server that says hello: what it costs with nothing around, and with each layer.
//!
//! Server and client are tasks of one thread, on both ends of a pipe in memory. What the client costs
//! is in every figure, and in none of the differences.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::pin::Pin;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::{Route, get};
use axum::{ServiceExt, serve};
use bytes::Bytes;
use h2::client::SendRequest;
use http_body::Body as HttpBody;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tower::layer::layer_fn;
use tower::{BoxError, Layer, Service, ServiceBuilder};
use tower_http::metrics::InFlightRequestsLayer;
use tower_lifecycle::{DrainLayer, RequestTrackingLayer, ShutdownController};

use crate::common::keep::{NoGuard, keep};

/// Answered at the handler's first poll.
pub const AT_ONCE: &str = "/";

/// Answered at its second one.
pub const LATER: &str = "/later";

/// What runs on a pipe until the runtime is dropped.
type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A way to put the server together.
pub struct Way {
    /// What it is called in tables.
    pub name: &'static str,
    start: Box<dyn FnOnce(Pipes) -> Running>,
}

/// A server that runs, and a client that is connected to it.
pub struct Connected {
    runtime: Runtime,
    client: Client,
    path: &'static str,
}

enum Client {
    Http1(DuplexStream),
    Http2(SendRequest<Bytes>),
}

/// How many ways there are.
pub const COUNT: usize = 12;

/// Gives all of them.
pub fn ways() -> Vec<Way> {
    let ctl = ShutdownController::new();
    let (in_flight, _) = InFlightRequestsLayer::pair();
    let tracking = RequestTrackingLayer::new(ctl.clone());
    let drain = DrainLayer::new(ctl.clone());
    vec![
        Way::new("axum", |pipes| axum_serve(pipes, app())),
        Way::new("axum again", |pipes| axum_serve(pipes, app())),
        Way::inside("empty wrapper", layer_fn(|app| keep(app, NoGuard::new))),
        Way::inside("RequestTrackingLayer", tracking.clone()),
        Way::inside("DrainLayer", drain.clone()),
        Way::inside("tower-http InFlightRequests", in_flight.clone()),
        Way::around(
            "empty wrapper, around",
            layer_fn(|app| keep(app, NoGuard::new)),
        ),
        Way::around("RequestTrackingLayer, around", tracking),
        Way::around("DrainLayer, around", drain.clone()),
        Way::around("tower-http InFlightRequests, around", in_flight),
        {
            let ctl = ctl.clone();
            Way::new("tower_lifecycle::serve", |pipes| {
                our_serve(pipes, app().with_state(()), ctl)
            })
        },
        Way::new("tower_lifecycle::serve, DrainLayer", |pipes| {
            our_serve(pipes, app().layer(drain).with_state(()), ctl)
        }),
    ]
}

fn app() -> Router {
    let later = || async {
        yield_now().await;
        "hello"
    };
    Router::new()
        .route(AT_ONCE, get(|| async { "hello" }))
        .route(LATER, get(later))
}

fn axum_serve(pipes: Pipes, app: Router) -> Running {
    Box::pin(async move { serve(pipes, app).await.expect("it never fails") })
}

fn our_serve(pipes: Pipes, app: Router, ctl: ShutdownController) -> Running {
    Box::pin(async move { drop(tower_lifecycle::serve(pipes, app, ctl).await) })
}

// ===== impl Way =====

impl Way {
    fn new<F>(name: &'static str, start: F) -> Self
    where
        F: FnOnce(Pipes) -> Running + 'static,
    {
        let start = Box::new(start);
        Self { name, start }
    }

    /// By `Router::layer`, where each route gets one.
    fn inside<L>(name: &'static str, layer: L) -> Self
    where
        L: Layer<Route> + Clone + Send + Sync + 'static,
        L::Service:
            Service<Request, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request>>::Response: IntoResponse,
    {
        Self::new(name, |pipes| axum_serve(pipes, app().layer(layer)))
    }

    /// One around the whole router; the server wants the body boxed then.
    fn around<L, B>(name: &'static str, layer: L) -> Self
    where
        L: Layer<Router> + 'static,
        L::Service: Service<Request, Response = Response<B>, Error = Infallible, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Self::new(name, |pipes| {
            let app = ServiceBuilder::new()
                .map_response(|response: Response<B>| response.map(Body::new))
                .layer(layer)
                .service(app());
            let app = ServiceExt::<Request>::into_make_service(app);
            Box::pin(async move { serve(pipes, app).await.expect("it never fails") })
        })
    }

    /// Starts it, connects in HTTP/1, and sends a few requests.
    pub fn http1(self, path: &'static str) -> Connected {
        let (runtime, pipe) = self.start();
        Connected::warm(runtime, Client::Http1(pipe), path)
    }

    /// The same in HTTP/2.
    pub fn http2(self, path: &'static str) -> Connected {
        let (runtime, pipe) = self.start();
        let client = runtime.block_on(async {
            let (client, connection) = h2::client::handshake(pipe).await.expect("it serves HTTP/2");
            tokio::spawn(connection);
            client
        });
        Connected::warm(runtime, Client::Http2(client), path)
    }

    fn start(self) -> (Runtime, DuplexStream) {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (ours, theirs) = duplex(64 * 1024);
        let (sender, pipes) = mpsc::unbounded_channel();
        sender.send(theirs).expect("nothing is closed yet");
        let _entered = runtime.enter();
        runtime.spawn((self.start)(Pipes(pipes)));
        (runtime, ours)
    }
}

// ===== impl Connected =====

impl Connected {
    fn warm(runtime: Runtime, client: Client, path: &'static str) -> Self {
        let mut connected = Self {
            runtime,
            client,
            path,
        };
        connected.requests(10);
        connected
    }

    /// Sends so many requests, one after the other, and reads the answers.
    pub fn requests(&mut self, count: u32) {
        let Self {
            runtime,
            client,
            path,
        } = self;
        runtime.block_on(async {
            for _ in 0..count {
                match client {
                    Client::Http1(pipe) => http1(pipe, path).await,
                    Client::Http2(client) => http2(client, path).await,
                }
            }
        });
    }
}

async fn http1(pipe: &mut DuplexStream, path: &str) {
    let request: &[u8] = match path {
        AT_ONCE => b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        _ => b"GET /later HTTP/1.1\r\nhost: localhost\r\n\r\n",
    };
    pipe.write_all(request).await.expect("connected");
    let mut answer = [0; 512];
    let mut length = 0;
    while !answer[..length].ends_with(b"\r\n\r\nhello") {
        let read = pipe.read(&mut answer[length..]).await.expect("connected");
        assert_ne!(read, 0, "it answers hello");
        length += read;
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

async fn http2(client: &mut SendRequest<Bytes>, path: &'static str) {
    let mut request = http::Request::new(());
    *request.uri_mut() = match path {
        AT_ONCE => http::Uri::from_static("http://localhost/"),
        _ => http::Uri::from_static("http://localhost/later"),
    };
    let (response, _) = client.send_request(request, true).expect("connected");
    let mut body = response.await.expect("it answers").into_body();
    let data = body
        .data()
        .await
        .expect("it has a body")
        .expect("connected");
    assert_eq!(data, "hello");
    assert!(body.data().await.is_none());
}

// ===== the listener =====

/// Connections that are pipes.
struct Pipes(mpsc::UnboundedReceiver<DuplexStream>);

impl Pipes {
    async fn next(&mut self) -> DuplexStream {
        match self.0.recv().await {
            Some(pipe) => pipe,
            None => pending().await,
        }
    }
}

impl serve::Listener for Pipes {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        (self.next().await, ())
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

impl tower_lifecycle::Listener for Pipes {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> io::Result<(DuplexStream, ())> {
        Ok((self.next().await, ()))
    }
}
