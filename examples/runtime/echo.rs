//! A TCP service that is not a tower service: its connections hold guards.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tower_lifecycle::{BoxError, InFlightGuard, ShutdownController};

/// Sends every line back.
#[derive(Clone)]
pub struct Echo {
    address: SocketAddr,
    stop: Arc<watch::Sender<bool>>,
    accepting: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Echo {
    pub async fn bind(address: SocketAddr, ctl: ShutdownController) -> Result<Self, BoxError> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, ctl, stopped));
        Ok(Self {
            address,
            stop: Arc::new(stop),
            accepting: Arc::new(Mutex::new(Some(accepting))),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the end of the accept loop, which has the only receiver.
    pub async fn ended(self) -> Result<(), BoxError> {
        self.stop.closed().await;
        Err("nobody accepts connections any more".into())
    }

    /// Closes the listener. The connections have already sent their goodbye.
    pub async fn stop(self) -> Result<(), BoxError> {
        self.stop.send_replace(true);
        if let Some(accepting) = self.accepting.lock().await.take() {
            accepting.await?;
        }
        Ok(())
    }
}

async fn accept(listener: TcpListener, ctl: ShutdownController, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                tokio::spawn(serve(socket, ctl.clone()));
            }
        }
    }
}

async fn serve(mut socket: TcpStream, ctl: ShutdownController) -> io::Result<()> {
    match ctl.try_admit() {
        Ok(guard) => echo(socket, guard).await,
        Err(refused) => socket.write_all(format!("{refused}\n").as_bytes()).await,
    }
}

async fn echo(socket: TcpStream, guard: InFlightGuard) -> io::Result<()> {
    let (reader, mut writer) = socket.into_split();
    let mut lines = BufReader::new(reader).lines();
    let mut draining = guard.draining();
    loop {
        tokio::select! {
            () = &mut draining => return writer.write_all(b"goodbye\n").await,
            line = lines.next_line() => match line? {
                Some(line) => writer.write_all(format!("{line}\n").as_bytes()).await?,
                None => return Ok(()),
            }
        }
    }
}
