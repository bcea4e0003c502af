//! A server's process.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::check::error::Error;

/// How many lines of output are kept for an error message.
const LINES: usize = 12;

/// How long a drop waits for the end of a killed process.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

/// A server that runs. It is killed when it is dropped, and its port is free after that.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: Output,
    readers: [JoinHandle<()>; 2],
}

/// The last lines of output.
#[derive(Debug, Default, Clone)]
struct Output(Arc<Mutex<VecDeque<String>>>);

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    pub status: ExitStatus,
    /// It did not end by itself.
    pub was_killed: bool,
}

impl Process {
    /// Starts the command, with `{port}` replaced and PORT set.
    pub fn start(command: &[String], address: SocketAddr) -> Result<Self, Error> {
        let port = address.port().to_string();
        let mut words = command.iter().map(|word| word.replace("{port}", &port));
        let program = words.next().unwrap_or_default();
        let mut child = Command::new(&program)
            .args(words)
            .env("PORT", &port)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Start { program, source })?;
        let output = Output::default();
        let readers = [
            tokio::spawn(output.clone().read(child.stdout.take())),
            tokio::spawn(output.clone().read(child.stderr.take())),
        ];
        Ok(Self {
            child,
            output,
            readers,
        })
    }

    /// Returns how it ended, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Returns an error if it has ended.
    pub async fn check(&mut self) -> Result<(), Error> {
        match self.ended() {
            Some(status) => Err(Error::EndedEarly {
                status: describe(status),
                output: self.output().await,
            }),
            None => Ok(()),
        }
    }

    /// Returns the last lines of output.
    pub async fn output(&self) -> String {
        // What was written last is still on its way.
        sleep(Duration::from_millis(50)).await;
        self.output.text()
    }

    /// Sends a signal to this process, and to no other.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        // Without an id it has ended, which whoever waits for it learns.
        let Some(id) = self.child.id().and_then(|id| i32::try_from(id).ok()) else {
            return Ok(());
        };
        kill(Pid::from_raw(id), signal)
            .map_err(|error| Error::io("signal the server")(error.into()))
    }

    /// Waits for the end, and kills it when its time is up.
    pub async fn end(&mut self, within: Duration) -> Result<Ended, Error> {
        let waited = timeout(within, self.child.wait()).await;
        let was_killed = waited.is_err();
        let status = match waited {
            Ok(status) => status,
            Err(_) => {
                self.signal(Signal::SIGKILL)?;
                self.child.wait().await
            }
        };
        let status = status.map_err(Error::io("wait for the server"))?;
        Ok(Ended { status, was_killed })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.readers.iter().for_each(JoinHandle::abort);
        // The process ends a moment after the signal, and its port is free only then.
        let deadline = Instant::now() + KILLED_WITHIN;
        let _ = self.child.start_kill();
        while self.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Output {
    async fn read(self, pipe: Option<impl AsyncRead + Unpin>) {
        let Some(pipe) = pipe else { return };
        let mut lines = BufReader::new(pipe).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            let line: String = String::from_utf8_lossy(&line).chars().take(200).collect();
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() == LINES {
                kept.pop_front();
            }
            kept.push_back(line);
        }
    }

    fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Vec::from(kept.clone()).join("\n")
    }
}

/// Returns how a process ended, such as "exit status: 1".
pub fn describe(status: ExitStatus) -> String {
    status.to_string()
}

/// Returns an error if something listens there.
pub async fn check_port(address: SocketAddr, after_a_restart: bool) -> Result<(), Error> {
    match timeout(Duration::from_secs(1), TcpStream::connect(address)).await {
        Ok(Ok(_)) => Err(Error::PortTaken {
            address,
            after_a_restart,
        }),
        _ => Ok(()),
    }
}
