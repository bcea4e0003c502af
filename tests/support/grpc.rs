//! An echo service over gRPC, its servers and its client; by hand, where `tonic-prost-build` would
//! have written some of it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};
use tower_lifecycle::{DrainLayer, ShutdownController, ShutdownReport};

use crate::support::sockets::{Event, in_time};

const UNARY: &str = "/test.Echo/Unary";
const SERVER_STREAM: &str = "/test.Echo/ServerStream";
const BIDI_STREAM: &str = "/test.Echo/BidiStream";

/// What each response has in its trailers, beside its status.
pub const TRAILER: (&str, &str) = ("x-echo", "to the very end");

/// The one message, for requests and responses.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Words {
    #[prost(string, tag = "1")]
    pub text: String,
}

pub fn words(text: impl Into<String>) -> Words {
    Words { text: text.into() }
}

/// Feeds a stream of messages; dropping it ends the stream.
pub type Feed = mpsc::UnboundedSender<Words>;

/// A stream of messages that the test feeds.
pub fn fed() -> (Feed, impl Stream<Item = Words> + Send + 'static) {
    let (feed, food) = mpsc::unbounded_channel();
    let food = stream::unfold(food, async |mut food| Some((food.recv().await?, food)));
    (feed, food)
}

// ===== the service =====

/// Answers with what it was asked, under the control of the test.
#[derive(Debug, Clone)]
pub struct Echo {
    /// Of unary calls that ask for [`HELD`](Self::HELD).
    pub entered: Event,
    pub released: Event,
    calls: Arc<AtomicU64>,
    feeds: mpsc::UnboundedSender<Feed>,
}

impl Echo {
    /// A unary call with this text is answered when it is released.
    pub const HELD: &'static str = "held";
    /// A server stream with this text is fed by the test.
    pub const FED: &'static str = "fed";

    /// Makes one, and what feeds its streams that are to be fed.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Feed>) {
        let (feeds, new_feeds) = mpsc::unbounded_channel();
        let echo = Self {
            entered: Event::new(),
            released: Event::new(),
            calls: Arc::default(),
            feeds,
        };
        (echo, new_feeds)
    }

    /// How many calls have reached it.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    pub fn routes(&self) -> Routes {
        Routes::new(self.clone())
    }

    async fn unary(self, call: tonic::Request<Words>) -> Result<tonic::Response<Words>, Status> {
        if call.get_ref().text == Self::HELD {
            self.entered.happens();
            self.released.happened().await;
        } else {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(tonic::Response::new(call.into_inner()))
    }

    /// Tells the numbers up to the one asked for, one each millisecond.
    fn server_stream(&self, call: tonic::Request<Words>) -> Answers {
        let text = call.into_inner().text;
        if text == Self::FED {
            let (feed, food) = fed();
            self.feeds.send(feed).expect("the test waits for it");
            return Ok(tonic::Response::new(food.map(Ok).boxed()));
        }
        let last: u32 = text
            .parse()
            .map_err(|_| Status::invalid_argument("neither fed nor a number"))?;
        let numbers = stream::iter(1..=last).then(async |number| {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(words(number.to_string()))
        });
        Ok(tonic::Response::new(numbers.boxed()))
    }
}

type Answers = Result<tonic::Response<BoxStream<'static, Result<Words, Status>>>, Status>;

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let echo = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Words, Words>::default());
            let response = match request.uri().path() {
                UNARY => {
                    let service = service_fn(|call| echo.clone().unary(call));
                    grpc.unary(service, request).await
                }
                SERVER_STREAM => {
                    let service = service_fn(async |call| echo.server_stream(call));
                    grpc.server_streaming(service, request).await
                }
                BIDI_STREAM => {
                    let service = service_fn(async |call: tonic::Request<Streaming<Words>>| {
                        Ok(tonic::Response::new(call.into_inner()))
                    });
                    grpc.streaming(service, request).await
                }
                _ => Status::unimplemented("no such method").into_http(),
            };
            Ok(response.map(|body| Body::new(body.map_frame(with_our_trailer))))
        })
    }
}

fn with_our_trailer<D>(frame: Frame<D>) -> Frame<D> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            let (name, value) = TRAILER;
            trailers.insert(name, HeaderValue::from_static(value));
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}

// ===== the servers =====

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Axum,
    /// Without the layer, and with axum's own graceful shutdown, which begins with the drain.
    PlainAxum,
    /// tonic's own.
    Tonic,
    #[cfg(feature = "server")]
    Ours,
}

pub const KINDS: &[Kind] = &[
    Kind::Axum,
    #[cfg(feature = "server")]
    Kind::Ours,
];

/// Runs a test with each server.
pub async fn with_each_server(test: impl AsyncFn(Kind)) {
    for &kind in KINDS.iter().chain([&Kind::Tonic]) {
        println!("{kind:?}");
        in_time(test(kind)).await;
    }
}

pub struct Server {
    pub address: SocketAddr,
    run: JoinHandle<ShutdownReport>,
}

impl Server {
    /// Starts one with the layer around its routes.
    pub async fn start(kind: Kind, ctl: &ShutdownController, routes: Routes) -> Self {
        Self::start_with(kind, ctl, routes, DrainLayer::new(ctl.clone())).await
    }

    pub async fn start_with(
        kind: Kind,
        ctl: &ShutdownController,
        routes: Routes,
        layer: DrainLayer,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let plain = routes.clone().into_axum_router();
        let app = plain.clone().layer(layer.clone());
        let run = match kind {
            Kind::PlainAxum => {
                let server = axum::serve(listener, plain).with_graceful_shutdown(ctl.draining());
                tokio::spawn(ctl.run(server))
            }
            Kind::Axum => {
                let server = axum::serve(listener, app);
                let server = server.with_graceful_shutdown(ctl.stop_accepting());
                tokio::spawn(ctl.run(server))
            }
            Kind::Tonic => {
                let incoming = TcpIncoming::from(listener);
                let server = tonic::transport::Server::builder()
                    .layer(layer)
                    .add_routes(routes)
                    .serve_with_incoming_shutdown(incoming, ctl.stop_accepting());
                tokio::spawn(ctl.run(server))
            }
            #[cfg(feature = "server")]
            Kind::Ours => {
                let server = tower_lifecycle::serve(listener, app, ctl.clone());
                tokio::spawn(server.into_future())
            }
        };
        Self { address, run }
    }

    /// Waits for the end.
    pub async fn report(self) -> ShutdownReport {
        self.run.await.expect("it does not panic")
    }
}

// ===== the client =====

/// Clones share one HTTP/2 connection.
#[derive(Debug, Clone)]
pub struct EchoClient(tonic::client::Grpc<Channel>);

impl EchoClient {
    pub async fn connect(address: SocketAddr) -> Self {
        Self(tonic::client::Grpc::new(channel(address).await))
    }

    pub async fn unary(&self, text: &str) -> Result<tonic::Response<Words>, Status> {
        let call = tonic::Request::new(words(text));
        let mut client = self.ready().await?;
        client
            .unary(
                call,
                PathAndQuery::from_static(UNARY),
                ProstCodec::default(),
            )
            .await
    }

    pub async fn server_stream(&self, text: &str) -> Result<Streaming<Words>, Status> {
        let call = tonic::Request::new(words(text));
        let (path, codec) = (
            PathAndQuery::from_static(SERVER_STREAM),
            ProstCodec::default(),
        );
        let mut client = self.ready().await?;
        Ok(client
            .server_streaming(call, path, codec)
            .await?
            .into_inner())
    }

    pub async fn bidi_stream(
        &self,
        messages: impl Stream<Item = Words> + Send + 'static,
    ) -> Result<Streaming<Words>, Status> {
        let call = tonic::Request::new(messages);
        let (path, codec) = (
            PathAndQuery::from_static(BIDI_STREAM),
            ProstCodec::default(),
        );
        let mut client = self.ready().await?;
        Ok(client.streaming(call, path, codec).await?.into_inner())
    }

    async fn ready(&self) -> Result<tonic::client::Grpc<Channel>, Status> {
        let mut client = self.0.clone();
        client
            .ready()
            .await
            .map_err(|error| Status::from_error(error.into()))?;
        Ok(client)
    }
}

pub async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a valid URI");
    endpoint.connect().await.expect("a server")
}
