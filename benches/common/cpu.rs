//! Pins threads to cores, and checks whether two processors are two separate cores.
// Each bench is a separate program, and uses only a part of this module.
#![allow(dead_code)]

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

/// How much slower two threads may be together than one alone.
const TOLERANCE: f64 = 1.15;

/// Returns the numbers of the processors that this program may run on.
#[cfg(target_os = "linux")]
pub fn processors() -> Vec<usize> {
    use nix::sched::{CpuSet, sched_getaffinity};

    let allowed = sched_getaffinity(this_thread()).expect("the kernel tells its own");
    (0..CpuSet::count())
        .filter(|&processor| allowed.is_set(processor).unwrap_or(false))
        .collect()
}

/// Returns a number for each processor. Threads cannot be pinned here.
#[cfg(not(target_os = "linux"))]
pub fn processors() -> Vec<usize> {
    (0..thread::available_parallelism().map_or(1, usize::from)).collect()
}

/// Pins this thread, and the programs that it starts, to that processor.
#[cfg(target_os = "linux")]
pub fn pin(processor: usize) {
    use nix::sched::{CpuSet, sched_setaffinity};

    let mut only = CpuSet::new();
    only.set(processor).expect("one of `processors`");
    sched_setaffinity(this_thread(), &only).expect("one of `processors`");
}

/// Does nothing: the system decides where this thread runs.
#[cfg(not(target_os = "linux"))]
pub fn pin(_processor: usize) {}

#[cfg(target_os = "linux")]
fn this_thread() -> nix::unistd::Pid {
    nix::unistd::Pid::from_raw(0)
}

/// Returns the CPU time of this thread.
#[cfg(unix)]
pub fn thread_time() -> Duration {
    use nix::time::{ClockId, clock_gettime};

    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock of POSIX");
    time.into()
}

/// Returns the wall-clock time, which is longer when a thread has to wait for a core.
#[cfg(not(unix))]
pub fn thread_time() -> Duration {
    use std::sync::LazyLock;
    use std::time::Instant;

    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGAN.elapsed()
}

/// Returns whether the first two processors are two separate cores at the moment.
///
/// On a virtual machine they may become two threads of one core at any time. Plain arithmetic on
/// both is then slower than on one alone.
pub fn two_cores(processors: &[usize]) -> bool {
    let &[first, second, ..] = processors else {
        return false;
    };
    let alone = arithmetic(&[first])[0];
    let together = arithmetic(&[first, second]);
    together.iter().all(|time| *time <= alone * TOLERANCE)
}

/// Returns how long a fixed amount of arithmetic takes on each of the processors, all at once.
fn arithmetic(processors: &[usize]) -> Vec<f64> {
    const PIECES: usize = 16;
    const STEPS: u64 = 40_000;

    let start = Barrier::new(processors.len());
    let work = |processor| {
        pin(processor);
        start.wait();
        let mut times: Vec<_> = (0..PIECES)
            .map(|_| {
                let began = thread_time();
                // Parallel chains fill a core, so that a second thread has to share it.
                let mut chains = black_box([3_u64, 5, 7, 11, 13, 17]);
                for step in 0..STEPS {
                    for chain in &mut chains {
                        *chain = chain.wrapping_mul(*chain ^ step);
                    }
                }
                black_box(chains);
                (thread_time() - began).as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[PIECES / 2]
    };
    let work = &work;
    thread::scope(|scope| {
        let running: Vec<_> = processors
            .iter()
            .map(|&processor| scope.spawn(move || work(processor)))
            .collect();
        let times = running.into_iter().map(|thread| thread.join());
        times.map(|time| time.expect("arithmetic")).collect()
    })
}
