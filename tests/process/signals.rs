//! Real signals to real processes.
//!
//! A child is this test binary again, running only the test `child`, which serves on its own port
//! and prints its events to stderr, one word a line.

use std::future::pending;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::routing::get;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::StatusCode;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{ChildStderr, Command};
use tokio::runtime::{Builder, Runtime};
use tower_lifecycle::{
    DrainLayer, ShutdownConfig, ShutdownController, ShutdownReason, ShutdownReport,
};

use crate::support::loopback::loopback;
use crate::support::sockets::{Event, Held, Protocol, client, in_time};

/// Tells the child what to do.
const ROLE: &str = "TOWER_LIFECYCLE_TEST_ROLE";
/// Makes the child count every second signal.
const AT_ONCE: Duration = Duration::ZERO;
/// The maximum lifetime of a child.
const LIFE: Duration = Duration::from_secs(25);
/// The child's `shutdown_timeout`.
const DEADLINE: Duration = Duration::from_secs(20);
const BIG: usize = 64 << 20;

// ===== one signal =====

#[tokio::test]
async fn sigterm_closes_the_listener_at_once_and_lets_everybody_finish() {
    in_time(async {
        const CLIENTS: usize = 20;
        let mut child = Child::start("serve").await;
        let client = client(Protocol::Http1);
        let mut admitted = Vec::new();
        for _ in 0..CLIENTS {
            admitted.push(tokio::spawn(client.get(child.url("/slow")).send()));
        }
        for _ in 0..CLIENTS {
            child.says("entered").await;
        }

        child.send(Signal::SIGTERM);
        child.says("draining").await;
        while TcpStream::connect(&child.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        for response in admitted {
            let response = response.await.unwrap().unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()["connection"], "close");
            assert_eq!(response.text().await.unwrap(), Held::ANSWER);
        }
        child.says("shutdown: graceful").await;
        assert_eq!(child.exit().await.code(), Some(0));
    })
    .await;
}

#[tokio::test]
async fn sigterm_under_load_lets_everybody_finish_and_exits_with_0() {
    in_time(async {
        const CLIENTS: usize = 20;
        let mut child = Child::start("serve and refuse").await;
        let client = client(Protocol::Http1);
        let mut big = client.get(child.url("/big")).send().await.unwrap();
        let mut admitted = Vec::new();
        for _ in 0..CLIENTS {
            admitted.push(tokio::spawn(client.get(child.url("/held")).send()));
        }
        for _ in 0..CLIENTS {
            child.says("entered").await;
        }

        child.send(Signal::SIGTERM);
        child.says("draining").await;
        let refused = client.get(child.url("/")).send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers()["connection"], "close");
        client.get(child.url("/release")).send().await.unwrap();
        for response in admitted {
            let response = response.await.unwrap().unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.text().await.unwrap(), Held::ANSWER);
        }

        // Nothing is counted any more, but one client has not started to read.
        child.says("drained").await;
        let mut received = 0;
        while let Some(chunk) = big.chunk().await.unwrap() {
            received += chunk.len();
        }
        assert_eq!(received, BIG);
        child.says("shutdown: graceful").await;
        assert_eq!(child.exit().await.code(), Some(0));
    })
    .await;
}

#[tokio::test]
async fn sigint_alone_is_graceful_too() {
    in_time(async {
        let mut child = Child::start("serve").await;
        child.send(Signal::SIGINT);
        child.says("(reason: signal SIGINT)").await;
        assert_eq!(child.exit().await.code(), Some(0));
    })
    .await;
}

// ===== two signals =====

#[tokio::test]
async fn a_second_signal_forces_at_once_and_the_exit_code_is_1() {
    use Signal::{SIGINT, SIGTERM};
    for (first, second) in [(SIGTERM, SIGTERM), (SIGTERM, SIGINT), (SIGINT, SIGTERM)] {
        in_time(async {
            let mut child = Child::start("serve").await;
            let stuck = tokio::spawn(client(Protocol::Http1).get(child.url("/stuck")).send());
            child.says("entered").await;

            let began = Instant::now();
            child.send(first);
            child.says("draining").await;
            child.send(second);
            let cut = stuck.await.unwrap().unwrap();
            assert_eq!(cut.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(cut.headers().get("retry-after").is_none());
            child.says("shutdown: forced").await;
            assert_eq!(child.exit().await.code(), Some(1));
            assert!(began.elapsed() < DEADLINE / 2);
        })
        .await;
    }
}

#[tokio::test]
async fn a_second_signal_in_the_lame_duck_forces_too() {
    in_time(async {
        let mut child = Child::start("lame duck").await;
        child.send(Signal::SIGTERM);
        child.says("lame_duck").await;
        child.send(Signal::SIGTERM);
        child.says("shutdown: forced").await;
        assert_eq!(child.exit().await.code(), Some(1));
    })
    .await;
}

#[tokio::test]
async fn a_second_signal_in_the_clean_up_cuts_it() {
    in_time(async {
        let mut child = Child::start("endless hook").await;
        child.send(Signal::SIGTERM);
        child.says("cleaning up").await;
        child.send(Signal::SIGTERM);
        child.says("shutdown: forced").await;
        assert_eq!(child.exit().await.code(), Some(1));
    })
    .await;
}

// ===== a resume in between =====

#[tokio::test]
async fn a_signal_after_a_resume_is_a_first_one_again() {
    in_time(async {
        let mut child = Child::start("lame duck").await;
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGTERM] {
            child.send(signal);
            child.says("running -> lame_duck").await;
            client(Protocol::Http1)
                .get(child.url("/resume"))
                .send()
                .await
                .unwrap();
            child.says("lame_duck -> running").await;
            let served = client(Protocol::Http1)
                .get(child.url("/"))
                .send()
                .await
                .unwrap();
            assert_eq!(served.status(), StatusCode::OK);
            assert!(served.headers().get("connection").is_none());
        }
        child.send(Signal::SIGINT);
        child.says("running -> lame_duck").await;
        child.send(Signal::SIGTERM);
        child.says("shutdown: forced").await;
        assert_eq!(child.exit().await.code(), Some(1));
    })
    .await;
}

#[tokio::test]
async fn the_metrics_name_the_latest_signal() {
    in_time(async {
        let mut child = Child::start("lame duck").await;
        let signal = async |child: &Child| {
            let answer = client(Protocol::Http1).get(child.url("/signal")).send();
            answer.await.unwrap().text().await.unwrap()
        };
        assert_eq!(signal(&child).await, "None");
        child.send(Signal::SIGTERM);
        child.says("lame_duck, after Some(\"SIGTERM\")").await;
        assert_eq!(signal(&child).await, r#"Some("SIGTERM")"#);
        child.send(Signal::SIGINT);
        child.says("stopped, after Some(\"SIGINT\")").await;
        assert_eq!(child.exit().await.code(), Some(1));
    })
    .await;
}

// ===== three signals, and later ones =====

#[tokio::test]
async fn a_third_signal_kills_also_when_a_thread_is_blocked() {
    for (path, third) in [
        ("/stuck", Signal::SIGTERM),
        ("/blocked", Signal::SIGTERM),
        ("/blocked", Signal::SIGINT),
    ] {
        in_time(async {
            let mut child = Child::start("endless hook").await;
            let _stuck = tokio::spawn(client(Protocol::Http1).get(child.url(path)).send());
            child.says("entered").await;
            child.send(Signal::SIGTERM);
            child.says("draining").await;
            child.send(Signal::SIGTERM);
            child.says("cleaning up").await;
            child.send(third);
            assert_eq!(child.exit().await.signal(), Some(third as i32));
        })
        .await;
    }
}

#[tokio::test]
async fn a_signal_after_the_end_kills() {
    killed_after_the_end("linger").await;
    killed_after_the_end("listen thrice and linger").await;
}

#[tokio::test]
async fn a_signal_after_the_end_kills_also_when_the_runtime_runs_nothing_more() {
    killed_after_the_end("linger with the only thread blocked").await;
}

async fn killed_after_the_end(role: &str) {
    in_time(async {
        let mut child = Child::start(role).await;
        child.send(Signal::SIGTERM);
        child.says("shutdown: graceful").await;
        child.send(Signal::SIGTERM);
        assert_eq!(child.exit().await.signal(), Some(Signal::SIGTERM as i32));
    })
    .await;
}

#[tokio::test]
async fn a_signal_after_the_end_of_the_runtime_kills() {
    in_time(async {
        let mut child = Child::start("outlive the runtime").await;
        child.says("runtime gone").await;
        child.send(Signal::SIGINT);
        assert_eq!(child.exit().await.signal(), Some(Signal::SIGINT as i32));
    })
    .await;
}

// ===== listening =====

#[tokio::test]
async fn listening_twice_does_not_make_two_of_one_signal() {
    in_time(async {
        let mut child = Child::start("listen thrice and linger").await;
        let held = tokio::spawn(client(Protocol::Http1).get(child.url("/held")).send());
        child.says("entered").await;
        child.send(Signal::SIGTERM);
        child.says("draining").await;
        let release = client(Protocol::Http1).get(child.url("/release")).send();
        assert_eq!(release.await.unwrap().status(), StatusCode::OK);
        let held = held.await.unwrap().unwrap();
        assert_eq!(held.text().await.unwrap(), Held::ANSWER);
        child.says("shutdown: graceful").await;
    })
    .await;
}

#[tokio::test]
async fn a_signal_reaches_a_controller_also_when_another_one_has_stopped() {
    in_time(async {
        let mut child = Child::start("serve after another has stopped").await;
        child.send(Signal::SIGTERM);
        child.says("(reason: signal SIGTERM)").await;
        assert_eq!(child.exit().await.code(), Some(0));
    })
    .await;
}

#[tokio::test]
async fn signals_are_heard_also_in_a_runtime_without_its_io_driver() {
    in_time(async {
        let mut child = Child::start("listen without an I/O driver").await;
        child.send(Signal::SIGTERM);
        child.says("(reason: signal SIGTERM)").await;
        assert_eq!(child.exit().await.code(), Some(0));
    })
    .await;
}

#[tokio::test]
async fn signals_are_heard_in_a_second_runtime_after_the_first_has_ended() {
    in_time(async {
        let mut child = Child::start("serve in a second runtime").await;
        child.send(Signal::SIGTERM);
        child.says("(reason: signal SIGTERM)").await;
        assert_eq!(child.exit().await.code(), Some(0));
    })
    .await;
}

#[test]
fn listening_outside_a_runtime_is_an_error() {
    let error = ShutdownController::new().listen_for_signals().unwrap_err();
    assert!(error.to_string().contains("inside a tokio runtime"));
}

// ===== the child, as its parent sees it =====

struct Child {
    process: tokio::process::Child,
    address: String,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Child {
    async fn start(role: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "signals::child", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut child = Self {
            process,
            address: String::new(),
            lines,
        };
        let address = child.says("ready").await;
        child.address = address.replace("ready", "").trim().to_owned();
        child
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits for the next line with `text` in it.
    async fn says(&mut self, text: &str) -> String {
        loop {
            let line = self.lines.next_line().await.unwrap();
            let line = line.unwrap_or_else(|| panic!("the child has ended without `{text}`"));
            println!("{line}");
            if line.contains(text) {
                return line;
            }
        }
    }

    fn send(&self, signal: Signal) {
        let pid = self.process.id().unwrap();
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    async fn exit(mut self) -> ExitStatus {
        self.process.wait().await.unwrap()
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
    match &*role {
        "serve" => serve(ctl(), &threads()).exit(),
        "serve and refuse" => serve(refusing_ctl(), &threads()).exit(),
        "lame duck" => {
            let config = config().force_after(AT_ONCE).lame_duck(DEADLINE / 2);
            let ctl = ShutdownController::with_config(config).unwrap();
            serve(ctl, &threads()).exit()
        }
        "endless hook" => {
            let ctl = ctl();
            let hook = ctl.on_shutdown("endless", |_| async {
                eprintln!("cleaning up");
                pending().await
            });
            hook.unwrap();
            serve(ctl, &threads()).exit()
        }
        "linger" => {
            let runtime = threads();
            serve(ctl(), &runtime);
            sleep_for_ever()
        }
        "linger with the only thread blocked" => {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            serve(ctl(), &runtime);
            sleep_for_ever()
        }
        "listen thrice and linger" => {
            let (ctl, runtime) = (refusing_ctl(), threads());
            let _entered = runtime.enter();
            ctl.listen_for_signals().unwrap();
            ctl.listen_for_signals().unwrap();
            serve(ctl, &runtime);
            sleep_for_ever()
        }
        "serve after another has stopped" => {
            let (another, runtime) = (ctl(), threads());
            runtime.block_on(async {
                another.listen_for_signals().unwrap();
                another.shutdown(ShutdownReason::Manual).await;
            });
            serve(ctl(), &runtime).exit()
        }
        "serve in a second runtime" => {
            let (ctl, second) = (ctl(), threads());
            let first = Builder::new_current_thread().enable_all().build().unwrap();
            first.block_on(async { ctl.listen_for_signals().unwrap() });
            // The first listener may still be ending when the second begins.
            drop(first);
            serve(ctl, &second).exit()
        }
        "outlive the runtime" => {
            let runtime = threads();
            runtime.block_on(async { ctl().listen_for_signals().unwrap() });
            drop(runtime);
            eprintln!("ready\nruntime gone");
            sleep_for_ever()
        }
        "listen without an I/O driver" => {
            let (ctl, runtime) = (ctl(), Builder::new_current_thread().enable_time().build());
            let report = runtime.unwrap().block_on(async {
                ctl.listen_for_signals().unwrap();
                eprintln!("ready");
                ctl.stopped().await;
                ctl.shutdown(ShutdownReason::Manual).await
            });
            eprintln!("{report}");
            report.exit()
        }
        other => panic!("no such role: {other}"),
    }
}

fn ctl() -> ShutdownController {
    ShutdownController::with_config(config().force_after(AT_ONCE)).unwrap()
}

fn config() -> ShutdownConfig {
    ShutdownConfig::default().shutdown_timeout(DEADLINE)
}

/// A controller whose listener stays open while draining, and refuses.
fn refusing_ctl() -> ShutdownController {
    let config = config().force_after(AT_ONCE);
    ShutdownController::with_config(config.refuse_for(Duration::from_millis(200))).unwrap()
}

fn threads() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(3).enable_all().build().unwrap()
}

/// Serves until the end, and prints that.
fn serve(ctl: ShutdownController, runtime: &Runtime) -> ShutdownReport {
    let report = runtime.block_on(async {
        ctl.listen_for_signals().unwrap();
        let seen = ctl.clone();
        ctl.on_state_change(move |old, new| {
            let signal = seen.metrics().signal_received;
            eprintln!("{old} -> {new}, after {signal:?}");
        });
        let drained = ctl.drained();
        tokio::spawn(async {
            drained.await;
            eprintln!("drained");
        });
        let listener = TcpListener::bind(loopback()).await.unwrap();
        eprintln!("ready {}", listener.local_addr().unwrap());
        let server = axum::serve(listener, app(&ctl));
        ctl.run(server.with_graceful_shutdown(ctl.stop_accepting()))
            .await
    });
    eprintln!("{report}");
    report
}

fn app(ctl: &ShutdownController) -> Router {
    let (resume, signal) = (ctl.clone(), ctl.clone());
    let released = Event::new();
    let release = released.clone();
    let held = async move || {
        eprintln!("entered");
        released.happened().await;
        released.happens(); // for the next one
        Held::ANSWER
    };
    // Long enough for the test to see that the listener is closed.
    let slow = async || {
        eprintln!("entered");
        tokio::time::sleep(Duration::from_secs(2)).await;
        Held::ANSWER
    };
    let stuck = async || {
        eprintln!("entered");
        pending::<()>().await
    };
    let blocked = async || {
        eprintln!("entered");
        sleep_for_ever()
    };
    Router::new()
        .route("/", get(async || "ok"))
        .route("/held", get(held))
        .route("/release", get(async move || release.happens()))
        .route("/slow", get(slow))
        .route("/stuck", get(stuck))
        .route("/blocked", get(blocked))
        .route("/resume", get(async move || resume.resume().unwrap()))
        .route(
            "/signal",
            get(async move || format!("{:?}", signal.metrics().signal_received)),
        )
        .route("/big", get(async || Bytes::from(vec![b'b'; BIG])))
        .layer(DrainLayer::new(ctl.clone()).exempt_paths(["/release"]))
}

/// Blocks the thread, and with it everything else that it would run.
fn sleep_for_ever() {
    std::thread::sleep(LIFE * 2);
}
