//! The tasks of one HTTP/2 connection, one for each stream.

use std::any::TypeId;
use std::fmt;
use std::future::{Future, poll_fn};
use std::task::Poll;

use hyper::rt::Executor;
use tokio::task::{JoinError, JoinSet};

use super::activity::Activity;
use super::panicked::log_panic;
use crate::in_flight::OpenConnection;
use crate::sync::{Arc, Mutex, Weak, lock};

/// The executor for the streams of one HTTP/2 connection.
///
/// Each stream runs in a task of its own, and ends with its connection: when the connection is closed,
/// even by force, no stream is left running.
///
/// # Examples
///
/// It is part of the type of hyper's builder in [`Serve::http2`](crate::server::Serve::http2):
///
/// ```
/// use hyper::server::conn::http2;
/// use tower_lifecycle::server::StreamExecutor;
///
/// fn settings(builder: &mut http2::Builder<StreamExecutor>) {
///     builder.max_concurrent_streams(100);
/// }
/// # let _ = settings;
/// ```
#[derive(Clone)]
pub struct StreamExecutor {
    /// Weak, because the tasks hold this executor.
    tasks: Weak<Mutex<Tasks>>,
    activity: Arc<Activity>,
    open: Arc<OpenConnection>,
}

/// Owns the tasks. Dropping it aborts them.
pub(super) struct Streams {
    tasks: Arc<Mutex<Tasks>>,
    open: Arc<OpenConnection>,
}

#[derive(Default)]
struct Tasks {
    set: JoinSet<()>,
    /// The type of the first future, with which hyper serves a request. Any other type is a tunnel, which
    /// always comes after the request for it.
    request: Option<TypeId>,
}

// ===== impl StreamExecutor =====

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        // The connection is gone, so nobody waits for this stream.
        let Some(tasks) = self.tasks.upgrade() else {
            return;
        };
        let mut ended = Vec::new();
        {
            let mut tasks = lock(&tasks);
            while let Some(result) = tasks.set.try_join_next() {
                ended.extend(result.err());
            }
            let request = *tasks.request.get_or_insert(TypeId::of::<F>());
            // The response to a request counts itself as owed. A tunnel has no response.
            let (under_way, tunnel) = if request == TypeId::of::<F>() {
                (self.activity.not_owed(), None)
            } else {
                (self.activity.owed(), Some(self.activity.stream_tunnel()))
            };
            // The connection counts as open until the last of its tasks is gone.
            let held = (Arc::clone(&self.open), under_way, tunnel);
            tasks.set.spawn(async move {
                let _held = held;
                future.await;
            });
        }
        ended.into_iter().for_each(log_panic);
    }
}

impl fmt::Debug for StreamExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamExecutor").finish_non_exhaustive()
    }
}

// ===== impl Streams =====

impl Streams {
    /// Creates an empty set of streams for the connection counted by `open`.
    pub(super) fn new(open: Arc<OpenConnection>) -> Self {
        let tasks = Arc::default();
        Self { tasks, open }
    }

    pub(super) fn executor(&self, activity: &Arc<Activity>) -> StreamExecutor {
        StreamExecutor {
            tasks: Arc::downgrade(&self.tasks),
            activity: Arc::clone(activity),
            open: Arc::clone(&self.open),
        }
    }

    /// Aborts the streams that are left.
    pub(super) fn cut(&self) {
        lock(&self.tasks).set.abort_all();
    }

    /// Waits until all streams have ended.
    pub(super) async fn ended(self) {
        while let Some(result) = poll_fn(|cx| self.poll_next(cx)).await {
            result.err().into_iter().for_each(log_panic);
        }
    }

    fn poll_next(&self, cx: &mut std::task::Context<'_>) -> Poll<Option<Result<(), JoinError>>> {
        lock(&self.tasks).set.poll_join_next(cx)
    }
}
