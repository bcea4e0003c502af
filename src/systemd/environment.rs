//! What systemd tells a service in its environment.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr;
use std::process;
use std::time::Duration;

use super::error::SystemdError;

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
const WATCHDOG_PID: &str = "WATCHDOG_PID";

#[cfg(target_os = "linux")]
const ALLOWED_SOCKET: &str = "an absolute path, or `@` and the name of an abstract socket";
#[cfg(not(target_os = "linux"))]
const ALLOWED_SOCKET: &str = "an absolute path";

/// What systemd tells a service that it wants to be notified by.
#[derive(Debug)]
pub(super) struct Environment {
    /// Where the messages go.
    pub(super) socket: SocketAddr,
    /// The service is restarted if no keep-alive message comes for this time. `None` if systemd does not wait for one.
    pub(super) watchdog: Option<Duration>,
}

// ===== impl Environment =====

impl Environment {
    /// Returns `None` if systemd does not want to be notified.
    pub(super) fn read() -> Result<Option<Self>, SystemdError> {
        Self::from_variables(process::id(), |name| env::var_os(name))
    }

    fn from_variables(
        pid: u32,
        lookup: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>, SystemdError> {
        let Some(socket) = lookup(NOTIFY_SOCKET) else {
            return Ok(None);
        };
        let socket = address(&socket).map_err(|source| {
            SystemdError::bad_value(NOTIFY_SOCKET, socket, ALLOWED_SOCKET, source)
        })?;
        // A child inherits the variables of a service, but is not watched.
        let watched = number(WATCHDOG_PID, "a process ID", &lookup)?;
        let watchdog = if watched.is_some_and(|watched: u32| watched != pid) {
            None
        } else {
            number(WATCHDOG_USEC, "microseconds, above zero", &lookup)?
        };
        Ok(Some(Self {
            socket,
            watchdog: watchdog.map(Duration::from_micros),
        }))
    }
}

/// Reads the address of a socket. The error has a source if the system knows what is wrong.
fn address(text: &OsStr) -> Result<SocketAddr, Option<io::Error>> {
    match text.as_bytes() {
        [b'/', _, ..] => SocketAddr::from_pathname(text).map_err(Some),
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name).map_err(Some),
        _ => Err(None),
    }
}

/// Reads a number above zero.
fn number<T: TryFrom<u64>>(
    variable: &'static str,
    allowed: &'static str,
    lookup: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<T>, SystemdError> {
    let Some(value) = lookup(variable) else {
        return Ok(None);
    };
    let number = value.to_str().and_then(|text| text.parse().ok());
    let number = number.filter(|number| *number > 0);
    match number.and_then(|number: u64| T::try_from(number).ok()) {
        Some(number) => Ok(Some(number)),
        None => Err(SystemdError::bad_value(variable, value, allowed, None)),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::path::Path;

    use super::*;

    const PID: u32 = 7;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Environment>, SystemdError> {
        Environment::from_variables(PID, |name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    fn watchdog(variables: &[(&str, &str)]) -> Option<Duration> {
        let variables = [&[(NOTIFY_SOCKET, "/run/x")], variables].concat();
        read(&variables).unwrap().unwrap().watchdog
    }

    #[test]
    fn without_a_socket_there_is_nobody_to_notify() {
        assert!(read(&[]).unwrap().is_none());
        // Not even looked at.
        assert!(read(&[(WATCHDOG_USEC, "soon")]).unwrap().is_none());
    }

    #[test]
    fn a_socket_is_a_path_or_abstract() {
        let path = read(&[(NOTIFY_SOCKET, "/run/systemd/notify")]).unwrap();
        let path = path.unwrap().socket;
        assert_eq!(path.as_pathname(), Some(Path::new("/run/systemd/notify")));

        #[cfg(target_os = "linux")]
        {
            let name = read(&[(NOTIFY_SOCKET, "@notify/7")]).unwrap();
            let name = name.unwrap().socket;
            assert_eq!(name.as_abstract_name(), Some(&b"notify/7"[..]));
        }
    }

    #[test]
    fn a_bad_socket_is_an_error_that_says_what_is_allowed() {
        let long = format!("/{}", "x".repeat(200));
        for bad in ["", "/", "@", "run/notify", "vsock:2:1234", &long] {
            let error = read(&[(NOTIFY_SOCKET, bad)]).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("NOTIFY_SOCKET is {bad:?}, but must be {ALLOWED_SOCKET}")
            );
            // The system says that it is too long.
            assert_eq!(error.source().is_some(), bad == long, "{bad}");
        }
    }

    #[test]
    fn the_watchdog_is_ours_unless_it_names_another_process() {
        let second = Some(Duration::from_secs(1));
        let usec = (WATCHDOG_USEC, "1000000");
        assert_eq!(watchdog(&[]), None);
        assert_eq!(watchdog(&[usec]), second);
        assert_eq!(watchdog(&[usec, (WATCHDOG_PID, "7")]), second);
        assert_eq!(watchdog(&[usec, (WATCHDOG_PID, "8")]), None);
        // No matter what it says to the other one.
        assert_eq!(watchdog(&[(WATCHDOG_USEC, "x"), (WATCHDOG_PID, "8")]), None);
    }

    #[test]
    fn a_bad_number_is_an_error_that_says_what_is_allowed() {
        for (variable, bad, allowed) in [
            (WATCHDOG_USEC, "10s", "microseconds, above zero"),
            (WATCHDOG_USEC, "0", "microseconds, above zero"),
            (WATCHDOG_USEC, "-1", "microseconds, above zero"),
            (WATCHDOG_PID, "", "a process ID"),
            (WATCHDOG_PID, "4294967296", "a process ID"),
        ] {
            let error = read(&[(NOTIFY_SOCKET, "/run/x"), (variable, bad)]).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("{variable} is {bad:?}, but must be {allowed}")
            );
        }
    }
}
