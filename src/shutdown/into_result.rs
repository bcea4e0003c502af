//! Conversion of the output of user futures into a `Result`.

use std::convert::Infallible;

use crate::error::BoxError;

/// The output of a server, of a task, or of the stop of a service: it ended or it failed.
///
/// It is implemented for `()`, `!`, `Infallible`, `Result`s of these with any error that converts into a
/// [`BoxError`], and tuples of these. So it also accepts the output of a `JoinHandle`, or of a `join!` of
/// several servers.
///
/// It cannot be implemented outside this crate. Convert your own type into a `Result` at the end of the
/// future.
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
/// // An endless loop has the type `!`.
/// ctl.spawn("ticker", async {
///     loop {
///         tokio::task::yield_now().await;
///     }
/// });
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "a future that ends with `{Self}` does not say whether it has failed",
    label = "neither `()` nor a `Result<(), E>`",
    note = "end it with `()`, or with `Ok(())` where `E` converts into a `BoxError`; drop what it has \
            made, such as a value, inside the future"
)]
pub trait IntoResult: sealed::Sealed {
    /// Converts the value into a `Result`. A tuple returns the first error, if there is one.
    ///
    /// # Errors
    ///
    /// Returns the first error.
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

/// The type `!`, which stable Rust can only name like this. It is the output of `async { loop { .. } }`,
/// and so of many servers and tasks.
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
