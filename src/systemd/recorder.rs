//! A socket like systemd's, for tests.
#![allow(clippy::unwrap_used)]

use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

/// For tests with a paused clock: lets every other task run until it waits.
pub(super) const MOMENT: Duration = Duration::from_millis(1);

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A socket like systemd's, which keeps what is sent to it. By default Linux keeps eleven messages.
pub(super) struct Recorder {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Recorder {
    pub(super) fn new(name: &str) -> Self {
        let name = format!("tower-lifecycle-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let socket = bind(&path);
        Self { socket, path }
    }

    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::from_pathname(&self.path).unwrap()
    }

    /// Returns what was sent until now.
    pub(super) fn read(&self) -> Vec<String> {
        let mut buffer = [0; 1024];
        let messages = std::iter::from_fn(|| match self.socket.recv(&mut buffer) {
            Ok(length) => Some(String::from_utf8(buffer[..length].to_vec()).unwrap()),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                None
            }
        });
        messages.collect()
    }

    /// Returns what was sent until `time` from now.
    pub(super) async fn read_for(&self, time: Duration) -> Vec<String> {
        sleep(time).await;
        self.read()
    }

    /// Fills the buffer, and returns how many messages fit.
    pub(super) fn fill(&self) -> usize {
        let other = UnixDatagram::unbound().unwrap();
        other.set_nonblocking(true).unwrap();
        let fits = || other.send_to(b"other", &self.path).is_ok();
        std::iter::repeat_with(fits)
            .take_while(|fits| *fits)
            .count()
    }

    pub(super) fn vanish(&self) {
        std::fs::remove_file(&self.path).unwrap();
    }

    pub(super) fn come_back(&mut self) {
        self.socket = bind(&self.path);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn bind(path: &PathBuf) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}
