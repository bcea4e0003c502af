//! A Unix socket that removes its file.

use std::os::unix::fs::MetadataExt;
use std::path::{self, Path, PathBuf};
use std::{fmt, fs, io};

use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};

#[cfg(feature = "server")]
use super::listener::Listener;
use crate::log::tell;

/// A listening Unix socket that removes its file when it is dropped.
///
/// The file of a Unix socket remains when the socket is closed, and the next process cannot bind its path
/// then. This is a listener for [`serve`](crate::serve) and, with feature `axum`, for `axum::serve` and
/// `DrainListener`. They drop it when they stop accepting, and it removes the file then.
///
/// Before that it checks, by device and inode, that its path still leads to the file that it created. The
/// file of a successor that has taken over the path is left alone. The owner and the permissions of the
/// file may change.
///
/// What is not promised:
///
/// - A successor may take over the path by removing the file and binding again, or by a rename. It loses
///   its file if it does so in the microseconds between the check and the removal, or between the
///   creation of the file and the first look at it.
/// - A process that is killed leaves the file. [`bind`](Self::bind) does not remove an existing file,
///   because it cannot know whether another process serves on it.
/// - If a directory of the path is moved or mounted over, the file remains.
///
/// Do not use it for a socket that other processes share or inherit, as with socket activation: clients
/// reach all of them through the one file. Use tokio's own [`UnixListener`] then.
///
/// # Examples
///
#[cfg_attr(feature = "server", doc = "```")]
#[cfg_attr(not(feature = "server"), doc = "```ignore")]
/// use axum::Router;
/// use tower_lifecycle::server::UnixSocket;
/// use tower_lifecycle::{ShutdownController, ShutdownReason, serve};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// # let path = std::env::temp_dir().join(format!("tower-lifecycle-doc-{}", std::process::id()));
/// let ctl = ShutdownController::new();
/// let socket = UnixSocket::bind(&path)?;
/// assert!(path.exists());
/// # ctl.trigger(ShutdownReason::Manual);
/// serve(socket, Router::<()>::new(), ctl).await;
/// assert!(!path.exists());
/// # Ok(()) }
/// ```
pub struct UnixSocket {
    // Declared first, so that the file is removed before the socket is closed. The open socket keeps the
    // inode, so no other file can have the same number.
    file: File,
    listener: UnixListener,
}

/// The file of a socket. Dropping this removes the file, if it is still the same one.
#[derive(Debug)]
struct File {
    path: PathBuf,
    /// `None` if the file should not be removed.
    id: Option<Id>,
}

/// The device and the inode.
type Id = (u64, u64);

// ===== impl UnixSocket =====

impl UnixSocket {
    /// Binds a socket at `path`, which creates its file.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`UnixListener::bind`], such as `AddrInUse` if any file exists at `path`.
    ///
    /// # Panics
    ///
    /// Panics if called outside a tokio runtime with I/O.
    pub fn bind<P: AsRef<Path>>(path: P) -> io::Result<Self> {
        let path = path.as_ref();
        // The working directory may change before the file is removed.
        let absolute = path::absolute(path)?;
        let listener = UnixListener::bind(path)?;
        let id = id_of(path).ok();
        let file = File { path: absolute, id };
        Ok(Self { file, listener })
    }

    /// Returns the listener alone. Its file remains when the listener is dropped.
    pub fn into_inner(self) -> UnixListener {
        let Self { mut file, listener } = self;
        file.id = None;
        listener
    }
}

impl AsRef<UnixListener> for UnixSocket {
    fn as_ref(&self) -> &UnixListener {
        &self.listener
    }
}

#[cfg(feature = "server")]
impl Listener for UnixSocket {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> io::Result<(UnixStream, SocketAddr)> {
        self.listener.accept().await
    }
}

#[cfg(feature = "axum")]
impl axum::serve::Listener for UnixSocket {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        axum::serve::Listener::accept(&mut self.listener).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl fmt::Debug for UnixSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixSocket")
            .field("path", &self.file.path)
            .finish_non_exhaustive()
    }
}

// ===== impl File =====

impl Drop for File {
    fn drop(&mut self) {
        let path = &self.path;
        // If the file is gone already, there is nothing to remove.
        if self.id.is_some() && self.id == id_of(path).ok() {
            if let Err(error) = fs::remove_file(path) {
                let path = path.clone();
                tell!(warn, %error, ?path, "cannot remove the socket file");
            }
        }
    }
}

/// Returns the id of `path` itself, even if it is a symbolic link.
fn id_of(path: &Path) -> io::Result<Id> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
