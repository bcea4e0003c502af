//! What systemd is told by a process that it has started: the variables, the order, and what hinders it.
//!
//! The tests stand in for systemd. A child is this test binary once more, running only the test `child`. It
//! goes on to its next step when it reads a line.

use std::io::{self, BufRead, Write};
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tower_lifecycle::{
    BoxError, Hook, ShutdownConfig, ShutdownController, ShutdownReason, Startup,
};

use crate::end_after;

/// Set for the child: what it does.
const ROLE: &str = "TOWER_LIFECYCLE_SYSTEMD_ROLE";
/// How long a child lives, whatever happens, and how long a test waits for a message.
const LIFE: Duration = Duration::from_secs(25);
/// How long the runtime of a child is blocked.
const BLOCKED: Duration = Duration::from_millis(1_500);

// ===== the child =====

#[test]
#[ignore = "is run by the others, in a process of its own"]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    end_after(LIFE);
    if role == "outside" {
        let ctl = ShutdownController::new();
        eprintln!("{}", ctl.notify_systemd().unwrap_err());
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        match role.as_str() {
            "life" => life().await.unwrap(),
            "short" => short().await,
            _ => watched().await,
        }
    });
}

/// Goes on with each line of the test, on a thread that no runtime waits for.
fn steps() -> mpsc::UnboundedReceiver<()> {
    let (said, steps) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            if line.is_err() || said.send(()).is_err() {
                return;
            }
        }
    });
    steps
}

/// From the start-up to the end, with a request in flight and a hook.
async fn life() -> Result<(), BoxError> {
    let mut steps = steps();
    let config = ShutdownConfig::default()
        .lame_duck(Duration::from_secs(20))
        .progress_interval(Duration::from_millis(50));
    let mut startup = Startup::new(config)?;
    let ctl = startup.controller();
    assert!(ctl.notify_systemd()?);
    assert!(ctl.notify_systemd()?, "the second call does nothing");
    let start = async {
        steps.recv().await;
        Ok::<_, BoxError>(())
    };
    let start = startup.start("database", start, |()| async {});
    start.timeout(Duration::from_secs(100)).await?;
    startup.finish().await?;

    steps.recv().await;
    ctl.trigger(ShutdownReason::Manual);
    steps.recv().await;
    ctl.resume()?;
    steps.recv().await;
    let request = ctl.track();
    let (hook, mut in_hook) = mpsc::unbounded_channel();
    ctl.add_hook(Hook::new("slow", move |_| async move {
        in_hook.recv().await;
        Ok(())
    }))?;
    tokio::spawn(ctl.run(async {})); // a server that ends, so that there is no lame duck
    steps.recv().await;
    drop(request);
    steps.recv().await;
    hook.send(())?;
    ctl.stopped().await;
    steps.recv().await;
    Ok(())
}

/// A life without anything to wait for. Says how it went.
async fn short() {
    let ctl = ShutdownController::new();
    match ctl.notify_systemd() {
        Ok(notified) => eprintln!("notified: {notified}"),
        Err(error) => eprintln!("{error}"),
    }
    let began = Instant::now();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(report.is_graceful());
    assert!(began.elapsed() < Duration::from_secs(1), "it was delayed");
}

/// Blocks its runtime for a while, and ends later than its shutdown.
async fn watched() {
    let mut steps = steps();
    let ctl = ShutdownController::new();
    assert!(ctl.notify_systemd().unwrap());
    steps.recv().await;
    std::thread::sleep(BLOCKED); // on the thread of the runtime
    steps.recv().await;
    ctl.shutdown(ShutdownReason::Manual).await;
    steps.recv().await;
}

// ===== the stand-in for systemd =====

struct Systemd {
    socket: UnixDatagram,
    variable: String,
    path: Option<PathBuf>,
}

impl Systemd {
    fn on_path(name: &str) -> Self {
        let name = format!("tower-lifecycle-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let variable = path.to_str().unwrap().to_owned();
        Self::on(
            &SocketAddr::from_pathname(&path).unwrap(),
            variable,
            Some(path),
        )
    }

    #[cfg(target_os = "linux")]
    fn on_abstract_name(name: &str) -> Self {
        let name = format!("tower-lifecycle/{}/{name}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        Self::on(&address, format!("@{name}"), None)
    }

    fn on(address: &SocketAddr, variable: String, path: Option<PathBuf>) -> Self {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(LIFE)).unwrap();
        Self {
            socket,
            variable,
            path,
        }
    }

    fn start(&self, role: &str, variables: &[(&str, &str)]) -> Service {
        let socket = ("NOTIFY_SOCKET", &*self.variable);
        Service::start(role, &[&[socket], variables].concat())
    }

    fn message(&self) -> String {
        let mut buffer = [0; 1024];
        let length = self.socket.recv(&mut buffer).expect("no message in time");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// Waits for a message with a line that begins like this. Returns the lines of all until then.
    fn lines_until(&self, line: &str) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        while !lines.iter().any(|other| other.starts_with(line)) {
            lines.extend(self.message().lines().map(str::to_owned));
        }
        lines
    }

    /// Waits for so many keep-alive messages, and returns the longest pause before one of them.
    fn longest_pause(&self, count: u32) -> Duration {
        let mut last = Instant::now();
        let pauses = (0..count).map(|_| {
            while self.message() != "WATCHDOG=1" {}
            let now = Instant::now();
            now - std::mem::replace(&mut last, now)
        });
        pauses.max().unwrap()
    }

    /// Fills the buffer, until nothing more fits.
    fn fill(&self) {
        let other = UnixDatagram::unbound().unwrap();
        other.set_nonblocking(true).unwrap();
        let path = self.path.as_ref().unwrap();
        while other.send_to(b"other", path).is_ok() {}
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

struct Service(Child);

impl Service {
    fn start(role: &str, variables: &[(&str, &str)]) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "systemd::child", "--ignored", "--nocapture"])
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
            .env(ROLE, role)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }

    /// Lets it take its next step.
    fn step(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Returns how it ended, and what it said.
    fn end(self) -> (ExitStatus, String) {
        let output = self.0.wait_with_output().unwrap();
        (output.status, String::from_utf8(output.stderr).unwrap())
    }
}

fn says(role: &str, variables: &[(&str, &str)]) -> String {
    let (status, said) = Service::start(role, variables).end();
    assert!(status.success(), "{status}: {said}");
    said
}

// ===== tests =====

/// Follows a child through its life.
fn is_told_in_order(systemd: &Systemd) {
    let mut service = systemd.start("life", &[]);
    let is_told = |line: &str| systemd.lines_until(line);
    let extends = |lines: &[String]| {
        let mut lines = lines.iter().rev();
        let time = lines.find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC="));
        let micros: u64 = time.expect("no extension").parse().unwrap();
        micros / 1_000_000
    };
    let until_starting = is_told("STATUS=starting");
    assert!(!until_starting.concat().contains("READY=1"));
    // 100 s for the start, and a margin.
    assert!((100..=115).contains(&extends(&is_told("EXTEND_TIMEOUT_USEC="))));
    service.step();
    is_told("READY=1");
    service.step();
    let lame_duck = is_told("STATUS=lame duck: not ready, 0 in flight, ");
    // 30 s for the shutdown, and a margin.
    assert!((30..=45).contains(&extends(&lame_duck)));
    service.step();
    let resumed = is_told("STATUS=running");
    service.step();
    let stopping = is_told("STOPPING=1");
    for lines in [&lame_duck, &resumed] {
        assert!(!lines.concat().contains("STOPPING=1"), "{lines:?}");
    }
    let draining = |line: &String| line.starts_with("STATUS=draining: 1 in flight, ");
    assert!(stopping.iter().any(draining), "{stopping:?}");
    assert!((30..=45).contains(&extends(&stopping)));
    // Again, every 50 ms.
    for _ in 0..3 {
        is_told("EXTEND_TIMEOUT_USEC=");
    }
    service.step();
    is_told("STATUS=stopping: cleaning up, ");
    service.step();
    let end = is_told("STATUS=stopped");
    for once in ["READY=1", "STOPPING=1"] {
        assert!(!end.concat().contains(once), "{end:?}");
    }
    service.step();
    let (status, said) = service.end();
    assert!(status.success(), "{said}");
}

#[test]
fn systemd_is_told_in_order_at_a_path() {
    is_told_in_order(&Systemd::on_path("order"));
}

#[cfg(target_os = "linux")]
#[test]
fn systemd_is_told_in_order_at_an_abstract_name() {
    is_told_in_order(&Systemd::on_abstract_name("order"));
}

#[test]
fn a_blocked_runtime_sends_no_keep_alive_message() {
    let systemd = Systemd::on_path("watchdog");
    let mut service = systemd.start("watched", &[("WATCHDOG_USEC", "200000")]);
    // Every 100 ms. Until the first one the child has to be started.
    systemd.longest_pause(1);
    assert!(systemd.longest_pause(4) < BLOCKED / 2);
    service.step();
    // Longer than systemd waits, but not for ever, as the test shows afterwards that it lives.
    assert!(systemd.longest_pause(4) >= BLOCKED - Duration::from_millis(200));
    service.step();
    systemd.lines_until("STATUS=stopped");
    // The process has not ended yet.
    systemd.longest_pause(4);
    service.step();
    assert!(service.end().0.success());
}

#[test]
fn the_watchdog_of_another_process_gets_no_keep_alive_message() {
    let systemd = Systemd::on_path("other");
    let ours = std::process::id().to_string();
    let watchdog = [("WATCHDOG_USEC", "2000"), ("WATCHDOG_PID", &*ours)];
    let service = systemd.start("short", &watchdog);
    assert!(service.end().0.success());
    let lines = systemd.lines_until("STOPPING=1");
    assert!(!lines.concat().contains("WATCHDOG"), "{lines:?}");
}

#[test]
fn without_systemd_nothing_is_sent() {
    let said = says("short", &[("WATCHDOG_USEC", "2000")]);
    assert!(said.contains("notified: false\n"), "{said}");
}

#[test]
fn a_mistake_is_said_and_the_service_can_go_on() {
    let said = says("short", &[("NOTIFY_SOCKET", "run/notify")]);
    let error = r#"NOTIFY_SOCKET is "run/notify", but must be an absolute path"#;
    assert!(said.contains(error), "{said}");
    // Even on a machine that has no systemd.
    let said = says("outside", &[]);
    let error = "systemd can only be notified from inside a tokio runtime\n";
    assert!(said.contains(error), "{said}");
}

#[test]
fn a_full_or_vanished_socket_changes_nothing_for_the_shutdown() {
    let systemd = Systemd::on_path("full");
    let variables = [
        ("NOTIFY_SOCKET", &*systemd.variable),
        ("WATCHDOG_USEC", "2"),
    ];
    systemd.fill();
    let said = says("short", &variables);
    assert!(said.contains("notified: true\n"), "{said}");

    std::fs::remove_file(systemd.path.as_ref().unwrap()).unwrap();
    let said = says("short", &variables);
    assert!(said.contains("notified: true\n"), "{said}");
}
