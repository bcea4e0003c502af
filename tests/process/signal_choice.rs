//! Which signals begin a shutdown, which force it, and which have no effect meanwhile.
//!
//! A child is this test binary again, running only the test `child`, which prints its events to
//! stderr, one word a line.

use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal::{
    self, SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPIPE, SIGPROF, SIGPWR, SIGQUIT, SIGTERM, SIGUSR1,
    SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
};
use nix::unistd::Pid;
use tower_lifecycle::signal::Signals;
use tower_lifecycle::{
    BoxError, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason, Startup,
};

const ROLE: &str = "TOWER_LIFECYCLE_SIGNAL_ROLE";
/// The maximum lifetime of a child.
const LIFE: Duration = Duration::from_secs(25);
/// How long the clean-up of a child takes.
const CLEANUP: Duration = Duration::from_millis(1_200);
/// Tells systemd to halt, including systemd in a container.
const SIGRTMIN_PLUS_3: i32 = 37;

// ===== one stop signal, delivered twice =====

#[test]
fn a_signal_that_comes_twice_at_once_is_one() {
    for (first, second) in [(SIGTERM, SIGTERM), (SIGTERM, SIGINT), (SIGINT, SIGTERM)] {
        let mut child = Process::start("serve, patiently", &[]);
        child.send(first);
        child.says("cleaning up");
        child.send(second);
        child.says("graceful");
        assert_eq!(child.exit().code(), Some(0), "{first} {second}");
    }
}

#[test]
fn a_signal_that_comes_later_forces_and_so_does_one_after_an_early_one() {
    let mut child = Process::start("serve", &[]);
    child.send(SIGTERM);
    child.says("cleaning up");
    child.send(SIGTERM);
    std::thread::sleep(Duration::from_millis(700));
    child.send(SIGTERM);
    child.says("forced");
    assert_eq!(child.exit().code(), Some(1));
}

// ===== signals that begin a shutdown =====

#[test]
fn those_that_were_chosen_begin_a_shutdown() {
    for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2] {
        let mut child = Process::start("all", &[]);
        child.send(signal);
        child.says(&format!("reason: signal {signal}"));
        assert_eq!(child.exit().code(), Some(0));
    }
}

#[test]
fn those_that_were_not_chosen_kill_before_a_shutdown() {
    for signal in [SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM] {
        let child = Process::start("serve", &[]);
        child.send(signal);
        assert_eq!(child.exit().signal(), Some(signal as i32));
    }
}

// ===== signals without effect =====

#[test]
fn none_kills_during_a_shutdown_and_each_does_after_it() {
    let mut child = Process::start("linger", &[]);
    child.send(SIGTERM);
    child.says("cleaning up");
    let known = [
        SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGIO, SIGPIPE, SIGPROF, SIGPWR, SIGVTALRM,
        SIGXCPU, SIGXFSZ,
    ];
    for signal in known {
        child.send(signal);
    }
    // By number, because nix does not support real-time signals.
    child.send_number(SIGRTMIN_PLUS_3);
    child.says("graceful");
    assert!(child.has_said("signal ignored during the shutdown signal=\"SIGHUP\""));
    child.send(SIGHUP);
    assert_eq!(child.exit().signal(), Some(SIGHUP as i32));

    let mut child = Process::start("linger", &[]);
    child.send(SIGTERM);
    child.says("graceful");
    child.send_number(SIGRTMIN_PLUS_3);
    assert_eq!(
        child.exit().code(),
        Some(128 + SIGRTMIN_PLUS_3),
        "by a code"
    );
}

/// Like systemd with `SendSIGHUP=yes`, which sends SIGHUP right after SIGTERM.
#[test]
fn a_hangup_that_comes_with_the_stop_does_not_kill() {
    for round in 0..10 {
        let mut child = Process::start("serve", &[]);
        child.send(SIGTERM);
        child.send(SIGHUP);
        child.says("graceful");
        assert_eq!(child.exit().code(), Some(0), "{round}");
    }
}

/// Not even before the shutdown, because a handler elsewhere cannot be detected.
#[test]
fn a_hangup_that_the_user_handles_since_later_comes_to_the_user_alone() {
    let mut child = Process::start("handles SIGHUP late and lingers", &[]);
    child.send(SIGHUP);
    child.says("handled");
    // Longer than the wait for a stop signal.
    std::thread::sleep(Duration::from_millis(500));
    child.send(SIGTERM);
    child.says("cleaning up");
    child.send(SIGHUP);
    child.says("handled");
    child.says("graceful");
    child.send(SIGHUP);
    child.says("handled");
    child.send(SIGTERM);
    assert_eq!(child.exit().signal(), Some(SIGTERM as i32));
}

#[test]
fn a_signal_that_the_user_handles_still_comes_to_the_user_then_and_later() {
    let mut child = Process::start("handles SIGHUP and lingers", &[]);
    child.send(SIGHUP);
    child.says("handled");
    child.send(SIGTERM);
    child.says("cleaning up");
    child.send(SIGHUP);
    child.says("handled");
    child.says("graceful");
    assert!(!child.has_said("signal ignored"));
    child.send(SIGHUP);
    child.says("handled");
    child.send(SIGTERM);
    assert_eq!(child.exit().signal(), Some(SIGTERM as i32));
}

#[test]
fn a_signal_that_the_parent_ignores_stays_ignored() {
    let mut child = Process::start("linger", &["env", "--ignore-signal=HUP"]);
    child.send(SIGHUP);
    child.send(SIGTERM);
    child.says("cleaning up");
    child.send(SIGHUP);
    child.says("graceful");
    child.send(SIGHUP);
    child.send(SIGTERM);
    assert_eq!(child.exit().signal(), Some(SIGTERM as i32));
}

#[test]
fn a_signal_that_an_earlier_shutdown_left_to_the_user_kills_as_the_third_of_ours() {
    let mut child = Process::start("handles SIGHUP and hangs at the second", &[]);
    child.send(SIGHUP);
    child.says("cleaning up");
    std::thread::sleep(Duration::from_millis(700));
    child.send(SIGHUP);
    child.says("forced");
    child.send(SIGHUP);
    assert_eq!(child.exit().signal(), Some(SIGHUP as i32));
}

#[test]
fn a_shutdown_that_was_not_begun_by_a_signal_is_not_killed_by_one() {
    let mut child = Process::start("trigger", &[]);
    child.says("cleaning up");
    child.send(SIGHUP);
    child.says("graceful");
    assert_eq!(child.exit().code(), Some(0));
}

#[test]
fn after_a_resume_they_kill_again() {
    let mut child = Process::start("resume", &[]);
    child.says("lame duck");
    child.send(SIGHUP);
    child.says("resumed");
    child.send(SIGHUP);
    assert_eq!(child.exit().signal(), Some(SIGHUP as i32));
}

// ===== settings of the parent process =====

#[test]
fn a_signal_that_the_parent_has_blocked_is_heard() {
    let blocked = ["env", "--block-signal=TERM", "--block-signal=INT"];
    let mut child = Process::start("serve", &blocked);
    child.send(SIGTERM);
    child.says("cleaning up");
    child.says("graceful");
    assert_eq!(child.exit().code(), Some(0));

    let mut child = Process::start("hang", &blocked);
    child.send(SIGTERM);
    child.says("cleaning up");
    std::thread::sleep(Duration::from_millis(700));
    child.send(SIGTERM);
    child.says("forced");
    child.send(SIGTERM);
    assert_eq!(child.exit().signal(), Some(SIGTERM as i32), "the third");
}

/// For `sigwait` or a signalfd, from which nothing else may take it.
#[test]
fn a_signal_that_is_blocked_and_was_not_chosen_stays_blocked() {
    let mut child = Process::start("serve", &["env", "--block-signal=HUP"]);
    child.send(SIGHUP);
    child.send(SIGTERM);
    child.says("cleaning up");
    child.says("graceful");
    assert_eq!(child.exit().code(), Some(0));
}

/// As a container's only process. Needs permission to make a PID namespace, which root may have.
#[test]
fn as_pid_1_the_third_signal_ends_with_its_number() {
    let unshare = ["unshare", "--pid", "--fork", "--kill-child"];
    if !Command::new("unshare")
        .args(&unshare[1..])
        .arg("true")
        .status()
        .is_ok_and(|s| s.success())
    {
        eprintln!("no PID namespace can be made here");
        return;
    }
    let mut child = Process::start("hang", &unshare);
    // `unshare` forwards nothing: the signal goes to its child.
    let inner = child.inner();
    let send = |signal| nix::sys::signal::kill(inner, signal).unwrap();
    send(SIGTERM);
    child.says("cleaning up");
    std::thread::sleep(Duration::from_millis(700));
    send(SIGTERM);
    child.says("forced");
    send(SIGTERM);
    assert_eq!(child.exit().code(), Some(128 + SIGTERM as i32));
}

// ===== a start-up =====

#[test]
fn a_start_up_that_is_told_to_stop_has_not_failed() {
    let mut child = Process::start("start up", &[]);
    child.send(SIGTERM);
    child.says("stopped the cache");
    child.says("start-up      ended: a shutdown was triggered (reason: signal SIGTERM)");
    assert_eq!(child.exit().code(), Some(0));
}

// ===== the child, as its parent sees it =====

struct Process {
    process: Child,
    lines: Lines<BufReader<ChildStderr>>,
    said: Vec<String>,
}

impl Process {
    /// Starts a child with the program `by`, if given.
    fn start(role: &str, by: &[&str]) -> Self {
        let own = std::env::current_exe().unwrap();
        let mut command = match by {
            [] => Command::new(own),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(own);
                command
            }
        };
        let mut process = command
            .args([
                "--exact",
                "signal_choice::child",
                "--ignored",
                "--nocapture",
            ])
            .env(ROLE, role)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut child = Self {
            process,
            lines,
            said: Vec::new(),
        };
        child.says("ready");
        child
    }

    /// Waits for the next line with `text` in it.
    #[track_caller]
    fn says(&mut self, text: &str) {
        for line in &mut self.lines {
            let line = line.unwrap();
            println!("{line}");
            let is_it = line.contains(text);
            self.said.push(line);
            if is_it {
                return;
            }
        }
        panic!("the child has ended without `{text}`");
    }

    /// Returns whether its output so far has such a line.
    fn has_said(&self, text: &str) -> bool {
        self.said.iter().any(|line| line.contains(text))
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).unwrap())
    }

    /// The only child of the child.
    fn inner(&self) -> Pid {
        let pid = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        Pid::from_raw(children.unwrap().trim().parse().unwrap())
    }

    fn send(&self, signal: Signal) {
        nix::sys::signal::kill(self.pid(), signal).unwrap();
    }

    fn send_number(&self, signal: i32) {
        let pid = self.process.id().to_string();
        let kill = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(pid)
            .status();
        assert!(kill.unwrap().success());
    }

    fn exit(mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }
}

// ===== the child, as it sees itself =====

#[test]
#[ignore = "started as a process of its own by the tests of this file"]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    crate::end_after(LIFE);
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(be(&role));
}

async fn be(role: &str) {
    let config = ShutdownConfig::default().shutdown_timeout(LIFE);
    let config = match role {
        "resume" => config.lame_duck(CLEANUP),
        // So that a busy machine does not count one signal as two.
        "serve, patiently" => config.force_after(LIFE),
        _ => config,
    };
    if role == "start up" {
        return start_up(config).await;
    }
    let ctl = ShutdownController::with_config(config).unwrap();
    let is_late = role.starts_with("handles SIGHUP late");
    if role.starts_with("handles SIGHUP") && !is_late {
        handle_hangups();
    }
    if role == "handles SIGHUP and hangs at the second" {
        let earlier = ShutdownController::new();
        earlier.listen_for_signals().unwrap();
        earlier.shutdown(ShutdownReason::Manual).await;
        ctl.listen_for(Signals::default().hangup()).unwrap();
    }
    match role {
        "all" => {
            let all = Signals::default().hangup().quit().user1().user2();
            ctl.listen_for(all).unwrap();
        }
        _ => ctl.listen_for_signals().unwrap(),
    }
    if is_late {
        handle_hangups();
    }
    let hangs = role.contains("hang");
    ctl.on_shutdown("clean up", move |_| async move {
        eprintln!("cleaning up");
        let time = if hangs { LIFE } else { CLEANUP };
        tokio::time::sleep(time).await;
        Ok(())
    })
    .unwrap();
    if hangs {
        ctl.on_state_change(|_, new| {
            if new == LifecycleState::Stopped {
                eprintln!("forced");
                std::thread::sleep(LIFE);
            }
        });
    }
    eprintln!("ready");
    match role {
        "trigger" => drop(ctl.trigger(ShutdownReason::Manual)),
        "resume" => {
            ctl.trigger(ShutdownReason::Manual);
            eprintln!("lame duck");
            tokio::time::sleep(CLEANUP / 2).await;
            ctl.resume().unwrap();
            eprintln!("resumed");
        }
        _ => {}
    }
    let report = ctl.run(ctl.stop_accepting()).await;
    eprintln!("{report}");
    if role.contains("linger") {
        tokio::time::sleep(LIFE).await;
    }
    report.exit()
}

fn handle_hangups() {
    let hangup = tokio::signal::unix::SignalKind::hangup();
    let mut hangups = tokio::signal::unix::signal(hangup).unwrap();
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            eprintln!("handled");
        }
    });
}

async fn start_up(config: ShutdownConfig) {
    let mut startup = Startup::new(config).unwrap();
    startup.controller().listen_for_signals().unwrap();
    let stop = |()| async { eprintln!("stopped the cache") };
    let start = async { Ok::<_, BoxError>(()) };
    startup.start("cache", start, stop).await.unwrap();
    let start = async {
        eprintln!("ready");
        std::future::pending::<Result<(), BoxError>>().await
    };
    let error = startup.start("db", start, |()| async {}).await.unwrap_err();
    eprintln!("{}", error.report());
    assert_eq!(error.exit_code(), error.report().exit_code());
    error.report().exit()
}
