//! A hello server, on a pipe in memory.
// Each program serves it in one way.
#![allow(dead_code)]

use std::convert::Infallible;
use std::future::pending;
use std::io;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::get;
use axum::{Router, ServiceExt, serve};
use bytes::Bytes;
use http_body::Body as HttpBody;
use tokio::io::DuplexStream;
use tokio::task::yield_now;
use tower::{BoxError, Layer, Service, ServiceBuilder};
use tower_lifecycle::ShutdownController;

/// Responds at the handler's first poll.
pub const AT_ONCE: &str = "/";

/// Responds at the handler's second poll.
pub const LATER: &str = "/later";

pub fn router() -> Router {
    let later = || async {
        yield_now().await;
        "hello"
    };
    Router::new()
        .route(AT_ONCE, get(|| async { "hello" }))
        .route(LATER, get(later))
}

/// Serves an app whose layer was added by `Router::layer`: each route has its own.
pub async fn serve_router(pipe: Pipe, app: Router) {
    serve(pipe, app).await.expect("it never fails");
}

/// Serves the app with a layer around the whole router. The server then requires a boxed body.
pub async fn serve_around<L, B>(pipe: Pipe, layer: L)
where
    L: Layer<Router>,
    L::Service: Service<Request, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let app = ServiceBuilder::new()
        .map_response(|response: Response<B>| response.map(Body::new))
        .layer(layer)
        .service(router());
    let app = ServiceExt::<Request>::into_make_service(app);
    serve(pipe, app).await.expect("it never fails");
}

/// Serves an app with `tower_lifecycle::serve`.
pub async fn serve_ours(pipe: Pipe, app: Router, ctl: ShutdownController) {
    drop(tower_lifecycle::serve(pipe, app.with_state(()), ctl).await);
}

/// A listener whose connection is a pipe.
pub struct Pipe(Option<DuplexStream>);

impl Pipe {
    /// There is one connection, and no other arrives.
    pub fn of(pipe: DuplexStream) -> Self {
        Self(Some(pipe))
    }

    async fn next(&mut self) -> DuplexStream {
        match self.0.take() {
            Some(pipe) => pipe,
            None => pending().await,
        }
    }
}

impl serve::Listener for Pipe {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        (self.next().await, ())
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

impl tower_lifecycle::server::Listener for Pipe {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> io::Result<(DuplexStream, ())> {
        Ok((self.next().await, ()))
    }
}
