//! A hundred servers, one after another, on both kinds of runtime, with clients of every kind and
//! every kind of shutdown: no request is lost, the report is correct, and nothing is left in the
//! process.
//!
//! `SOAK_SEED` and `SOAK_CYCLES` select the run; a failure names its cycle.

use std::env;
use std::fs;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::{StreamExt, stream};
use hyper_util::rt::TokioIo;
use peak_alloc::PeakAlloc;
use portable_atomic::AtomicU64;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tower_lifecycle::{
    DrainLayer, Hook, LifecycleState, ShutdownConfig, ShutdownController, ShutdownReason,
    ShutdownReport, UpgradeGuard, serve,
};

use crate::support::loopback::loopback;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const MANUAL: ShutdownReason = ShutdownReason::Manual;
/// The time limit of a step, for a slow machine.
const TIMEOUT: Duration = Duration::from_secs(30);
const BIG: usize = 4 << 20;
const PANIC: &str = "a handler that panics";
/// The allowed difference in memory after twice as many cycles.
const SPARE: usize = 512 << 10;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

// ===== random choices =====

/// SplitMix64, so that a seed gives the same plan everywhere.
#[derive(Clone)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

// ===== the service =====

/// The application's own counts.
#[derive(Default)]
struct Counts {
    called: AtomicU64,
    ended: AtomicU64,
}

/// One request, until its future and its body are dropped.
struct One(Arc<Counts>);

impl Drop for One {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

async fn count(State(counts): State<Arc<Counts>>, request: Request, next: Next) -> Response {
    counts.called.fetch_add(1, Ordering::SeqCst);
    let one = One(counts);
    let (head, body) = next.run(request).await.into_parts();
    let body = body.into_data_stream().map(move |chunk| {
        let _one = &one;
        chunk
    });
    Response::from_parts(head, Body::from_stream(body))
}

fn app(ctl: &ShutdownController, counts: &Arc<Counts>) -> Router {
    let chunk = || Ok::<_, io::Error>(Bytes::from(vec![b'x'; 16 * 1024]));
    let big = move || stream::repeat_with(chunk).take(BIG / (16 * 1024));
    let spawner = ctl.clone();
    Router::new()
        .route("/", get(|| async { "hello" }))
        .route(
            "/wait/{ms}",
            get(async |Path(time): Path<u64>| {
                sleep(ms(time)).await;
                "hello"
            }),
        )
        .route("/big", get(async move || Body::from_stream(big())))
        .route("/never", get(pending::<()>))
        .route("/panic", get(panics))
        .route(
            "/spawn",
            get(async move || {
                drop(spawner.spawn("of a request", sleep(ms(20))));
                "hello"
            }),
        )
        .route("/tunnel", get(tunnel))
        .layer(from_fn_with_state(Arc::clone(counts), count))
        .layer(DrainLayer::new(ctl.clone()))
        .with_state(())
}

async fn panics() {
    panic!("{PANIC}");
}

async fn tunnel(Extension(guard): Extension<UpgradeGuard>, mut request: Request) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let (mut io, mut nowhere) = (TokioIo::new(upgraded), sink());
        tokio::select! {
            _ = copy(&mut io, &mut nowhere) => {}
            () = guard.forced() => {}
        }
    });
    let head = Response::builder().status(101);
    let head = head
        .header("connection", "upgrade")
        .header("upgrade", "soak");
    head.body(Body::empty()).unwrap()
}

// ===== clients =====

/// The outcomes of the polite clients' requests.
#[derive(Debug, Default)]
struct Ledger {
    sent: u64,
    answered: u64,
    refused: u64,
    /// Broken off, or without a response, on a connection that was in use.
    broken: Vec<String>,
}

/// Sends one request after another, until the server accepts no more.
async fn polite(address: SocketAddr, mut chance: Chance) -> Ledger {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut ledger = Ledger::default();
    let mut last = Instant::now();
    loop {
        let path = chance.one_of(&["/", "/", "/wait/5", "/wait/40", "/spawn", "/big"]);
        let was_idle_for = last.elapsed();
        ledger.sent += 1;
        let began = Instant::now();
        let answer = client.get(format!("http://{address}{path}")).send().await;
        let result = match answer {
            Ok(answer) => {
                let status = answer.status().as_u16();
                answer.bytes().await.map(|body| (status, body.len()))
            }
            Err(error) => Err(error),
        };
        match result {
            Ok((200, length)) => {
                let whole = if path == "/big" { BIG } else { 5 };
                assert_eq!(length, whole, "of {path}");
                ledger.answered += 1;
            }
            Ok((503, _)) => ledger.refused += 1,
            Ok(other) => panic!("{path}: {other:?}"),
            Err(error) if error.is_connect() => {
                // The listener is closed: the request was not sent.
                ledger.sent -= 1;
                return ledger;
            }
            // HTTP/1 cannot tell an idle client that its connection is being closed. No client here
            // is idle as long as a server waits, unless the machine was.
            Err(_) if was_idle_for > ms(100) || began.elapsed() > ms(1500) => ledger.sent -= 1,
            Err(error) => ledger.broken.push(format!("{path}: {error:?}")),
        }
        last = Instant::now();
        sleep(ms(chance.below(8))).await;
    }
}

/// Misbehaves, and ends when the server has closed the connection, or after a while.
async fn rude(address: SocketAddr, mut chance: Chance) {
    let Ok(mut io) = TcpStream::connect(address).await else {
        return;
    };
    let head = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: soak\r\n\r\n");
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let said: Vec<u8> = match chance.below(11) {
        0 => b"GET / HT".to_vec(),
        1 => head("/big").into_bytes(),
        2 => preface.as_bytes().to_vec(),
        3 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        4 => head("/never").into_bytes(),
        5 => head("/panic").into_bytes(),
        6 => head("/wait/10").repeat(20).into_bytes(),
        7 => b"GET /tunnel HTTP/1.1\r\nhost: soak\r\nconnection: upgrade\r\nupgrade: soak\r\n\r\n"
            .to_vec(),
        8 => b"POST / HTTP/1.1\r\nhost: soak\r\ncontent-length: 1000000\r\n\r\nsome".to_vec(),
        9 => {
            let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
            [preface.as_bytes(), &settings].concat()
        }
        _ => Vec::new(),
    };
    if io.write_all(&said).await.is_err() {
        return;
    }
    match chance.below(3) {
        // Disconnects at once, with unread data.
        0 => sleep(ms(chance.below(30))).await,
        // Reads nothing, and stays.
        1 => {
            let _ = timeout(ms(400), io.writable()).await;
            sleep(ms(400)).await;
        }
        // Reads to the end.
        _ => {
            let mut scratch = vec![0; 64 * 1024];
            let reads = async { while io.read(&mut scratch).await.is_ok_and(|read| read > 0) {} };
            let _ = timeout(ms(1500), reads).await;
        }
    }
}

// ===== one cycle =====

/// How the server ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Trigger,
    TriggerTwice,
    TriggerAndForce,
    Force,
    DropTheServer,
}

const ENDS: [End; 6] = [
    End::Trigger,
    End::Trigger,
    End::TriggerTwice,
    End::TriggerAndForce,
    End::Force,
    End::DropTheServer,
];

/// What a hook does, and its expected report.
const HOOKS: [(&str, &str); 4] = [
    ("succeeds", "completed"),
    ("fails", "failed: no"),
    ("panics", "panicked: a handler that panics"),
    ("hangs", "timed out"),
];

struct Came {
    end: End,
    report: ShutdownReport,
    ledgers: Vec<Ledger>,
}

fn add_hooks(ctl: &ShutdownController) {
    let hooks = HOOKS.map(|(name, _)| {
        Hook::new(name, move |_notice| async move {
            match name {
                "succeeds" => Ok(()),
                "fails" => Err("no".into()),
                "panics" => panic!("{PANIC}"),
                _ => pending().await,
            }
        })
        .timeout(ms(30))
    });
    for hook in hooks {
        ctl.add_hook(hook).unwrap();
    }
}

async fn cycle(chance: &mut Chance, clients: &Handle, counts: &Arc<Counts>) -> Came {
    let config = ShutdownConfig::default()
        .shutdown_timeout(ms(900 + chance.below(600)))
        .lame_duck(ms(chance.one_of(&[0, 0, 20, 60])))
        .late_for(ms(chance.one_of(&[200, 300])))
        .cleanup_reserve(ms(500));
    let ctl = ShutdownController::with_config(config).unwrap();
    add_hooks(&ctl);
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, app(&ctl, counts), ctl.clone()).into_future());

    let polite: Vec<JoinHandle<Ledger>> = (0..3)
        .map(|_| clients.spawn(polite(address, Chance(chance.next()))))
        .collect();
    let rude: Vec<JoinHandle<()>> = (0..6)
        .map(|_| clients.spawn(rude(address, Chance(chance.next()))))
        .collect();
    sleep(ms(20 + chance.below(60))).await;

    for _ in 0..chance.below(3) {
        match chance.below(2) {
            0 => {
                ctl.pause();
                sleep(ms(chance.below(10))).await;
                ctl.unpause();
            }
            _ => {
                ctl.trigger(MANUAL);
                sleep(ms(chance.below(10))).await;
                // Fails if there is no lame duck, or no longer one.
                let _ = ctl.resume();
            }
        }
        sleep(ms(chance.below(20))).await;
    }
    let end = chance.one_of(&ENDS);
    match end {
        End::Trigger => drop(ctl.trigger(MANUAL)),
        End::TriggerTwice => {
            ctl.trigger(MANUAL);
            sleep(ms(chance.below(20))).await;
            assert!(!ctl.trigger(ShutdownReason::Manual));
        }
        End::TriggerAndForce => {
            ctl.trigger(MANUAL);
            sleep(ms(chance.below(300))).await;
            ctl.force();
        }
        End::Force => ctl.force(),
        End::DropTheServer => server.abort(),
    }
    let report = timeout(TIMEOUT, ctl.shutdown(MANUAL))
        .await
        .expect("it ends");
    if let Ok(of_the_server) = timeout(TIMEOUT, server).await.expect("the server ends") {
        assert_eq!(of_the_server.to_string(), report.to_string());
    }
    assert_eq!(ctl.state(), LifecycleState::Stopped);
    assert_eq!(ctl.in_flight(), report.abandoned());
    let mut ledgers = Vec::new();
    for client in polite {
        ledgers.push(timeout(TIMEOUT, client).await.expect("it goes").unwrap());
    }
    for client in rude {
        timeout(TIMEOUT, client).await.expect("it goes").unwrap();
    }
    Came {
        end,
        report,
        ledgers,
    }
}

/// Compares the report with the counts of the application and the clients.
fn check(came: &Came, counts: &Counts) {
    let Came {
        end,
        report,
        ledgers,
    } = came;
    let called = counts.called.load(Ordering::SeqCst);
    assert_eq!(report.admitted(), called, "{end:?}: {report}");
    assert_eq!(report.abandoned(), 0, "{end:?}: {report}");
    assert_eq!(
        counts.ended.load(Ordering::SeqCst),
        called,
        "{end:?}: {report}"
    );

    if report.is_forced() {
        assert!(report.aborted() <= report.in_flight_at_force(), "{report}");
    } else {
        assert_eq!(
            (report.aborted(), report.connections_cut()),
            (0, 0),
            "{report}"
        );
        assert_ne!(*end, End::Force, "{report}");
    }
    // A failed hook is enough for that.
    assert!(!report.is_graceful());
    assert_eq!(
        format!("{:?}", report.exit_code()),
        format!("{:?}", ExitCode::FAILURE)
    );
    // A force in the clean-up cuts that.
    if *end != End::TriggerAndForce {
        for (hook, (name, outcome)) in report.hooks().iter().zip(HOOKS) {
            assert_eq!(hook.name(), name);
            let told = hook.outcome().to_string();
            assert!(told.starts_with(outcome), "{name}: {told}");
        }
    }
    let answered: u64 = ledgers.iter().map(|ledger| ledger.answered).sum();
    assert!(answered <= called);
    for ledger in ledgers {
        let broken = ledger.broken.len() as u64;
        assert_eq!(
            ledger.sent,
            ledger.answered + ledger.refused + broken,
            "{ledger:?}"
        );
        let may_be_cut = report.is_forced() || *end == End::DropTheServer;
        assert!(may_be_cut || broken == 0, "{end:?}: {ledger:?}\n{report}");
    }
}

/// Waits until the runtime has no tasks.
fn no_task_is_left(runtime: &Runtime) {
    let began = std::time::Instant::now();
    while runtime.metrics().num_alive_tasks() > 0 {
        let alive = runtime.metrics().num_alive_tasks();
        assert!(began.elapsed() < TIMEOUT, "{alive} tasks are left");
        runtime.block_on(async { sleep(ms(1)).await });
    }
}

// ===== the process =====

#[derive(Debug)]
struct Process {
    descriptors: usize,
    threads: usize,
}

impl Process {
    fn now() -> Self {
        let entries = |path| fs::read_dir(path).unwrap().count();
        Self {
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
        }
    }

    /// Waits until the process has no more than before: threads take a moment to end.
    fn is_back(&self) {
        let began = std::time::Instant::now();
        loop {
            let now = Self::now();
            if now.descriptors <= self.descriptors && now.threads <= self.threads {
                return;
            }
            assert!(began.elapsed() < TIMEOUT, "{now:?} instead of {self:?}");
            std::thread::sleep(ms(10));
        }
    }
}

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().unwrap())
}

#[test]
#[ignore = "takes a minute, and looks at the whole process: cargo test --test soak -- --ignored"]
fn a_hundred_servers_leave_nothing_behind() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload().downcast_ref::<String>();
        if text.is_none_or(|text| text != PANIC) {
            eprintln!("{panic}");
        }
    }));
    let seed = number("SOAK_SEED", u64::from(std::process::id()));
    let cycles = number("SOAK_CYCLES", 100);
    println!("SOAK_SEED={seed} SOAK_CYCLES={cycles}");
    let clients = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();

    let (mut sent, mut forced) = (0, 0);
    let mut before = None;
    let mut used_before = 0;
    for number in 0..cycles {
        println!("cycle {number}");
        let mut chance = Chance(seed.wrapping_add(number << 32));
        let counts = Arc::<Counts>::default();
        let runtime = match number % 2 {
            0 => Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build(),
            _ => Builder::new_current_thread().enable_all().build(),
        };
        let runtime = runtime.unwrap();
        let came = runtime.block_on(cycle(&mut chance, clients.handle(), &counts));
        check(&came, &counts);
        no_task_is_left(&runtime);
        drop(runtime);
        sent += came.ledgers.iter().map(|ledger| ledger.sent).sum::<u64>();
        forced += u64::from(came.report.is_forced());
        // Global state is created in the first cycles: threads for the log, for names, and so on.
        match &before {
            Some(process) => Process::is_back(process),
            None if number >= 5 => before = Some(Process::now()),
            None => {}
        }
        if number == cycles / 2 {
            used_before = PeakAlloc.current_usage();
        }
    }
    let used = PeakAlloc.current_usage();
    assert!(
        used <= used_before + SPARE,
        "{used} bytes after {used_before}"
    );
    println!("{cycles} servers, {forced} of them forced; {sent} requests; {used} bytes in use");
}
