//! A gRPC service, written by hand so that this example needs no `protoc`.
//!
//! Generate yours with `tonic-prost-build`, and add it to the routes in the same way.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt, stream};
use http::{Request, Response};
use tokio::time::sleep;
use tonic::Status;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

/// The only message type, for requests and responses.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Words {
    #[prost(string, tag = "1")]
    pub text: String,
}

/// `rpc Say(Words) returns (Words)` and `rpc Repeat(Words) returns (stream Words)`.
#[derive(Debug, Clone)]
pub struct Echo;

impl Echo {
    async fn say(call: tonic::Request<Words>) -> Result<tonic::Response<Words>, Status> {
        Ok(tonic::Response::new(call.into_inner()))
    }

    /// Repeats the message ten times, once a second.
    async fn repeat(
        call: tonic::Request<Words>,
    ) -> Result<tonic::Response<impl Stream<Item = Result<Words, Status>>>, Status> {
        let words = stream::repeat(call.into_inner()).take(10);
        Ok(tonic::Response::new(words.then(async |words| {
            sleep(Duration::from_secs(1)).await;
            Ok(words)
        })))
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "example.Echo";
}

impl Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Words, Words>::default());
            Ok(match request.uri().path() {
                "/example.Echo/Say" => grpc.unary(service_fn(Self::say), request).await,
                "/example.Echo/Repeat" => {
                    grpc.server_streaming(service_fn(Self::repeat), request)
                        .await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}
