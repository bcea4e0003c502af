//! A process that is stopped for a while, past its deadline: what it does when it continues.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal::{self, SIGCONT, SIGSTOP, SIGTERM};
use nix::unistd::Pid;
use tower_lifecycle::store::MemoryStore;
use tower_lifecycle::{Hook, ShutdownConfig, ShutdownController};

/// Set for the child: the phase in which it is stopped.
const STOPPED_IN: &str = "TOWER_LIFECYCLE_STOPPED_IN";

/// How long a hook of the child takes, and its save: all fit into its reserve of a second.
const HOOK: Duration = Duration::from_millis(100);
const SAVE: Duration = Duration::from_millis(100);

#[test]
#[ignore = "is run by the others, in a process of its own"]
fn child() {
    let Ok(phase) = std::env::var(STOPPED_IN) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let report = runtime.block_on(async {
        let config = ShutdownConfig::default()
            .shutdown_timeout(Duration::from_secs(2))
            .cleanup_reserve(Duration::from_secs(1));
        let ctl = ShutdownController::with_config(config).unwrap();
        ctl.listen_for_signals().unwrap();
        for nth in 0..2 {
            let hook = Hook::new(format!("hook {nth}"), move |_| async move {
                eprintln!("hook {nth}");
                tokio::time::sleep(HOOK).await;
                eprintln!("hook {nth} is done");
                Ok(())
            });
            ctl.add_hook(hook.phase(nth)).unwrap();
        }
        ctl.persist("state", MemoryStore::new(), || async {
            tokio::time::sleep(SAVE).await;
            eprintln!("saved");
            Ok("state")
        })
        .unwrap();
        ctl.spawn_worker("outbox", |stop| async move {
            stop.await;
            eprintln!("worker");
            tokio::time::sleep(HOOK).await;
            eprintln!("worker is done");
        });
        let stuck = (phase == "draining").then(|| ctl.track());
        eprintln!("ready");
        let run = ctl.run(ctl.stop_accepting());
        let draining = ctl.draining();
        let tells = async {
            draining.await;
            eprintln!("draining");
        };
        let report = tokio::join!(run, tells).0;
        drop(stuck);
        report
    });
    eprintln!("{report}");
    report.exit()
}

struct Frozen {
    process: Child,
    lines: Lines<BufReader<ChildStderr>>,
    said: Vec<String>,
}

impl Frozen {
    fn start(phase: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "frozen::child", "--ignored", "--nocapture"])
            .env(STOPPED_IN, phase)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let said = Vec::new();
        let mut child = Self {
            process,
            lines,
            said,
        };
        child.says("ready");
        child
    }

    fn says(&mut self, text: &str) {
        while self.said.last().map(String::as_str) != Some(text) {
            let line = self.lines.next().expect("the child has ended").unwrap();
            self.said.push(line);
        }
    }

    fn send(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Stops it for 3 s, past its deadline. Returns its output.
    fn freeze(mut self) -> (Vec<String>, Duration) {
        self.send(SIGSTOP);
        thread::sleep(Duration::from_secs(3));
        let woken = Instant::now();
        self.send(SIGCONT);
        while let Some(Ok(line)) = self.lines.next() {
            self.said.push(line);
        }
        let took = woken.elapsed();
        self.process.wait().unwrap();
        (self.said, took)
    }
}

/// The worker and all hooks, in order, begun and done.
fn assert_cleaned_up(said: &[String]) {
    let is_part = |line: &&str| line.starts_with("hook ") || line.starts_with("worker");
    let parts: Vec<_> = said.iter().map(String::as_str).filter(is_part).collect();
    let expected = [
        "worker",
        "worker is done",
        "hook 0",
        "hook 0 is done",
        "hook 1",
        "hook 1 is done",
    ];
    assert_eq!(parts, expected, "{said:#?}");
    assert!(said.iter().any(|line| line == "saved"), "{said:#?}");
}

/// Stops five children in parallel, each after this line of output. Returns their output and how
/// long they take after they continue.
fn freeze_five(phase: &'static str, when: &'static str) -> Vec<(Vec<String>, Duration)> {
    let freeze = move || {
        let mut child = Frozen::start(phase);
        child.send(SIGTERM);
        child.says(when);
        child.freeze()
    };
    let children: Vec<_> = (0..5).map(|_| thread::spawn(freeze)).collect();
    let ends = children.into_iter().map(|child| child.join().unwrap());
    ends.collect()
}

fn assert_says(said: &[String], word: &str) {
    assert!(said.iter().any(|line| line.contains(word)), "{said:#?}");
}

#[test]
fn hooks_have_their_reserve_when_the_process_slept_through_the_drain() {
    for (said, took) in freeze_five("draining", "draining") {
        assert_cleaned_up(&said);
        assert_says(&said, "forced");
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
}

#[test]
fn hooks_have_the_rest_of_their_reserve_when_the_process_slept_in_the_clean_up() {
    for (said, _) in freeze_five("stopping", "hook 0") {
        assert_cleaned_up(&said);
        assert_says(&said, "graceful");
    }
}

#[test]
fn workers_have_the_rest_of_their_share_when_the_process_slept_in_it() {
    for (said, _) in freeze_five("workers", "worker") {
        assert_cleaned_up(&said);
        assert_says(&said, "graceful");
    }
}
