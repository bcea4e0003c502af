//! What a process says about the platform that will kill it, and that it ends before that. Time is real
//! here.

use std::future::pending;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tower_lifecycle::{Platform, ShutdownConfig, ShutdownController, ShutdownReason};

const ROLE: &str = "TOWER_LIFECYCLE_PLATFORM_ROLE";
/// The grace of the process that is stuck.
const GRACE: Duration = Duration::from_secs(3);

/// Starts a child in a pod, as far as it can see.
fn command(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "platform::child", "--ignored", "--nocapture"])
        .env("KUBERNETES_SERVICE_HOST", "10.96.0.1")
        .env(ROLE, role)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_total_that_the_platform_cuts_short_is_warned_of_once_with_the_numbers() {
    let said = text(&command("default").output().unwrap());
    let warnings: Vec<_> = said.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{said}");
    for part in [
        "tower_lifecycle::signal",
        "shutdown_timeout is 30s, but may be at most 29s: Kubernetes kills after 30s",
        "ShutdownConfig::within",
    ] {
        assert!(warnings[0].contains(part), "{part}: {said}");
    }

    // Chosen, and then made too long for what was chosen.
    let said = text(&command("docker, longer").output().unwrap());
    assert!(
        said.contains("shutdown_timeout is 15s, but may be at most 9s: Docker kills after 10s"),
        "{said}"
    );
}

#[test]
fn what_fits_or_was_made_for_another_grace_is_not_warned_of() {
    for role in ["preset", "by hand", "longer grace", "merged", "no signals"] {
        let said = text(&command(role).output().unwrap());
        assert!(said.contains("graceful"), "{role}: {said}");
        assert!(!said.contains("WARN"), "{role}: {said}");
    }
}

#[test]
fn a_process_that_is_stuck_ends_by_itself_before_it_is_killed() {
    let mut child = command("stuck").spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    wait_for_line(&mut child, "ready");
    let sigterm = Instant::now();
    kill(pid, Signal::SIGTERM).unwrap();
    while child.try_wait().unwrap().is_none() && sigterm.elapsed() < GRACE {
        thread::sleep(Duration::from_millis(5));
    }
    let _ = kill(pid, Signal::SIGKILL);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1), "{status:?}: its own exit");
}

fn wait_for_line(child: &mut Child, text: &str) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let found = lines.any(|line| line.unwrap().contains(text));
    assert!(found, "ended without `{text}`");
    // What comes after is read, so that the child can write it.
    thread::spawn(move || lines.for_each(drop));
}

// ===== the child =====

fn config(role: &str) -> ShutdownConfig {
    let within = |platform| ShutdownConfig::within(platform).unwrap();
    let longer = Platform::kubernetes().termination_grace(Duration::from_secs(60));
    match role {
        "preset" => within(Platform::kubernetes()),
        "by hand" => ShutdownConfig::default().shutdown_timeout(Duration::from_secs(29)),
        "longer grace" => within(longer),
        "merged" => {
            let given = ShutdownConfig::default().shutdown_timeout(Duration::from_secs(50));
            within(longer).merge(given)
        }
        "docker, longer" => within(Platform::docker()).shutdown_timeout(Duration::from_secs(15)),
        "stuck" => within(Platform::new(GRACE)),
        _ => ShutdownConfig::default(),
    }
}

#[test]
#[ignore = "started as a process of its own by the tests of this file"]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stdout)
        .init();
    let config = config(&role).lame_duck(Duration::ZERO);
    let ctl = ShutdownController::with_config(config).unwrap();
    if role == "default" {
        // The end of a runtime ends the listening, so that the next call begins anew.
        let first = tokio::runtime::Runtime::new().unwrap();
        first.block_on(async { ctl.listen_for_signals() }).unwrap();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let report = runtime.block_on(async {
        if role == "no signals" {
            return ctl.shutdown(ShutdownReason::Manual).await;
        }
        ctl.listen_for_signals().unwrap();
        ctl.listen_for_signals().unwrap();
        if role != "stuck" {
            return ctl.shutdown(ShutdownReason::Manual).await;
        }
        let _stuck = ctl.track();
        ctl.on_shutdown("stuck", |_| pending()).unwrap();
        println!("ready");
        ctl.triggered().await;
        ctl.shutdown(ShutdownReason::Manual).await
    });
    println!("{report}");
    drop(runtime);
    report.exit()
}
