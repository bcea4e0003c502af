//! Why a check could not run.

use std::error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Why a check could not run. The program exits with 2.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The arguments do not fit together, or one cannot be read.
    Arguments(String),
    /// Another process listens where the server is to listen.
    PortTaken {
        /// The server's address.
        address: SocketAddr,
        /// Whether a server of this run has listened there before, and has ended.
        after_a_restart: bool,
    },
    /// The command cannot be started.
    Start {
        /// The program, as given.
        program: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// The server ended before it answered, or without a signal.
    EndedEarly {
        /// How it ended.
        status: String,
        /// The last lines of its output.
        output: String,
    },
    /// The server did not answer in time. It was killed.
    NeverReady {
        /// How long it had.
        within: Duration,
        /// What the last attempt saw.
        last: String,
        /// The last lines of its output.
        output: String,
    },
    /// The server is ready, but cannot serve what is asked of it, even without a restart.
    Unusable {
        /// The path.
        path: String,
        /// What was seen.
        seen: String,
    },
    /// There is no program for the load balancer, or it does not run.
    Balancer {
        /// Its name.
        program: &'static str,
        /// What is wrong.
        what: String,
        /// What the operating system says, if it was asked.
        source: Option<io::Error>,
    },
    /// The operating system refused something else.
    Io {
        /// What was tried.
        what: String,
        /// What it says.
        source: io::Error,
    },
    /// Ctrl-C, or SIGTERM to this process.
    Interrupted,
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::Io { what, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arguments(what) => f.write_str(what),
            Self::PortTaken {
                address,
                after_a_restart: false,
            } => write!(
                f,
                "port taken: something already listens on {address}; stop it, or give the server and \
                 --url another port"
            ),
            Self::PortTaken { address, .. } => write!(
                f,
                "port taken: the server's process has ended, but something still listens on \
                 {address}; if the command is a script, let it `exec` the server, so that the \
                 signal reaches it"
            ),
            Self::Start { program, .. } => write!(
                f,
                "cannot start `{program}`; give a program in the PATH or with its path (no shell \
                 reads the command)"
            ),
            Self::EndedEarly { status, output } => {
                write!(
                    f,
                    "the server ended before it was signalled: {status}{}",
                    Output(output)
                )
            }
            Self::NeverReady {
                within,
                last,
                output,
            } => write!(
                f,
                "the server was not ready within {} s and was killed: {last}; check --url and \
                 --ready-path, or give it more time by --ready-within{}",
                within.as_secs_f64(),
                Output(output)
            ),
            Self::Unusable { path, seen } => {
                write!(f, "{path} is of no use for a check: {seen}")
            }
            Self::Balancer { program, what, .. } => write!(f, "{program} {what}"),
            Self::Io { what, .. } => write!(f, "cannot {what}"),
            Self::Interrupted => f.write_str("interrupted; the servers were killed"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Start { source, .. } | Self::Io { source, .. } => Some(source),
            Self::Balancer { source, .. } => source.as_ref().map(|source| source as _),
            _ => None,
        }
    }
}

/// The output of a server, below the message.
struct Output<'a>(&'a str);

impl fmt::Display for Output<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("; it printed nothing");
        }
        f.write_str("\nit printed:")?;
        self.0.lines().try_for_each(|line| write!(f, "\n  {line}"))
    }
}
