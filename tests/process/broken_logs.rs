//! A log that panics or blocks: a closed pipe, a full disk, a terminal without a reader. State,
//! hooks, report, deadline and exit code are the same as with a working log.

mod support;

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::future::pending;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::panic::{catch_unwind, resume_unwind};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use nix::unistd::{dup2_stderr, dup2_stdout, pipe};
use tokio::time::{advance, timeout};
use tokio_test::{assert_pending, assert_ready};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_lifecycle::controller::TaskPolicy;
use tower_lifecycle::report::TaskReport;
use tower_lifecycle::store::{MemoryStore, StateStore};
use tower_lifecycle::{
    BoxError, DrainLayer, Hook, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason,
    Startup, Task,
};

use support::{Fault, Messages, listen, told};

/// What the child does, with which log, and to which output.
const ROLE: &str = "TOWER_LIFECYCLE_BROKEN_LOG";
/// Where the child writes its results: not to its output, which is broken.
const OUTPUT: &str = "TOWER_LIFECYCLE_BROKEN_LOG_OUTPUT";
const NOTES: &str = "TOWER_LIFECYCLE_BROKEN_LOG_NOTES";

// ===== in one process: each message panics in turn =====

/// A shutdown with every kind of event, on the paused clock.
async fn eventful() -> Vec<String> {
    let notes = Notes::default();
    let config = ShutdownConfig::default()
        .shutdown_timeout(Duration::from_secs(20))
        .lame_duck(Duration::from_secs(5))
        .progress_interval(Duration::from_secs(3));
    let mut startup = Startup::new(config).unwrap();
    let ctl = startup.controller();
    notes.observe(&ctl);
    for (name, stop) in [("cache", Ok(())), ("queue", Err("not empty"))] {
        let note = notes.clone();
        startup
            .start(
                name,
                async { Ok::<_, BoxError>(()) },
                move |()| async move {
                    note.add(format!("stop {name}"));
                    stop
                },
            )
            .await
            .unwrap();
    }
    startup.finish().await.unwrap();
    for (name, result) in [
        ("flush", Ok(())),
        ("deregister", Err("no such host".into())),
    ] {
        let note = notes.clone();
        let hook = Hook::new(name, move |_| async move {
            note.add(format!("hook {name}"));
            result
        });
        ctl.add_hook(hook).unwrap();
    }
    ctl.on_state_change(|_, _| resume_unwind(Box::new("an observer")));

    let store = MemoryStore::new();
    ctl.persist("state", store.clone(), || async { Ok("state") })
        .unwrap();

    ctl.pause();
    ctl.unpause();
    ctl.trigger(ShutdownReason::Manual);
    ctl.resume().unwrap();

    let stop = ctl.stop_accepting();
    let server = async move {
        stop.await;
        Err::<(), _>(io::Error::other("no more"))
    };
    let run = tokio::spawn(ctl.run(server));
    drop(ctl.spawn("cut", pending::<()>()));
    let stuck = ctl.track();
    ctl.trigger(ShutdownReason::Timeout);
    for _ in 0..50 {
        advance(Duration::from_millis(99)).await;
        drop(ctl.try_admit()); // until the end of the lame duck
    }
    drop(ctl.spawn("failing", async { Err::<(), _>("no broker") }));
    let report = timeout(Duration::from_secs(60), run)
        .await
        .unwrap()
        .unwrap();
    drop(stuck);
    notes.add(format!("{:?}", store.load("state").await.unwrap()));
    let report_text = report.to_string();
    // The system's clock measures tasks.
    let lines = report_text.lines().filter(|line| !line.contains("  task "));
    notes.add(lines.collect::<Vec<_>>().join("\n"));
    notes.add(format!(
        "{:?}",
        report
            .tasks()
            .iter()
            .map(|t| t.outcome().to_string())
            .collect::<Vec<_>>()
    ));
    notes.add(format!("{:?}", report.exit_code()));
    notes.take()
}

/// A start-up that fails.
async fn failing_startup() -> Vec<String> {
    let notes = Notes::default();
    let mut startup = Startup::new(ShutdownConfig::default()).unwrap();
    notes.observe(&startup.controller());
    let note = notes.clone();
    startup
        .start(
            "cache",
            async { Ok::<_, BoxError>(()) },
            move |()| async move {
                note.add("stop cache");
            },
        )
        .await
        .unwrap();
    let refused = async { Err::<(), _>("connection refused") };
    let error = startup
        .start("db", refused, |()| async {})
        .await
        .unwrap_err();
    notes.add(error.report().to_string());
    // One that is told to end.
    let startup = Startup::new(ShutdownConfig::default()).unwrap();
    startup.controller().trigger(ShutdownReason::Manual);
    notes.add(startup.finish().await.unwrap_err().report().to_string());
    // Another one, which is dropped.
    let mut startup = Startup::new(ShutdownConfig::default()).unwrap();
    let ctl = startup.controller();
    let note = notes.clone();
    startup
        .start(
            "port",
            async { Ok::<_, BoxError>(()) },
            move |()| async move {
                note.add("stop port");
            },
        )
        .await
        .unwrap();
    drop(startup);
    let ended = ctl.shutdown(ShutdownReason::Manual);
    notes.add(
        timeout(Duration::from_secs(60), ended)
            .await
            .unwrap()
            .to_string(),
    );
    notes.take()
}

/// A server that ends by itself, and a force while stopping.
async fn forced_cleanup() -> Vec<String> {
    let notes = Notes::default();
    let ctl = ShutdownController::new();
    notes.observe(&ctl);
    let hanging = Hook::new("hanging", {
        let ctl = ctl.clone();
        move |_| async move {
            ctl.force();
            pending().await
        }
    });
    ctl.add_hook(hanging).unwrap();
    let forces = ctl.clone();
    let state = || async move {
        forces.force();
        pending::<Result<&str, BoxError>>().await
    };
    ctl.persist("state", MemoryStore::new(), state).unwrap();
    let report = timeout(Duration::from_secs(60), ctl.run(async {}))
        .await
        .unwrap();
    notes.add(report.to_string());
    notes.take()
}

/// Requests that are cut in different places.
async fn cut_requests() -> Vec<String> {
    let notes = Notes::default();
    let ctl = ShutdownController::new();
    let layer = DrainLayer::new(ctl.clone());
    let mut in_handler = layer.clone().layer(service_fn(|_: Request<Empty<Bytes>>| {
        pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    }));
    let mut in_body = layer.layer(service_fn(|_: Request<Empty<Bytes>>| async {
        let body = StreamBody::new(futures_util::stream::pending::<
            Result<Frame<Bytes>, Infallible>,
        >());
        Ok::<_, Infallible>(Response::new(body))
    }));
    let layer = DrainLayer::new(ctl.clone()).reject_with_error();
    let mut call = layer.layer(service_fn(|_: u32| pending::<Result<(), BoxError>>()));

    let mut response = tokio_test::task::spawn(in_handler.ready().await.unwrap().call(request()));
    assert_pending!(response.poll());
    let body = in_body
        .ready()
        .await
        .unwrap()
        .call(request())
        .await
        .unwrap();
    let mut body = tokio_test::task::spawn(body.into_body().collect());
    assert_pending!(body.poll());
    let mut job = tokio_test::task::spawn(call.ready().await.unwrap().call(1));
    assert_pending!(job.poll());
    ctl.force();
    notes.add(format!(
        "{:?}",
        assert_ready!(response.poll()).unwrap().status()
    ));
    notes.add(format!("{:?}", assert_ready!(body.poll()).unwrap_err()));
    notes.add(format!("{:?}", assert_ready!(job.poll()).unwrap_err()));
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    notes.add(report.to_string());
    notes.take()
}

fn request() -> Request<Empty<Bytes>> {
    Request::new(Empty::new())
}

/// Tasks that end badly, and a worker and an admin server that do not end.
async fn background() -> Vec<String> {
    let notes = Notes::default();
    let ctl = ShutdownController::new();
    notes.observe(&ctl);
    let ignored = Task::new("ignored", async { Err::<(), _>("no broker") });
    let _ = ctl.spawn_task(ignored.on_error(TaskPolicy::Ignore)).await;
    ctl.spawn_admin("admin", |_closing| pending::<()>());
    let forces = ctl.clone();
    ctl.spawn_worker("outbox", |stop| async move {
        stop.await;
        forces.force();
        pending::<()>().await
    });
    ctl.spawn_task(Task::new("consumer", async {}).on_end(TaskPolicy::Shutdown));
    ctl.stopped().await;
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    let outcome = |task: &TaskReport| format!("{}: {}", task.name(), task.outcome());
    notes.add(format!(
        "{:?}",
        report.tasks().iter().map(outcome).collect::<Vec<_>>()
    ));
    notes.add(format!("{} {:?}", report.reason(), report.phases()));
    notes.take()
}

/// A shutdown without problems.
async fn calm() -> Vec<String> {
    let notes = Notes::default();
    let ctl = ShutdownController::new();
    notes.observe(&ctl);
    let run = ctl.run(ctl.stop_accepting());
    ctl.trigger(ShutdownReason::Manual);
    notes.add(run.await.to_string());
    notes.take()
}

/// A shutdown whose server is not told to stop.
async fn forgotten() -> Vec<String> {
    let notes = Notes::default();
    let ctl = ShutdownController::new();
    notes.observe(&ctl);
    let run = ctl.run(pending::<()>());
    ctl.trigger(ShutdownReason::Manual);
    notes.add(run.await.to_string());
    notes.take()
}

async fn lives() -> Vec<Vec<String>> {
    vec![
        forgotten().await,
        eventful().await,
        failing_startup().await,
        forced_cleanup().await,
        cut_requests().await,
        background().await,
        calm().await,
    ]
}

/// Messages that need a socket, a signal or a failing system.
const ELSEWHERE: &[&str] = &[
    "HTTP/2 needs the feature `http2`: closed the connection",
    "SIGHUP left to another handler",
    "a long shutdown will be killed, and hooks may not run: set a shorter total, or, if the platform waits longer, say so by `ShutdownConfig::within`",
    "a receiver of the report panicked",
    "action by the lifecycle service",
    "as many connections as allowed",
    "cannot accept connections; trying again",
    "cannot create a runtime for the shutdown",
    "cannot keep out new connections; they may be reset",
    "cannot notify systemd",
    "cannot remove the socket file",
    "cannot start a thread for the shutdown",
    "cannot start a thread to end the process",
    "cannot start a thread to watch the deadline",
    "cannot tell the old process that this one is ready",
    "cannot write the report of the shutdown",
    "connection closed: making its extensions, cloning the application or showing its address panicked",
    "connection cut",
    "connection failed",
    "ending long-lived responses",
    "hand-over called off: the new process has ended",
    "hand-over called off: the new process is asked to shut down",
    "handed over: the new process is ready",
    "handing over: new process started",
    "handshake cut",
    "handshake failed",
    "handshake took too long",
    "inherited sockets that were not taken are closed: are they asked for by these names?",
    "listening sockets inherited",
    "no request came in time",
    "not accepted",
    "not handed over; going on as before",
    "peer does not respond",
    "request refused: the service was not ready; call `poll_ready` before `call`",
    "second signal received: forcing",
    "service not stopped",
    "service started too late: stopping it",
    "shutdown ended a long-lived response",
    "signal ignored during the shutdown",
    "signal received again, too soon to count",
    "signal received: handing over",
    "signal received: shutting down",
    "stopped accepting",
    "the new process has ended, and the shutdown of this one cannot be called off",
    "the process did not exit by itself: something blocks its runtime",
    "the task of a connection or stream panicked: closed it",
];

#[tokio::test(start_paused = true)]
async fn each_message_may_panic() {
    let messages = Messages::default();
    let without = {
        let _log = listen(Fault::None, &messages);
        lives().await
    };
    let seen = messages.seen();
    let told = told();
    let missing: Vec<_> = told.difference(&seen).map(|message| &**message).collect();
    assert_eq!(missing, ELSEWHERE, "told and never tried, or the reverse");

    for message in seen {
        let messages = Messages::default();
        let _log = listen(Fault::PanicAt(message.clone()), &messages);
        assert_eq!(lives().await, without, "`{message}`");
        assert!(
            messages.seen().contains(&message),
            "`{message}` was not said"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_may_panic_at_whatever_it_is_told() {
    let without = lives().await;
    let _log = listen(Fault::PanicAlways, &Messages::default());
    assert_eq!(lives().await, without);
}

#[test]
fn a_shutdown_that_is_given_up_while_its_thread_unwinds_may_be_told_to_a_log_that_panics() {
    let ctl = catch_unwind(|| {
        let _log = listen(Fault::PanicAlways, &Messages::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.unwrap();
        let ctl = runtime.block_on(async { ShutdownController::new() });
        let _stuck = ctl.track();
        ctl.trigger(ShutdownReason::Manual);
        // Dropped while this thread panics, and the driver with it.
        let _runtime = runtime;
        resume_unwind(Box::new(ctl));
    });
    let payload = ctl.unwrap_err();
    let ctl = payload.downcast::<ShutdownController>().unwrap();
    assert_eq!(ctl.state(), LifecycleState::Stopped);
}

// ===== in a separate process =====

#[test]
fn a_log_that_panics_at_any_message_changes_nothing_for_a_signal() {
    let calm = Life::of("none").run(Output::Null);
    assert_eq!(calm, Ended::as_it_should());
    for message in [
        "signal received",
        "shutdown triggered",
        "server ended",
        "shutdown complete",
    ] {
        assert_eq!(
            Life::of(&format!("panic:{message}")).run(Output::Null),
            calm,
            "{message}"
        );
    }
    assert_eq!(Life::of("panic always").run(Output::Null), calm);
}

#[test]
fn a_log_that_blocks_for_ever_changes_nothing_for_a_signal() {
    let messages = [
        "signal received",
        "shutdown triggered",
        "server ended",
        "shutdown complete",
    ];
    for message in messages.iter().chain(&[""]) {
        let ended = Life::of(&format!("block:{message}")).run(Output::Null);
        assert_eq!(ended, Ended::as_it_should(), "{message}");
    }
}

#[test]
fn a_second_signal_forces_whatever_the_log_does() {
    for role in [
        "none",
        "panic:second signal",
        "panic always",
        "block:second signal",
        "block:",
    ] {
        let ended = Life::of(&format!("stuck {role}"))
            .signals(2)
            .run(Output::Null);
        assert_eq!(ended, Ended::forced(), "{role}");
    }
}

#[test]
fn outputs_that_cannot_be_written_change_nothing() {
    let outputs = [Output::ClosedPipe, Output::FullDisk, Output::FullPipe];
    for output in outputs {
        let ended = Life::of("fmt").run(output);
        assert_eq!(ended, Ended::as_it_should(), "{output:?}");
        let ended = Life::of("stuck fmt").signals(2).run(output);
        assert_eq!(ended, Ended::forced(), "{output:?}");
    }
}

/// The child: a server under a controller that listens for signals.
#[test]
#[ignore = "is run by the others, in a process of its own"]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let (is_stuck, log) = match role.strip_prefix("stuck ") {
        Some(log) => (true, log),
        None => (false, &*role),
    };
    let messages = Messages::default();
    match log {
        "none" => {}
        "fmt" => tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .init(),
        "panic always" => support::init(Fault::PanicAlways, &messages),
        _ => match log.split_once(':').unwrap() {
            ("panic", at) => support::init(Fault::PanicAt(at.to_owned()), &messages),
            (_, at) => support::init(Fault::BlockAt(at.to_owned()), &messages),
        },
    }
    match std::env::var(OUTPUT).as_deref() {
        Ok("ClosedPipe") => redirect(pipe().unwrap().1),
        Ok("FullPipe") => {
            let (reader, writer) = pipe().unwrap();
            std::mem::forget(reader);
            fill(writer.try_clone().unwrap().into());
            redirect(writer);
        }
        Ok("FullDisk") => redirect(
            File::options()
                .write(true)
                .open("/dev/full")
                .unwrap()
                .into(),
        ),
        _ => {}
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let report = runtime.block_on(async move {
        let config = ShutdownConfig::default().shutdown_timeout(Duration::from_secs(8));
        let ctl = ShutdownController::with_config(config).unwrap();
        ctl.listen_for_signals().unwrap();
        ctl.on_shutdown("note", |_| async {
            note("hook");
            Ok(())
        })
        .unwrap();
        let stuck = is_stuck.then(|| ctl.track());
        note("ready");
        let stop = ctl.stop_accepting();
        let report = ctl.run(stop).await;
        drop(stuck);
        report
    });
    note(if report.is_forced() {
        "forced"
    } else {
        "graceful"
    });
    report.exit()
}

/// Redirects stdout and stderr from now on: libtest has to write a line before.
fn redirect(output: OwnedFd) {
    dup2_stdout(&output).unwrap();
    dup2_stderr(&output).unwrap();
}

/// Fills a pipe, so that later writes block forever.
fn fill(mut pipe: File) {
    let written = Arc::new(Mutex::new(Instant::now()));
    let last = Arc::clone(&written);
    thread::spawn(move || {
        while pipe.write(&[b' '; 512]).is_ok() {
            *last.lock().unwrap() = Instant::now();
        }
    });
    while written.lock().unwrap().elapsed() < Duration::from_millis(300) {
        thread::sleep(Duration::from_millis(20));
    }
}

fn note(what: &str) {
    let path = std::env::var_os(NOTES).unwrap();
    let mut notes = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    writeln!(notes, "{what}").unwrap();
}

// ===== the child, as its parent sees it =====

#[derive(Debug, Clone, Copy)]
enum Output {
    Null,
    ClosedPipe,
    FullPipe,
    FullDisk,
}

#[derive(Debug, PartialEq)]
struct Ended {
    notes: Vec<String>,
    code: Option<i32>,
    in_time: bool,
}

impl Ended {
    fn of(notes: &[&str], code: i32) -> Self {
        Self {
            notes: notes.iter().map(|&note| note.to_owned()).collect(),
            code: Some(code),
            in_time: true,
        }
    }

    fn as_it_should() -> Self {
        Self::of(&["ready", "hook", "graceful"], 0)
    }

    fn forced() -> Self {
        Self::of(&["ready", "hook", "forced"], 1)
    }
}

struct Life {
    role: String,
    signals: u32,
}

impl Life {
    fn of(role: &str) -> Self {
        let role = role.to_owned();
        Self { role, signals: 1 }
    }

    fn signals(mut self, signals: u32) -> Self {
        self.signals = signals;
        self
    }

    fn run(&self, output: Output) -> Ended {
        let name = format!("broken-logs-{}-{:p}", std::process::id(), self);
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        drop(std::fs::remove_file(&path));
        let notes = || std::fs::read_to_string(&path).unwrap_or_default();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "broken_logs::child", "--ignored", "--nocapture"])
            .env(ROLE, &self.role)
            .env(NOTES, &path)
            .stdin(Stdio::null());
        command.env(OUTPUT, format!("{output:?}"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        wait_for(|| notes().contains("ready"));
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        let began = Instant::now();
        for nth in 0..self.signals {
            if nth > 0 {
                // Longer than the minimum between two counted signals.
                thread::sleep(Duration::from_millis(700));
            }
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        }
        let mut status: Option<ExitStatus> = None;
        wait_for(|| {
            status = child.try_wait().unwrap();
            status.is_some() || began.elapsed() > Duration::from_secs(20)
        });
        if status.is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let ended = Ended {
            notes: notes().lines().map(str::to_owned).collect(),
            code: status.and_then(|status| status.code()),
            in_time: status.is_some(),
        };
        drop(std::fs::remove_file(&path));
        ended
    }
}

fn wait_for(mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(30), "never came");
        thread::sleep(Duration::from_millis(10));
    }
}

// ===== what a run leaves behind =====

/// The observed events, in order.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn add(&self, note: impl Into<String>) {
        self.0.lock().unwrap().push(note.into());
    }

    fn observe(&self, ctl: &ShutdownController) {
        let notes = self.clone();
        ctl.on_state_change(move |old, new| notes.add(format!("{old} -> {new}")));
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}
