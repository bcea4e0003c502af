//! The process ends at the configured time, even if its runtime is blocked. Time is real here.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tower_lifecycle::{ShutdownConfig, ShutdownController, ShutdownReason};

const ROLE: &str = "TOWER_LIFECYCLE_EXIT_ROLE";
/// How long the runtime stays blocked. Nothing may take that long.
const BLOCKED: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_secs(10);

// ===== blocked runtime drops =====

#[test]
fn work_on_the_blocking_pool_that_a_handler_awaits_does_not_hold_the_process() {
    let (code, took, said) = run("awaited");
    assert_eq!(code, Some(1), "forced: {said:?}");
    assert!(took < SOON, "{took:?}");
}

#[test]
fn work_on_the_blocking_pool_that_nobody_awaits_does_not_hold_the_process() {
    let (code, took, said) = run("fire and forget");
    assert_eq!(code, Some(0), "graceful: {said:?}");
    assert!(took < SOON, "{took:?}");
}

#[test]
fn a_read_of_stdin_does_not_hold_the_process() {
    let (code, took, said) = run("stdin");
    assert_eq!(code, Some(0), "graceful: {said:?}");
    assert!(took < SOON, "{took:?}");
}

#[test]
fn a_shutdown_that_gives_no_report_does_not_hold_the_process() {
    let (code, took, _) = run("no report");
    assert_eq!(code, Some(1));
    assert!(took < SOON, "{took:?}");
}

/// Code that runs at the end of a process, such as the flush of stdout.
#[cfg(feature = "signal")]
#[test]
fn an_end_that_hangs_itself_does_not_hold_the_process() {
    let (code, took, said) = run("full pipe");
    assert_eq!(code, Some(0), "graceful: {said:?}");
    assert!(took < SOON, "{took:?}");
}

// ===== processes that end in time =====

#[test]
fn a_process_that_ends_by_itself_is_let_alone() {
    let (code, took, said) = run("ends by itself");
    assert_eq!(code, Some(7), "its own code: {said:?}");
    assert!(took < SOON, "{took:?}");
}

#[test]
fn a_shutdown_that_was_called_off_ends_nothing() {
    let (code, _, said) = run("called off");
    assert_eq!(code, Some(8), "its own code: {said:?}");
}

#[test]
fn without_the_setting_the_runtime_is_waited_for() {
    let mut child = Process::start("unset");
    child.says("graceful");
    thread::sleep(Duration::from_secs(2));
    assert!(child.process.try_wait().unwrap().is_none());
    child.process.kill().unwrap();
    child.process.wait().unwrap();
}

// ===== exit_dropping =====

#[test]
fn what_is_handed_over_is_dropped_before_the_end_and_may_panic() {
    let (code, _, said) = run("dropping");
    assert_eq!(code, Some(0), "{said:?}");
    assert!(said.iter().any(|line| line == "dropped"), "{said:?}");
    let (code, ..) = run("dropping what panics");
    assert_eq!(code, Some(0));
}

// ===== the child, as its parent sees it =====

struct Process {
    process: Child,
    lines: Lines<BufReader<ChildStderr>>,
    said: Vec<String>,
}

impl Process {
    fn start(role: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "exit_after::child", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .stdin(Stdio::piped()) // never written to
            .stdout(Stdio::piped()) // never read from
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let said = Vec::new();
        Self {
            process,
            lines,
            said,
        }
    }

    fn says(&mut self, text: &str) {
        for line in &mut self.lines {
            self.said.push(line.unwrap());
            if self.said.last().unwrap().contains(text) {
                return;
            }
        }
        panic!("ended without `{text}`: {:?}", self.said);
    }
}

/// Returns the exit code, how long after the trigger it came, and the output.
fn run(role: &str) -> (Option<i32>, Duration, Vec<String>) {
    let mut child = Process::start(role);
    child.says("triggered");
    let since = Instant::now();
    let stdin = child.process.stdin.take();
    let status = child.process.wait().unwrap();
    drop(stdin);
    let took = since.elapsed();
    child.said.extend(child.lines.map_while(Result::ok));
    (status.code(), took, child.said)
}

// ===== the child, as it sees itself =====

#[test]
#[ignore = "started as a process of its own by the tests of this file"]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let config = ShutdownConfig::default()
        .shutdown_timeout(Duration::from_secs(1))
        .lame_duck(Duration::from_millis(100));
    let config = match &*role {
        "unset" => config,
        "ends by itself" => config.exit_after(Duration::MAX),
        _ => config.exit_after(Duration::from_millis(500)),
    };
    let runtime = match &*role {
        "no report" => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build(),
        _ => tokio::runtime::Runtime::new(),
    };
    let runtime = runtime.unwrap();
    let report = runtime.block_on(live(&role, config));
    say(&report.to_string());
    if role == "full pipe" {
        fill_stdout();
    }
    match &*role {
        "ends by itself" => std::process::exit(7),
        "dropping" => report.exit_dropping((Says("dropped"), Says("dropped, too"))),
        "dropping what panics" => report.exit_dropping(Panics),
        _ => {}
    }
    // As at the end of `main`.
    drop(runtime);
    std::process::exit(99);
}

async fn live(role: &str, config: ShutdownConfig) -> tower_lifecycle::ShutdownReport {
    let ctl = ShutdownController::with_config(config).unwrap();
    match role {
        "awaited" => {
            let request = ctl.track();
            tokio::spawn(async move {
                let blocked = tokio::task::spawn_blocking(|| thread::sleep(BLOCKED));
                tokio::select! {
                    _ = blocked => {}
                    () = request.forced() => {}
                }
            });
        }
        "fire and forget" | "unset" | "full pipe" => {
            drop(tokio::task::spawn_blocking(|| thread::sleep(BLOCKED)));
        }
        "stdin" => {
            tokio::spawn(async {
                let mut stdin = tokio::io::stdin();
                let _ = tokio::io::AsyncReadExt::read(&mut stdin, &mut [0; 10]).await;
            });
            tokio::task::yield_now().await;
        }
        "no report" => {
            // The thread that gives up the shutdown drops it, since its runtime is blocked.
            let blocks = Blocks;
            ctl.on_shutdown("never run", |_| async move {
                drop(blocks);
                Ok(())
            })
            .unwrap();
        }
        _ => {}
    }
    ctl.trigger(ShutdownReason::Manual);
    say("triggered");
    if role == "no report" {
        thread::sleep(BLOCKED);
    }
    if role == "called off" {
        while ctl.resume().is_err() {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        std::process::exit(8);
    }
    ctl.shutdown(ShutdownReason::Manual).await
}

fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// Makes stdout hold some text that it cannot write.
fn fill_stdout() {
    let mut pipe = std::fs::File::create("/dev/stdout").unwrap();
    nix::fcntl::fcntl(
        &pipe,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
    )
    .unwrap();
    while pipe.write(&[b'.'; 4096]).is_ok() {}
    while pipe.write(b".").is_ok() {}
    print!("the rest");
}

struct Says(&'static str);

impl Drop for Says {
    fn drop(&mut self) {
        say(self.0);
    }
}

struct Blocks;

impl Drop for Blocks {
    fn drop(&mut self) {
        thread::sleep(BLOCKED);
    }
}

struct Panics;

impl Drop for Panics {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("in a drop"));
    }
}
