//! The new process, as the old one sees it.

use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::hand_over_error::{HandOverError, HandOverErrorKind};
use super::program::Program;
use super::protocol::{FIRST_FD, LISTEN_FDNAMES, LISTEN_FDS, READY, READY_BYTE};
use super::sockets::Unready;
use crate::sync::{Arc, Mutex, lock};

/// How often the process is looked at. std has no wait with a limit, and a handler for SIGCHLD would be the
/// application's.
pub(super) const POLL: Duration = Duration::from_millis(20);
/// How long the exit status may come after the end of the socket.
const UNTIL_STATUS: Duration = Duration::from_secs(1);

/// A new process. It is killed when this is dropped, unless it was [kept](Self::keep).
#[derive(Debug)]
pub(super) struct Successor {
    child: Arc<Mutex<Child>>,
    /// `None` once the sockets are left to it for good.
    ready: Option<UnixStream>,
    is_kept: bool,
}

/// What came on the socket.
enum Said {
    Ready,
    /// The process, and all that have inherited the socket, have closed it.
    Closed,
    Nothing,
}

impl Successor {
    /// Starts `program` with these sockets.
    pub(super) fn start(
        program: &Program,
        sockets: Vec<(String, OwnedFd)>,
    ) -> Result<Self, HandOverError> {
        let no_socket = |error| HandOverErrorKind::System("a socket", error);
        let (ready, theirs) = UnixStream::pair().map_err(no_socket)?;
        ready.set_read_timeout(Some(POLL)).map_err(no_socket)?;
        let mut sockets = sockets;
        sockets.push((READY.to_owned(), theirs.into()));
        let names: Vec<_> = sockets.iter().map(|(name, _)| name.as_str()).collect();

        let mut command = program.command();
        command.env(LISTEN_FDS, sockets.len().to_string());
        command.env(LISTEN_FDNAMES, names.join(":"));
        let numbers = FIRST_FD..;
        let mappings = sockets
            .into_iter()
            .zip(numbers)
            .map(|((_, parent_fd), child_fd)| FdMapping {
                parent_fd,
                child_fd,
            });
        let mappings: Vec<_> = mappings.collect();
        let last = mappings.last().map_or(FIRST_FD, |last| last.child_fd);
        let taken = take_numbers(&ready, last).map_err(no_socket)?;
        // Cannot fail: the numbers differ.
        let _ = command.fd_mappings(mappings);
        let child = command.spawn();
        // The command holds their end of the socket, which is to close with the process.
        drop((command, taken));
        let child = child.map_err(|error| HandOverErrorKind::Spawn(program.path.clone(), error))?;
        Ok(Self {
            child: Arc::new(Mutex::new(child)),
            ready: Some(ready),
            is_kept: false,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        lock(&self.child).id()
    }

    /// Waits until it says that it is ready, for at most `limit`, and as long as `go_on` returns `true`.
    /// Meanwhile a shutdown kills it.
    pub(super) fn wait_until_ready(
        &mut self,
        limit: Duration,
        unready: &Unready,
        go_on: impl Fn() -> bool,
    ) -> Result<(), HandOverError> {
        let deadline = Instant::now().checked_add(limit);
        unready.set(Some(&self.child));
        let said = loop {
            let said = self.listen();
            let is_late = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
            // If it has ended, a process that it has started may still have the socket.
            let is_over = || self.ended().is_some() || !go_on() || is_late();
            if !matches!(said, Said::Nothing) || is_over() {
                break said;
            }
        };
        unready.set(None);
        let ended = match said {
            // It may take until its end after the end of the socket.
            Said::Closed => self.status_within(UNTIL_STATUS),
            Said::Ready | Said::Nothing => self.ended(),
        };
        match (said, ended) {
            _ if !go_on() => Err(HandOverErrorKind::ShuttingDown.into()),
            (_, Some(status)) => Err(HandOverErrorKind::Ended(status).into()),
            (Said::Ready, None) => Ok(()),
            (Said::Closed, None) => Err(HandOverErrorKind::NeverReady.into()),
            (Said::Nothing, None) => Err(HandOverErrorKind::TimedOut(limit).into()),
        }
    }

    fn listen(&mut self) -> Said {
        let mut byte = [0];
        let Some(ready) = &mut self.ready else {
            return Said::Closed;
        };
        match ready.read(&mut byte) {
            Ok(1) if byte == [READY_BYTE] => Said::Ready,
            Ok(_) => Said::Closed,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {
                    Said::Nothing
                }
                _ => Said::Closed,
            },
        }
    }

    fn status_within(&self, limit: Duration) -> Option<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.ended();
            if ended.is_some() || Instant::now() >= deadline {
                return ended;
            }
            thread::sleep(POLL / 10);
        }
    }

    /// Returns whether it has ended, and how. The status is unknown if other code has waited for it.
    pub(super) fn ended(&self) -> Option<Option<ExitStatus>> {
        match lock(&self.child).try_wait() {
            Ok(None) => None,
            Ok(status) => Some(status),
            Err(_) => Some(None),
        }
    }

    /// Waits until it ends.
    pub(super) fn wait(&self) -> Option<ExitStatus> {
        lock(&self.child).wait().ok()
    }

    /// Lets it live on.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }

    /// Tells it that this process will not go on with the sockets.
    pub(super) fn let_go(&mut self) {
        self.ready = None;
    }

    /// Asks it to shut down.
    pub(super) fn terminate(&self) {
        if let Ok(pid) = i32::try_from(lock(&self.child).id()) {
            // It may just have ended. It has not been waited for, so no other process has this ID.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.is_kept {
            // Fails if it has ended.
            let _ = lock(&self.child).kill();
            let _ = lock(&self.child).wait();
        }
    }
}

/// Takes the free descriptors up to this number, so that the pipe by which std learns of a failed start is not
/// among those that the new process gets.
fn take_numbers(socket: &UnixStream, last: i32) -> io::Result<Vec<UnixStream>> {
    let mut taken = Vec::new();
    loop {
        // The system gives the lowest free number.
        let next = socket.try_clone()?;
        if next.as_raw_fd() > last {
            return Ok(taken);
        }
        taken.push(next);
    }
}
