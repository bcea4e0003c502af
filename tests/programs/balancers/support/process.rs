//! The processes: servers, which are this test binary again, and the load balancer before them.

use std::collections::HashMap;
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
/// How often HAProxy checks a server, and how often a check has to fail.
pub const CHECK: Duration = Duration::from_millis(500);
pub const FALL: u32 = 2;

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

/// What the servers, in any process, have printed.
#[derive(Debug, Clone, Default)]
pub struct Told(Arc<Mutex<Facts>>);

#[derive(Debug, Default)]
struct Facts {
    /// How often each order was executed.
    executed: HashMap<u64, u32>,
    /// How each lame duck ended, and how long it lasted.
    lame_ducks: Vec<(String, Duration)>,
}

impl Told {
    /// Returns how often this order was executed.
    pub fn times(&self, id: u64) -> u32 {
        let facts = self.0.lock().unwrap();
        facts.executed.get(&id).copied().unwrap_or(0)
    }

    /// Returns how many orders were executed more than once.
    pub fn more_than_once(&self) -> usize {
        let facts = self.0.lock().unwrap();
        facts.executed.values().filter(|times| **times > 1).count()
    }

    pub fn lame_ducks(&self) -> Vec<(String, Duration)> {
        self.0.lock().unwrap().lame_ducks.clone()
    }
}

/// A server that can be restarted.
pub struct Server {
    app: App,
    port: u16,
    told: Told,
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
    pub fn start(app: App, port: u16, told: &Told) -> Self {
        let process = Process::start(app, port, told);
        let told = told.clone();
        Self {
            app,
            port,
            told,
            process,
        }
    }

    /// Sends SIGTERM and waits for the end, then starts it again on its port. Returns how it ended,
    /// and after how long.
    pub fn restart(&mut self) -> (ExitStatus, Duration) {
        let ended = self.stop();
        self.process = Process::start(self.app, self.port, &self.told);
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
    fn start(app: App, port: u16, told: &Told) -> Self {
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
        let told = told.clone();
        let reader = std::thread::spawn(move || read(stdout, &told, &says));
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
fn read(stdout: ChildStdout, told: &Told, says: &Sender<Heard>) {
    let mut has_order = false;
    for line in BufReader::new(stdout).lines() {
        let line = line.unwrap();
        // The test harness starts lines of its own, and does not end them.
        if let Some((_, id)) = line.rsplit_once("executed ") {
            let id = id.parse().unwrap();
            *told.0.lock().unwrap().executed.entry(id).or_default() += 1;
            if !has_order {
                let _ = says.send(Heard::Order);
            }
            has_order = true;
        } else if let Some((_, ended)) = line.rsplit_once("lame duck: ") {
            let (millis, end) = ended.split_once(" ms, ").unwrap();
            let lasted = Duration::from_millis(millis.parse().unwrap());
            told.0
                .lock()
                .unwrap()
                .lame_ducks
                .push((end.to_owned(), lasted));
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

/// A load balancer in front of three servers, configured by the file in `examples/deploy`.
pub struct Balancer {
    pub address: SocketAddr,
    process: std::process::Child,
}

impl Balancer {
    /// Starts it with its default retries.
    pub fn start(kind: Kind, servers: &[u16; 3]) -> Self {
        let [port] = free_ports();
        let folder = folder(kind.name());
        match kind {
            Kind::HaProxy => {
                let config = haproxy(port, servers);
                let file = write(&folder, "haproxy.cfg", &config);
                Self::run(&mut haproxy_with(&file), port)
            }
            Kind::Nginx => {
                let file = write(&folder, "nginx.conf", &nginx(&folder, port, servers));
                let mut nginx = limited("nginx");
                nginx.arg("-p").arg(&folder).arg("-c").arg(file);
                nginx.arg("-e").arg(folder.join("error.log"));
                let pid = folder.join("pid");
                let main = format!("daemon off; master_process off; pid {};", pid.display());
                Self::run(nginx.args(["-g", &main]), port)
            }
        }
    }

    /// Starts a HAProxy that probes as `name` and never retries: it depends on the lame duck.
    pub fn without_retries(name: &str, servers: &[u16; 3]) -> Self {
        let [port] = free_ports();
        let config = haproxy(port, servers)
            .replace("%[hostname]", name)
            .replace("    mode http\n", "    mode http\n    retries 0\n");
        assert!(config.contains("retries 0\n") && config.contains(name));
        let file = write(&folder("haproxy"), &format!("{name}.cfg"), &config);
        Self::run(&mut haproxy_with(&file), port)
    }

    fn run(command: &mut Command, port: u16) -> Self {
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

/// A program that ends by itself, even if this test is killed.
fn limited(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "5", &LIFE.as_secs().to_string(), program]);
    command
}

fn haproxy_with(file: &Path) -> Command {
    let mut haproxy = limited("haproxy");
    haproxy.args(["-db", "-q", "-f"]).arg(file);
    haproxy
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Returns a file of `examples/deploy` with its addresses replaced.
fn example(path: &str, listen: (&str, &str), port: u16, servers: &[u16; 3]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/deploy");
    let text = std::fs::read_to_string(folder.join(path)).unwrap();
    let replace = |text: String, from: &str, to: &str| {
        assert_eq!(text.matches(from).count(), 1, "`{from}` in {path}");
        text.replace(from, to)
    };
    let (before, after) = listen;
    let text = replace(text, before, &format!("{after}127.0.0.1:{port}"));
    let servers = servers.iter().zip(1..);
    servers.fold(text, |text, (port, number)| {
        let server = format!("10.0.0.{number}:3000");
        replace(text, &server, &format!("127.0.0.1:{port}"))
    })
}

fn haproxy(port: u16, servers: &[u16; 3]) -> String {
    let config = example("haproxy/haproxy.cfg", ("bind :80", "bind "), port, servers);
    let checks = format!("inter {}ms fall {FALL}", CHECK.as_millis());
    assert!(config.contains(&checks), "the tests count on `{checks}`");
    config
}

fn nginx(folder: &Path, port: u16, servers: &[u16; 3]) -> String {
    let config = example("nginx/nginx.conf", ("listen 80", "listen "), port, servers);
    let mut http = String::from("\nhttp {\n    access_log off;\n");
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        http += &format!("    {kind}_temp_path {}/{kind};\n", folder.display());
    }
    config.replacen("\nhttp {\n", &http, 1)
}
