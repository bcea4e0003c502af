//! A client for the hello server, in memory.
//!
//! It is a task on the server's thread, at the other end of a pipe. Its cost is part of every
//! figure, and cancels out in the differences.

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::{Builder, Runtime};

use crate::server::{AT_ONCE, Pipe};

/// A running server, and a client that is connected to it.
pub struct Connected {
    runtime: Runtime,
    client: Client,
    path: &'static str,
}

enum Client {
    Http1(DuplexStream),
    Http2(SendRequest<Bytes>),
}

// ===== impl Connected =====

impl Connected {
    /// Starts a server, connects with HTTP/1, and sends a few requests.
    pub fn http1<F>(serve: impl FnOnce(Pipe) -> F, path: &'static str) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (runtime, pipe) = start(serve);
        Self::warm(runtime, Client::Http1(pipe), path)
    }

    /// The same with HTTP/2.
    pub fn http2<F>(serve: impl FnOnce(Pipe) -> F, path: &'static str) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (runtime, pipe) = start(serve);
        let client = runtime.block_on(async {
            let (client, connection) = h2::client::handshake(pipe).await.expect("it serves HTTP/2");
            tokio::spawn(connection);
            client
        });
        Self::warm(runtime, Client::Http2(client), path)
    }

    fn warm(runtime: Runtime, client: Client, path: &'static str) -> Self {
        let mut connected = Self {
            runtime,
            client,
            path,
        };
        connected.requests(10);
        connected
    }

    /// Sends a number of requests, one after the other, and reads the responses.
    pub fn requests(&mut self, count: u32) {
        let Self {
            runtime,
            client,
            path,
        } = self;
        runtime.block_on(async {
            for _ in 0..count {
                match client {
                    Client::Http1(pipe) => http1(pipe, path).await,
                    Client::Http2(client) => http2(client, path).await,
                }
            }
        });
    }
}

fn start<F>(serve: impl FnOnce(Pipe) -> F) -> (Runtime, DuplexStream)
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (ours, theirs) = duplex(64 * 1024);
    runtime.spawn(serve(Pipe::of(theirs)));
    (runtime, ours)
}

async fn http1(pipe: &mut DuplexStream, path: &str) {
    let request: &[u8] = match path {
        AT_ONCE => b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        _ => b"GET /later HTTP/1.1\r\nhost: localhost\r\n\r\n",
    };
    pipe.write_all(request).await.expect("connected");
    let mut answer = [0; 512];
    let mut length = 0;
    while !answer[..length].ends_with(b"\r\n\r\nhello") {
        let read = pipe.read(&mut answer[length..]).await.expect("connected");
        assert_ne!(read, 0, "it answers hello");
        length += read;
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

async fn http2(client: &mut SendRequest<Bytes>, path: &'static str) {
    let mut request = http::Request::new(());
    *request.uri_mut() = match path {
        AT_ONCE => http::Uri::from_static("http://localhost/"),
        _ => http::Uri::from_static("http://localhost/later"),
    };
    let (response, _) = client.send_request(request, true).expect("connected");
    let mut body = response.await.expect("it answers").into_body();
    let data = body
        .data()
        .await
        .expect("it has a body")
        .expect("connected");
    assert_eq!(data, "hello");
    assert!(body.data().await.is_none());
}
