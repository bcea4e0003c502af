//! The program on servers with known faults: each is found, and named.

#![allow(clippy::unwrap_used)] // The helpers are a part of the tests.

mod servers;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The servers, in processes of their own.
#[test]
#[ignore = "is started by the other tests"]
fn child() {
    servers::run();
}

/// Finds a free port below the ephemeral range: a connection could otherwise take the port of a
/// server while that is restarted.
fn free_port() -> u16 {
    let ports = std::iter::repeat_with(|| {
        let bits = RandomState::new().build_hasher().finish();
        10_000 + u16::try_from(bits % 20_000).unwrap()
    });
    let mut free = ports.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    free.next().unwrap()
}

fn drain_check(words: &[&str], command: &[String]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_drain-check"));
    let program = program.args(words).arg("--").args(command);
    program.output().unwrap()
}

/// A run that was possible.
struct Run {
    code: i32,
    json: Value,
    text: String,
}

impl Run {
    fn new(fault: &str, words: &str) -> Self {
        let url = format!("http://127.0.0.1:{}/", free_port());
        let words = words.split_whitespace();
        let common = [
            "--url", &url, "--json", "-", "--rounds", "2", "--load", "0.6",
        ];
        let words: Vec<_> = common.into_iter().chain(words).collect();
        let output = drain_check(&words, &servers::command(fault));
        let text = String::from_utf8(output.stderr).unwrap();
        let json = serde_json::from_slice(&output.stdout);
        Self {
            code: output.status.code().unwrap(),
            json: json.unwrap_or_else(|error| panic!("{error}: {text}")),
            text,
        }
    }

    fn count(&self, name: &str) -> u64 {
        self.json["counts"][name].as_u64().unwrap()
    }

    #[track_caller]
    fn finds(&self, cause: &str, severity: &str) -> &Value {
        let findings = self.json["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["cause"] == cause);
        let found = found.unwrap_or_else(|| panic!("no {cause} in {}", self.text));
        assert_eq!(found["severity"], severity, "{}", self.text);
        found
    }

    /// Most requests must be lost by this fault.
    #[track_caller]
    fn is_named(&self, cause: &str) -> &Value {
        assert_eq!(self.code, 1, "{}", self.text);
        assert_ne!(self.count("lost"), 0, "{}", self.text);
        assert!(self.text.contains("FAILED"), "{}", self.text);
        let first = &self.json["findings"][0];
        assert_eq!(first["cause"], cause, "{}", self.text);
        assert_eq!(first["severity"], "fault", "{}", self.text);
        first
    }
}

#[test]
fn a_good_server_loses_nothing_of_any_kind() {
    let run = Run::new(
        "none",
        "--path /slow --h2 --sse /events --ws /ws --upload /u --ready-path /health",
    );
    let failures = &run.json["failures"];
    assert_eq!(run.code, 0, "{} {failures}", run.text);
    assert_eq!(run.count("lost"), 0, "{} {failures}", run.text);
    for client in [
        "http1 request",
        "http1 upload",
        "http1 events",
        "http2 request",
        "http2 upload",
        "reqwest1 request",
        "reqwest2 request",
        "websocket session",
    ] {
        let answered = &run.json["clients"][client]["answered"];
        assert!(answered.as_u64() > Some(0), "{client}: {answered}");
    }
    let restart = &run.json["restarts"][0];
    assert_eq!(restart["exit"], "exit status: 0");
    // The lame duck: readiness is red long before connections are refused.
    assert!(restart["red_after_ms"].as_f64() < Some(1000.0), "{restart}");
    assert!(
        restart["ended_after_ms"].as_f64() > Some(1000.0),
        "{restart}"
    );
    let findings = run.json["findings"].to_string();
    assert!(!findings.contains("listener"), "{findings}");
}

#[test]
fn no_signal_handler() {
    let run = Run::new("no_handler", "--path /slow");
    run.is_named("no_signal_handler");
    assert_eq!(run.json["restarts"][0]["by_signal"], true);
}

#[test]
fn exits_at_once() {
    let run = Run::new("exits_at_once", "--path /slow");
    let found = run.is_named("exits_at_once");
    assert!(found["first_ms"].as_f64() < Some(200.0), "{found}");
}

#[test]
fn closes_its_listener_first() {
    let run = Run::new("closes_listener_first", "--path /slow");
    run.finds("closes_listener_first", "note");
    assert_eq!((run.code, run.count("lost")), (0, 0), "{}", run.text);
    assert_ne!(run.count("never_sent"), 0, "{}", run.text);
}

#[test]
fn closes_connections_in_use() {
    let run = Run::new("closes_in_use", "--path /slow");
    run.is_named("closes_connections_in_use");
}

#[test]
fn stops_accepting() {
    let run = Run::new("stops_accepting", "--h2-only --path /slow");
    run.is_named("stops_accepting");
}

#[test]
fn truncates_bodies() {
    let run = Run::new("truncates", "--path /body");
    run.is_named("truncates_bodies");
}

#[test]
fn resets_uploads() {
    let run = Run::new("resets_uploads", "--upload /u");
    run.is_named("resets_uploads");
}

#[test]
fn cuts_event_streams() {
    let run = Run::new("cuts_events", "--sse /events");
    run.is_named("cuts_event_streams");
}

#[test]
fn cuts_websockets() {
    let run = Run::new("cuts_sockets", "--ws /ws");
    run.is_named("cuts_web_sockets");
}

#[test]
fn never_ends() {
    let run = Run::new("never_ends", "--path /slow --end-within 0.7");
    let found = run.is_named("never_ends");
    assert!(found["first_ms"].as_f64() > Some(600.0), "{found}");
    let restart = &run.json["restarts"][0];
    assert_eq!(restart["was_killed"], true);
    assert_eq!(restart["exit"], "signal: 9 (SIGKILL)");
}

#[test]
fn a_picture_shows_each_loss_and_is_small() {
    let folder = std::env::temp_dir().join(format!("drain-check-test-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for ending in ["svg", "html"] {
        let file = folder.join(format!("picture.{ending}"));
        let words = format!("--path /slow --picture {}", file.display());
        let run = Run::new("exits_at_once", &words);
        let picture = std::fs::read_to_string(&file).unwrap();
        let lost = picture.matches("<path class=\"lost\" d=\"M").count() as u64;
        // One is in the legend.
        assert_eq!(lost, run.count("lost") + 1);
        assert!(picture.len() < 500_000, "{} bytes", picture.len());
        assert!(picture.contains("ready again"));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

// ===== what cannot run =====

#[track_caller]
fn fails(words: &[&str], command: &[&str], texts: &[&str]) {
    let command: Vec<_> = command.iter().map(ToString::to_string).collect();
    let output = drain_check(words, &command);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    for expected in texts {
        assert!(text.contains(expected), "no `{expected}` in: {text}");
    }
}

#[test]
fn a_port_that_is_taken_is_told() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("http://{address}/");
    let texts = ["port taken", &address.to_string(), "another port"];
    fails(&["--url", &url], &["sleep", "60"], &texts);
}

#[test]
fn a_command_that_cannot_be_started_is_told() {
    let url = format!("http://127.0.0.1:{}/", free_port());
    let texts = ["cannot start `./no-such-server`", "No such file"];
    fails(&["--url", &url], &["./no-such-server"], &texts);
}

#[test]
fn a_server_that_ends_at_once_is_told_with_its_output() {
    let url = format!("http://127.0.0.1:{}/", free_port());
    let script = "echo no configuration >&2; exit 3";
    let texts = ["exit status: 3", "no configuration"];
    fails(&["--url", &url], &["sh", "-c", script], &texts);
}

#[test]
fn a_server_that_is_never_ready_is_told_and_killed() {
    let url = format!("http://127.0.0.1:{}/", free_port());
    let command = servers::command("never_ready");
    let command: Vec<_> = command.iter().map(String::as_str).collect();
    let began = Instant::now();
    let texts = [
        "not ready within 1 s",
        "refused",
        "waiting for the database",
    ];
    fails(&["--url", &url, "--ready-within", "1"], &command, &texts);
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_script_that_keeps_the_signal_from_the_server_is_told() {
    let url = format!("http://127.0.0.1:{}/", free_port());
    let server = servers::command("exits_at_once").join(" ");
    // It ends by itself, even if nobody ends it.
    let script = format!("timeout 10 {server}; true");
    let texts = ["port taken", "`exec`"];
    fails(
        &["--url", &url, "--load", "0.3"],
        &["sh", "-c", &script],
        &texts,
    );
}

#[test]
fn a_path_that_is_no_stream_is_told() {
    let url = format!("http://127.0.0.1:{}/", free_port());
    let command = servers::command("none");
    let command: Vec<_> = command.iter().map(String::as_str).collect();
    fails(
        &["--url", &url, "--sse", "/none"],
        &command,
        &["/none", "404"],
    );
    fails(
        &["--url", &url, "--ws", "/none"],
        &command,
        &["/none", "404"],
    );
}

#[test]
fn bad_arguments_are_told() {
    fails(&["--url", "https://localhost/"], &["a"], &["http://"]);
    fails(
        &["--url", "http://localhost:1/", "--signal", "X"],
        &["a"],
        &["TERM"],
    );
    fails(
        &["--url", "http://no-such-host.invalid/"],
        &["a"],
        &["unknown host"],
    );
}

#[test]
fn an_interrupted_run_leaves_no_server() {
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/");
    let program = Command::new(env!("CARGO_BIN_EXE_drain-check"))
        .args(["--url", &url, "--rounds", "100", "--load", "60", "--"])
        .args(servers::command("never_ends"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        assert!(Instant::now() < deadline, "the server does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let id = Pid::from_raw(program.id().try_into().unwrap());
    kill(id, Signal::SIGTERM).unwrap();
    let output = program.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("interrupted"), "{text}");
    let deadline = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
        assert!(Instant::now() < deadline, "the server still listens");
        std::thread::sleep(Duration::from_millis(20));
    }
}

// ===== instances =====

#[test]
fn clients_pass_over_an_instance_that_restarts() {
    let run = Run::new("none", "--rolling 2 --rounds 1 --path /slow");
    assert_eq!((run.code, run.count("lost")), (0, 0), "{}", run.text);
    let restarts = run.json["restarts"].as_array().unwrap();
    assert_ne!(restarts[0]["port"], restarts[1]["port"]);
}

fn rolls(via: &str) {
    // nginx sends a GET again to another instance, and not a POST.
    let words = format!(
        "--rolling 3 --rounds 1 --path /slow --upload /slow-upload --ready-path /health --via {via}"
    );
    let run = Run::new("none", &words);
    assert_eq!((run.code, run.count("lost")), (0, 0), "{}", run.text);
    // So many that each instance has an upload when it exits.
    let run = Run::new("exits_at_once", &format!("{words} --clients 60"));
    assert_eq!(run.code, 1, "{}", run.text);
    assert_ne!(run.count("lost"), 0, "a loss would not be seen");
    run.is_named("exits_at_once");
}

#[test]
#[ignore = "needs haproxy"]
fn haproxy_has_nothing_to_lose() {
    rolls("haproxy");
}

#[test]
#[ignore = "needs nginx"]
fn nginx_has_nothing_to_lose() {
    rolls("nginx");
}
