//! How servers respond to each known HTTP fault, from raw bytes and frames.
//!
//! The rows are in `support`. Each is sent to `serve` and to `axum::serve`, which shows hyper's own
//! behavior. The tests here also check that other clients are served all the time, and that a
//! shutdown is graceful, whatever came before or comes while it drains.

mod support;

use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower_lifecycle::{ShutdownConfig, ShutdownController, ShutdownReason, ShutdownReport};

use self::support::{Kind, Parser, Row, Server, Step, http1, http2, page, parts, play};

const GRACE: Duration = Duration::from_secs(1);
/// Extra time for slow machines.
const SLACK: Duration = Duration::from_secs(10);

// ===== while running =====

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_is_answered_as_the_table_says() {
    compare(&http1::rows(), http1::Responses::new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_is_answered_as_the_table_says() {
    compare(&http2::rows(), http2::Responses::new).await;
}

/// Sends all rows to both servers, in sequence.
async fn compare<E: Parser>(rows: &[Row], parser: fn(&Row) -> E) {
    assert_names_differ(rows);
    let mut faults = Vec::new();
    for kind in [Kind::Serve, Kind::Axum] {
        let config = ShutdownConfig::default();
        let server = Server::start(kind, config, GRACE).await;
        for row in rows {
            let expected = kind.column(row);
            let mut parser = parser(row);
            let seen = play(server.connect().await, row, 0, &mut parser, expected).await;
            // A client cannot make the server send much more than it receives.
            let is_bounded = seen.received < 2 * row.length() + 16 * 1024;
            let is_reset = seen.is_reset && kind == Kind::Serve;
            let is_fault = seen.text != expected || is_reset || !is_bounded;
            if is_fault {
                faults.push(format!("{kind:?}, {}: {seen:?}, not {expected}", row.name));
            }
            server.assert_alive(row.name).await;
        }
        settle(&server.ctl, 0).await;
        let handled = server.handled();
        server.ctl.trigger(ShutdownReason::Manual);
        let report = server.report().await;
        assert_uneventful(&report);
        if kind == Kind::Serve {
            assert_eq!(report.admitted(), handled, "{report}");
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

// ===== while draining =====

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_that_is_late_has_one_answer_more() {
    // Long, so that no row is too late.
    let config = ShutdownConfig::default().late_for(SLACK);
    let server = Server::start(Kind::Serve, config, GRACE).await;
    let mut held = server.hold().await;
    let clients = begin_all(&server, http1::rows()).await;
    drain(&server).await;
    let mut plays = JoinSet::new();
    for (row, (socket, sent)) in clients {
        plays.spawn(play_late(row, socket, sent, false));
    }
    assert_no_faults(plays).await;

    settle(&server.ctl, 1).await;
    server.release.add_permits(1);
    assert_held_is_answered(&mut held).await;
    let handled = server.handled();
    let report = server.report().await;
    assert_uneventful(&report);
    assert_eq!(report.admitted(), handled, "{report}");
    assert_eq!(report.late_requests(), handled - 1, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_that_is_refused_has_one_answer_more() {
    let config = ShutdownConfig::default().refuse_for(SLACK / 2);
    let server = Server::start(Kind::Serve, config, GRACE).await;
    let mut held = server.hold().await;
    drain(&server).await;
    let mut plays = JoinSet::new();
    for row in http1::rows() {
        // It depends on which comes first: the refusal, or the end of sending.
        let is_race = row.serve == "closed" && matches!(row.steps[..], [.., Step::HalfClose]);
        if !is_race {
            plays.spawn(play_late(row, server.connect().await, 0, true));
        }
    }
    assert_no_faults(plays).await;

    assert_eq!(server.ctl.in_flight(), 1);
    server.release.add_permits(1);
    assert_held_is_answered(&mut held).await;
    let report = server.report().await;
    assert_uneventful(&report);
    assert_eq!(
        (report.admitted(), report.late_requests()),
        (1, 0),
        "{report}"
    );
    assert!(report.refused() > 0, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_that_is_late_holds_nobody() {
    let config = ShutdownConfig::default();
    let server = Server::start(Kind::Serve, config, GRACE).await;
    let mut held = server.hold().await;
    let clients = begin_all(&server, http2::rows()).await;
    drain(&server).await;
    let mut plays = JoinSet::new();
    for (row, (socket, sent)) in clients {
        plays.spawn(async move {
            let begun = Instant::now();
            let mut parser = http2::Responses::new(&row);
            let seen = play(socket, &row, sent, &mut parser, "closed").await;
            // Not a frame of the shutdown, and not a race.
            let complaint = parts(row.serve).0.pop().filter(|last| {
                last.starts_with("GOAWAY") && !last.ends_with("NO_ERROR") && !row.is_of_connection
            });
            let complains = complaint.is_none_or(|complaint| seen.text.contains(complaint));
            let ends = seen.text.ends_with("closed") && begun.elapsed() < 3 * GRACE + SLACK;
            (!complains || !ends || seen.is_reset).then(|| format!("{}: {seen:?}", row.name))
        });
    }
    assert_no_faults(plays).await;

    settle(&server.ctl, 1).await;
    server.release.add_permits(1);
    assert_held_is_answered(&mut held).await;
    assert_uneventful(&server.report().await);
}

/// Sends the beginning of each row on a separate connection.
async fn begin_all(server: &Server, rows: Vec<Row>) -> Vec<(Row, (TcpStream, usize))> {
    let mut clients = Vec::new();
    for row in rows {
        let sent = begin(server, &row).await;
        clients.push((row, sent));
    }
    clients
}

async fn drain(server: &Server) {
    server.ctl.trigger(ShutdownReason::Manual);
    server.ctl.draining().await;
}

async fn assert_no_faults(plays: JoinSet<Option<String>>) {
    let faults: Vec<_> = plays.join_all().await.into_iter().flatten().collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Connects, and sends the beginning, so that the connection is not idle. Returns its length.
async fn begin(server: &Server, row: &Row) -> (TcpStream, usize) {
    let socket = server.connect().await;
    let beginning = match &row.steps[0] {
        Step::Send(bytes) if *bytes == http2::beginning() => &bytes[..],
        Step::Send(bytes) | Step::Drip(bytes) => &bytes[..1],
        _ => &[],
    };
    let mut sent = 0;
    while sent < beginning.len() {
        socket.writable().await.unwrap();
        sent += socket.try_write(&beginning[sent..]).unwrap();
    }
    (socket, sent)
}

/// Sends an HTTP/1 row to a draining server. Returns a description of what is wrong.
async fn play_late(row: Row, socket: TcpStream, sent: usize, refuses: bool) -> Option<String> {
    let begun = Instant::now();
    let expected = http1::while_draining(&row, refuses);
    let mut parser = http1::Responses::new(&row);
    let seen = play(socket, &row, sent, &mut parser, &expected[0]).await;
    let took = begun.elapsed();
    // For HTTP/1.0, hyper may add `keep-alive`.
    let says = |head: &String| head.contains("\r\nconnection: close");
    let is_as_expected = expected.contains(&seen.text) && parser.heads.last().is_none_or(says);
    let is_well = is_as_expected && !seen.is_reset && took < GRACE + SLACK;
    let name = row.name;
    (!is_well).then(|| {
        format!(
            "{name}: {seen:?} in {took:?}, not {expected:?}: {:?}",
            parser.heads
        )
    })
}

// ===== the page =====

#[test]
fn the_page_is_that_of_the_tables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
    let page = page::page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(committed == page, "it is old: UPDATE=1 writes it anew");
}

// ===== helpers =====

/// Waits until at most this many are in flight: the server sees late that a client is gone.
async fn settle(ctl: &ShutdownController, in_flight: u64) {
    let begun = Instant::now();
    while ctl.in_flight() > in_flight {
        assert!(begun.elapsed() < SLACK, "{} in flight", ctl.in_flight());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(ctl.in_flight(), in_flight);
}

/// Nothing was cut, and nothing was waited for.
#[track_caller]
fn assert_uneventful(report: &ShutdownReport) {
    assert!(report.is_graceful() && !report.is_forced(), "{report}");
    assert_eq!((report.aborted(), report.abandoned()), (0, 0), "{report}");
    assert_eq!(report.in_flight_at_force(), 0, "{report}");
    assert!(report.duration() < 2 * SLACK, "{report}");
}

async fn assert_held_is_answered(held: &mut TcpStream) {
    let mut answer = String::new();
    held.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nat last"), "{answer}");
}

#[track_caller]
fn assert_names_differ(rows: &[Row]) {
    for (at, row) in rows.iter().enumerate() {
        let is_new = rows[..at].iter().all(|other| other.name != row.name);
        assert!(is_new, "twice: {}", row.name);
    }
}
