//! A server on pipes or sockets, and clients that work on bytes and frames.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, IntoFuture, pending};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tower_lifecycle::server::{App, Listener, Serve};
use tower_lifecycle::{ShutdownController, ShutdownReason, ShutdownReport, serve};

/// The time limit of a step, on the paused clock or the real one.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// The length of the response to `/big`.
pub const BIG: usize = 200 * 1024;

pub const REFUSED: &str = r#"{"error":"service is shutting down"}"#;
pub const CUT: &str = r#"{"error":"service stopped before the request was finished"}"#;

/// Fails the test if `future` exceeds the time limit.
pub async fn in_time<F: Future>(future: F) -> F::Output {
    let output = tokio::time::timeout(TIMEOUT, future).await;
    output.expect("it should not take this long")
}

// ===== servers =====

/// A listener without a socket, controlled by the test.
pub struct Pipes<I = DuplexStream> {
    steps: mpsc::UnboundedReceiver<io::Result<I>>,
    accepted: u32,
}

/// The other end of [`Pipes`].
#[derive(Clone)]
pub struct Connector<I = DuplexStream>(mpsc::UnboundedSender<io::Result<I>>);

pub fn pipes<I>() -> (Connector<I>, Pipes<I>) {
    let (sender, steps) = mpsc::unbounded_channel();
    let accepted = 0;
    (Connector(sender), Pipes { steps, accepted })
}

impl<I: AsyncRead + AsyncWrite + Unpin + Send + 'static> Listener for Pipes<I> {
    type Io = I;
    type Addr = u32;

    async fn accept(&mut self) -> io::Result<(I, u32)> {
        let Some(step) = self.steps.recv().await else {
            return pending().await;
        };
        let io = step?;
        self.accepted += 1;
        Ok((io, self.accepted))
    }
}

impl<I> Connector<I> {
    pub fn accept(&self, step: io::Result<I>) {
        assert!(self.0.send(step).is_ok(), "the listener is closed");
    }

    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl Connector {
    /// Connects a pipe with this capacity in each direction.
    pub fn pipe(&self, size: usize) -> DuplexStream {
        let (client, server) = duplex(size);
        self.accept(Ok(server));
        client
    }

    pub fn http1(&self) -> Http1<DuplexStream> {
        Http1::new(self.pipe(64 * 1024))
    }

    pub async fn http2(&self) -> Http2<DuplexStream> {
        Http2::new(self.pipe(64 * 1024), &[]).await
    }
}

/// Serves `app` on pipes.
pub fn start<S: App>(ctl: &ShutdownController, app: S) -> (Connector, Server) {
    start_with(ctl, app, |serve| serve)
}

/// Serves `app` on pipes, with settings.
pub fn start_with<S: App>(
    ctl: &ShutdownController,
    app: S,
    set: impl FnOnce(Serve<Pipes, S>) -> Serve<Pipes, S>,
) -> (Connector, Server) {
    let (connector, pipes) = pipes();
    let server = set(serve(pipes, app, ctl.clone()));
    (connector, Server(tokio::spawn(server.into_future())))
}

pub struct Server(pub JoinHandle<ShutdownReport>);

impl Server {
    pub fn is_running(&self) -> bool {
        !self.0.is_finished()
    }

    pub async fn report(self) -> ShutdownReport {
        in_time(self.0).await.unwrap()
    }

    /// Waits for the report, and asserts that nothing was cut.
    #[track_caller]
    pub fn graceful(self) -> impl Future<Output = ShutdownReport> {
        let caller = std::panic::Location::caller();
        async move {
            let report = self.report().await;
            let graceful = report.is_graceful() && !report.is_forced();
            assert!(graceful, "{caller}: {report}");
            report
        }
    }
}

// ===== HTTP/1 =====

/// A client that sends exactly what the test writes.
pub struct Http1<T> {
    pub io: T,
    buffer: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Http1<T> {
    pub fn new(io: T) -> Self {
        let buffer = Vec::new();
        Self { io, buffer }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        in_time(self.io.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Sends a GET and reads the response.
    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(get(path)).await;
        self.answer().await
    }

    /// Reads one response.
    pub async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await
    }

    /// Reads one response to a request with this method.
    pub async fn answer_to(&mut self, method: &str) -> Answer {
        let head = self.through(b"\r\n\r\n").await;
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let status = head[9..12].parse().unwrap();
        let mut body = Vec::new();
        let length = head.split("\r\ncontent-length: ").nth(1);
        if method == "HEAD" || status == 101 || status == 100 {
        } else if let Some(length) = length {
            let length = length.split("\r\n").next().unwrap().parse().unwrap();
            body = self.exactly(length).await;
        } else if head.contains("\r\ntransfer-encoding: chunked\r\n") {
            loop {
                let size = String::from_utf8(self.through(b"\r\n").await).unwrap();
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                let chunk = self.exactly(size + 2).await;
                body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    break;
                }
            }
        }
        Answer { status, head, body }
    }

    /// Reads until the server closes, without an error.
    pub async fn end(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.buffer);
        in_time(self.io.read_to_end(&mut rest)).await.unwrap();
        rest
    }

    async fn through(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            let found = self.buffer.windows(end.len()).position(|w| w == end);
            if let Some(at) = found {
                return self.buffer.drain(..at + end.len()).collect();
            }
            self.more().await;
        }
    }

    pub async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            self.more().await;
        }
        self.buffer.drain(..length).collect()
    }

    async fn more(&mut self) {
        let read = in_time(self.io.read_buf(&mut self.buffer)).await.unwrap();
        let so_far = String::from_utf8_lossy(&self.buffer);
        assert!(read > 0, "closed in the middle of an answer: {so_far:?}");
    }
}

impl Answer {
    pub fn closes(&self) -> bool {
        self.head.contains("\r\nconnection: close\r\n")
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Asserts that this is the refusal of a draining server.
    #[track_caller]
    pub fn assert_refused(&self) {
        assert_eq!((self.status, self.text()), (503, REFUSED));
        assert!(self.closes(), "{self:?}");
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.head, String::from_utf8_lossy(&self.body))
    }
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")
}

// ===== HTTP/2 =====

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        let payload = payload.to_vec();
        Self {
            kind,
            flags,
            stream,
            payload,
        }
    }

    /// A GET without a body.
    pub fn get(stream: u32, path: &str) -> Self {
        // :method GET, :scheme http, :path and :authority (RFC 7541, appendix A).
        let mut fields = vec![0x82, 0x86, 0x04, path.len() as u8];
        fields.extend_from_slice(path.as_bytes());
        fields.extend_from_slice(b"\x01\x04test");
        Self::new(HEADERS, END_STREAM | 4, stream, &fields)
    }

    pub fn ack(&self) -> Self {
        Self::new(self.kind, ACK, 0, &self.payload)
    }

    pub fn window(stream: u32, bytes: u32) -> Self {
        Self::new(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = (self.payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }

    pub fn ends(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// Returns the last stream and the error code of a GOAWAY.
    #[track_caller]
    pub fn goaway(&self) -> (u32, u32) {
        assert_eq!(self.kind, GOAWAY, "{self:?}");
        let number = |at: usize| u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap());
        (number(0), number(4))
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            flags,
            stream,
            payload,
        } = self;
        let start = &payload[..payload.len().min(100)];
        write!(f, "kind {kind}, flags {flags}, stream {stream}: ")?;
        write!(f, "{} bytes, {}", payload.len(), start.escape_ascii())
    }
}

/// A client that sends and receives frames.
pub struct Http2<T> {
    pub io: T,
    /// Frames of the connection that were received while reading a response.
    aside: VecDeque<Frame>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Http2<T> {
    /// Sends the preface, and SETTINGS with this payload.
    pub async fn new(mut io: T, settings: &[u8]) -> Self {
        let settings = Frame::new(SETTINGS, 0, 0, settings).bytes();
        io.write_all(PREFACE.as_bytes()).await.unwrap();
        io.write_all(&settings).await.unwrap();
        Self::after_preface(io)
    }

    /// A client whose preface and SETTINGS have been sent.
    pub fn after_preface(io: T) -> Self {
        let aside = VecDeque::new();
        Self { io, aside }
    }

    pub async fn send(&mut self, frame: Frame) {
        in_time(self.io.write_all(&frame.bytes())).await.unwrap();
    }

    /// Sends, unless the server has closed.
    pub async fn try_send(&mut self, frame: Frame) -> bool {
        in_time(self.io.write_all(&frame.bytes())).await.is_ok()
    }

    /// Reads the next frame that is not SETTINGS or WINDOW_UPDATE; `None` when the server has
    /// closed.
    pub async fn next(&mut self) -> Option<Frame> {
        match self.aside.pop_front() {
            Some(frame) => Some(frame),
            None => self.receive().await,
        }
    }

    async fn receive(&mut self) -> Option<Frame> {
        loop {
            let frame = in_time(self.next_of_all()).await.unwrap()?;
            match frame.kind {
                SETTINGS if frame.flags == 0 => {
                    let _ = self
                        .io
                        .write_all(&Frame::new(SETTINGS, ACK, 0, b"").bytes())
                        .await;
                }
                SETTINGS | WINDOW_UPDATE => {}
                _ => return Some(frame),
            }
        }
    }

    pub async fn next_of_all(&mut self) -> io::Result<Option<Frame>> {
        let mut head = [0; 9];
        if self.io.read(&mut head[..1]).await? == 0 {
            return Ok(None);
        }
        self.io.read_exact(&mut head[1..]).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.io.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Ok(Some(Frame::new(head[3], head[4], stream, &payload)))
    }

    /// Reads the response on this stream; `None` if it is reset. Frames of other streams must not
    /// come.
    pub async fn answer(&mut self, stream: u32) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let frame = self.receive().await.expect("closed before the answer");
            if frame.stream == 0 {
                self.aside.push_back(frame);
                continue;
            }
            assert_eq!(frame.stream, stream, "{frame:?}");
            match frame.kind {
                DATA => body.extend_from_slice(&frame.payload),
                HEADERS => {}
                RST_STREAM => return None,
                _ => panic!("{frame:?}"),
            }
            if frame.ends() {
                return Some(body);
            }
        }
    }

    pub async fn get(&mut self, stream: u32, path: &str) -> String {
        self.send(Frame::get(stream, path)).await;
        String::from_utf8(self.answer(stream).await.unwrap()).unwrap()
    }

    /// Reads the two GOAWAY frames, 50 ms apart, and the PING, which is returned.
    #[track_caller]
    pub fn goodbye(&mut self) -> impl Future<Output = Frame> {
        let caller = std::panic::Location::caller();
        async move {
            for expected in [GOAWAY, GOAWAY, PING] {
                let frame = self.next().await.expect("still open");
                assert_eq!(
                    (frame.kind, frame.flags),
                    (expected, 0),
                    "{caller}: {frame:?}"
                );
                if expected == GOAWAY {
                    assert_eq!(frame.goaway(), ((1 << 31) - 1, 0), "{caller}");
                } else {
                    return frame;
                }
            }
            unreachable!("the PING is the last")
        }
    }

    /// Reads all frames until the server closes, without acknowledging any. Returns them.
    pub async fn end(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }
}

// ===== order =====

/// Something that happens, any number of times; each occurrence is waited for once.
#[derive(Debug, Clone)]
pub struct Event(Arc<Semaphore>);

impl Event {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub fn happens(&self) {
        self.0.add_permits(1);
    }

    pub async fn happened(&self) {
        in_time(self.0.acquire()).await.unwrap().forget();
    }

    /// Like `happened`, but without a time limit, for handlers.
    pub async fn wait(&self) {
        self.0.acquire().await.unwrap().forget();
    }
}

/// Begins the shutdown, and returns the time. It waits a moment first, because a connection that
/// arrives in the same moment is new to the server.
pub async fn trigger(ctl: &ShutdownController) -> Instant {
    sleep(Duration::from_millis(1)).await;
    assert!(ctl.trigger(ShutdownReason::Manual));
    Instant::now()
}

/// Asserts the time since then. The clock is paused, but timers are rounded to milliseconds.
#[track_caller]
pub fn assert_at(since: Instant, expected: Duration) {
    let now = since.elapsed();
    assert!(
        now.abs_diff(expected) <= Duration::from_millis(3),
        "at {now:?}, not {expected:?}"
    );
}

/// Counts live values.
#[derive(Debug, Clone, Default)]
pub struct Alive(Arc<AtomicUsize>);

/// A counted value.
#[derive(Debug)]
pub struct Life(Alive);

impl Alive {
    pub fn begin(&self) -> Life {
        self.0.fetch_add(1, Ordering::SeqCst);
        Life(self.clone())
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Clone for Life {
    fn clone(&self) -> Self {
        self.0.begin()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A socket that is counted until it is dropped.
pub struct Watched<I> {
    io: I,
    /// Whether it supports vectored writes; if not, hyper copies all buffers into one.
    pub vectored: bool,
    _life: Life,
}

impl<I> Watched<I> {
    pub fn new(io: I, alive: &Alive) -> Self {
        Self {
            io,
            vectored: false,
            _life: alive.begin(),
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.vectored
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

pub fn big() -> Bytes {
    let bytes: Vec<u8> = (0..BIG).map(|n| (n % 251) as u8).collect();
    bytes.into()
}
