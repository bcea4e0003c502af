//! Models of two concurrent changes of the gate's phase.

use super::*;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    Close,
    Pause,
    Unpause,
    Shed,
    Unshed,
    Force,
}

/// The gate after two changes, and what each of them returned.
#[derive(Debug, Clone, PartialEq)]
struct Snapshot {
    returned: (bool, bool),
    phases: Vec<u64>,
    reached: u32,
}

impl Change {
    const ALL: [Self; 6] = [
        Self::Close,
        Self::Pause,
        Self::Unpause,
        Self::Shed,
        Self::Unshed,
        Self::Force,
    ];

    fn apply(self, gate: &Gate) -> bool {
        match self {
            Self::Close => gate.drain(),
            Self::Pause => return gate.pause(),
            Self::Unpause => return gate.unpause(),
            Self::Shed => gate.shed(),
            Self::Unshed => gate.unshed(),
            Self::Force => gate.force(),
        }
        true
    }
}

/// Creates a gate that is open, or one that sheds and is paused.
fn new_gate(is_paused: bool) -> Lease {
    let gate = Lease::new(2, 0);
    if is_paused {
        gate.shed();
        gate.pause();
    }
    gate
}

impl Snapshot {
    fn of(gate: &Gate, returned: (bool, bool)) -> Self {
        let bits = SHEDDING | CLOSED | DRAINING | FORCED;
        Self {
            returned,
            phases: gate.all_shards().map(|s| s.phase() & bits).collect(),
            reached: gate.milestones.reached(),
        }
    }

    /// Returns the result of two changes, one after the other.
    fn after(is_paused: bool, first: Change, second: Change) -> Self {
        let snapshot = Arc::new(std::sync::Mutex::new(None));
        let found = Arc::clone(&snapshot);
        check(move || {
            let gate = new_gate(is_paused);
            let returned = (first.apply(&gate), second.apply(&gate));
            *found.lock().unwrap() = Some(Self::of(&gate, returned));
        });
        let snapshot = snapshot.lock().unwrap().take();
        snapshot.unwrap()
    }
}

/// Invariant 6: two concurrent changes have the same result as one after the other, in either
/// order. An entry meanwhile is counted by the answer that it got.
///
/// Seeded, one at a time: `close`, `pause`, `unpause`, `shed` and `unshed` that release `state` at
/// once. The same in `force` is correct, because its bit is never cleared.
#[test]
fn turns_come_one_after_the_other() {
    for (index, &one) in Change::ALL.iter().enumerate() {
        for &other in &Change::ALL[index..] {
            for is_paused in [false, true] {
                apply_at_once(is_paused, one, other);
            }
        }
    }
}

fn apply_at_once(is_paused: bool, one: Change, other: Change) {
    let mut swapped = Snapshot::after(is_paused, other, one);
    swapped.returned = (swapped.returned.1, swapped.returned.0);
    let right = [Snapshot::after(is_paused, one, other), swapped];
    check(move || {
        let gate = new_gate(is_paused);
        let client = beside(&gate, |gate| {
            let is_admitted = gate.shards()[0].enter(|| ());
            if is_admitted {
                gate.shards()[0].leave();
            }
            u64::from(is_admitted)
        });
        let second = beside(&gate, move |gate| other.apply(gate));
        let returned = (one.apply(&gate), second.join().unwrap());
        let admitted = client.join().unwrap();
        let snapshot = Snapshot::of(&gate, returned);
        assert!(
            right.contains(&snapshot),
            "{one:?}, {other:?}: {snapshot:?}"
        );
        assert_eq!((gate.in_flight(), gate.admitted()), (0, admitted));
    });
}
