//! Models of carrying the top field of a word before it overflows, and of concurrent reads of the
//! count.

use super::*;
use crate::in_flight::gate::shard::{CARRY, ONE_ENTERED};

/// Two entries short of the carry.
const BEFORE: u64 = CARRY / ONE_ENTERED - 2;

/// Returns a gate to which `admitted` entries were admitted, which have left.
fn after(admitted: u64) -> Lease {
    let gate = Lease::new(1, 0);
    let word = &gate.shards()[0].word;
    word.fetch_add(admitted * ONE_ENTERED, Ordering::Relaxed);
    gate
}

fn enter_and_leave(gate: &Gate) {
    let shard = &gate.shards()[0];
    if shard.enter(|| ()) {
        shard.leave();
    }
}

/// Invariant 9: a reader never sees the count fall, and every entry is counted once.
///
/// Seeded: `carry` without the lock, with its two steps in either order; `admitted` without the
/// lock; `carry` that adds to `carried` what another thread has carried.
#[test]
fn the_count_never_falls_while_it_is_carried() {
    check(|| {
        let gate = after(BEFORE + 1);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                beside(&gate, |gate| {
                    enter_and_leave(gate);
                    enter_and_leave(gate);
                })
            })
            .collect();
        let (first, second) = (gate.admitted(), gate.admitted());
        assert!(BEFORE + 1 <= first && first <= second, "{first}, {second}");
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert!(second <= gate.admitted());
        assert_eq!((gate.in_flight(), gate.admitted()), (0, BEFORE + 5));
        // One of the last two entries has carried it.
        assert_eq!(gate.shards()[0].phase() & CARRY, 0);
    });
}

/// The same while the gate is paused and resumed.
///
/// Seeded: `set_phase` and `clear_phase` that use a word from before the change.
#[test]
fn the_count_is_right_where_a_turn_meets_the_carrying() {
    check(|| {
        let gate = after(BEFORE + 2);
        let client = beside(&gate, |gate| {
            let shard = &gate.shards()[0];
            let is_admitted = shard.enter(|| ());
            if is_admitted {
                shard.leave();
            }
            u64::from(is_admitted)
        });
        assert!(gate.pause());
        let paused = gate.admitted();
        assert!(gate.unpause());
        let again = gate.admitted();
        let admitted = client.join().unwrap();
        assert!(paused <= again && again <= BEFORE + 2 + admitted);
        assert_eq!(gate.admitted(), BEFORE + 2 + admitted);
        gate.drain();
        assert_eq!(
            (gate.in_flight(), gate.admitted()),
            (0, BEFORE + 2 + admitted)
        );
    });
}
