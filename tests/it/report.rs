//! The report as text, as data, as a file, and for whoever asks for it.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;
use tower_lifecycle::{Hook, ShutdownConfig, ShutdownController, ShutdownReason};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A path of this test alone.
fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("tower-lifecycle-{}-{name}", std::process::id()))
}

#[tokio::test(start_paused = true)]
async fn it_is_data() {
    let config = ShutdownConfig::default().lame_duck(SECOND);
    let ctl = ShutdownController::with_config(config).unwrap();
    ctl.on_shutdown("flush", |_| async { Ok(()) }).unwrap();
    let late = Hook::new("close", |_| async { Err("no disk".into()) }).phase(2);
    ctl.add_hook(late).unwrap();
    let panics = Hook::new("panics", |_| async { panic!("no more") }).phase(3);
    ctl.add_hook(panics).unwrap();
    let guard = ctl.track();
    let server = ctl.run(async {
        sleep(1500 * MS).await;
        Err::<(), _>(io::Error::other("listener"))
    });
    let server = tokio::spawn(server);
    tokio::task::yield_now().await;
    ctl.trigger(ShutdownReason::Signal("SIGTERM"));
    sleep(1200 * MS).await;
    drop(guard);
    let report = server.await.unwrap();

    let data = serde_json::to_value(&report).unwrap();
    assert_eq!(
        data,
        json!({
            "result": "with_errors",
            "graceful": false,
            "forced": false,
            "exit_code": 1,
            "reason": "signal",
            "signal": "SIGTERM",
            "duration_seconds": 1.5,
            "phases": [
                {"state": "lame_duck", "duration_seconds": 1.0},
                {"state": "draining", "duration_seconds": 0.5},
                {"state": "stopping", "duration_seconds": 0.0},
            ],
            "lame_duck_end": "in_full",
            "requests": {
                "admitted": 1,
                "refused": 0,
                "in_flight_at_trigger": 1,
                "late_in_lame_duck": 0,
                "last_in_lame_duck_seconds": null,
                "lame_duck_was_too_short": false,
                "late_while_draining": 0,
                "in_flight_at_force": 0,
                "aborted": 0,
                "abandoned": 0,
            },
            "abandoned": 0,
            "connections_cut": 0,
            "startup_failure": null,
            "server_errors": ["listener"],
            "aborted_work": [],
            "abandoned_work": [],
            "tasks": [],
            "tasks_not_listed": 0,
            "hooks": [
                {"name": "flush", "phase": 0, "outcome": "completed", "error": null, "duration_seconds": 0.0},
                {"name": "close", "phase": 2, "outcome": "failed", "error": "no disk", "duration_seconds": 0.0},
                {"name": "panics", "phase": 3, "outcome": "panicked", "error": "no more", "duration_seconds": 0.0},
            ],
            "services": [],
            "saves": [],
        })
    );
}

#[tokio::test]
async fn each_reason_and_result_has_a_word() {
    for (reason, word) in [
        (ShutdownReason::Manual, "manual"),
        (ShutdownReason::Timeout, "timeout"),
        (ShutdownReason::Error, "error"),
        (ShutdownReason::ServerExited, "server_exited"),
        (ShutdownReason::TaskEnded, "task_ended"),
    ] {
        let report = ShutdownController::new().shutdown(reason).await;
        let data = serde_json::to_value(&report).unwrap();
        assert_eq!(
            (&data["reason"], &data["signal"]),
            (&word.into(), &Value::Null)
        );
        assert_eq!(
            (&data["result"], &data["exit_code"]),
            (&"graceful".into(), &0.into())
        );
    }
    let ctl = ShutdownController::new();
    let guard = ctl.track();
    ctl.force();
    drop(guard);
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(serde_json::to_value(&report).unwrap()["result"], "forced");
}

#[tokio::test(start_paused = true)]
async fn its_text_fits_on_a_screen_whatever_happened() {
    let ctl = ShutdownController::new();
    for n in 0..100 {
        let name = format!("{n:02} {}\n{}", "long ".repeat(100), "\x1b[31m");
        let hook = Hook::new(name, move |_| async move {
            let error = || format!("line\nline {}", "x".repeat(10_000)).into();
            if n % 10 == 7 { Err(error()) } else { Ok(()) }
        });
        ctl.add_hook(hook).unwrap();
        drop(ctl.spawn(format!("task {n}"), async { Err::<(), _>("bad") }));
    }
    tokio::task::yield_now().await;
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert_eq!(report.hooks().len(), 100);

    let text = report.to_string();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() <= 40, "{} lines: {text}", lines.len());
    assert!(
        lines.iter().all(|line| line.chars().count() <= 140),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "{text}");
    // What failed is shown first.
    let hooks: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("  hook"))
        .collect();
    assert_eq!(hooks.len(), 4, "{text}");
    for (line, n) in hooks.iter().zip(["`07", "`17", "`27"]) {
        assert!(line.contains(n), "{text}");
    }
    assert_eq!(
        hooks[3],
        &"  hook          97 more, 7 of which did not complete"
    );
}

#[tokio::test]
async fn it_is_given_to_whoever_asked_before_it_is_returned_and_also_afterwards() {
    let ctl = ShutdownController::new();
    let (sender, receiver) = mpsc::channel();
    ctl.on_report(|_| panic!("a receiver that is broken"));
    let (first, own) = (sender.clone(), ctl.clone());
    ctl.on_report(move |report| {
        // It may use the controller, which has not ended yet.
        assert!(!own.state().is_terminal());
        first.send(report.reason()).unwrap();
    });
    let report = ctl.shutdown(ShutdownReason::Timeout).await;
    assert_eq!(receiver.try_recv(), Ok(report.reason()));

    ctl.on_report(move |report| sender.send(report.reason()).unwrap());
    assert_eq!(receiver.try_recv(), Ok(report.reason()));
    assert!(receiver.try_recv().is_err(), "each is called once");
}

#[tokio::test]
async fn it_is_written_to_a_file_before_it_is_returned() {
    let file = path("report.json");
    fs::write(&file, "x".repeat(100_000)).unwrap();
    let ctl = ShutdownController::new();
    ctl.write_report_to(&file);
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    let written: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(written, serde_json::to_value(&report).unwrap());
    fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn a_file_that_cannot_be_written_changes_nothing() {
    let ctl = ShutdownController::new();
    ctl.write_report_to(path("no such folder").join("report.json"));
    ctl.write_report_to("/dev/full");
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(report.is_graceful());
}

#[cfg(unix)]
#[tokio::test]
async fn a_pipe_that_nobody_reads_delays_the_end_by_a_second() {
    let pipe = path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let ctl = ShutdownController::new();
    ctl.write_report_to(&pipe);
    let began = std::time::Instant::now();
    let report = ctl.shutdown(ShutdownReason::Manual).await;
    assert!(report.is_graceful());
    assert!(began.elapsed() >= SECOND);
    // Lets the writing thread end.
    let written = fs::read(&pipe).unwrap();
    let written: Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(written["result"], "graceful");
    fs::remove_file(pipe).unwrap();
}
