//! What the end of a foreign future says: that it ended, or that it failed.

use std::convert::Infallible;

use crate::error::BoxError;

/// What a server, a task or the stop of a service may give: that it ended, or that it failed.
///
/// It is there for `()`, `!`, `Infallible`, `Result`s of these with any error that converts into a
/// [`BoxError`], and tuples of these, so also for a `JoinHandle` or a `join!` of several servers.
///
/// It cannot be implemented outside this crate; a type of your own is turned into a `Result` where it
/// ends.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::ShutdownController;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ctl = ShutdownController::new();
/// let report = ctl.run(async { Err::<(), _>("out of memory") }).await;
/// assert_eq!(report.server_errors().len(), 1);
///
/// // A loop without an end gives `!`.
/// ctl.spawn("ticker", async {
///     loop {
///         tokio::task::yield_now().await;
///     }
/// });
/// # }
/// ```
pub trait IntoResult: sealed::Sealed {
    /// Returns the first error, if there is one.
    ///
    /// # Errors
    ///
    /// What it failed with.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_lifecycle::future::IntoResult;
    ///
    /// let (public, admin) = (Ok::<(), &str>(()), Err::<(), &str>("address in use"));
    /// let error = (public, admin).into_result().unwrap_err();
    /// assert_eq!(error.to_string(), "address in use");
    /// ```
    fn into_result(self) -> Result<(), BoxError>;
}

// ===== impl IntoResult =====

impl sealed::Sealed for () {}

impl IntoResult for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl sealed::Sealed for Infallible {}

impl IntoResult for Infallible {
    fn into_result(self) -> Result<(), BoxError> {
        match self {}
    }
}

mod sealed {
    pub trait Sealed {}
}

/// The type `!`, by the only name that stable Rust has for it. It is what `async { loop { .. } }`
/// gives, which is what many servers and tasks are.
type Never = <fn() -> ! as never::Returns>::Output;

mod never {
    pub trait Returns {
        type Output;
    }

    impl<T> Returns for fn() -> T {
        type Output = T;
    }
}

impl sealed::Sealed for Never {}

impl IntoResult for Never {
    fn into_result(self) -> Result<(), BoxError> {
        self
    }
}

impl<T: IntoResult, E: Into<BoxError>> sealed::Sealed for Result<T, E> {}

impl<T: IntoResult, E: Into<BoxError>> IntoResult for Result<T, E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)?.into_result()
    }
}

macro_rules! tuples {
    ($(($($name:ident)+))+) => {$(
        impl<$($name: IntoResult),+> sealed::Sealed for ($($name,)+) {}

        impl<$($name: IntoResult),+> IntoResult for ($($name,)+) {
            #[allow(non_snake_case)]
            fn into_result(self) -> Result<(), BoxError> {
                let ($($name,)+) = self;
                $($name.into_result()?;)+
                Ok(())
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
