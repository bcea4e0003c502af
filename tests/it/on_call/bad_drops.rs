//! Bad drops.

use super::*;

#[test]
fn a_hook_that_cannot_be_dropped_without_a_runtime_does_not_keep_the_end_away() {
    let runtime = one_thread();
    let config = ShutdownConfig::default().shutdown_timeout(Duration::from_millis(200));
    let ctl = runtime.block_on(async { ShutdownController::with_config(config).unwrap() });
    let guard = SpawnsOnDrop;
    ctl.on_shutdown("flush", move |_| async move {
        drop(guard);
        Ok(())
    })
    .unwrap();
    // The only worker is blocked past the deadline: the watchdog thread gives up, outside a
    // runtime.
    runtime.block_on(async {
        ctl.trigger(ShutdownReason::Manual);
        std::thread::sleep(Duration::from_millis(600));
    });
    assert!(ends(&ctl), "state {}, waiters wait for ever", ctl.state());
}

#[test]
fn a_runtime_that_ends_with_a_bad_drop_does_not_keep_the_end_away() {
    let runtime = one_thread();
    let ctl = runtime.block_on(async { ShutdownController::new() });
    let guard = PanicsOnDrop;
    ctl.on_shutdown("flush", move |_| async move {
        drop(guard);
        Ok(())
    })
    .unwrap();
    ctl.trigger(ShutdownReason::Manual);
    drop(runtime);
    assert!(ends(&ctl), "state {}, waiters wait for ever", ctl.state());
}

#[tokio::test]
async fn an_observer_whose_drop_panics_does_not_keep_the_end_away() {
    let ctl = ShutdownController::new();
    let guard = PanicsOnDrop;
    ctl.on_state_change(move |_, _| {
        let _ = &guard;
    });
    let begun = std::time::Instant::now();
    // `timeout` polls once more at its end, when it is resolved: only the wake-up counts.
    let _ = timeout(Duration::from_secs(3), ctl.shutdown(ShutdownReason::Manual)).await;
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(2),
        "never woken; state {}",
        ctl.state()
    );
}

#[tokio::test]
async fn a_log_that_panics_at_the_last_line_does_not_keep_the_end_away() {
    let _logs = listen(Panics("shutdown complete"));
    let ctl = ShutdownController::new();
    let ended = timeout(Duration::from_secs(3), ctl.shutdown(ShutdownReason::Manual)).await;
    assert!(
        ended.is_ok(),
        "state {}, waiters wait for ever",
        ctl.state()
    );
}
