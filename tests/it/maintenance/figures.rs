//! The figures.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_figures_are_exact_over_pauses() {
    let ctl = controller(ten_seconds());
    let (mut admitted, mut refused) = (0, 0);
    for round in 0..10 {
        let guards: Vec<_> = (0..round).map(|_| ctl.try_admit().unwrap()).collect();
        admitted += round;
        assert_eq!(ctl.metrics().admitted, admitted);
        ctl.pause();
        assert_eq!(ctl.metrics().admitted, admitted);
        for _ in 0..=round {
            assert!(ctl.try_admit().is_err());
            drop(ctl.track());
        }
        (admitted, refused) = (admitted + round + 1, refused + round + 1);
        let figures = ctl.metrics();
        assert_eq!((figures.admitted, figures.refused), (admitted, refused));
        assert_eq!(figures.in_flight, round);
        ctl.unpause();
        let figures = ctl.metrics();
        assert_eq!((figures.admitted, figures.refused), (admitted, refused));
        drop(guards);
    }
    let report = ctl.shutdown(MANUAL).await;
    assert_eq!((report.admitted(), report.refused()), (admitted, refused));
}

/// A refusal that has counted itself and not yet removed itself may outlast the pause, and meet the
/// next close of the gate.
#[test]
fn a_refusal_that_outlasts_its_pause_is_not_admitted() {
    const ROUNDS: u64 = 200;
    const THREADS: u64 = 2;
    for round in 0..ROUNDS {
        let ctl = ShutdownController::new();
        let (admitted, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let (mut ins, mut outs) = (0, 0);
                    while !over.load(Ordering::Relaxed) {
                        match ctl.try_admit() {
                            Ok(_) => ins += 1,
                            Err(_) => outs += 1,
                        }
                    }
                    admitted.fetch_add(ins, Ordering::Relaxed);
                    refused.fetch_add(outs, Ordering::Relaxed);
                });
            }
            let _over = Over(&over);
            until(|| ctl.metrics().admitted > 0);
            for _ in 0..100 {
                ctl.pause();
                ctl.unpause();
            }
            ctl.pause();
        });
        let figures = ctl.metrics();
        assert_eq!(
            (figures.admitted, figures.refused),
            (admitted.into_inner(), refused.into_inner()),
            "round {round}"
        );
    }
}
