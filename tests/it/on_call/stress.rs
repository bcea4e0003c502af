//! Stress.

use super::*;

/// Everything at once, and each shutdown must end.
#[test]
fn stress_of_everything_at_once() {
    let runtime = threads(3);
    let config = || {
        ShutdownConfig::default()
            .shutdown_timeout(Duration::from_secs(10))
            .refuse_for(Duration::ZERO)
    };
    let mut odd = Vec::new();
    for round in 0..400u64 {
        let lame = Duration::from_micros(if round % 3 == 0 { 0 } else { 700 });
        let ctl = runtime
            .block_on(async { ShutdownController::with_config(config().lame_duck(lame)).unwrap() });
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let ctl = ctl.clone();
                let runtime = runtime.handle().clone();
                scope.spawn(move || {
                    let _in = runtime.enter();
                    let mut seed = round * 977 + thread * 31 + 1;
                    for _ in 0..30 {
                        seed = seed
                            .wrapping_mul(6364136223846793005)
                            .wrapping_add(1442695040888963407);
                        match (seed >> 33) % 9 {
                            0 => drop(ctl.pause()),
                            1 => drop(ctl.unpause()),
                            2 => drop(ctl.trigger(ShutdownReason::Manual)),
                            3 | 4 => drop(ctl.resume()),
                            5 => drop(ctl.idle()),
                            6 => {
                                let guard = ctl.try_admit();
                                let told = ctl.triggered();
                                drop(ctl.spawn("t", async move {
                                    let _ = guard;
                                    told.await;
                                }));
                            }
                            7 => drop(ctl.track()),
                            _ if round % 5 == 0 => ctl.force(),
                            _ => std::thread::yield_now(),
                        }
                    }
                });
            }
        });
        let begun = std::time::Instant::now();
        let report = runtime.block_on(async {
            timeout(
                Duration::from_secs(20),
                ctl.shutdown(ShutdownReason::Manual),
            )
            .await
        });
        let took = begun.elapsed();
        match report {
            Ok(report) if took < Duration::from_secs(9) => {
                if report.reason() == ShutdownReason::Interrupted {
                    odd.push(format!("{round}: {report}"));
                }
                let idle =
                    runtime.block_on(async { timeout(Duration::from_secs(1), ctl.idle()).await });
                if idle.is_err() || ctl.state() != LifecycleState::Stopped {
                    odd.push(format!("{round}: idle or state"));
                }
            }
            Ok(report) => odd.push(format!("{round}: {took:?} {report}")),
            Err(_) => odd.push(format!("{round}: hangs in {}", ctl.state())),
        }
    }
    assert_none(&odd);
}

/// Starts, ends, forces and drops at once: nothing hangs, and what started is stopped once.
#[test]
fn stress_of_start_ups() {
    let runtime = threads(3);
    let mut odd = Vec::new();
    for round in 0..1500u64 {
        let started = Arc::new(AtomicUsize::new(0));
        let stopped = Arc::new(AtomicUsize::new(0));
        let config = ShutdownConfig::default().shutdown_timeout(Duration::from_millis(400));
        let mut startup = runtime.block_on(async { Startup::new(config).unwrap() });
        let ctl = startup.controller();
        let (begun, ended) = (started.clone(), stopped.clone());
        let clone = ctl.clone();
        let bother = std::thread::spawn(move || {
            for _ in 0..(round % 50) * 20 {
                std::hint::spin_loop()
            }
            match round % 4 {
                0 => {
                    clone.trigger(ShutdownReason::Manual);
                }
                1 => clone.force(),
                2 => {
                    clone.trigger(ShutdownReason::Manual);
                    clone.force();
                    clone.force();
                }
                _ => {
                    clone.pause();
                    clone.unpause();
                }
            }
        });
        let task = runtime.spawn(async move {
            for step in 0..3 {
                let (begun, ended) = (begun.clone(), ended.clone());
                startup
                    .start(
                        format!("s{step}"),
                        async move {
                            tokio::task::yield_now().await;
                            begun.fetch_add(1, Ordering::SeqCst);
                            Ok::<_, BoxError>(())
                        },
                        move |()| async move {
                            ended.fetch_add(1, Ordering::SeqCst);
                        },
                    )
                    .await?;
            }
            if round % 7 == 0 {
                return Ok(());
            } // dropped
            startup.finish().await.map(drop)
        });
        let result = runtime.block_on(async { timeout(Duration::from_secs(5), task).await });
        bother.join().unwrap();
        let report = runtime.block_on(async {
            timeout(Duration::from_secs(5), ctl.shutdown(ShutdownReason::Manual)).await
        });
        if result.is_err() || report.is_err() {
            odd.push(format!("{round}: hangs, {result:?} {report:?}"));
            continue;
        }
        std::thread::sleep(Duration::from_micros(200));
        let (a, b) = (
            started.load(Ordering::SeqCst),
            stopped.load(Ordering::SeqCst),
        );
        let report = report.unwrap();
        let reported = report
            .services()
            .iter()
            .filter(|s| s.is_completed())
            .count();
        if (a != b && round % 4 != 2 && (round % 4 != 1 || round % 7 != 0))
            || b > a
            || (reported != b && round % 4 != 2 && round % 4 != 1)
        {
            odd.push(format!(
                "{round}: started {a}, stopped {b}, reported {reported}: {report}"
            ));
        }
        if report.duration() > Duration::from_millis(300) {
            odd.push(format!("{round}: slow {report}"));
        }
    }
    assert_none(&odd);
}
