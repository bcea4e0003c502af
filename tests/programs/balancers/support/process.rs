//! The processes: servers, which are this test binary again, and the load balancer before them.

use std::collections::HashMap;
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::app::App;
use super::random;

/// Tell the child what to do.
pub const APP: &str = "TOWER_LIFECYCLE_TEST_APP";
pub const PORT: &str = "TOWER_LIFECYCLE_TEST_PORT";
/// The maximum lifetime of a process, independent of its parent.
pub const LIFE: Duration = Duration::from_secs(150);
/// The time limit of a step.
const TIMEOUT: Duration = Duration::from_secs(40);
/// How often HAProxy checks a server.
pub const CHECK: Duration = Duration::from_millis(500);

/// Finds free ports below the ephemeral range: a connection could otherwise take the port of a
/// server while that is restarted.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let held: [TcpListener; N] = std::array::from_fn(|_| {
        let mut tries = (0..1000).map(|_| 10_000 + u16::try_from(random() % 20_000).unwrap());
        let held = tries.find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
        held.expect("a free port")
    });
    held.map(|listener| listener.local_addr().unwrap().port())
}

// ===== servers =====

/// How often each order was executed, in any process.
#[derive(Debug, Clone, Default)]
pub struct Executed(Arc<Mutex<HashMap<u64, u32>>>);

impl Executed {
    pub fn times(&self, id: u64) -> u32 {
        self.0.lock().unwrap().get(&id).copied().unwrap_or(0)
    }

    /// Returns how many were executed more than once.
    pub fn more_than_once(&self) -> usize {
        let executed = self.0.lock().unwrap();
        executed.values().filter(|times| **times > 1).count()
    }
}

/// A server that can be restarted.
pub struct Server {
    app: App,
    port: u16,
    executed: Executed,
    process: Process,
}

struct Process {
    child: std::process::Child,
    heard: Receiver<Heard>,
    reader: Option<JoinHandle<()>>,
}

/// The first output of a server.
#[derive(Debug, PartialEq)]
enum Heard {
    Listening,
    Order,
}

impl Server {
    pub fn start(app: App, port: u16, executed: &Executed) -> Self {
        let process = Process::start(app, port, executed);
        let executed = executed.clone();
        Self {
            app,
            port,
            executed,
            process,
        }
    }

    /// Sends SIGTERM and waits for the end, then starts it again on its port. Returns how it ended,
    /// and after how long.
    pub fn restart(&mut self) -> (ExitStatus, Duration) {
        let ended = self.stop();
        self.process = Process::start(self.app, self.port, &self.executed);
        ended
    }

    pub fn stop(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        terminate(&self.process.child);
        let status = wait(&mut self.process.child);
        (status, began.elapsed())
    }

    /// Waits until the load balancer sends it work.
    pub fn wait_for_an_order(&self) {
        self.process.wait_for(&Heard::Order);
    }
}

impl Process {
    fn start(app: App, port: u16, executed: &Executed) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "balancers::child", "--ignored", "--nocapture"])
            .env(APP, app.name())
            .env(PORT, port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (says, heard) = channel();
        let executed = executed.clone();
        let reader = std::thread::spawn(move || read(stdout, &executed, &says));
        let process = Self {
            child,
            heard,
            reader: Some(reader),
        };
        process.wait_for(&Heard::Listening);
        process
    }

    fn wait_for(&self, wanted: &Heard) {
        let heard = self.heard.recv_timeout(TIMEOUT);
        assert_eq!(heard.as_ref(), Ok(wanted));
    }
}

/// Records the output of a server, to the end.
fn read(stdout: ChildStdout, executed: &Executed, says: &Sender<Heard>) {
    let mut has_order = false;
    for line in BufReader::new(stdout).lines() {
        let line = line.unwrap();
        // The test harness starts lines of its own, and does not end them.
        if let Some((_, id)) = line.rsplit_once("executed ") {
            let id = id.parse().unwrap();
            *executed.0.lock().unwrap().entry(id).or_default() += 1;
            if !has_order {
                let _ = says.send(Heard::Order);
            }
            has_order = true;
        } else if line.contains("listening on ") {
            let _ = says.send(Heard::Listening);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn terminate(child: &std::process::Child) {
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
}

fn wait(child: &mut std::process::Child) -> ExitStatus {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "the process does not end");
        std::thread::sleep(Duration::from_millis(2));
    }
}

// ===== balancers =====

#[derive(Debug, Clone, Copy)]
pub enum Kind {
    HaProxy,
    Nginx,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::HaProxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }
}

/// A load balancer in front of servers on these ports, with default retries.
pub struct Balancer {
    pub address: SocketAddr,
    process: std::process::Child,
}

impl Balancer {
    pub fn start(kind: Kind, servers: &[u16]) -> Self {
        let [port] = free_ports();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(kind.name());
        std::fs::create_dir_all(&folder).unwrap();
        // It ends by itself, even if this test is killed.
        let mut command = Command::new("timeout");
        command.args(["-k", "5", &LIFE.as_secs().to_string()]);
        match kind {
            Kind::HaProxy => {
                let file = write(&folder, "haproxy.cfg", &haproxy(port, servers));
                command.args(["haproxy", "-db", "-q", "-f"]).arg(file);
            }
            Kind::Nginx => {
                let file = write(&folder, "nginx.conf", &nginx(&folder, port, servers));
                command.args(["nginx", "-p"]).arg(&folder);
                command.arg("-e").arg(folder.join("error.log"));
                command.arg("-c").arg(file);
            }
        }
        // Debian installs them where only root has them in the PATH.
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        let process = command.env("PATH", path).stdin(Stdio::null()).spawn();
        let mut balancer = Self {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            process: process.unwrap(),
        };
        let deadline = Instant::now() + TIMEOUT;
        while TcpStream::connect(balancer.address).is_err() {
            let ended = balancer.process.try_wait().unwrap();
            assert!(ended.is_none(), "the balancer has ended with {ended:?}");
            assert!(Instant::now() < deadline, "the balancer does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        balancer
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // `timeout` forwards it.
        terminate(&self.process);
        let _ = self.process.wait();
    }
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn haproxy(port: u16, servers: &[u16]) -> String {
    let mut config = format!(
        "defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend all
    bind 127.0.0.1:{port}
    default_backend servers
backend servers
    balance roundrobin
    option httpchk GET /health
    default-server check inter {}ms fall 2
",
        CHECK.as_millis()
    );
    for port in servers {
        writeln!(config, "    server s{port} 127.0.0.1:{port}").unwrap();
    }
    config
}

fn nginx(folder: &Path, port: u16, servers: &[u16]) -> String {
    let mut config = String::from("daemon off;\nmaster_process off;\n");
    writeln!(config, "pid {}/pid;", folder.display()).unwrap();
    config += "events { worker_connections 1024; }\nhttp {\n    access_log off;\n";
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let folder = folder.display();
        writeln!(config, "    {kind}_temp_path {folder}/{kind};").unwrap();
    }
    config += "    upstream servers {\n";
    for port in servers {
        writeln!(config, "        server 127.0.0.1:{port} fail_timeout=1s;").unwrap();
    }
    config += "    }\n    server {\n";
    writeln!(config, "        listen 127.0.0.1:{port};").unwrap();
    config + "        location / { proxy_pass http://servers; }\n    }\n}\n"
}
