//! Deploys behind third-party load balancers: three processes, each restarted twice in turn.
//!
//! A load balancer has its default retries. Its clients keep a ledger: any incomplete response is a
//! loss, because they do not retry. The servers report which orders they execute.
//!
//! `TOWER_LIFECYCLE_TEST_REQUESTS` sets how many requests there are at least:
//!
//! ```text
//! TOWER_LIFECYCLE_TEST_REQUESTS=100000 cargo test --all-features --test programs -- \
//!     --ignored --nocapture --test-threads=1 balancers::
//! ```

pub mod support;

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use support::app::{App, LONGEST};
use support::load::{Ledger, Load, requests_or, restarts_or};
use support::process::{APP, Balancer, CHECK, FALL, Kind, LIFE, PORT, Server, Told, free_ports};
use support::random;

/// The minimum number of requests for each kind of server.
const REQUESTS: u64 = 20_000;
/// How many requests may be lost by chance: one at a time, or a few at once.
const CHANCE: u64 = 16;
/// Each of three servers twice, in turn.
const RESTARTS: u64 = 6;

#[test]
#[ignore = "needs haproxy"]
fn haproxys_clients_lose_nothing_in_a_deploy() {
    deploy_all(Kind::HaProxy);
}

#[test]
#[ignore = "needs nginx"]
fn nginxs_clients_lose_nothing_in_a_deploy() {
    deploy_all(Kind::Nginx);
}

fn deploy_all(kind: Kind) {
    let requests = requests_or(REQUESTS);
    println!("\n| balancer | app | requests | failed | longest answer, exit | time |");
    println!("|---|---|---|---|---|---|");
    let exits = deploy(kind, App::Exits, 0);
    let axum = deploy(kind, App::Axum, requests);
    let quick_start = deploy(kind, App::QuickStart, requests);
    let serve = deploy(kind, App::Serve, requests);

    assert_ne!(exits.failures(), 0, "a loss would not be seen");
    assert_eq!(serve.failures(), 0, "{:?}", serve.failed);
    let (axum, quick_start) = (axum.failures(), quick_start.failures());
    assert!(
        quick_start <= axum + CHANCE,
        "{quick_start} failed, with plain axum {axum}"
    );
}

/// Restarts the servers in turn while at least this many requests are sent. Returns the clients'
/// ledger.
fn deploy(kind: Kind, app: App, requests: u64) -> Ledger {
    let began = Instant::now();
    let told = Told::default();
    let ports = free_ports::<3>();
    let mut servers = ports.map(|port| Server::start(app, port, &told));
    let balancer = Balancer::start(kind, &ports);
    let load = Load::start(balancer.address);
    let mut longest_exit = Duration::ZERO;
    let mut check = |(status, took): (ExitStatus, Duration)| {
        assert!(app == App::Exits || status.success(), "{status}");
        longest_exit = longest_exit.max(took);
    };
    servers.iter().for_each(Server::wait_for_an_order);
    for restart in 0..RESTARTS {
        load.wait_for_sent(requests / RESTARTS * restart);
        // At any moment between two health checks of the load balancer.
        std::thread::sleep(CHECK.mul_f64(random() as f64 / u64::MAX as f64));
        let server = &mut servers[restart as usize % 3];
        check(server.restart());
        server.wait_for_an_order();
    }
    load.wait_for_sent(requests);
    let ledger = load.end();
    drop(balancer);
    servers.iter_mut().map(Server::stop).for_each(check);
    // Then their last output has been read, too.
    drop(servers);

    println!(
        "| {} | {} | {} | {} {:?} | {:.1?}, {longest_exit:.1?} | {:.1?} |",
        kind.name(),
        app.name(),
        ledger.requests(),
        ledger.failures(),
        ledger.failed,
        ledger.longest,
        began.elapsed(),
    );
    assert_eq!(told.more_than_once(), 0);
    assert!(ledger.orders.iter().all(|id| told.times(*id) == 1));
    ledger
}

/// Each of three servers twice, in turn. `TOWER_LIFECYCLE_TEST_RESTARTS` sets another number.
const LAME_DUCKS: u64 = 6;
/// The shortest time that is sure to be enough for these checks, with the least margin that the guide
/// advises.
const FIXED: Duration = CHECK
    .saturating_mul(FALL)
    .saturating_add(Duration::from_secs(1));

#[test]
#[ignore = "needs haproxy"]
fn two_haproxies_that_never_retry_lose_nothing_in_lame_ducks_that_end_early() {
    // Without a lame duck, a loss is seen.
    let (lost, _) = deploy_behind_two(App::Serve, 3);
    assert_ne!(lost.failures(), 0, "a loss would not be seen");

    let restarts = restarts_or(LAME_DUCKS);
    let (ledger, told) = deploy_behind_two(App::LameDuck, restarts);
    let lame_ducks = told.lame_ducks();
    assert!(
        lame_ducks.iter().all(|(end, _)| end == "early"),
        "{lame_ducks:?}"
    );
    let lasted: Vec<_> = lame_ducks.iter().map(|(_, lasted)| *lasted).collect();
    let mean = lasted.iter().sum::<Duration>() / u32::try_from(lasted.len()).unwrap();
    println!("lame ducks: {lasted:.1?}, {mean:.1?} on average, at most {LONGEST:?}");
    assert_eq!(ledger.failures(), 0, "{:?}", ledger.failed);
    // Each server is also stopped at the end.
    assert_eq!(lasted.len() as u64, restarts + 3);
    assert!(mean < FIXED * 4 / 5, "{mean:?}");
}

/// Restarts three servers in turn behind two balancers, each with its clients. Returns their ledger.
fn deploy_behind_two(app: App, restarts: u64) -> (Ledger, Told) {
    let began = Instant::now();
    let told = Told::default();
    let ports = free_ports::<3>();
    let mut servers = ports.map(|port| Server::start(app, port, &told));
    let balancers = ["a", "b"].map(|name| Balancer::without_retries(name, &ports));
    let loads = (balancers.each_ref()).map(|balancer| Load::start(balancer.address));
    servers.iter().for_each(Server::wait_for_an_order);
    for restart in 0..restarts {
        std::thread::sleep(CHECK.mul_f64(random() as f64 / u64::MAX as f64));
        let server = &mut servers[restart as usize % 3];
        assert!(server.restart().0.success());
        server.wait_for_an_order();
    }
    let mut ledger = Ledger::default();
    loads.into_iter().for_each(|load| ledger += load.end());
    for mut server in servers {
        assert!(server.stop().0.success());
    }
    println!(
        "| 2 × haproxy, `retries 0` | {} | {restarts} restarts | {} | {} {:?} | {:.1?} |",
        app.name(),
        ledger.requests(),
        ledger.failures(),
        ledger.failed,
        began.elapsed(),
    );
    (ledger, told)
}

#[test]
#[ignore = "started as a process of its own by the tests of this file"]
fn child() {
    let (Ok(app), Ok(port)) = (std::env::var(APP), std::env::var(PORT)) else {
        return;
    };
    std::thread::spawn(|| {
        std::thread::sleep(LIFE);
        std::process::exit(99);
    });
    let app = App::ALL.into_iter().find(|of_all| of_all.name() == app);
    let run = app.expect("no such app").run(port.parse().unwrap());
    Runtime::new().unwrap().block_on(run);
}
