//! The shutdown of started services.

use super::*;

#[tokio::test(start_paused = true)]
async fn services_stop_after_the_hooks_which_leave_them_their_share() {
    let (mut startup, log) = (startup(), Log::new());
    for name in ["a", "b"] {
        log.start_with(&mut startup, name, Stop::Hangs).await;
    }
    let ctl = startup.finish().await.unwrap();
    ctl.on_shutdown("hangs", |_| pending()).unwrap();
    ctl.add_hook(Hook::new("hangs too", |_| pending()).phase(1))
        .unwrap();
    let since = Instant::now();
    let report = end(ctl.shutdown(Manual)).await;
    // 10 s for two phases of hooks and one of services, whose stops share it.
    let hooks: Vec<_> = report.hooks().iter().map(|h| h.duration()).collect();
    let share = ms(3_333)..=ms(3_334);
    assert!(hooks.iter().all(|took| share.contains(took)), "{hooks:?}");
    let half = ms(1_666)..=ms(1_667);
    let services: Vec<_> = report
        .services()
        .iter()
        .map(ServiceReport::duration)
        .collect();
    assert!(
        services.iter().all(|took| half.contains(took)),
        "{services:?}"
    );
    assert_eq!(
        outcomes(report.services()),
        ["b: timed out", "a: timed out"]
    );
    assert!(since.elapsed() <= ms(10_005), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn without_services_hooks_have_all_of_the_time() {
    let ctl = startup().finish().await.unwrap();
    ctl.on_shutdown("hangs", |_| pending()).unwrap();
    let report = end(ctl.shutdown(Manual)).await;
    assert_eq!(report.hooks()[0].duration(), ms(10_000));
}

#[tokio::test(start_paused = true)]
async fn services_are_stopped_after_a_hook_that_is_slow() {
    let (mut startup, log) = (startup(), Log::new());
    log.start(&mut startup, "a").await;
    let ctl = startup.finish().await.unwrap();
    let noted = log.clone();
    ctl.on_shutdown("slow", |_| async move {
        sleep(ms(3_000)).await;
        noted.note("hook");
        Ok(())
    })
    .unwrap();
    assert!(end(ctl.shutdown(Manual)).await.is_graceful());
    assert_eq!(log.names(), ["+a", "hook", "-a"]);
}

#[tokio::test(start_paused = true)]
async fn services_have_the_reserve_after_a_forced_drain() {
    let (mut startup, log) = (startup(), Log::new());
    log.start(&mut startup, "a").await;
    log.start_with(&mut startup, "b", Stop::Hangs).await;
    let ctl = startup.finish().await.unwrap();
    let _stuck = ctl.track();
    let since = Instant::now();
    let report = end(ctl.shutdown(Manual)).await;
    assert_eq!(log.entries()[2], ("-b".to_owned(), ms(8_250)));
    assert_eq!(
        timed_outcomes(report.services()),
        ["b: timed out 875ms", "a: completed 0ns"]
    );
    assert!(since.elapsed() <= ms(10_000));
}

#[tokio::test(start_paused = true)]
async fn a_force_while_stopping_cuts_what_remains() {
    let (mut startup, log) = (startup(), Log::new());
    log.start(&mut startup, "a").await;
    let hanging = step("b", log.up("b", 0), log.down(Stop::Hangs));
    let beside = step("c", log.up("c", 0), log.down(Stop::After(100)));
    startup.start_all((hanging, beside)).await.unwrap();
    let ctl = startup.finish().await.unwrap();
    let since = Instant::now();
    ctl.trigger(Manual);
    sleep(ms(300)).await;
    ctl.force();
    let report = end(ctl.shutdown(Manual)).await;
    assert_eq!(
        timed_outcomes(report.services()),
        ["c: completed 100ms", "b: cut 300ms", "a: not started 0ns"]
    );
    assert_eq!(since.elapsed(), ms(300));
    assert_eq!(log.names(), ["+a", "+b", "+c", "-c", "-b"]);
}

#[tokio::test(start_paused = true)]
async fn a_force_while_a_rollback_stops_cuts_what_remains() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start(&mut startup, "a").await;
    log.start_with(&mut startup, "b", Stop::Hangs).await;
    let since = Instant::now();
    tokio::spawn(async move {
        ctl.triggered().await;
        sleep(ms(300)).await;
        ctl.force();
    });
    let error = fail(&mut startup).await;
    assert_eq!(
        timed_outcomes(error.rollback()),
        ["b: cut 300ms", "a: not started 0ns"]
    );
    assert_eq!(since.elapsed(), ms(300));
    assert!(error.report().is_forced());
}

#[tokio::test(start_paused = true)]
async fn a_force_while_a_rollback_stops_is_told_to_what_began_meanwhile() {
    let (mut startup, log) = (startup(), Log::new());
    let ctl = startup.controller();
    log.start_with(&mut startup, "a", Stop::Hangs).await;
    ctl.trigger(Manual);
    sleep(ms(300)).await;
    let late = ctl.track();
    let told = tokio::spawn(async move { late.forced().await });
    sleep(ms(1)).await;
    ctl.force();
    end(told).await.unwrap();
    end(ctl.stopped()).await;
}
