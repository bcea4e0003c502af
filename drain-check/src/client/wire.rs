//! A TCP connection that counts its bytes: whether something was sent or received decides a fate.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
#[cfg(target_has_atomic = "64")]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

#[cfg(not(target_has_atomic = "64"))]
use portable_atomic::AtomicU64;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A TCP connection that counts its bytes.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    traffic: Traffic,
}

/// What a connection has received and sent. Clones share it.
#[derive(Debug, Clone)]
pub struct Traffic(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    received: AtomicU64,
    sent: AtomicU64,
    opened: Instant,
    /// In nanoseconds after that.
    last_write: AtomicU64,
}

impl Traffic {
    /// Returns how many bytes were received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    /// Returns how many bytes were sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// Returns when the last of them were sent.
    #[must_use]
    pub fn last_write(&self) -> Instant {
        self.0.opened + Duration::from_nanos(self.0.last_write.load(Ordering::Relaxed))
    }

    fn add_received(&self, count: usize) {
        self.0.received.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn add_sent(&self, count: usize) {
        self.0.sent.fetch_add(count as u64, Ordering::Relaxed);
        let since = u64::try_from(self.0.opened.elapsed().as_nanos());
        self.0
            .last_write
            .store(since.unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Wire {
    /// Connects to a server.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let traffic = Traffic(Arc::new(Counts {
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            opened: Instant::now(),
            last_write: AtomicU64::new(0),
        }));
        Ok(Self { stream, traffic })
    }

    /// Returns what it has received and sent, now and later.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic.clone()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.traffic.add_received(buf.filled().len() - before);
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = polled {
            self.traffic.add_sent(count);
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(count)) = polled {
            self.traffic.add_sent(count);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
