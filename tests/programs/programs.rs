//! Whole drains under the load of third-party programs.
//!
//! Most programs do not handle a refused connection. So in most of these tests the listener stays
//! open and refuses until the program has ended, and any complaint of the program is a fault of
//! this crate. The last ones have the default configuration: the listener closes, and late requests
//! are served.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use portable_atomic::AtomicU64;
use tokio::process::Command;
use tower_lifecycle::{
    InFlightGuard, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason,
};

use crate::support::sockets::{Held, Kind, Server, in_time};

/// Counts the responses by status, and prints the counts at the end.
const WRK_SCRIPT: &str = r#"
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init() ok, refused, other = 0, 0, 0 end
function response(status)
    if status == 200 then ok = ok + 1
    elseif status == 503 then refused = refused + 1
    else other = other + 1 end
end
function done(summary)
    local sum = { ok = 0, refused = 0, other = 0 }
    for _, thread in ipairs(threads) do
        for name, n in pairs(sum) do sum[name] = n + thread:get(name) end
    end
    local errors = summary.errors
    for name, n in pairs(sum) do print(name .. " " .. n) end
    for _, name in ipairs({ "connect", "read", "write", "timeout" }) do
        print(name .. " " .. errors[name])
    end
end
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs wrk"]
async fn wrk_keeps_going_through_a_lame_duck_and_a_drain_without_socket_errors() {
    in_time(async {
        let config = ShutdownConfig::default().lame_duck(Duration::from_secs(1));
        let ctl = refusing(config);
        let (server, at_work) = serve_and_trigger_at(5_000, &ctl).await;
        let script = Path::new(env!("CARGO_TARGET_TMPDIR")).join("statuses.lua");
        std::fs::write(&script, WRK_SCRIPT).unwrap();

        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", "-c32", "-d4s", "-s"]).arg(script);
        let output = output_of(wrk.arg(server.url("/"))).await;
        assert_eq!(ctl.state(), LifecycleState::Draining);
        assert!(number(&output, "ok ") >= 5_000);
        assert!(number(&output, "refused ") > 0);
        for none in ["other ", "connect ", "read ", "write ", "timeout "] {
            assert_eq!(number(&output, none), 0, "{none}");
        }

        drop(at_work);
        assert!(server.report().await.is_graceful());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs nghttp2-client"]
async fn h2load_gets_a_response_to_every_request_of_a_drain() {
    in_time(async {
        let ctl = refusing(ShutdownConfig::default());
        let (server, at_work) = serve_and_trigger_at(5_000, &ctl).await;

        let mut h2load = Command::new("h2load");
        h2load.args(["-n20000", "-c20", "-m10"]);
        let output = output_of(h2load.arg(server.url("/"))).await;
        let refused = 20_000 - number(&output, " succeeded,");
        assert!(refused > 0);
        assert_eq!(number(&output, " done,"), 20_000);
        assert_eq!(number(&output, " failed,"), refused);
        assert_eq!(number(&output, " 5xx"), refused);
        for none in [" errored,", " timeout", " 3xx,", " 4xx,"] {
            assert_eq!(number(&output, none), 0, "{none}");
        }

        drop(at_work);
        let report = server.report().await;
        assert!(report.is_graceful());
        assert_eq!(report.refused(), refused);
    })
    .await;
}

#[tokio::test]
#[ignore = "needs nghttp2-client"]
async fn nghttp_sees_the_refusal_of_a_head_end_with_its_headers() {
    in_time(async {
        let (ctl, server, at_work) = draining().await;
        let mut nghttp = Command::new("nghttp");
        nghttp.args(["-v", "--no-dep", "-H:method: HEAD"]);
        let output = output_of(nghttp.arg(server.url("/"))).await;
        assert!(output.contains(":status: 503"));
        assert!(output.contains("END_STREAM | END_HEADERS"));
        assert!(!output.contains("RST_STREAM"));
        assert!(!output.contains("recv DATA"));
        assert_eq!(ctl.in_flight(), 1);
        drop(at_work);
        assert!(server.report().await.is_graceful());
    })
    .await;
}

#[tokio::test]
#[ignore = "needs curl"]
async fn curl_is_refused_in_every_way_that_it_may_ask() {
    in_time(async {
        let (_ctl, server, at_work) = draining().await;
        let url = server.url("/");
        let curl = async |args: &[&str]| {
            let mut curl = Command::new("curl");
            curl.args([
                "-sS",
                "--noproxy",
                "*",
                "-w",
                "\n%{http_code} %{num_connects}\n",
            ]);
            output_of(curl.args(args)).await
        };

        let output = curl(&["--http2-prior-knowledge", "-I", &url]).await;
        assert!(output.contains("\n503 1\n"));
        assert!(!output.to_lowercase().contains("connection:"));

        // With HTTP/1 a connection for each.
        let output = curl(&["-I", &url, &url]).await;
        assert_eq!(output.matches("\n503 1\n").count(), 2);
        assert!(output.to_lowercase().contains("connection: close"));

        // Curl waits for 100 Continue before such a large upload, and gets 503 at once.
        let upload = Path::new(env!("CARGO_TARGET_TMPDIR")).join("upload");
        std::fs::write(&upload, vec![b'u'; 8 << 20]).unwrap();
        let upload = format!("@{}", upload.display());
        let expect = [
            "-v",
            "-H",
            "Expect: 100-continue",
            "--data-binary",
            &upload,
            &url,
        ];
        let output = curl(&expect).await;
        assert!(output.contains("\n503 1\n"));
        assert!(!output.contains("HTTP/1.1 100"));

        let output = curl(&["-0", &url]).await;
        assert!(output.contains("\n503 1\n"));

        drop(at_work);
        assert!(server.report().await.is_graceful());
    })
    .await;
}

// ===== this crate's server, in many rounds =====

#[cfg(feature = "http2")]
mod own_server {
    use std::ops::RangeInclusive;

    use tokio::net::TcpStream;
    use tokio::task::JoinSet;
    use tokio::time::sleep;
    use tower_lifecycle::ShutdownReport;

    use super::*;
    use crate::support::ledger::{Service, random_millis};

    const ROUNDS: usize = 8;
    const LAME_DUCK: Duration = Duration::from_millis(300);
    /// Each request that wrk sends is one of these.
    const WRK_REQUESTS: &str = r#"
request = function()
    local dice = math.random(10)
    if dice == 1 then return wrk.format("GET", "/stream") end
    if dice < 6 then return wrk.format("GET", "/wait/" .. math.random(50)) end
    return wrk.format("GET", "/")
end
"#;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs wrk"]
    async fn wrk_loses_nothing() {
        play(async |service| {
            let tally = wrk(service).await;
            assert_eq!(tally.turned_away, 0);
            tally
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs wrk"]
    async fn wrk_loses_nothing_when_the_listener_closes() {
        for lame_duck in [Duration::ZERO, LAME_DUCK] {
            let config = Service::config().lame_duck(lame_duck);
            let tally = play_with(&config, wrk).await;
            // Each was asked to close by its last response, and cannot connect.
            assert!(tally.turned_away > 0, "no round met the drain");
            assert_eq!(tally.refused, 0);
        }
    }

    /// Runs wrk for a second.
    async fn wrk(service: &Service) -> Tally {
        // With 64 on a busy machine, wrk takes so long between two requests of a connection that the server
        // closes it as idle (RFC 9112 §9.5), and wrk reports a read error.
        const CONNECTIONS: u64 = 16;
        let script = Path::new(env!("CARGO_TARGET_TMPDIR")).join("requests.lua");
        std::fs::write(&script, [WRK_REQUESTS, WRK_SCRIPT].concat()).unwrap();
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", "-d1s", &format!("-c{CONNECTIONS}"), "-s"]);
        let output = output_of(wrk.arg(&script).arg(service.url("/"))).await;
        for none in ["other ", "read ", "timeout "] {
            assert_eq!(number(&output, none), 0, "{none}");
        }
        Tally {
            answered: number(&output, "ok "),
            refused: number(&output, "refused "),
            // It notices a refused connection when it writes to it.
            turned_away: number(&output, "connect ") + number(&output, "write "),
            // It stops in the middle of them.
            unknown: CONNECTIONS,
            ..Tally::default()
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs nghttp2-client"]
    async fn h2load_loses_nothing_by_http_2() {
        play(async |service| h2load(service, &["-n20000", "-c4", "-m100"]).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs nghttp2-client"]
    async fn h2load_loses_nothing_when_the_listener_closes() {
        let args = &["-n20000", "-c4", "-m100"];
        let config = Service::config();
        let tally = play_with(&config, async |service| h2load(service, args).await).await;
        assert!(tally.late > 0, "none came late");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs nghttp2-client"]
    async fn h2load_loses_nothing_by_http_1() {
        play(async |service| h2load(service, &["-n2000", "-c20", "--h1"]).await).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs curl"]
    async fn curl_loses_nothing() {
        play(async |service| {
            let url = service.url("/wait/[1-20]");
            let mut clients = JoinSet::new();
            for _ in 0..4 {
                clients.spawn(curl_until_refused(url.clone()));
            }
            clients.join_all().await.into_iter().sum()
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs curl"]
    async fn curl_loses_nothing_when_the_listener_closes() {
        let config = Service::config();
        let tally = play_with(&config, async |service| {
            let url = service.url("/wait/[1-20]");
            let mut clients = JoinSet::new();
            for _ in 0..4 {
                clients.spawn(curl_until_connection_refused(url.clone()));
            }
            clients.join_all().await.into_iter().sum()
        })
        .await;
        assert!(tally.turned_away > 0, "no round met the drain");
    }

    /// The counts of a program.
    #[derive(Debug, Default)]
    struct Tally {
        answered: u64,
        /// As counted by the server.
        late: u64,
        refused: u64,
        /// Not sent, because the connection was refused.
        turned_away: u64,
        /// Up to this many were sent, and not waited for.
        unknown: u64,
    }

    impl std::iter::Sum for Tally {
        fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
            tallies.fold(Self::default(), |sum, tally| Self {
                answered: sum.answered + tally.answered,
                late: sum.late + tally.late,
                refused: sum.refused + tally.refused,
                turned_away: sum.turned_away + tally.turned_away,
                unknown: sum.unknown + tally.unknown,
            })
        }
    }

    impl Tally {
        /// Panics if the server's counts differ.
        fn check(&self, report: &ShutdownReport) {
            let may_be = |sure: u64| -> RangeInclusive<u64> { sure..=sure + self.unknown };
            let admitted = report.admitted() - 1; // the guard is not a request
            assert!(may_be(self.answered).contains(&admitted), "{report}");
            assert!(may_be(self.refused).contains(&report.refused()), "{report}");
            assert!(report.is_graceful(), "{report}");
        }
    }

    /// Runs with a listener that stays open and refuses.
    async fn play(program: impl AsyncFn(&Service) -> Tally) {
        let config = Service::config()
            .lame_duck(LAME_DUCK)
            .refuse_for(REFUSE_FOR);
        let tally = play_with(&config, program).await;
        assert!(tally.refused > 0, "no round met the drain");
    }

    /// Shuts a server down at a random moment of a program's run, repeatedly; the drain is held
    /// until the program has ended.
    async fn play_with(config: &ShutdownConfig, program: impl AsyncFn(&Service) -> Tally) -> Tally {
        let mut sum = Tally::default();
        for _ in 0..ROUNDS {
            let tally = in_time(async {
                let service = Service::start(config.clone()).await;
                let at_work = service.ctl.track();
                let ctl = service.ctl.clone();
                let trigger = async {
                    sleep(random_millis(50..450)).await;
                    ctl.trigger(ShutdownReason::Manual);
                };
                let (mut tally, ()) = tokio::join!(program(&service), trigger);
                drop(at_work);
                let report = service.report().await;
                tally.check(&report);
                tally.late = report.late_requests();
                tally
            });
            sum = [sum, tally.await].into_iter().sum();
        }
        println!("{sum:?}");
        sum
    }

    /// Runs h2load until it is refused, or cannot connect. It does not reconnect after a GOAWAY.
    async fn h2load(service: &Service, args: &[&str]) -> Tally {
        let (mut answered, mut refused) = (0, 0);
        while refused == 0 && TcpStream::connect(service.address).await.is_ok() {
            let mut h2load = Command::new("h2load");
            for path in ["/", "/wait/10", "/stream", "/wait/40"] {
                h2load.arg(service.url(path));
            }
            let output = output_of(h2load.args(args)).await;
            // Requests that it counts as failed and not as 5xx were not sent.
            assert_eq!(number(&output, " started,"), number(&output, " done,"));
            for none in [" timeout", " 3xx,", " 4xx,"] {
                assert_eq!(number(&output, none), 0, "{none}");
            }
            answered += number(&output, " 2xx,");
            refused += number(&output, " 5xx");
        }
        Tally {
            answered,
            refused,
            ..Tally::default()
        }
    }

    /// Runs one curl after another, as below, until the connection is refused. The last curl
    /// reports that, and its requests that got a response before are counted.
    async fn curl_until_connection_refused(url: String) -> Tally {
        let mut tally = Tally::default();
        while tally.turned_away == 0 {
            let output = curl_for(&url).output().await.unwrap();
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            println!("{text}");
            assert!(!text.contains("retrying a fresh connect"));
            let count = |what| text.matches(what).count() as u64;
            tally.answered += count("status 200 ");
            tally.refused += count("status 503 ");
            // It continues after each request that it could not send.
            tally.turned_away += count("status 000 ");
            let of_these =
                count("Could not connect to server") + count("Couldn't connect to server");
            assert!(
                of_these >= count("status 000 "),
                "lost, and not turned away"
            );
        }
        tally
    }

    fn curl_for(url: &str) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["-sSv", "--noproxy", "*", "-o", "/dev/null"]);
        curl.args(["-w", "status %{http_code} %{num_connects}\n", url]);
        curl.kill_on_drop(true);
        curl
    }

    /// Runs one curl after another, each with many requests for as few connections as possible.
    async fn curl_until_refused(url: String) -> Tally {
        let (mut answered, mut refused, mut on_old_connections) = (0, 0, 0);
        while refused == 0 {
            let output = output_of(&mut curl_for(&url)).await;
            // It would print this when it retries a request that may have been served.
            assert!(!output.contains("retrying a fresh connect"));
            let count = |what| output.matches(what).count() as u64;
            answered += count("status 200 ");
            refused += count("status 503 ");
            on_old_connections += count("status 200 0");
        }
        assert!(on_old_connections > 0, "nothing was kept alive");
        Tally {
            answered,
            refused,
            ..Tally::default()
        }
    }
}

// ===== helpers =====

/// The minimum time that the listener is open while draining; a guard keeps it open for longer.
const REFUSE_FOR: Duration = Duration::from_millis(200);

/// A controller whose listener stays open while draining, and whose layers refuse all requests.
fn refusing(config: ShutdownConfig) -> ShutdownController {
    ShutdownController::with_config(config.refuse_for(REFUSE_FOR)).unwrap()
}

/// A server that triggers the shutdown after this many responses, and a guard that keeps it from
/// ending.
async fn serve_and_trigger_at(count: u64, ctl: &ShutdownController) -> (Server, InFlightGuard) {
    let answered = Arc::new(AtomicU64::new(0));
    let trigger = ctl.clone();
    let handler = async move || {
        if answered.fetch_add(1, Ordering::Relaxed) + 1 == count {
            trigger.trigger(ShutdownReason::Manual);
        }
        Held::ANSWER
    };
    let app = Router::new().route("/", get(handler));
    (Server::start(Kind::Axum, ctl, app).await, ctl.track())
}

/// A server that refuses until the guard is dropped.
async fn draining() -> (ShutdownController, Server, InFlightGuard) {
    let ctl = refusing(ShutdownConfig::default());
    let app = Router::new().route("/", get(async || "ok").post(async || "ok"));
    let server = Server::start(Kind::Axum, &ctl, app).await;
    let at_work = ctl.track();
    ctl.trigger(ShutdownReason::Manual);
    (ctl, server, at_work)
}

/// Runs a program to its end, and returns its output.
async fn output_of(command: &mut Command) -> String {
    let output = command.kill_on_drop(true).output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    println!("{text}");
    assert!(output.status.success());
    text
}

/// Finds the number next to `word`: after it if it ends with a space, otherwise before it.
fn number(output: &str, word: &str) -> u64 {
    let is_digit = |c: char| c.is_ascii_digit();
    let digits = if word.ends_with(' ') {
        let line = output.lines().find_map(|line| line.strip_prefix(word));
        line.map(str::trim)
    } else {
        let (before, _) = output.split_once(word).unwrap_or_default();
        before.rsplit(|c| !is_digit(c)).next()
    };
    let number = digits.and_then(|digits| digits.parse().ok());
    number.unwrap_or_else(|| panic!("no number beside `{word}`"))
}
