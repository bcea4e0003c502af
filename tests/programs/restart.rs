//! Twenty restarts in place under load: with sockets that are handed over, with sockets of systemd, and with
//! `SO_REUSEPORT`. Nothing is lost.
//!
//! The servers are this test binary again. What a server's successor does is in the file `next`.

use std::collections::HashMap;
use std::fs;
use std::future::IntoFuture;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::routing::get;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tower_lifecycle::restart::{HandOver, Inherited};
use tower_lifecycle::{DrainLayer, ShutdownConfig, ShutdownController, serve};

use crate::balancers::support::app::routes;
use crate::balancers::support::load::{Ledger, Load, requests_or, restarts_or};
use crate::balancers::support::process::{LIFE, PORT, free_ports};

const FOLDER: &str = "TOWER_LIFECYCLE_TEST_FOLDER";
const KIND: &str = "TOWER_LIFECYCLE_TEST_RESTART";
/// `TOWER_LIFECYCLE_TEST_RESTARTS` sets another number.
const RESTARTS: u64 = 12;
/// The minimum number of requests of each kind. `TOWER_LIFECYCLE_TEST_REQUESTS` sets another one.
const REQUESTS: u64 = 8_000;
const STEP: Duration = Duration::from_secs(20);
const ARGS: [&str; 4] = ["--exact", "restart::child", "--ignored", "--nocapture"];

#[test]
#[ignore = "takes some seconds"]
fn sockets_that_are_handed_over_lose_nothing() {
    let [port] = free_ports();
    let mut service = Service::start("handed", port, |_, _| me());
    let load = Load::start(service.address);
    let (requests, restarts) = (requests_or(REQUESTS), restarts_or(RESTARTS));
    for restart in 0..restarts {
        load.wait_for_sent(requests / restarts * restart);
        if restart % 4 == 1 {
            service.fails(["exit", "panic", "hang"][restart as usize / 4 % 3]);
        }
        service.hands_over();
    }
    service.end(load, "handed over");
}

#[test]
#[ignore = "takes some seconds"]
fn sockets_that_share_a_port_lose_nothing() {
    let [port] = free_ports();
    let mut service = Service::start("reuseport", port, |_, _| me());
    let load = Load::start(service.address);
    let (requests, restarts) = (requests_or(REQUESTS), restarts_or(RESTARTS));
    for restart in 0..restarts {
        load.wait_for_sent(requests / restarts * restart);
        if restart % 4 == 1 {
            service.fails(["exit", "panic", "hang"][restart as usize / 4 % 3]);
        }
        service.hands_over();
    }
    service.end(load, "SO_REUSEPORT");
}

/// Each server is started anew when the one before has ended, as by systemd. Between them the connections wait
/// in the socket, which `sh` keeps open in the place of systemd.
#[test]
#[ignore = "needs systemd-socket-activate"]
fn sockets_of_systemd_lose_nothing() {
    let [port] = free_ports();
    let mut service = Service::start("activated", port, |folder, address| {
        let script = r#"while [ ! -e "$0" ]; do sh -c 'LISTEN_PID=$$ exec "$0" "$@"' "$@"; done"#;
        let mut command = Command::new("systemd-socket-activate");
        command.args(["--fdname=http", "--listen", address]);
        for name in [FOLDER, KIND, PORT] {
            command.args(["-E", name]);
        }
        command.args(["sh", "-c", script]).arg(folder.join("stop"));
        command.arg(std::env::current_exe().unwrap());
        command
    });
    let load = Load::start(service.address);
    let (requests, restarts) = (requests_or(REQUESTS), restarts_or(RESTARTS));
    for restart in 0..restarts {
        load.wait_for_sent(requests / restarts * restart);
        service.restarts();
    }
    service.end(load, "socket activation");
}

fn me() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

// ===== the service =====

#[test]
#[ignore = "started as a process of its own by the tests of this file"]
fn child() {
    let (Ok(kind), Some(folder)) = (std::env::var(KIND), std::env::var_os(FOLDER)) else {
        return;
    };
    std::thread::spawn(|| {
        std::thread::sleep(LIFE);
        std::process::exit(99);
    });
    let next = fs::read_to_string(Path::new(&folder).join("next")).unwrap();
    match &*next {
        "exit" => std::process::exit(1),
        "panic" => panic!("as it is told to"),
        "hang" => std::thread::sleep(LIFE),
        _ => Runtime::new().unwrap().block_on(run(&kind)),
    }
}

async fn run(kind: &str) {
    let mut inherited = Inherited::from_env().unwrap();
    let port = std::env::var(PORT).unwrap().parse().unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let lame_duck = Duration::from_millis(if kind == "activated" { 0 } else { 100 });
    let config = ShutdownConfig::default().lame_duck(lame_duck);
    let ctl = ShutdownController::with_config(config).unwrap();
    ctl.listen_for_signals().unwrap();
    let given = inherited.tcp("http").unwrap();
    assert!(kind != "activated" || given.is_given());
    let mut hand_over = HandOver::new(&ctl).unwrap();
    let listener = if kind == "reuseport" {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseport(true).unwrap();
        socket.bind(address).unwrap();
        socket.listen(1024).unwrap()
    } else {
        let listener = given.or_bind(address).await.unwrap();
        hand_over = hand_over.listener("http", &listener).unwrap();
        listener
    };
    let (usual, short) = (
        hand_over.clone(),
        hand_over.limit(Duration::from_millis(500)),
    );
    let start = |hand_over: HandOver| {
        async move || match hand_over.start().await {
            Ok(pid) => format!("new {pid}"),
            Err(error) => format!("error {error}"),
        }
    };
    let app = routes()
        .route("/restart", get(start(usual)))
        .route("/restart/in/vain", get(start(short)))
        .layer(DrainLayer::new(ctl.clone()))
        .with_state(());
    let is_shared = kind == "activated";
    let server = serve(listener, app, ctl.clone()).shared(is_shared);
    inherited.ready_with(&ctl);
    println!("listening as {}", std::process::id());
    let report = server.into_future().await;
    println!(
        "ended {}",
        if report.is_graceful() {
            "well"
        } else {
            "badly"
        }
    );
    assert!(report.is_graceful(), "{report}");
}

// ===== the service, as a test sees it =====

struct Service {
    first: Child,
    folder: PathBuf,
    address: SocketAddr,
    heard: Receiver<Heard>,
    executed: Arc<Mutex<HashMap<u64, u32>>>,
    /// The current process.
    pid: i32,
    began: Instant,
}

#[derive(Debug, PartialEq)]
enum Heard {
    Listening(i32),
    Ended { well: bool },
}

impl Service {
    fn start(kind: &str, port: u16, command: impl Fn(&Path, &str) -> Command) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("restart-{kind}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("next"), "serve").unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut first = command(&folder, &address.to_string())
            .args(ARGS)
            .env(KIND, kind)
            .env(FOLDER, &folder)
            .env(PORT, port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = first.stdout.take().unwrap();
        let (says, heard) = channel();
        let executed: Arc<Mutex<HashMap<u64, u32>>> = Arc::default();
        let book = Arc::clone(&executed);
        std::thread::spawn(move || read(BufReader::new(stdout), &book, &says));
        let mut service = Self {
            first,
            folder,
            address,
            heard,
            executed,
            pid: 0,
            began: Instant::now(),
        };
        if kind == "activated" {
            // It starts the service at the first connection, and listens soon.
            let deadline = Instant::now() + STEP;
            while TcpStream::connect(address).is_err() {
                assert!(Instant::now() < deadline, "nobody listens");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        service.is_listening();
        service
    }

    fn hears(&self) -> Heard {
        self.heard.recv_timeout(STEP).expect("nothing is heard")
    }

    fn is_listening(&mut self) {
        match self.hears() {
            Heard::Listening(pid) => self.pid = pid,
            other => panic!("{other:?}"),
        }
    }

    /// A new process takes over.
    fn hands_over(&mut self) {
        self.next("serve");
        let answer = self.get("/restart");
        let pid = self.pid;
        self.is_listening();
        assert_ne!(self.pid, pid);
        assert!(answer.ends_with(&format!("new {}", self.pid)), "{answer}");
        assert_eq!(self.hears(), Heard::Ended { well: true });
    }

    /// A new process that fails changes nothing.
    fn fails(&self, how: &str) {
        self.next(how);
        let answer = self.get("/restart/in/vain");
        assert!(answer.contains("error the new process "), "{answer}");
    }

    /// The process ends, and another one is started.
    fn restarts(&mut self) {
        self.send(Signal::SIGTERM);
        assert_eq!(self.hears(), Heard::Ended { well: true });
        self.is_listening();
    }

    fn next(&self, does: &str) {
        fs::write(self.folder.join("next"), does).unwrap();
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).unwrap();
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(STEP)).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn end(&mut self, load: Load, kind: &str) {
        load.wait_for_sent(requests_or(REQUESTS));
        let ledger: Ledger = load.end();
        fs::write(self.folder.join("stop"), "").unwrap();
        self.send(Signal::SIGTERM);
        assert_eq!(self.hears(), Heard::Ended { well: true });
        println!(
            "{kind}: {} restarts, {} requests, {} failed {:?}, longest {:.1?}, in {:.1?}",
            restarts_or(RESTARTS),
            ledger.requests(),
            ledger.failures(),
            ledger.failed,
            ledger.longest,
            self.began.elapsed(),
        );
        assert_eq!(ledger.failures(), 0, "{:?}", ledger.failed);
        assert!(ledger.requests() >= requests_or(REQUESTS));
        let executed = self.executed.lock().unwrap();
        assert!(executed.values().all(|times| *times == 1));
        assert!(ledger.orders.iter().all(|id| executed.contains_key(id)));
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = fs::write(self.folder.join("stop"), "");
        if self.pid > 0 {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
        let _ = self.first.kill();
        let _ = self.first.wait();
    }
}

/// Records the output of all processes of a service.
fn read(lines: impl BufRead, executed: &Mutex<HashMap<u64, u32>>, says: &Sender<Heard>) {
    for line in lines.lines().map_while(Result::ok) {
        // The test harness starts lines of its own, and does not end them.
        if let Some((_, id)) = line.rsplit_once("executed ") {
            let id = id.parse().unwrap();
            *executed.lock().unwrap().entry(id).or_default() += 1;
        } else if let Some((_, pid)) = line.rsplit_once("listening as ") {
            let _ = says.send(Heard::Listening(pid.parse().unwrap()));
        } else if let Some((_, how)) = line.rsplit_once("ended ") {
            let well = how == "well";
            let _ = says.send(Heard::Ended { well });
        }
    }
}
