//! A background worker with a queue that survives a restart.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use tokio::sync::Notify;
use tokio::time::sleep;
use tower_lifecycle::future::Wait;
use tower_lifecycle::store::{FileStore, StateStore};
use tower_lifecycle::{BoxError, ShutdownController};

/// The key of the saved state.
pub const QUEUE: &str = "queue";

#[derive(Clone, Default)]
pub struct Worker {
    queue: Arc<Mutex<VecDeque<String>>>,
    more: Arc<Notify>,
    done: Arc<AtomicU64>,
}

impl Worker {
    pub async fn start(
        file: FileStore,
        job: Duration,
        ctl: ShutdownController,
    ) -> Result<Self, BoxError> {
        let worker = Self::default();
        if let Some(state) = file.load(QUEUE).await? {
            let left: VecDeque<_> = serde_json::from_slice(&state)?;
            tracing::info!(jobs = left.len(), "taken over from the last run");
            worker.with_queue(|queue| *queue = left);
        }
        // Stopped when requests can no longer add jobs. The shutdown waits for its end
        // before it saves the state.
        let (work, handle) = (worker.clone(), ctl.clone());
        ctl.spawn_worker("worker", move |stop| work.work(job, handle, stop));
        Ok(worker)
    }

    async fn work(self, job: Duration, ctl: ShutdownController, mut stop: Wait) {
        loop {
            tokio::select! {
                biased;
                // A worker whose queue is not saved empties it first: put `name` before `stop`.
                () = &mut stop => break,
                name = self.next() => {
                    // A running job is completed even after `stop`. It stays in the queue
                    // until then, so a cut job is saved.
                    sleep(job).await;
                    self.with_queue(VecDeque::pop_front);
                    self.done.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(job = ?name, "done");
                }
            }
        }
        let left = self.with_queue(|queue| queue.len());
        tracing::info!(left, notice = ?ctl.notice(), "the worker ends");
    }

    async fn next(&self) -> String {
        loop {
            if let Some(name) = self.with_queue(|queue| queue.front().cloned()) {
                return name;
            }
            self.more.notified().await;
        }
    }

    pub async fn stop(self) {
        tracing::info!(done = self.done(), "worker stopped");
    }

    /// Returns the jobs that are left, to be saved.
    pub fn queue(&self) -> Vec<u8> {
        self.with_queue(|queue| serde_json::json!(queue).to_string().into_bytes())
    }

    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub fn routes(&self) -> Router {
        let list = get(|State(worker): State<Self>| async move { worker.queue() });
        let add = post(|State(worker): State<Self>, name: String| async move {
            worker.with_queue(|queue| queue.push_back(name));
            worker.more.notify_one();
            StatusCode::ACCEPTED
        });
        Router::new()
            .route("/jobs", list.merge(add))
            .with_state(self.clone())
    }

    fn with_queue<T>(&self, act: impl FnOnce(&mut VecDeque<String>) -> T) -> T {
        act(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
