//! The turns of the gate, two at a time.

use super::*;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Turning {
    Close,
    Pause,
    Unpause,
    Shed,
    Unshed,
    Force,
}

/// How the gate stands after two turns, and what each of them gave.
#[derive(Debug, Clone, PartialEq)]
struct Stand {
    gave: (bool, bool),
    phases: Vec<u64>,
    reached: u32,
}

impl Turning {
    const ALL: [Self; 6] = [
        Self::Close,
        Self::Pause,
        Self::Unpause,
        Self::Shed,
        Self::Unshed,
        Self::Force,
    ];

    fn turn(self, gate: &Gate) -> bool {
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

/// A gate that is open, or one that sheds and is paused.
fn turned(is_turned: bool) -> Arc<Gate> {
    let gate = Gate::new(2, 0);
    if is_turned {
        gate.shed();
        gate.pause();
    }
    gate
}

impl Stand {
    fn of(gate: &Gate, gave: (bool, bool)) -> Self {
        let bits = SHEDDING | CLOSED | DRAINING | FORCED;
        Self {
            gave,
            phases: gate.all_shards().map(|s| s.phase() & bits).collect(),
            reached: gate.milestones.reached(),
        }
    }

    /// The one after the other.
    fn after(is_turned: bool, first: Turning, second: Turning) -> Self {
        let stand = Arc::new(std::sync::Mutex::new(None));
        let found = Arc::clone(&stand);
        check(move || {
            let gate = turned(is_turned);
            let gave = (first.turn(&gate), second.turn(&gate));
            *found.lock().unwrap() = Some(Self::of(&gate, gave));
        });
        let stand = stand.lock().unwrap().take();
        stand.unwrap()
    }
}

/// Invariant 6: two that turn the gate at the same time do so one after the other, whichever comes
/// first, and who enters meanwhile is counted as what it was told.
///
/// Seeded, each: `close`, `pause`, `unpause`, `shed` and `unshed` that let go of `turn` at once.
/// `force` that does is right as well, since its bit is only ever added.
#[test]
fn turns_come_one_after_the_other() {
    for (index, &one) in Turning::ALL.iter().enumerate() {
        for &other in &Turning::ALL[index..] {
            for is_turned in [false, true] {
                turn_at_once(is_turned, one, other);
            }
        }
    }
}

fn turn_at_once(is_turned: bool, one: Turning, other: Turning) {
    let mut swapped = Stand::after(is_turned, other, one);
    swapped.gave = (swapped.gave.1, swapped.gave.0);
    let right = [Stand::after(is_turned, one, other), swapped];
    check(move || {
        let gate = turned(is_turned);
        let client = beside(&gate, |gate| {
            let is_admitted = gate.shards()[0].enter(|| ());
            if is_admitted {
                gate.shards()[0].leave();
            }
            u64::from(is_admitted)
        });
        let second = beside(&gate, move |gate| other.turn(gate));
        let gave = (one.turn(&gate), second.join().unwrap());
        let admitted = client.join().unwrap();
        let stand = Stand::of(&gate, gave);
        assert!(right.contains(&stand), "{one:?}, {other:?}: {stand:?}");
        assert_eq!((gate.in_flight(), gate.admitted()), (0, admitted));
    });
}
