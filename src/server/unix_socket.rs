//! A Unix socket that takes its file with it.

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
/// A Unix socket's file stays when the socket is closed, and the next process cannot bind its path
/// then. This is a listener of [`serve`](crate::serve) and, with feature `axum`, of `axum::serve` and
/// of `DrainListener`. They drop it when they stop accepting, and then it removes the file.
///
/// Before that it looks whether its path still leads to the file that it made, by device and inode:
/// that of a successor that has taken the path is left alone. The owner and the permissions of the
/// file may be changed.
///
/// What is not promised:
///
/// - A successor that takes the path in between, by removing the file and binding it anew or by a
///   rename, loses its file if it does so in the microseconds between the look and the removal, or
///   between the making of the file and the first look at it.
/// - A process that is killed leaves the file. [`bind`](Self::bind) does not remove what is there:
///   it cannot tell whether somebody serves on it.
/// - Directories that are moved, or mounted over, in the meantime keep the file.
///
/// Do not use it for a socket that other processes share or inherit, as with socket activation: all
/// of them are reached by the one file. Use tokio's own [`UnixListener`] then.
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
    // Declared first, so that it is removed first: the open socket holds the inode, so no other file
    // can have its number meanwhile.
    file: File,
    listener: UnixListener,
}

/// The file of a socket; dropping it removes it, if it is still that one.
#[derive(Debug)]
struct File {
    path: PathBuf,
    /// `None` if it is to stay.
    id: Option<Id>,
}

/// The device and the inode.
type Id = (u64, u64);

// ===== impl UnixSocket =====

impl UnixSocket {
    /// Makes a socket at `path`, and its file.
    ///
    /// # Errors
    ///
    /// Those of [`UnixListener::bind`], such as `AddrInUse` if there is a file already, whoever made
    /// it.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O.
    pub fn bind<P: AsRef<Path>>(path: P) -> io::Result<Self> {
        let path = path.as_ref();
        // The working directory may be another at the end.
        let absolute = path::absolute(path)?;
        let listener = UnixListener::bind(path)?;
        let id = id_of(path).ok();
        let file = File { path: absolute, id };
        Ok(Self { file, listener })
    }

    /// Returns the listener alone. Its file stays when it is dropped.
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
        // There is nothing to look at if it is gone already.
        if self.id.is_some() && self.id == id_of(path).ok() {
            if let Err(error) = fs::remove_file(path) {
                let path = path.clone();
                tell!(warn, %error, ?path, "the socket's file stays");
            }
        }
    }
}

/// Of `path` itself, also if that is a symbolic link.
fn id_of(path: &Path) -> io::Result<Id> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
