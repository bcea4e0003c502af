//! Probes, and checks that count their runs.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::sleep;
use tower::ServiceExt;
use tower_lifecycle::{BoxError, HealthService, ShutdownController};

use super::shutdown::ms;

pub async fn probe(health: &HealthService, method: Method) -> Response<Full<Bytes>> {
    let request = Request::builder()
        .method(method)
        .uri("/health")
        .body(String::new())
        .unwrap();
    health.clone().oneshot(request).await.unwrap()
}

pub async fn get(health: &HealthService) -> (StatusCode, Value) {
    let response = probe(health, Method::GET).await;
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

/// A check that counts its starts, ends and drops, and takes its results from the test.
#[derive(Clone, Default)]
pub struct Counted {
    begun: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

pub struct CountsDrop(Arc<AtomicUsize>);

impl Drop for CountsDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Counted {
    /// Returns the check. `run` receives the number of earlier runs.
    pub fn check<Fut>(
        &self,
        run: impl Fn(usize) -> Fut + Send + Sync + 'static,
    ) -> impl Fn() -> CheckFuture + Send + Sync + 'static
    where
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let counted = self.clone();
        move || {
            let run = run(counted.begun.fetch_add(1, Ordering::SeqCst));
            let counted = counted.clone();
            Box::pin(async move {
                let _dropped = CountsDrop(counted.dropped);
                let result = run.await;
                counted.ended.fetch_add(1, Ordering::SeqCst);
                result
            })
        }
    }

    pub fn takes(&self, time: Duration) -> impl Fn() -> CheckFuture + Send + Sync + 'static {
        self.check(move |_| async move {
            sleep(time).await;
            Ok(())
        })
    }

    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    pub fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }
}

pub type CheckFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// A service that caches results for a second.
pub fn cached(check: impl Fn() -> CheckFuture + Send + Sync + 'static) -> HealthService {
    HealthService::new(ShutdownController::new())
        .check("db", check)
        .cache_for(ms(1_000))
}

pub async fn db(health: &HealthService) -> Value {
    get(health).await.1["services"]["db"].clone()
}

pub fn healthy() -> Value {
    json!({"status": "healthy"})
}

pub fn failed(error: &str) -> Value {
    json!({"status": "failed", "error": error})
}
