//! Errors for work that is refused or cut.

use std::error::Error;
use std::fmt;

/// A boxed error, as used throughout tower.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::error::ShuttingDown;
/// use tower_lifecycle::{BoxError, ShutdownController};
///
/// fn take_job(ctl: &ShutdownController) -> Result<(), BoxError> {
///     let _job = ctl.try_admit()?;
///     Ok(())
/// }
///
/// # fn main() {
/// let ctl = ShutdownController::new();
/// ctl.force();
/// let error = take_job(&ctl).unwrap_err();
/// assert!(error.is::<ShuttingDown>());
/// # }
/// ```
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The panic message of response futures that are polled after completion, which is a bug of the
/// caller.
pub(crate) const POLLED_AFTER_COMPLETION: &str = "response future polled after completion";

/// The work was refused before it began: the service is shutting down or paused.
///
/// It is safe to retry elsewhere.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::{ShutdownController, ShutdownReason};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// ctl.trigger(ShutdownReason::Manual);
/// let refused = ctl.try_admit().unwrap_err();
/// assert_eq!(refused.to_string(), "service is shutting down");
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShuttingDown {
    paused: bool,
}

/// The work was started, and then cut before it finished.
///
/// The drain deadline passed, or the shutdown was forced. Only the application knows whether it is
/// safe to retry the work.
///
/// # Examples
///
/// ```
/// use std::future::pending;
/// use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};
/// use tower_lifecycle::error::Forced;
/// use tower_lifecycle::{DrainLayer, ShutdownController};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let mut jobs = ServiceBuilder::new()
///     .layer(DrainLayer::new(ctl.clone()).reject_with_error())
///     .service(service_fn(|_job: u32| pending::<Result<(), BoxError>>()));
///
/// let job = jobs.ready().await.unwrap().call(1);
/// ctl.force();
/// assert!(job.await.unwrap_err().is::<Forced>());
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forced;

impl ShuttingDown {
    pub(crate) const fn new(paused: bool) -> Self {
        Self { paused }
    }

    /// Returns whether the service was only [paused](crate::ShutdownController::pause).
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::ShutdownController;
    ///
    /// let ctl = ShutdownController::new();
    /// ctl.pause();
    /// let refused = ctl.try_admit().unwrap_err();
    /// assert!(refused.is_paused());
    /// assert_eq!(refused.to_string(), "service is paused");
    /// ```
    pub fn is_paused(&self) -> bool {
        self.paused
    }
}

impl fmt::Display for ShuttingDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.paused {
            "service is paused"
        } else {
            "service is shutting down"
        })
    }
}

impl fmt::Display for Forced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cut by the shutdown before it finished")
    }
}

/// Displays an error and the chain of its sources.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Error for ShuttingDown {}
impl Error for Forced {}
