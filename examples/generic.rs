//! A tower service without HTTP: jobs from a queue.
//!
//! A producer delivers jobs. A consumer takes up to sixteen at a time, and runs four at once. After
//! half a second the shutdown begins: running jobs are completed, waiting jobs are refused with
//! `ShuttingDown` and go back to the producer, and the results are flushed. At the end every job is
//! either done or back, exactly once.
//!
//! ```text
//! cargo run -p examples --example generic
//! ```

use std::collections::BTreeSet;
use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc::{self, Receiver, Sender, UnboundedSender};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_lifecycle::error::ShuttingDown;
use tower_lifecycle::{DrainLayer, InFlightGuard, ShutdownController, ShutdownReason};

type Job = u32;

/// The outcome of a delivered job, for the producer.
enum Outcome {
    Done(Job),
    /// It was never started.
    Redeliver(Job),
    /// It failed or was cut. Only the producer knows whether it may be repeated.
    Failed(Job, BoxError),
}

/// How many jobs the consumer holds at once; four of them run.
const PREFETCH: usize = 16;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();

    let ctl = ShutdownController::new();

    let results = Arc::new(Mutex::new(Vec::new()));
    let worker = ServiceBuilder::new()
        // Outside the limit: when draining begins, jobs that wait for a permit are refused at once,
        // and only running jobs are completed.
        .layer(DrainLayer::new(ctl.clone()).reject_with_error())
        .concurrency_limit(4)
        .service(service_fn({
            let results = Arc::clone(&results);
            move |job| work(job, Arc::clone(&results))
        }));

    let (flushed_to, flushed) = std::sync::mpsc::channel();
    ctl.on_shutdown("flush results", move |_notice| async move {
        let results = std::mem::take(&mut *results.lock().expect("no panic in a worker"));
        flushed_to.send(results)?;
        Ok(())
    })
    .expect("the only hook of this name");

    let (deliver, queue) = mpsc::channel(8);
    let (tell, mut told) = mpsc::unbounded_channel();
    let producer = tokio::spawn(produce(deliver));
    tokio::spawn({
        let ctl = ctl.clone();
        async move {
            sleep(Duration::from_millis(500)).await;
            ctl.trigger(ShutdownReason::Manual);
        }
    });

    let report = ctl.run(consume(queue, worker, tell, ctl.track())).await;
    let _ = writeln!(std::io::stdout(), "{report}");

    let delivered = producer.await.expect("no panic in the producer");
    let (mut done, mut back) = (BTreeSet::new(), BTreeSet::new());
    while let Some(outcome) = told.recv().await {
        let is_new = match outcome {
            Outcome::Done(job) => done.insert(job),
            Outcome::Redeliver(job) => back.insert(job),
            Outcome::Failed(job, error) => panic!("job {job}: {error}"),
        };
        assert!(is_new, "a job was told of twice");
    }
    let flushed: BTreeSet<Job> = flushed.iter().flatten().collect();
    let _ = writeln!(
        std::io::stdout(),
        "{delivered} jobs delivered = {} done + {} to be redelivered",
        done.len(),
        back.len()
    );
    assert!(done.is_disjoint(&back), "done, and yet to be done again");
    assert!(done.iter().chain(&back).copied().collect::<BTreeSet<_>>() == (0..delivered).collect());
    assert_eq!(done, flushed, "the results of all that is done, no others");
    report.exit_code()
}

/// Delivers jobs until the queue is closed. Returns their number.
async fn produce(deliver: Sender<Job>) -> Job {
    let mut job = 0;
    while deliver.send(job).await.is_ok() {
        job += 1;
    }
    job
}

/// Takes jobs until draining begins. Its guard holds the drain until every job has an outcome.
async fn consume<S>(
    mut queue: Receiver<Job>,
    worker: S,
    tell: UnboundedSender<Outcome>,
    guard: InFlightGuard,
) where
    S: Service<Job, Response = (), Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    let mut jobs = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = guard.draining() => break,
            Some(_) = jobs.join_next() => {}
            Some(job) = queue.recv(), if jobs.len() < PREFETCH => {
                jobs.spawn(process(worker.clone(), job, tell.clone()));
            }
            else => break,
        }
    }
    // Jobs that were delivered but not started go back.
    queue.close();
    while let Some(job) = queue.recv().await {
        let _ = tell.send(Outcome::Redeliver(job));
    }
    while jobs.join_next().await.is_some() {}
}

async fn process<S>(worker: S, job: Job, tell: UnboundedSender<Outcome>)
where
    S: Service<Job, Response = (), Error = BoxError>,
{
    let outcome = match worker.oneshot(job).await {
        Ok(()) => Outcome::Done(job),
        Err(error) if error.is::<ShuttingDown>() => Outcome::Redeliver(job),
        Err(error) => Outcome::Failed(job, error),
    };
    let _ = tell.send(outcome);
}

async fn work(job: Job, results: Arc<Mutex<Vec<Job>>>) -> Result<(), BoxError> {
    sleep(Duration::from_millis(10 + u64::from(job % 7) * 10)).await;
    results.lock().map_err(|_| "a worker panicked")?.push(job);
    Ok(())
}
