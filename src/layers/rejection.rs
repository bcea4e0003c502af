//! The mark on a response that the layer made itself.

/// Says that a response was made by a [`DrainLayer`](crate::DrainLayer), in place of the service.
///
/// It is in the [extensions](http::Response::extensions) of each response to a request that was
/// refused, or cut before it had an answer, whatever its protocol, its status or its text: also of
/// gRPC, and also where [`refuse_with`](crate::DrainLayer::refuse_with) wrote it. No response of the
/// service has it, unless another `DrainLayer` is inside. So logs and metrics can tell what a
/// shutdown has planned from what has failed.
///
/// Extensions stay in the process: no client sees this one. A response that was cut in its body has
/// begun as one of the service, and has none; its body ends with [`Forced`](crate::error::Forced), or with
/// trailers where it is a stream of gRPC.
///
/// # Examples
///
/// For tower-http's `TraceLayer`, a refusal is no failure then, and no line of the level error. The
/// `TraceLayer` is around the `DrainLayer`:
///
/// ```
/// use std::fmt::Display;
/// use axum::{Router, body::Body, http::{Request, Response}, routing::get};
/// use tower::ServiceExt;
/// use tower_http::classify::{
///     ClassifiedResponse, ClassifyResponse, NeverClassifyEos, ServerErrorsAsFailures,
///     ServerErrorsFailureClass, SharedClassifier,
/// };
/// use tower_http::trace::TraceLayer;
/// use tower_lifecycle::layers::Rejection;
/// use tower_lifecycle::{DrainLayer, ShutdownController};
///
/// #[derive(Clone)]
/// struct Unplanned;
///
/// impl ClassifyResponse for Unplanned {
///     type FailureClass = ServerErrorsFailureClass;
///     type ClassifyEos = NeverClassifyEos<ServerErrorsFailureClass>;
///
///     fn classify_response<B>(
///         self,
///         response: &Response<B>,
///     ) -> ClassifiedResponse<Self::FailureClass, Self::ClassifyEos> {
///         match response.extensions().get() {
///             Some(Rejection::Refused) => ClassifiedResponse::Ready(Ok(())),
///             _ => ServerErrorsAsFailures::new().classify_response(response),
///         }
///     }
///
///     fn classify_error<E: Display + 'static>(self, error: &E) -> Self::FailureClass {
///         ServerErrorsAsFailures::new().classify_error(error)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(DrainLayer::new(ctl.clone()))
///     .layer(TraceLayer::new(SharedClassifier::new(Unplanned)));
///
/// ctl.force();
/// let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
/// assert_eq!(response.extensions().get(), Some(&Rejection::Refused));
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rejection {
    /// The request was not admitted, by a shutdown or a [pause](crate::ShutdownController::pause).
    /// The service has not seen it, so it may be sent again.
    Refused,
    /// The request was admitted, and cut by force before it had an answer. The service may have done
    /// a part of the work.
    Cut,
}
