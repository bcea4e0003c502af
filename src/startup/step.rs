//! One step of a start-up: how a service is started and stopped.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::time::Duration;

use super::watch::Watch;
use crate::error::BoxError;
use crate::panic;
use crate::shutdown::{BoxFuture, IntoResult, Job, TaskPolicy};
use crate::sync::{Arc, Mutex, lock};

type StartFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send + 'a>>;

/// A service to be started, as [`step`] makes it: its name, its start and its stop.
#[must_use = "a step does nothing until it is given to a `Startup`"]
pub struct Step<'a, T> {
    name: Arc<str>,
    start: StartFuture<'a, T>,
    stop: Box<dyn FnOnce(T) -> Job + Send>,
    timeout: Option<Duration>,
    stop_timeout: Option<Duration>,
    watch: Option<Box<dyn FnOnce(T) -> BoxFuture + Send>>,
    watch_policy: TaskPolicy,
}

/// Several [`Step`]s that are started at the same time: a tuple or a `Vec` of them.
///
/// It cannot be implemented outside this crate.
pub trait Steps<'a>: sealed::Steps<'a> {}

impl<'a, S: sealed::Steps<'a>> Steps<'a> for S {}

mod sealed {
    use crate::startup::step::AnyStep;

    pub trait Steps<'a> {
        /// What was started, in the shape of the steps.
        type Started;
        /// Where each step leaves what it has started.
        type Places: Send + 'a;

        fn split(self) -> (Vec<AnyStep<'a>>, Self::Places);

        /// Gives what was started, if all of it was.
        fn collect(places: Self::Places) -> Option<Self::Started>;
    }
}

/// A step whose type is forgotten: what it starts goes to its place.
pub struct AnyStep<'a> {
    pub(super) name: Arc<str>,
    pub(super) run: Pin<Box<dyn Future<Output = Result<Started, BoxError>> + Send + 'a>>,
    pub(super) timeout: Option<Duration>,
}

impl fmt::Debug for AnyStep<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyStep")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What there is of a service once it was started.
pub(super) struct Started {
    pub(super) stop: Job,
    pub(super) watch: Option<Watch>,
    /// Whether there is a clone of it to hand out.
    pub(super) cloned: Result<(), panic::Payload>,
}

/// Where a step leaves what it has started.
pub(super) type Place<T> = Arc<Mutex<Option<T>>>;

// ===== impl Step =====

/// Makes a [`Step`] without limits of its own.
///
/// `start` makes the service. It is polled by the task that starts up, so it may borrow from there.
/// `stop` gets what was started, of which a clone is handed out. With a `?` in it, it has to say what
/// its error is: `Ok::<_, BoxError>(())` at its end.
///
/// See [`Startup::start_all`](crate::Startup::start_all) for an example.
pub fn step<'a, T, E, F, S, Fut>(name: impl Into<String>, start: F, stop: S) -> Step<'a, T>
where
    T: Clone + Send + 'static,
    E: Into<BoxError>,
    F: Future<Output = Result<T, E>> + Send + 'a,
    S: FnOnce(T) -> Fut + Send + 'static,
    Fut: Future<Output: IntoResult> + Send + 'static,
{
    let stop = move |started: T| Job {
        run: Box::new(|_notice| Box::pin(async move { stop(started).await.into_result() })),
        timeout: None,
    };
    Step {
        name: name.into().into(),
        start: Box::pin(async move { start.await.map_err(Into::into) }),
        stop: Box::new(stop),
        timeout: None,
        stop_timeout: None,
        watch: None,
        watch_policy: TaskPolicy::Shutdown,
    }
}

impl<'a, T: Clone + Send + 'static> Step<'a, T> {
    /// Sets how long the start may take. Default: as long as it likes.
    ///
    /// Then it is dropped, and the start-up has failed.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Sets how long the stop may take, after which it is dropped.
    ///
    /// It can only shorten the default: the time that is left, divided by the number of steps that
    /// are left to be stopped.
    pub fn stop_timeout(mut self, limit: Duration) -> Self {
        self.stop_timeout = Some(limit);
        self
    }

    /// Watches the service from its start until it has been stopped.
    ///
    /// `watch` gets a clone of it, and is polled in a task of its own until the stop has ended; then
    /// it is dropped. When it ends, fails or panics before the stop begins, the service has died:
    /// health shows that, the report names it among the [tasks](crate::ShutdownReport::tasks) and is
    /// not graceful, and the shutdown begins, unless another [policy](Self::watch_policy) is set. That
    /// it ends without an error after the trigger is as it should be.
    ///
    /// Outside a tokio runtime a start that is watched fails.
    ///
    /// See [`StartStep::watch`](super::StartStep::watch) for an example.
    pub fn watch<W, F>(mut self, watch: W) -> Self
    where
        W: FnOnce(T) -> F + Send + 'static,
        F: Future<Output: IntoResult> + Send + 'static,
    {
        // Called inside the task, so that a panic of it is the task's.
        self.watch = Some(Box::new(|service| {
            Box::pin(async move { watch(service).await.into_result() })
        }));
        self
    }

    /// Sets what it means when what is [watched](Self::watch) ends before the stop begins, in whatever
    /// way. Default [`Shutdown`](TaskPolicy::Shutdown).
    pub fn watch_policy(mut self, policy: TaskPolicy) -> Self {
        self.watch_policy = policy;
        self
    }

    pub(super) fn split(self) -> (AnyStep<'a>, Place<T>) {
        let place = Place::default();
        let started = Arc::clone(&place);
        let run = async move {
            let service = self.start.await?;
            let policy = self.watch_policy;
            let clones = catch_unwind(AssertUnwindSafe(|| {
                let future = self.watch.map(|watch| watch(service.clone()));
                (service.clone(), future)
            }));
            let mut stop = (self.stop)(service);
            stop.timeout = self.stop_timeout;
            let mut watch = None;
            let cloned = clones.map(|(clone, future)| {
                *lock(&started) = Some(clone);
                watch = future.map(|future| Watch { future, policy });
            });
            Ok(Started {
                stop,
                watch,
                cloned,
            })
        };
        let step = AnyStep {
            name: self.name,
            run: Box::pin(run),
            timeout: self.timeout,
        };
        (step, place)
    }
}

impl<T> fmt::Debug for Step<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step")
            .field("name", &self.name)
            .field("timeout", &self.timeout)
            .field("stop_timeout", &self.stop_timeout)
            .field("is_watched", &self.watch.is_some())
            .finish_non_exhaustive()
    }
}

// ===== impl Steps =====

macro_rules! tuples {
    ($(($($name:ident)+))+) => {$(
        impl<'a, $($name: Clone + Send + 'static),+> sealed::Steps<'a> for ($(Step<'a, $name>,)+) {
            type Started = ($($name,)+);
            type Places = ($(Place<$name>,)+);

            #[allow(non_snake_case)]
            fn split(self) -> (Vec<AnyStep<'a>>, Self::Places) {
                let ($($name,)+) = self;
                $(let $name = $name.split();)+
                (vec![$($name.0),+], ($($name.1,)+))
            }

            #[allow(non_snake_case)]
            fn collect(($($name,)+): Self::Places) -> Option<Self::Started> {
                Some(($(lock(&$name).take()?,)+))
            }
        }
    )+};
}

tuples! {
    (A)
    (A B)
    (A B C)
    (A B C D)
    (A B C D E)
    (A B C D E F)
    (A B C D E F G)
    (A B C D E F G H)
}

impl<'a, T: Clone + Send + 'static> sealed::Steps<'a> for Vec<Step<'a, T>> {
    type Started = Vec<T>;
    type Places = Vec<Place<T>>;

    fn split(self) -> (Vec<AnyStep<'a>>, Self::Places) {
        self.into_iter().map(Step::split).unzip()
    }

    fn collect(places: Self::Places) -> Option<Self::Started> {
        places.iter().map(|place| lock(place).take()).collect()
    }
}
