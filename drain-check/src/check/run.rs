//! A run: start, load, signal, wait, restart, and the same again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::check::address::{free_ports, of_url};
use crate::check::balancer::Balancer;
use crate::check::error::Error;
use crate::check::options::{Options, Via};
use crate::check::process::{Process, check_port, describe};
use crate::check::progress::Progress;
use crate::check::report::{Report, Restart};
use crate::client::{Ask, Expected, Job, Load, Once, PROBE_PERIOD, Probe, once, open_once};
use crate::ledger::{Ledger, Sender};
use crate::random::Random;
use crate::target::Target;

/// How many HTTP/2 clients share a connection.
const STREAMS: usize = 4;
/// Clients see the end of their connections within this time.
const AFTERMATH: Duration = Duration::from_millis(300);

/// Runs a check to its end, and returns its report.
///
/// The servers are children of this process and get the signal by their id. Those that still run at
/// the end of their time are killed, also if this future is dropped or this process gets SIGINT or
/// SIGTERM.
///
/// # Errors
///
/// [`Error`] says why a check could not run. A server that loses requests or does not end is no
/// error: the report says so.
///
/// # Panics
///
/// Outside of a tokio runtime with I/O and time.
pub async fn check(options: &Options) -> Result<Report, Error> {
    let mut terminated = signal(SignalKind::terminate()).map_err(Error::io("wait for SIGTERM"))?;
    tokio::select! {
        report = run(options) => report,
        _ = tokio::signal::ctrl_c() => Err(Error::Interrupted),
        _ = terminated.recv() => Err(Error::Interrupted),
    }
}

async fn run(options: &Options) -> Result<Report, Error> {
    options.check()?;
    let seed = options.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
        now.map_or(0, |time| u64::from(time.subsec_nanos()))
    });
    let mut random = Random::new(seed);
    let (of_url, path) = of_url(&options.url).await?;
    let (addresses, balancer_address) = match options.rolling {
        Some(count) => {
            let mut ports = free_ports(usize::from(count) + 1, &mut random)?;
            let last = ports.remove(0);
            (ports, Some(last).filter(|_| options.via != Via::None))
        }
        None => (of_url.addresses.clone(), None),
    };
    let progress = Progress::new(options.rounds() * u32::try_from(addresses.len()).unwrap_or(1));
    let mut fleet = Fleet::start(options, addresses.clone(), &progress).await?;
    let direct = match options.rolling {
        Some(_) => Target::of(addresses.clone(), false),
        None => of_url,
    };
    let paths: Vec<_> = std::iter::once(&path)
        .chain(&options.path)
        .cloned()
        .collect();
    let expected = learn(options, &direct, &paths).await?;
    let mut balancer = None;
    if let Some(address) = balancer_address {
        balancer = Some(Balancer::start(options, address, &addresses).await?);
    }
    let ledger = Ledger::default();
    progress.show(&ledger);
    let target = balancer_address.map_or(direct, |address| Target::of(vec![address], true));
    // At least a third of the load, so that connections are open and requests under way.
    let shortest = options.load / 3;
    let settles_within = Balancer::settles_within(options.via);
    let mut job = Job::new(target, &ledger)
        .answer_within(options.answer_within)
        .spread(settles_within + shortest / 2);
    for (path, expected) in expected {
        job = job.expect(path, expected);
    }
    let load = start_load(Load::new(job, random.number()), options, paths);

    let mut restarts = Vec::new();
    for round in 1..=options.rounds() {
        for instance in 0..fleet.instances.len() {
            let time = shortest + random.up_to(options.load - shortest);
            sleep(settles_within + time).await;
            fleet.check().await?;
            let is_last = round == options.rounds() && fleet.instances.len() == 1;
            let mut restart = fleet.end(instance, &ledger, &progress).await?;
            restart.round = round;
            if !is_last {
                progress.phase("starting");
                fleet.instances[instance].process = fleet.start_one(instance, true).await?;
                let ready_at = ledger.now();
                restart.ready_after = Some(ready_at.saturating_sub(restart.signal_at));
            }
            restarts.push(restart);
            progress.restarted(restarts.len());
        }
    }
    sleep(AFTERMATH).await;
    load.end().await;
    drop(balancer);
    fleet.stop().await?;
    progress.end();
    Ok(Report::new(options, seed, &ledger, restarts))
}

/// Starts the clients that the options ask for.
fn start_load(mut load: Load, options: &Options, paths: Vec<String>) -> Load {
    let count = usize::from(options.clients);
    let few = count.div_ceil(3);
    let get = Ask::get(paths);
    if options.has_http1() {
        load.http1(count, &get);
        load.pooled(Sender::Reqwest1, few, &get);
    }
    if options.has_http2() {
        load.http2(count.next_multiple_of(STREAMS), STREAMS, &get);
        load.pooled(Sender::Reqwest2, few, &get);
    }
    if let Some(upload) = options.upload.as_ref().map(Ask::upload) {
        if options.has_http1() {
            load.http1(few, &upload);
        }
        if options.has_http2() {
            load.http2(few, 1, &upload);
        }
    }
    if let Some(events) = options.sse.as_ref().map(Ask::events) {
        load.http1(few, &events);
    }
    if let Some(path) = &options.ws {
        load.websockets(few, path);
    }
    load
}

/// The instances of the server.
struct Fleet<'a> {
    options: &'a Options,
    command: Vec<String>,
    instances: Vec<Instance>,
}

struct Instance {
    address: SocketAddr,
    process: Process,
}

impl<'a> Fleet<'a> {
    async fn start(
        options: &'a Options,
        addresses: Vec<SocketAddr>,
        progress: &Progress,
    ) -> Result<Self, Error> {
        progress.phase("starting");
        let mut fleet = Self {
            options,
            command: options.command()?,
            instances: Vec::new(),
        };
        for address in addresses {
            let process = fleet.start_at(address, false).await?;
            fleet.instances.push(Instance { address, process });
        }
        Ok(fleet)
    }

    async fn start_one(&self, instance: usize, again: bool) -> Result<Process, Error> {
        self.start_at(self.instances[instance].address, again).await
    }

    /// Starts a server and waits until it is ready.
    async fn start_at(&self, address: SocketAddr, again: bool) -> Result<Process, Error> {
        check_port(address, again).await?;
        let mut process = Process::start(&self.command, address)?;
        let within = self.options.ready_within;
        let deadline = Instant::now() + within;
        loop {
            process.check().await?;
            let last = match self.probe(address).send().await {
                Ok(status) if self.is_ready(status) => return Ok(process),
                Ok(status) => format!("the probe was answered with {status}"),
                Err(error) => error,
            };
            if Instant::now() > deadline {
                let output = process.output().await;
                process.end(Duration::ZERO).await?;
                return Err(Error::NeverReady {
                    within,
                    last,
                    output,
                });
            }
            sleep(PROBE_PERIOD).await;
        }
    }

    fn probe(&self, address: SocketAddr) -> Probe {
        let url: http::Uri = self.options.url.parse().unwrap_or_default();
        let of_url = url.path_and_query().map_or("/", |path| path.as_str());
        let path = self.options.ready_path.as_deref().unwrap_or(of_url);
        Probe::new(address, path).by_http2(self.options.h2_only)
    }

    fn is_ready(&self, status: StatusCode) -> bool {
        match self.options.ready_path {
            Some(_) => status.is_success(),
            None => status.as_u16() < 500,
        }
    }

    /// Returns an error if an instance has ended without a signal.
    async fn check(&mut self) -> Result<(), Error> {
        for instance in &mut self.instances {
            instance.process.check().await?;
        }
        Ok(())
    }

    /// Signals an instance, and waits for its end.
    async fn end(
        &mut self,
        instance: usize,
        ledger: &Ledger,
        progress: &Progress,
    ) -> Result<Restart, Error> {
        progress.phase("ending");
        let address = self.instances[instance].address;
        let options = self.options;
        let process = &mut self.instances[instance].process;
        let signal_at = ledger.now();
        process.signal(options.signal)?;
        let probe = options.ready_path.is_some().then(|| self.probe(address));
        let watch = probe.map(|probe| tokio::spawn(probe.turns_red(ledger.clone())));
        let process = &mut self.instances[instance].process;
        let ended = process.end(options.end_within).await;
        let ended_at = ledger.now();
        let mut red_after = None;
        if let Some(watch) = watch {
            watch.abort();
            let red_at: Option<Duration> = watch.await.ok();
            red_after = red_at.map(|at| at.saturating_sub(signal_at));
        }
        let ended = ended?;
        Ok(Restart {
            round: 0,
            port: address.port(),
            signal_at,
            ended_after: ended_at - signal_at,
            ready_after: None,
            exit: describe(ended.status),
            was_killed: ended.was_killed,
            by_signal: ended.status.signal() == Some(options.signal as i32) && !ended.was_killed,
            red_after,
            refused_after: None,
            counts: Default::default(),
        })
    }

    /// Ends what still runs.
    async fn stop(mut self) -> Result<(), Error> {
        for instance in &self.instances {
            instance.process.signal(self.options.signal)?;
        }
        for instance in &mut self.instances {
            instance.process.end(self.options.end_within).await?;
        }
        Ok(())
    }
}

/// Returns what each path answers without a restart.
async fn learn(
    options: &Options,
    target: &Target,
    paths: &[String],
) -> Result<HashMap<String, Expected>, Error> {
    let ask = |path, method, head_only| {
        let ask = Once {
            target,
            address: target.addresses[0],
            method,
            path,
            by_http2: options.h2_only,
            head_only,
        };
        async {
            let unusable = |seen| Error::Unusable {
                path: path.to_owned(),
                seen,
            };
            let (status, body) = once(ask, options.answer_within).await.map_err(unusable)?;
            if status.as_u16() >= 500 {
                return Err(unusable(format!("the answer is {status}")));
            }
            Ok((status, body))
        }
    };
    let mut expected = HashMap::new();
    for path in paths {
        let (status, first) = ask(path, Method::GET, false).await?;
        let (_, second) = ask(path, Method::GET, false).await?;
        let body = (first == second).then_some(first);
        expected.insert(path.clone(), Expected::usual(status, body));
    }
    if let Some(path) = &options.upload {
        let (status, _) = ask(path, Method::POST, false).await?;
        expected.insert(path.clone(), Expected::usual(status, None));
    }
    if let Some(path) = &options.sse {
        let (status, _) = ask(path, Method::GET, true).await?;
        if status != StatusCode::OK {
            return Err(Error::Unusable {
                path: path.clone(),
                seen: format!("the answer is {status}, and not an event stream"),
            });
        }
    }
    if let Some(path) = &options.ws {
        let opened = open_once(target, path, options.answer_within).await;
        opened.map_err(|seen| Error::Unusable {
            path: path.clone(),
            seen: format!("no WebSocket can be opened: {seen}"),
        })?;
    }
    Ok(expected)
}
