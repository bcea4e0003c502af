//! Many threads.

use super::*;

/// A small random generator.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// What the threads have done, for comparison with the controller's counts.
#[derive(Default)]
struct Ledger {
    admitted: AtomicU64,
    refused: AtomicU64,
    tracked: AtomicU64,
    /// Live guards from `try_admit`.
    alive: AtomicI64,
    over: AtomicBool,
}

impl Ledger {
    fn work(&self, ctl: &ShutdownController, mut dice: Dice) {
        while !self.over.load(Ordering::Relaxed) {
            if dice.below(64) == 0 {
                let guard = ctl.track();
                self.tracked.fetch_add(1, Ordering::Relaxed);
                drop(guard);
                continue;
            }
            let Ok(guard) = ctl.try_admit() else {
                self.refused.fetch_add(1, Ordering::Relaxed);
                // Otherwise there is almost always a refusal in progress.
                thread::yield_now();
                continue;
            };
            // Relaxed, as in `parallel.rs`: only the gate may order these.
            self.alive.fetch_add(1, Ordering::Relaxed);
            self.admitted.fetch_add(1, Ordering::Relaxed);
            if dice.below(16) == 0 {
                thread::yield_now();
            }
            self.alive.fetch_sub(1, Ordering::Relaxed);
            drop(guard);
        }
    }
}

#[test]
fn nothing_that_was_admitted_is_alive_once_it_is_idle_and_every_figure_adds_up() {
    const WORKERS: u64 = 6;
    const ROUNDS: u64 = 12;
    const TIME: Duration = ms(2_000);
    let (mut pauses, mut resumes) = (0, 0);
    let runtime = one_worker();
    for round in 0..ROUNDS {
        let ctl = runtime.block_on(async { lame_duck() });
        let ledger = Ledger::default();
        let mut dice = Dice(0x9E37_79B9 + round);
        thread::scope(|scope| {
            let over = Over(&ledger.over);
            for worker in 1..=WORKERS {
                let (ctl, ledger) = (&ctl, &ledger);
                scope.spawn(move || ledger.work(ctl, Dice(worker * 0xABCD_EF01 + round)));
            }
            // Resumes and triggers come at any moment; only `main` ends a pause.
            scope.spawn(|| {
                let mut dice = Dice(77 + round);
                while !ledger.over.load(Ordering::Relaxed) {
                    ctl.trigger(MANUAL);
                    for _ in 0..dice.below(2_000) {
                        std::hint::spin_loop();
                    }
                    // Fails once `main` has forced it.
                    let _ = ctl.resume();
                }
            });
            let began = std::time::Instant::now();
            while began.elapsed() < TIME / ROUNDS as u32 {
                assert!(ctl.pause());
                if dice.below(3) == 0 {
                    drop(ctl.idle());
                }
                within_a_minute(ctl.idle());
                assert_eq!(ledger.alive.load(Ordering::Relaxed), 0, "idle {pauses}");
                let admitted = ledger.admitted.load(Ordering::Relaxed);
                for _ in 0..dice.below(500) {
                    std::hint::spin_loop();
                }
                assert_eq!(ledger.admitted.load(Ordering::Relaxed), admitted);
                assert!(ctl.unpause());
                pauses += 1;
                resumes += u64::from(ctl.state() == Running);
                for _ in 0..dice.below(5_000) {
                    std::hint::spin_loop();
                }
            }
            if dice.below(2) == 0 {
                ctl.pause();
            }
            ctl.force();
            within_a_minute(ctl.drained());
            assert_eq!(ledger.alive.load(Ordering::Relaxed), 0);
            drop(over);
        });
        assert_eq!(ctl.in_flight(), 0);
        let figures = ctl.metrics();
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        assert_eq!(figures.admitted, of(&ledger.admitted) + of(&ledger.tracked));
        assert_eq!(figures.refused, of(&ledger.refused));
        let report = within_a_minute(ctl.shutdown(MANUAL));
        assert!(report.is_forced());
    }
    assert!(
        pauses > ROUNDS && resumes > 0,
        "{pauses} pauses, {resumes} resumes"
    );
}

/// The report is made when all threads are done, and equals their counts.
#[test]
fn the_report_has_the_sums_of_the_threads() {
    const WORKERS: u64 = 4;
    let runtime = one_worker();
    for round in 0..50 {
        let ctl = runtime.block_on(async { controller(ten_seconds()) });
        let ledger = Ledger::default();
        // Holds the drain until the threads are gone.
        let last = ctl.track();
        thread::scope(|scope| {
            let over = Over(&ledger.over);
            for worker in 1..=WORKERS {
                let (ctl, ledger) = (&ctl, &ledger);
                scope.spawn(move || ledger.work(ctl, Dice(worker * 31 + round)));
            }
            for _ in 0..20 {
                ctl.pause();
                thread::yield_now();
                ctl.unpause();
            }
            ctl.trigger(MANUAL);
            thread::yield_now();
            drop(over);
        });
        drop(last);
        let report = within_a_minute(ctl.shutdown(MANUAL));
        let (admitted, tracked) = (ledger.admitted.into_inner(), ledger.tracked.into_inner());
        assert_eq!(report.admitted(), admitted + tracked + 1, "round {round}");
        assert_eq!(report.refused(), ledger.refused.into_inner());
        assert!(report.is_graceful());
    }
}
