//! Retries operations that fail with a transient error.
//!
//! On Windows, a virus scanner or an indexer may have a file open that is to be replaced.

use std::io::{self, ErrorKind};
use std::thread;
use std::time::Duration;

/// How many times an operation is tried.
const TRIES: u32 = 10;
/// The pause after the first try. It doubles after each further try. All pauses take half a second.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// Windows error codes: another process has the file open, or has locked part of it.
const SHARING_VIOLATION: i32 = 32;
const LOCK_VIOLATION: i32 = 33;

/// Runs `operation` until it succeeds, fails with a lasting error, or was tried [`TRIES`] times.
pub(super) fn retry<T>(operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    retry_with(
        operation,
        |error| is_transient(error, cfg!(windows)),
        thread::sleep,
    )
}

/// Like [`retry`], for a file that another process may create at the same time.
pub(super) fn retry_to_create<T>(operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let is_transient = |error: &io::Error| {
        error.kind() == ErrorKind::AlreadyExists || is_transient(error, cfg!(windows))
    };
    retry_with(operation, is_transient, thread::sleep)
}

fn retry_with<T>(
    mut operation: impl FnMut() -> io::Result<T>,
    is_transient: impl Fn(&io::Error) -> bool,
    mut sleep: impl FnMut(Duration),
) -> io::Result<T> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..TRIES {
        match operation() {
            Err(error) if is_transient(&error) => sleep(pause),
            done => return done,
        }
        pause *= 2;
    }
    operation()
}

/// Returns whether the operation may succeed if it is tried again.
fn is_transient(error: &io::Error, is_windows: bool) -> bool {
    match error.kind() {
        ErrorKind::ResourceBusy | ErrorKind::Interrupted => true,
        // On Windows, a file that is open cannot be replaced, and a file that is being removed cannot be
        // created.
        ErrorKind::PermissionDenied => is_windows,
        _ => {
            let code = error.raw_os_error();
            is_windows && matches!(code, Some(SHARING_VIOLATION | LOCK_VIOLATION))
        }
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;

    /// Fails `failures` times with `error`. Returns the result, the number of tries and the total pause.
    fn run(failures: u32, error: impl Fn() -> io::Error) -> (io::Result<u32>, u32, Duration) {
        let (mut tries, mut paused) = (0, Duration::ZERO);
        let operation = || {
            tries += 1;
            if tries <= failures {
                Err(error())
            } else {
                Ok(tries)
            }
        };
        let result = retry_with(
            operation,
            |error| is_transient(error, true),
            |pause| paused += pause,
        );
        (result, tries, paused)
    }

    #[test]
    fn what_passes_is_tried_again_and_not_for_ever() {
        let sharing = || io::Error::from_raw_os_error(SHARING_VIOLATION);
        for failures in 0..TRIES {
            let (result, tries, _) = run(failures, sharing);
            assert_eq!((result.ok(), tries), (Some(failures + 1), failures + 1));
        }
        let (result, tries, paused) = run(u32::MAX, sharing);
        assert_eq!(
            result.map_err(|error| error.raw_os_error()),
            Err(Some(SHARING_VIOLATION))
        );
        assert_eq!(tries, TRIES);
        assert!(paused < Duration::from_secs(1), "{paused:?}");
    }

    #[test]
    fn what_does_not_pass_is_not_tried_again() {
        let (result, tries, paused) = run(1, || ErrorKind::StorageFull.into());
        assert_eq!((tries, paused), (1, Duration::ZERO));
        assert_eq!(
            result.map_err(|error| error.kind()),
            Err(ErrorKind::StorageFull)
        );
    }

    #[test]
    fn what_passes_depends_on_the_system() {
        let denied = || io::Error::from(ErrorKind::PermissionDenied);
        let raw = io::Error::from_raw_os_error;
        for error in [denied(), raw(SHARING_VIOLATION), raw(LOCK_VIOLATION)] {
            assert!(is_transient(&error, true), "{error}");
        }
        // On Unix, 32 is a broken pipe, and a denial is lasting.
        for error in [denied(), raw(SHARING_VIOLATION), raw(LOCK_VIOLATION)] {
            assert!(!is_transient(&error, false), "{error}");
        }
        for is_windows in [true, false] {
            assert!(is_transient(&ErrorKind::ResourceBusy.into(), is_windows));
            assert!(!is_transient(&ErrorKind::NotFound.into(), is_windows));
        }
    }
}
