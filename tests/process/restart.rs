//! Restart in place: real processes, sockets and signals.
//!
//! A service is this test binary again, running only the test `child`. Its successors are started by
//! itself, and do what a file says. All of them print what happens, each line with the ID of its process.

use std::collections::BTreeSet;
use std::fs;
use std::future::IntoFuture;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{sleep, timeout};
use tower_lifecycle::restart::{HandOver, Inherited, RestartSignal};
use tower_lifecycle::store::{FileStore, StateStore};
use tower_lifecycle::{DrainLayer, ShutdownConfig, ShutdownController, serve};

use crate::end_after;
use crate::support::loopback::loopback;

/// The folder of a service. The file `role` in it says what the next process does.
const FOLDER: &str = "TOWER_LIFECYCLE_RESTART_FOLDER";
/// Set by a new version of the program.
const VERSION: &str = "TOWER_LIFECYCLE_RESTART_VERSION";
/// How long a process lives, whatever happens, and how long a test waits for a step.
const LIFE: Duration = Duration::from_secs(40);
const STEP: Duration = Duration::from_secs(20);
const ARGS: [&str; 4] = ["--exact", "restart::child", "--ignored", "--nocapture"];

// ===== the service =====

fn say(what: impl std::fmt::Display) {
    println!("[{}] {what}", std::process::id());
}

/// What a process does, in words.
struct Role(String);

impl Role {
    fn has(&self, word: &str) -> bool {
        self.0.split_whitespace().any(|other| other == word)
    }

    fn number(&self, word: &str) -> Option<u64> {
        let value = |pair: &str| pair.strip_prefix(word)?.strip_prefix('=')?.parse().ok();
        self.0.split_whitespace().find_map(value)
    }
}

#[test]
#[ignore = "is run by the others, in a process of its own"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    end_after(LIFE);
    let role = Role(fs::read_to_string(folder.join("role")).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(run(&folder, &role));
}

async fn run(folder: &Path, role: &Role) {
    let mut inherited = Inherited::from_env().unwrap();
    say(format!(
        "started with predecessor={}",
        inherited.has_predecessor()
    ));
    if role.has("exit") {
        std::process::exit(1);
    }
    assert!(!role.has("panic"), "as it is told to");
    if role.has("drop") {
        drop(inherited);
        return sleep(LIFE).await;
    }
    let lame_duck = role.number("lame_duck").unwrap_or(0);
    let config = ShutdownConfig::default()
        .lame_duck(Duration::from_millis(lame_duck))
        .force_after(Duration::ZERO);
    let ctl = ShutdownController::with_config(config).unwrap();
    ctl.listen_for_signals().unwrap();
    ctl.notify_systemd().unwrap();
    let tcp = inherited.tcp("http").unwrap();
    let tcp = tcp.or_bind(loopback()).await.unwrap();
    let unix = inherited.unix("local").unwrap();
    let unix = unix.or_bind(folder.join("socket")).await.unwrap();
    let limit = Duration::from_millis(role.number("limit").unwrap_or(10_000));
    let hand_over = HandOver::new(&ctl)
        .and_then(|hand_over| hand_over.listener("http", &tcp))
        .and_then(|hand_over| hand_over.listener("local", &unix))
        .unwrap()
        .limit(limit);
    hand_over.on_signal(RestartSignal::User2).unwrap();

    let store = || async {
        let store = FileStore::new(folder.join("state")).unwrap();
        let store = store.exclusive_within(STEP).await.unwrap();
        let state = store.load("last").await.unwrap();
        say(format!("state={state:?}"));
        let pid = std::process::id().to_string();
        ctl.persist("last", store, || async { Ok(pid) }).unwrap();
    };
    if role.has("store_first") {
        store().await;
    }
    let address = tcp.local_addr().unwrap();
    say(format!("address={address}"));
    if role.has("hang") {
        sleep(LIFE).await;
    }
    inherited.ready_with(&ctl);
    if role.has("store") {
        store().await;
    }
    if let Some(after) = role.number("die") {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(after));
            std::process::exit(3);
        });
    }

    let restart = async move || match hand_over.start().await {
        Ok(pid) => format!("new: {pid}"),
        Err(error) => format!(
            "error: {error} under_way={} timeout={}",
            error.is_under_way(),
            error.is_timeout()
        ),
    };
    let pid = || async { std::process::id().to_string() };
    let slow = || async {
        say("entered");
        sleep(Duration::from_millis(500)).await;
        "slow"
    };
    let stuck = || async {
        say("entered");
        sleep(LIFE).await;
    };
    let resume = {
        let ctl = ctl.clone();
        async move || format!("{:?}", ctl.resume())
    };
    let routes = Router::new()
        .route("/", get(pid))
        .route("/slow", get(slow))
        .route("/stuck", get(stuck))
        .route("/grandchild", get(grandchild))
        .route(
            "/version",
            get(async || std::env::var(VERSION).unwrap_or("1".into())),
        )
        .route("/resume", get(resume))
        .route("/restart", get(restart));
    let app = routes.layer(DrainLayer::new(ctl.clone())).with_state(());
    let local = tokio::spawn(serve(unix, app.clone(), ctl.clone()).into_future());
    let report = serve(tcp, app, ctl).await;
    local.await.unwrap();
    say(format!(
        "report: graceful={} reason={}",
        report.is_graceful(),
        report.reason()
    ));
}

/// Lists the descriptors and the variables of a process that the service starts.
async fn grandchild() -> String {
    let script = "ls -l /proc/self/fd; env | grep '^LISTEN_[FP]'";
    let output = Command::new("sh").args(["-c", script]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

// ===== the service, as a test sees it =====

struct Service {
    first: Child,
    folder: PathBuf,
    lines: Receiver<String>,
    said: Vec<String>,
    address: SocketAddr,
}

impl Service {
    fn start(name: &str, role: &str) -> Self {
        Self::start_by(name, role, |_, binary| Command::new(binary))
    }

    fn start_by(name: &str, role: &str, command: impl Fn(&Path, &Path) -> Command) -> Self {
        let name = format!("tower-lifecycle-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("role"), role).unwrap();
        let mut command = command(&folder, &std::env::current_exe().unwrap());
        let mut first = command
            .args(ARGS)
            .env(FOLDER, &folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = first.stdout.take().unwrap();
        let (said, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The test harness begins lines of its own, and does not end them.
                if let Some(at) = line.find('[') {
                    let _ = said.send(line[at..].to_owned());
                }
            }
        });
        let mut service = Self {
            first,
            folder,
            lines,
            said: Vec::new(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let address = service.says("address=");
        service.address = address.split_once('=').unwrap().1.parse().unwrap();
        service
    }

    /// Says what the next process does.
    fn next(&self, role: &str) {
        fs::write(self.folder.join("role"), role).unwrap();
    }

    fn pid(&self) -> u32 {
        self.first.id()
    }

    /// Waits for a line with this text.
    fn says(&mut self, text: &str) -> String {
        let deadline = Instant::now() + STEP;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("no {text:?}, but {:#?}", self.said));
            self.said.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    async fn get(&self, path: &str) -> String {
        get_from(self.address, path).await
    }

    async fn local(&self, path: &str) -> String {
        let client = reqwest::Client::builder().unix_socket(self.folder.join("socket"));
        let client = client.build().unwrap();
        let response = client.get(format!("http://local{path}")).send().await;
        response.unwrap().text().await.unwrap()
    }

    async fn restart(&self) -> String {
        self.get("/restart").await
    }

    async fn restart_to_new(&self) -> u32 {
        let answer = self.restart().await;
        let pid = answer.strip_prefix("new: ");
        pid.unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
    }

    fn send(&self, pid: u32, signal: Signal) {
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    /// Waits until a process answers that is not this one.
    async fn other_than(&self, pid: u32) -> u32 {
        let other = async {
            loop {
                // A process that dies cuts its connections.
                let answer = try_get_from(self.address, "/").await;
                let answer = answer.ok().map(|answer| answer.parse().unwrap());
                if let Some(other) = answer.filter(|other| *other != pid) {
                    return other;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(STEP, other).await.expect("nobody took over")
    }

    fn has_no_child(&self) {
        assert_eq!(children_of(self.pid()), BTreeSet::new());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.first.kill();
        let _ = self.first.wait();
        self.said.extend(self.lines.try_iter());
        let pids = self.said.iter().filter_map(|line| {
            let (pid, what) = line.strip_prefix('[')?.split_once("] ")?;
            what.starts_with("started").then(|| pid.parse().ok())?
        });
        for pid in pids.filter(|pid| is_ours(*pid)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

async fn get_from(address: SocketAddr, path: &str) -> String {
    try_get_from(address, path).await.unwrap()
}

async fn try_get_from(address: SocketAddr, path: &str) -> reqwest::Result<String> {
    // A connection for each request.
    let client = reqwest::Client::builder().pool_max_idle_per_host(0);
    let client = client.timeout(STEP).build().unwrap();
    let response = client.get(format!("http://{address}{path}")).send().await;
    response?.text().await
}

/// Returns whether the process still runs this program, or the script of a test.
fn is_ours(pid: i32) -> bool {
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline"));
    command.is_ok_and(|command| command.contains("restart::child"))
}

/// The processes with this parent, zombies too.
fn children_of(parent: u32) -> BTreeSet<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let (_, rest) = stat.rsplit_once(") ").unwrap_or_default();
        rest.split(' ').nth(1) == Some(&parent.to_string())
    };
    pids.filter(is_child).collect()
}

// ===== a hand-over that succeeds =====

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_lets_a_new_process_take_over_both_sockets() {
    let mut service = Service::start("signal", "serve");
    let old = service.pid();
    assert_eq!(service.get("/").await, old.to_string());
    assert_eq!(service.local("/").await, old.to_string());
    let address = service.address;
    let slow = tokio::spawn(async move { get_from(address, "/slow").await });
    service.says("entered");

    service.send(old, Signal::SIGUSR2);
    let new = service.other_than(old).await;
    assert_eq!(service.local("/").await, new.to_string());
    assert_eq!(slow.await.unwrap(), "slow", "what was under way");
    service.says("report: graceful=true reason=hand-over");
    assert!(service.first.wait().unwrap().success());
    // And once more.
    service.send(new, Signal::SIGUSR2);
    let newest = service.other_than(new).await;
    assert_eq!(service.local("/").await, newest.to_string());
    let line = service.says("report: graceful=true reason=hand-over");
    assert!(line.contains(&new.to_string()), "{line}");
    // The newest one ends as if there had been no other.
    service.send(newest, Signal::SIGTERM);
    service.says("report: graceful=true reason=signal SIGTERM");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_the_last_process_left_behind_does_not_hinder_the_next_start() {
    let mut service = Service::start("file", "serve");
    let socket = service.folder.join("socket");
    service.send(service.pid(), Signal::SIGTERM);
    service.says("report");
    assert!(service.first.wait().unwrap().success());
    assert!(socket.exists());
    let inherited = Inherited::from_env().unwrap().unix("local").unwrap();
    assert!(!inherited.is_given());
    let again = inherited.or_bind(&socket).await.unwrap();
    // Nor is one taken away that is in use.
    let taken = Inherited::from_env().unwrap().unix("local").unwrap();
    let error = taken.or_bind(&socket).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    drop(again);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_was_replaced_is_the_one_that_is_started() {
    let mut service = Service::start_by("replaced", "serve", |folder, binary| {
        let program = folder.join("app");
        fs::hard_link(binary, &program)
            .or_else(|_| fs::copy(binary, &program).map(drop))
            .unwrap();
        Command::new(program)
    });
    assert_eq!(service.get("/version").await, "1");
    let program = service.folder.join("app");
    fs::remove_file(&program).unwrap();
    let next = service.folder.join("next");
    let binary = std::env::current_exe().unwrap();
    let script = format!("#!/bin/sh\n{VERSION}=2 exec {} \"$@\"\n", binary.display());
    fs::write(&next, script).unwrap();
    fs::set_permissions(&next, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&next, &program).unwrap();

    service.restart_to_new().await;
    service.says("report: graceful=true reason=hand-over");
    assert_eq!(service.get("/version").await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaks_to_the_processes_that_the_service_starts() {
    let service = Service::start("leaks", "serve");
    let before = service.get("/grandchild").await;
    let new = service.restart_to_new().await;
    assert_eq!(service.other_than(service.pid()).await, new);
    for listed in [before, service.get("/grandchild").await] {
        assert!(listed.contains(" -> "), "{listed}");
        assert!(!listed.contains("socket:"), "{listed}");
        assert!(!listed.contains("LISTEN_FDS="), "{listed}");
        assert!(!listed.contains("LISTEN_PID="), "{listed}");
    }
}

// ===== a new process that fails =====

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_fails_changes_nothing() {
    let service = Service::start("fails", "serve limit=1500");
    for (role, said) in [
        (
            "exit",
            "the new process ended before it was ready: exit status: 1",
        ),
        (
            "panic",
            "the new process ended before it was ready: exit status: 101",
        ),
        (
            "hang",
            "the new process was not ready after 1500 ms, and was killed",
        ),
        (
            "drop",
            "dropped its `Inherited` without saying that it is ready, and was killed",
        ),
    ] {
        service.next(role);
        let answer = service.restart().await;
        assert!(answer.contains(said), "{role}: {answer}");
        assert_eq!(answer.contains("timeout=true"), role == "hang");
        service.has_no_child();
        assert_eq!(service.get("/").await, service.pid().to_string());
        assert_eq!(service.local("/").await, service.pid().to_string());
    }
    service.next("serve");
    let new = service.restart_to_new().await;
    assert_eq!(service.other_than(service.pid()).await, new);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_one_hand_over_at_a_time() {
    let mut service = Service::start("one", "serve limit=2000");
    service.next("hang");
    let address = service.address;
    let first = tokio::spawn(async move { get_from(address, "/restart").await });
    service.says("address=");
    let second = service.restart().await;
    assert!(second.contains("under_way=true"), "{second}");
    service.send(service.pid(), Signal::SIGUSR2);
    assert!(first.await.unwrap().contains("timeout=true"));
    service.has_no_child();
    service.next("serve");
    service.restart_to_new().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_a_new_process_that_is_not_ready() {
    let mut service = Service::start("shutdown", "serve");
    service.next("hang");
    service.send(service.pid(), Signal::SIGUSR2);
    let line = service.says("address=");
    let new = line[1..].split_once(']').unwrap().0.parse().unwrap();
    service.send(service.pid(), Signal::SIGTERM);
    service.says("report: graceful=true reason=signal SIGTERM");
    let deadline = Instant::now() + STEP;
    while is_ours(new) {
        assert!(Instant::now() < deadline, "it lives on");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_without_a_new_process_closes_the_sockets() {
    let mut service = Service::start("closes", "serve");
    let address = service.address;
    let stuck = tokio::spawn(async move { get_from(address, "/stuck").await });
    service.says("entered");
    service.send(service.pid(), Signal::SIGTERM);
    let deadline = Instant::now() + STEP / 2;
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        assert!(Instant::now() < deadline, "the socket listens on");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(service.first.try_wait().unwrap().is_none());
    assert!(!stuck.is_finished());
}

// ===== after it was ready =====

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_ends_in_the_lame_duck_calls_the_shutdown_off() {
    let service = Service::start("dies", "serve lame_duck=10000");
    let old = service.pid();
    for _ in 0..2 {
        service.next("serve die=100");
        let new = service.restart_to_new().await;
        assert_ne!(new, old);
        // It accepts again.
        assert_eq!(service.other_than(new).await, old);
        service.has_no_child();
    }
    service.next("serve");
    let new = service.restart_to_new().await;
    assert_eq!(service.get("/").await, new.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_after_a_hand_over_forces() {
    let mut service = Service::start("force", "serve");
    let old = service.pid();
    let address = service.address;
    let stuck = tokio::spawn(async move { get_from(address, "/stuck").await });
    service.says("entered");
    service.restart_to_new().await;
    service.send(old, Signal::SIGTERM);
    sleep(Duration::from_millis(300)).await;
    assert!(
        service.first.try_wait().unwrap().is_none(),
        "the first one forces nothing"
    );
    assert!(!stuck.is_finished());
    service.send(old, Signal::SIGTERM);
    service.says("report: graceful=false reason=hand-over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_that_is_called_off_ends_the_new_process() {
    let mut service = Service::start("resume", "serve lame_duck=20000");
    let old = service.pid();
    service.next("serve");
    let client = reqwest::Client::new();
    let url = format!("http://{}", service.address);
    let restart = client.get(format!("{url}/restart")).send();
    // On a connection to the old process, which it keeps open.
    let mut kept = tokio::net::TcpStream::connect(service.address)
        .await
        .unwrap();
    let answer = restart.await.unwrap().text().await.unwrap();
    let new: u32 = answer.strip_prefix("new: ").unwrap().parse().unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let request = b"GET /resume HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    kept.write_all(request).await.unwrap();
    let mut answer = String::new();
    kept.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("Ok(())"), "{answer}");
    let line = service.says("report: graceful=true reason=signal SIGTERM");
    assert!(line.contains(&new.to_string()), "{line}");
    assert_eq!(service.other_than(new).await, old);
}

// ===== state =====

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_is_ready_waits_for_the_state_of_the_old_one() {
    let mut service = Service::start("state", "serve store");
    service.says("state=None");
    let old = service.pid();
    service.restart_to_new().await;
    // What it saved as its last step.
    service.says(&format!("state=Some(b\"{old}\")"));
}

/// It would wait for the old one, which waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_that_waits_for_the_state_first_is_late() {
    let service = Service::start("state-first", "serve store_first limit=1000");
    let answer = service.restart().await;
    assert!(answer.contains("timeout=true"), "{answer}");
    service.has_no_child();
    assert_eq!(service.get("/").await, service.pid().to_string());
}

// ===== PID 1 =====

/// As a container's first process. Needs permission to make a PID namespace, which root may have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pid_1_refuses() {
    let unshare = ["--pid", "--fork", "--kill-child"];
    let can = Command::new("unshare").args(unshare).arg("true").status();
    if !can.is_ok_and(|status| status.success()) {
        eprintln!("no PID namespace can be made here");
        return;
    }
    let service = Service::start_by("pid-1", "serve", |_, binary| {
        let mut command = Command::new("unshare");
        command.args(unshare).arg(binary);
        command
    });
    let answer = service.restart().await;
    assert!(answer.contains("error: PID 1 cannot hand over"), "{answer}");
    assert_eq!(service.get("/").await, "1");
}

// ===== systemd =====

fn recorder(folder: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(folder.join("notify")).unwrap();
    socket.set_read_timeout(Some(STEP)).unwrap();
    socket
}

/// Reads messages until there is one with this line.
fn messages_until(systemd: &UnixDatagram, line: &str) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    loop {
        let mut buffer = [0; 1024];
        let length = systemd.recv(&mut buffer);
        let length = length.unwrap_or_else(|_| panic!("no {line:?}, but {messages:#?}"));
        messages.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        if messages.last().unwrap().lines().any(|other| other == line) {
            return messages;
        }
    }
}

fn start_under_systemd(name: &str, role: &str) -> (Service, UnixDatagram) {
    let mut systemd = None;
    let socket = std::cell::RefCell::new(&mut systemd);
    let service = Service::start_by(name, role, |folder, binary| {
        **socket.borrow_mut() = Some(recorder(folder));
        let mut command = Command::new(binary);
        command.env("NOTIFY_SOCKET", folder.join("notify"));
        command
    });
    (service, systemd.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_is_told_of_the_new_main_process_and_not_of_the_end_of_the_old_one() {
    let (mut service, systemd) = start_under_systemd("systemd", "serve");
    let old = service.pid();
    messages_until(&systemd, "READY=1");

    // One that fails.
    service.next("exit");
    let answer = service.restart().await;
    assert!(answer.contains("error: "), "{answer}");
    let messages = messages_until(&systemd, "READY=1");
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(
        messages[0].starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{messages:?}"
    );
    assert_eq!(messages[1], "READY=1\nSTATUS=running");

    service.next("serve");
    let new = service.restart_to_new().await;
    let mut messages = messages_until(&systemd, &format!("MAINPID={new}"));
    service.says("report: graceful=true reason=hand-over");
    assert!(service.first.wait().unwrap().success());
    service.send(new, Signal::SIGTERM);
    messages.extend(messages_until(&systemd, "STOPPING=1"));
    let of_new = |message: &String| message.starts_with("READY=1\nSTATUS=");
    assert_eq!(
        messages.iter().filter(|message| of_new(message)).count(),
        1,
        "{messages:?}"
    );
    assert!(
        messages[0].starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{messages:?}"
    );
    let micros = messages[0]
        .lines()
        .nth(1)
        .unwrap()
        .split_once('=')
        .unwrap()
        .1;
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    let ago = uptime - micros.parse::<f64>().unwrap() / 1e6;
    assert!((-1.0..20.0).contains(&ago), "{ago}");
    let of_old = |message: &&String| message.contains("STOPPING") || message.contains("STATUS=");
    let others: Vec<_> = messages.iter().filter(of_old).collect();
    // The hand-over, the new one's start, and the new one's end.
    assert_eq!(others.len(), 3, "{old}: {messages:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_is_told_when_the_old_process_goes_on() {
    let (service, systemd) = start_under_systemd("systemd-back", "serve lame_duck=20000");
    let old = service.pid();
    messages_until(&systemd, "READY=1");
    service.next("serve die=200");
    let new = service.restart_to_new().await;
    messages_until(&systemd, &format!("MAINPID={new}"));
    let messages = messages_until(&systemd, &format!("MAINPID={old}"));
    let back = format!("MAINPID={old}\nREADY=1\nSTATUS=running");
    assert_eq!(messages.last(), Some(&back));
}
