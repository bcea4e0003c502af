//! Taking the sockets that this process was given.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process;

use listenfd::ListenFd;
use tokio::net::ToSocketAddrs;

use super::inherit_error::{InheritError, InheritErrorKind};
use super::protocol::{LISTEN_FDNAMES, LISTEN_FDS, LISTEN_PID, READY, READY_BYTE};
use crate::controller::ShutdownController;
use crate::log::tell;
use crate::shutdown::Core;
use crate::state::LifecycleState;
use crate::sync::{Arc, Mutex, lock};

/// The most descriptors that are believed in.
const MOST: usize = 1 << 16;

/// The listening sockets that this process was given by systemd (socket activation) or by its predecessor (a
/// [`HandOver`](super::HandOver)).
///
/// The protocol is that of sd_listen_fds(3): `LISTEN_FDS` and `LISTEN_FDNAMES`. The predecessor leaves out
/// `LISTEN_PID`. If it is there, as with systemd, it has to be the ID of this process.
///
/// In a process that was not given anything, each socket is bound by
/// [`or_bind`](Given::or_bind). So a first start needs no other code.
///
/// When the process is ready, call [`ready_with`](Self::ready_with) or [`ready`](Self::ready), which let
/// a predecessor shut down, and let `serve` know that it has the sockets, too, until then. If this is dropped without that, the predecessor takes it for a failed
/// start. Sockets that were not taken are then closed, with a warning.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::ShutdownController;
/// use tower_lifecycle::restart::Inherited;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut inherited = Inherited::from_env()?;
/// let ctl = ShutdownController::new();
/// let http = inherited.tcp("http")?.or_bind("127.0.0.1:0").await?;
/// let admin = inherited.tcp("admin")?.or_bind("127.0.0.1:0").await?;
/// inherited.ready_with(&ctl);
/// # drop((http, admin));
/// # Ok(()) }
/// ```
#[must_use = "a predecessor waits until this says that the process is ready"]
pub struct Inherited {
    sockets: Vec<Socket>,
    predecessor: Option<Predecessor>,
}

/// The process that has started this one, and waits until it is ready.
struct Predecessor {
    connection: UnixStream,
    /// It has the listening sockets, too.
    shares_sockets: bool,
}

struct Socket {
    /// `None` if the environment has no names.
    name: Option<String>,
    kind: Kind,
}

enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
    /// Left as it is.
    Other,
}

/// A listening socket that was given under a name, or nothing: created by [`Inherited::tcp`] and
/// [`Inherited::unix`].
#[derive(Debug)]
#[must_use = "a socket that was given is closed if it is not used"]
pub struct Given<L>(Option<L>);

// ===== impl Inherited =====

impl Inherited {
    /// Takes all sockets that this process was given.
    ///
    /// Call it at the start of the program, before it starts processes: from then on no process that it starts
    /// inherits the sockets, and `LISTEN_FDS` and `LISTEN_PID` are removed from the environment
    /// (by `listenfd`). So a second call finds nothing. `LISTEN_FDNAMES` stays, and means nothing alone.
    /// A C library that reads the environment in another thread at this moment is a data race, as
    /// with [`std::env::remove_var`].
    ///
    /// Descriptors that are neither TCP nor Unix stream sockets are left as they are, open and inherited.
    ///
    /// # Errors
    ///
    /// Returns an [`InheritError`] if `LISTEN_FDS` is not a number, or there are not as many names as
    /// sockets. Nothing is taken then. Variables that are meant for another process are no error.
    pub fn from_env() -> Result<Self, InheritError> {
        let names = names_for(process::id(), |name| env::var_os(name))?;
        let mut given = ListenFd::from_env();
        let mut names = names.into_iter();
        let (mut sockets, mut connection) = (Vec::new(), None);
        for number in 0..given.len() {
            let name = names.next();
            match Kind::take(&mut given, number) {
                Kind::Unix(socket) if name.as_deref() == Some(READY) => {
                    connection = Some(UnixStream::from(OwnedFd::from(socket)));
                }
                kind => sockets.push(Socket { name, kind }),
            }
        }
        let predecessor = connection.map(|connection| Predecessor {
            connection,
            shares_sockets: !sockets.is_empty(),
        });
        let inherited = Self {
            sockets,
            predecessor,
        };
        let sockets = inherited.sockets.len();
        if sockets > 0 {
            tell!(info, sockets, "listening sockets inherited");
        }
        Ok(inherited)
    }

    /// Returns whether another process waits until this one is ready, and then shuts down.
    pub fn has_predecessor(&self) -> bool {
        self.predecessor.is_some()
    }

    /// Takes the TCP socket of this name.
    ///
    /// If several have it, as with a systemd unit with several `ListenStream=` lines, each call takes the next
    /// one. If the sockets have no names, as with `systemd-socket-activate` by default, each call takes the next
    /// TCP socket. systemd names a socket by `FileDescriptorName=`, or after its unit, such as `app.socket`.
    ///
    /// # Errors
    ///
    /// Returns an [`InheritError`] if there is a descriptor of this name that is not a TCP socket.
    pub fn tcp(&mut self, name: &str) -> Result<Given<TcpListener>, InheritError> {
        let take = |kind| match kind {
            Kind::Tcp(socket) => Ok(socket),
            other => Err(other),
        };
        self.take(name, Kind::TCP, take).map(Given)
    }

    /// Takes the Unix stream socket of this name, as [`tcp`](Self::tcp) does.
    ///
    /// # Errors
    ///
    /// Returns an [`InheritError`] if there is a descriptor of this name that is not such a socket.
    pub fn unix(&mut self, name: &str) -> Result<Given<UnixListener>, InheritError> {
        let take = |kind| match kind {
            Kind::Unix(socket) => Ok(socket),
            other => Err(other),
        };
        self.take(name, Kind::UNIX, take).map(Given)
    }

    fn take<L>(
        &mut self,
        name: &str,
        wanted: &'static str,
        take: impl Fn(Kind) -> Result<L, Kind>,
    ) -> Result<Option<L>, InheritError> {
        let mut found = None;
        for number in 0..self.sockets.len() {
            let socket = &mut self.sockets[number];
            if socket.name.as_deref().is_some_and(|other| other != name) {
                continue;
            }
            let is_named = socket.name.is_some();
            match take(std::mem::replace(&mut socket.kind, Kind::Other)) {
                Ok(taken) => {
                    self.sockets.remove(number);
                    return Ok(Some(taken));
                }
                Err(kind) => {
                    if is_named {
                        found.get_or_insert(kind.name());
                    }
                    socket.kind = kind;
                }
            }
        }
        match found {
            Some(found) => Err(InheritErrorKind::Kind {
                name: name.to_owned(),
                wanted,
                found,
            }
            .into()),
            None => Ok(None),
        }
    }

    /// Says that this process is ready, as soon as the state of `ctl` is `Running`. A predecessor then shuts
    /// down.
    ///
    /// A [`ShutdownController`] is `Running` from the beginning, so call this after the sockets are taken
    /// or bound. With a [`Startup`](crate::Startup) it is `Running` after `finish`. If it
    /// never is, because the start-up fails or a shutdown is triggered before, the predecessor goes on.
    ///
    /// A step of the start-up must not wait for anything that the predecessor holds until its end, such as
    /// the lock of a `FileStore`: it would wait for us. Use [`ready`](Self::ready) before that step.
    pub fn ready_with(mut self, ctl: &ShutdownController) {
        let Some(predecessor) = self.predecessor.take() else {
            return;
        };
        let predecessor = Arc::new(Mutex::new(Some(predecessor)));
        let in_observer = Arc::clone(&predecessor);
        // Weak, because it is the core that keeps the observer.
        let core = Arc::downgrade(ctl.core());
        ctl.on_state_change(move |_, state| {
            if let Some(core) = core.upgrade() {
                tell_if_running(&in_observer, state, &core);
            }
        });
        // It may have been reached before.
        tell_if_running(&predecessor, ctl.state(), ctl.core());
    }

    /// Says that this process is ready, whatever the state of `ctl` is. A predecessor shuts down now.
    pub fn ready(mut self, ctl: &ShutdownController) {
        if let Some(predecessor) = self.predecessor.take() {
            predecessor.tell(ctl.core());
        }
    }
}

/// Past `Running` nothing is said any more, and the end of the connection says so.
fn tell_if_running(predecessor: &Mutex<Option<Predecessor>>, state: LifecycleState, core: &Core) {
    if state >= LifecycleState::Running {
        let predecessor = lock(predecessor).take();
        if let Some(predecessor) = predecessor.filter(|_| state == LifecycleState::Running) {
            predecessor.tell(core);
        }
    }
}

/// Reads the names of the sockets that are meant for the process `pid`. What is meant for another one is not
/// looked at.
fn names_for(
    pid: u32,
    lookup: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<String>, InheritError> {
    let lookup = |name| lookup(name).map(|value| value.to_string_lossy().into_owned());
    // As in `listenfd`.
    let is_other = |meant: String| !meant.is_empty() && meant.parse() != Ok(pid);
    if lookup(LISTEN_PID).is_some_and(is_other) {
        return Ok(Vec::new());
    }
    let count = lookup(LISTEN_FDS).map_or(Ok(0), |value| count(&value))?;
    match lookup(LISTEN_FDNAMES) {
        Some(names) if count > 0 => names_of(&names, count),
        _ => Ok(Vec::new()),
    }
}

fn count(value: &str) -> Result<usize, InheritError> {
    let count = value.parse().ok().filter(|count| *count <= MOST);
    count.ok_or_else(|| InheritErrorKind::Count(value.to_owned()).into())
}

fn names_of(value: &str, sockets: usize) -> Result<Vec<String>, InheritError> {
    let names: Vec<_> = value.split(':').map(str::to_owned).collect();
    if names.len() == sockets {
        Ok(names)
    } else {
        let names = names.len();
        Err(InheritErrorKind::Names { names, sockets }.into())
    }
}

// ===== impl Predecessor =====

impl Predecessor {
    /// Tells it that this process is ready.
    fn tell(mut self, core: &Core) {
        // Does not block: the buffer is empty. The process may have given up, or have ended.
        let told = self.connection.write_all(&[READY_BYTE]);
        let told = told.and_then(|()| self.connection.set_nonblocking(true));
        match told {
            Ok(()) if self.shares_sockets => core.hand_over.note_predecessor(self.connection),
            Ok(()) => {}
            Err(error) => {
                tell!(warn, %error, "cannot tell the old process that this one is ready");
            }
        }
    }
}

impl Drop for Inherited {
    fn drop(&mut self) {
        let left = self.sockets.iter().filter_map(|socket| match socket.kind {
            Kind::Other => None,
            _ => Some(socket.name.as_deref().unwrap_or("(no name)").to_owned()),
        });
        let left: Vec<_> = left.collect();
        if !left.is_empty() {
            tell!(
                warn,
                names = ?left,
                "inherited sockets that were not taken are closed: are they asked for by these names?"
            );
        }
    }
}

impl fmt::Debug for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for socket in &self.sockets {
            map.entry(&socket.name, &socket.kind.name());
        }
        map.finish()
    }
}

// ===== impl Kind =====

impl Kind {
    const TCP: &'static str = "a TCP socket";
    const UNIX: &'static str = "a Unix stream socket";

    /// Takes a descriptor, which no process that is started inherits from then on.
    fn take(given: &mut ListenFd, number: usize) -> Self {
        if let Ok(Some(socket)) = given.take_tcp_listener(number) {
            return Self::Tcp(socket);
        }
        match given.take_unix_listener(number) {
            Ok(Some(socket)) => Self::Unix(socket),
            _ => Self::Other,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Tcp(_) => Self::TCP,
            Self::Unix(_) => Self::UNIX,
            Self::Other => "neither a TCP nor a Unix stream socket",
        }
    }
}

// ===== impl Given =====

impl<L> Given<L> {
    /// Returns whether there is a socket.
    pub fn is_given(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the socket, if there is one. It is blocking or not, as its other processes have set it.
    pub fn into_inner(self) -> Option<L> {
        self.0
    }
}

impl Given<TcpListener> {
    /// Returns the socket, or binds one to `address` if there is none.
    ///
    /// # Errors
    ///
    /// Returns the error of [`bind`](tokio::net::TcpListener::bind), or of the runtime.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime with I/O.
    pub async fn or_bind<A: ToSocketAddrs>(
        self,
        address: A,
    ) -> io::Result<tokio::net::TcpListener> {
        match self.0 {
            Some(socket) => {
                socket.set_nonblocking(true)?;
                tokio::net::TcpListener::from_std(socket)
            }
            None => tokio::net::TcpListener::bind(address).await,
        }
    }
}

impl Given<UnixListener> {
    /// Returns the socket, or binds one at `path` if there is none.
    ///
    /// The file of a socket that is handed on cannot be removed by the processes that let it go, so the last one
    /// leaves it behind. A file of a socket on which nobody listens is therefore replaced: if a connection to
    /// it is refused. Two processes that are started at the same moment may both do so, and
    /// then one of them has no file.
    ///
    /// # Errors
    ///
    /// Returns the error of [`bind`](tokio::net::UnixListener::bind), such as `AddrInUse` if a process
    /// listens there or the file is not a socket, or the error of the runtime.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime with I/O.
    pub async fn or_bind<P: AsRef<Path>>(self, path: P) -> io::Result<tokio::net::UnixListener> {
        if let Some(socket) = self.0 {
            socket.set_nonblocking(true)?;
            return tokio::net::UnixListener::from_std(socket);
        }
        let path = path.as_ref();
        match tokio::net::UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && is_left_behind(path).await => {
                std::fs::remove_file(path)?;
                tokio::net::UnixListener::bind(path)
            }
            bound => bound,
        }
    }
}

/// Returns whether `path` is the file of a socket on which nobody listens.
async fn is_left_behind(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    let connected = tokio::net::UnixStream::connect(path).await;
    is_socket && connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;

    fn inherited(names: &[Option<&str>]) -> (Inherited, Vec<u16>) {
        let listeners = names
            .iter()
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("a socket"));
        let listeners: Vec<_> = listeners.collect();
        let ports = listeners.iter().map(port).collect();
        let sockets = names.iter().zip(listeners).map(|(name, listener)| Socket {
            name: name.map(str::to_owned),
            kind: Kind::Tcp(listener),
        });
        let inherited = Inherited {
            sockets: sockets.collect(),
            predecessor: None,
        };
        (inherited, ports)
    }

    fn port(listener: &TcpListener) -> u16 {
        listener.local_addr().expect("an address").port()
    }

    fn take(inherited: &mut Inherited, name: &str) -> Option<u16> {
        let given = inherited.tcp(name).expect("a TCP socket");
        given.into_inner().as_ref().map(port)
    }

    #[test]
    fn sockets_are_taken_by_name_and_those_of_one_name_in_order() {
        let (mut inherited, ports) = inherited(&[Some("a"), Some("b"), Some("a")]);
        assert_eq!(take(&mut inherited, "b"), Some(ports[1]));
        assert_eq!(take(&mut inherited, "c"), None);
        assert_eq!(take(&mut inherited, "a"), Some(ports[0]));
        assert_eq!(take(&mut inherited, "a"), Some(ports[2]));
        assert_eq!(take(&mut inherited, "a"), None);
    }

    #[test]
    fn sockets_without_names_are_taken_in_order() {
        let (mut inherited, ports) = inherited(&[None, None]);
        assert_eq!(take(&mut inherited, "b"), Some(ports[0]));
        assert_eq!(take(&mut inherited, "a"), Some(ports[1]));
        assert_eq!(take(&mut inherited, "a"), None);
    }

    #[test]
    fn a_socket_of_another_kind_is_an_error_and_stays() {
        let (mut inherited, ports) = inherited(&[Some("a")]);
        let error = inherited.unix("a").expect_err("it is a TCP socket");
        assert_eq!(
            error.to_string(),
            "the inherited descriptor `a` is a TCP socket, but a Unix stream socket is asked for"
        );
        assert_eq!(take(&mut inherited, "a"), Some(ports[0]));
    }

    #[test]
    fn what_is_meant_for_another_process_is_not_looked_at() {
        let names = |fds: &str, pid: &str| {
            names_for(7, |name| match name {
                LISTEN_FDS => Some(fds.into()),
                LISTEN_FDNAMES => Some("a:b".into()),
                LISTEN_PID => Some(pid.into()),
                _ => None,
            })
        };
        for ours in ["7", ""] {
            assert_eq!(names("2", ours), Ok(vec!["a".to_owned(), "b".to_owned()]));
            assert!(names("x", ours).is_err());
            assert!(names("3", ours).is_err());
        }
        for other in ["8", "x"] {
            for fds in ["2", "x", "3"] {
                assert_eq!(names(fds, other), Ok(Vec::new()), "{fds} for {other}");
            }
        }
    }

    #[test]
    fn bad_variables_are_errors_that_say_what_is_allowed() {
        assert_eq!(count("2"), Ok(2));
        for bad in ["", "x", "-1", "65537", "99999999999999999999"] {
            assert_eq!(
                count(bad).expect_err("bad").to_string(),
                format!(
                    "LISTEN_FDS is {bad:?}, but must be a number of descriptors, at most 65536"
                )
            );
        }
        assert_eq!(names_of("a:", 2), Ok(vec!["a".to_owned(), String::new()]));
        assert_eq!(
            names_of("a:b", 3).expect_err("bad").to_string(),
            "LISTEN_FDNAMES has 2 names for 3 sockets, but must have one for each"
        );
    }
}
