//! One step of a start-up: the start and the stop of a service.

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

/// A service to be started, with its name, its start and its stop. It is created by [`step`].
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
        /// The started services: a tuple or a `Vec`, like the steps.
        type Started: 'static;
        /// The places where the steps store their started services.
        type Places: Send + 'a;

        fn split(self) -> (Vec<AnyStep<'a>>, Self::Places);

        /// Returns the started services, if all of them were started.
        fn collect(places: Self::Places) -> Option<Self::Started>;
    }
}

/// A type-erased step. It stores the started service in its `Place`.
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

/// The parts of a service that was started.
pub(super) struct Started {
    pub(super) stop: Job,
    pub(super) watch: Option<Watch>,
    /// `Ok` if there is a clone for the caller, the panic if cloning panicked.
    pub(super) cloned: Result<(), panic::Payload>,
}

/// The place where a step stores its started service.
pub(super) type Place<T> = Arc<Mutex<Option<T>>>;

// ===== impl Step =====

/// Creates a [`Step`] without time limits.
///
/// `start` creates the service. It is polled in the task that awaits the step, so it may borrow from
/// that task. `stop` is called with the service, and the caller gets a clone of it. A stop that uses
/// `?` has to name its error type, with `Ok::<_, BoxError>(())` at its end.
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
    /// Sets how long the start may take. Default: no limit.
    ///
    /// After that time the start is dropped, and the start-up has failed.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Sets how long the stop may take. After that time it is dropped.
    ///
    /// This can only shorten the default, which is the remaining time divided by the number of steps
    /// that still have to be stopped.
    pub fn stop_timeout(mut self, limit: Duration) -> Self {
        self.stop_timeout = Some(limit);
        self
    }

    /// Watches the service from its start until it has been stopped.
    ///
    /// `watch` is called with a clone of the service. Its future is polled in its own task until the
    /// stop has ended, and is then dropped. If it ends, fails or panics before the stop begins, the
    /// service has failed: health reports that, and the shutdown begins. The report lists the service
    /// among the [tasks](crate::ShutdownReport::tasks), and is not graceful. A
    /// [policy](Self::watch_policy) can change this. An end without an error after the trigger is
    /// expected.
    ///
    /// Outside a tokio runtime, a start with a watch fails.
    ///
    /// See [`StartStep::watch`](super::StartStep::watch) for an example.
    pub fn watch<W, F>(mut self, watch: W) -> Self
    where
        W: FnOnce(T) -> F + Send + 'static,
        F: Future<Output: IntoResult> + Send + 'static,
    {
        // Called inside the task, so that a panic in `watch` counts as a panic of the task.
        self.watch = Some(Box::new(|service| {
            Box::pin(async move { watch(service).await.into_result() })
        }));
        self
    }

    /// Sets the policy for when the [watch](Self::watch) ends in any way before the stop begins.
    /// Default: [`Shutdown`](TaskPolicy::Shutdown).
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
