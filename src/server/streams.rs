//! The tasks of one HTTP/2 connection, a task for each stream.

use std::any::TypeId;
use std::fmt;
use std::future::{Future, poll_fn};
use std::task::Poll;

use hyper::rt::Executor;
use tokio::task::{JoinError, JoinSet};

use super::activity::Activity;
use crate::in_flight::OpenConnection;
use crate::log::tell;
use crate::panic;
use crate::sync::{Arc, Mutex, Weak, lock};

/// Runs the streams of one HTTP/2 connection, for hyper.
///
/// They run as tasks of their own, side by side, and end with their connection: when that is closed,
/// by force for example, none of them is left behind.
///
/// # Examples
///
/// It is seen in the type of hyper's builder, in [`Serve::http2`](crate::server::Serve::http2):
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
    /// Weak: the tasks hold their executor.
    tasks: Weak<Mutex<Tasks>>,
    activity: Arc<Activity>,
    open: Arc<OpenConnection>,
}

/// The tasks themselves: dropped, they are cut.
pub(super) struct Streams {
    tasks: Arc<Mutex<Tasks>>,
    open: Arc<OpenConnection>,
}

#[derive(Default)]
struct Tasks {
    set: JoinSet<()>,
    /// What hyper serves a request by, the first time. Anything else is a tunnel, which comes after the
    /// request for it.
    request: Option<TypeId>,
}

// ===== impl StreamExecutor =====

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        // Without its connection a stream has nobody to answer.
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
            // The answer to a request tells itself whether it is owed. A tunnel has no answer under way.
            let under_way = match request == TypeId::of::<F>() {
                true => self.activity.not_owed(),
                false => self.activity.owed(),
            };
            // The connection is open until the last of its tasks is gone.
            let held = (Arc::clone(&self.open), under_way);
            tasks.set.spawn(async move {
                let _held = held;
                future.await;
            });
        }
        ended.into_iter().for_each(log);
    }
}

impl fmt::Debug for StreamExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamExecutor").finish_non_exhaustive()
    }
}

// ===== impl Streams =====

impl Streams {
    /// None yet, of the connection that is `open`.
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

    /// Cuts those that are left.
    pub(super) fn cut(&self) {
        lock(&self.tasks).set.abort_all();
    }

    /// Waits until all have ended.
    pub(super) async fn ended(self) {
        while let Some(result) = poll_fn(|cx| self.poll_next(cx)).await {
            result.err().into_iter().for_each(log);
        }
    }

    fn poll_next(&self, cx: &mut std::task::Context<'_>) -> Poll<Option<Result<(), JoinError>>> {
        lock(&self.tasks).set.poll_join_next(cx)
    }
}

/// Tells of a task that ended badly.
pub(super) fn log(error: JoinError) {
    if let Ok(payload) = error.try_into_panic() {
        let panic = panic::message(&payload);
        panic::dropped(payload);
        tell!(error, %panic, "the task of a connection or stream panicked, and it was closed");
    }
}
