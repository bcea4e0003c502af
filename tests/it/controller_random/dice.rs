//! Generates a plan.

use super::*;

/// Choices from the digits of a number: much cheaper than a strategy for each choice, and it
/// shrinks towards the first option of each.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        let rolled = self.0 % sides;
        self.0 /= sides;
        rolled
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len() as u64) as usize]
    }

    /// Returns true once in this many calls.
    pub(super) fn once_in(&mut self, times: u64) -> bool {
        self.roll(times) == times - 1
    }

    pub(super) fn times(&mut self) -> Times {
        let drain = self.pick(&[
            104, 204, 504, 1004, 104, 204, 504, 1004, 104, 204, 504, 1004, 0,
        ]);
        let lame_duck = self.pick(&[0, 22, 62, 102, 0, 22, 62, 102, 0]);
        Times {
            drain,
            lame_duck: if drain == 0 { 0 } else { lame_duck },
            reserve: self.pick(&[216, 16, 56, 416, 1216, 216, 16, 56, 416, 1216, 0]),
            late_for: self.pick(&[0, 24, 84, 1004]),
            refuse_for: self.pick(&[0, 14, 0, 54, 0, 214]),
        }
    }

    pub(super) fn next_move(&mut self) -> Move {
        let then = match self.roll(7) {
            0..=2 => Then::Nothing,
            3..=4 => Then::Settle,
            _ => Then::Sleep(20 * (1 + self.roll(7))),
        };
        Move {
            then,
            poll: self.once_in(2),
            poll_then: self.once_in(2),
            op: self.op(),
        }
    }

    pub(super) fn op(&mut self) -> Op {
        match self.roll(88) {
            0..=5 => Op::Trigger(self.reason()),
            6..=10 => Op::Resume,
            11..=15 => Op::Pause,
            16..=19 => Op::Unpause,
            20..=27 => Op::Admit,
            28..=31 => Op::Track,
            32..=41 => Op::Release(self.roll(64) as usize),
            42..=45 => Op::Lend(self.lease()),
            46..=49 => Op::Spawn(self.when(), self.how()),
            50..=55 => Op::AddHook(self.hook()),
            56..=70 => Op::Wait(self.kind()),
            71..=73 => Op::Cancel(self.roll(64) as usize),
            74 => Op::Observe(self.pick(&[
                React::Not,
                React::Panics,
                React::Pauses,
                React::Resumes,
                React::Forces,
                React::Triggers,
            ])),
            75 => Op::Force,
            76..=78 => Op::HangUp(self.roll(64) as usize),
            _ => Op::Request {
                layer: self.pick(&[Through::Drain, Through::Drain, Through::Tracking]),
                hangs: self.once_in(2),
            },
        }
    }

    pub(super) fn reason(&mut self) -> ShutdownReason {
        self.pick(&[
            ShutdownReason::Manual,
            ShutdownReason::Timeout,
            ShutdownReason::Error,
        ])
    }

    pub(super) fn lease(&mut self) -> Lease {
        let after = 20 * self.roll(20) + 7;
        self.pick(&[
            Lease::For(after),
            Lease::AfterDraining(after),
            Lease::For(after),
            Lease::AfterDraining(after),
            Lease::UntilForced,
            Lease::Impatient(after),
        ])
    }

    pub(super) fn when(&mut self) -> When {
        let after = When::After(20 * self.roll(15) + 11);
        self.pick(&[
            When::Triggered,
            When::Draining,
            after,
            after,
            When::Triggered,
            When::Draining,
            after,
            When::Never,
        ])
    }

    pub(super) fn how(&mut self) -> How {
        use How::{Completes, Fails, Panics};
        self.pick(&[Completes, Completes, Completes, Completes, Fails, Panics])
    }

    pub(super) fn hook(&mut self) -> HookPlan {
        let takes = [0, 3, 17, 40, 90, 300, 0].map(Some);
        HookPlan {
            name: self.roll(6) as usize,
            phase: self.pick(&[0, 1, -1, 2]),
            timeout: self.pick(&[None, None, Some(1), None, None, Some(20), Some(70)]),
            takes: if self.once_in(8) {
                None
            } else {
                self.pick(&takes)
            },
            how: self.how(),
        }
    }

    pub(super) fn kind(&mut self) -> Kind {
        match self.roll(14) {
            0 => Kind::LameDuck,
            1 => Kind::Draining,
            2..=3 => Kind::Drained,
            4 => Kind::Forced,
            5 => Kind::Stopped,
            6 => Kind::StopAccepting,
            7..=9 => Kind::Idle,
            10..=11 => Kind::Triggered,
            12 => Kind::State(self.pick(&[
                LameDuck,
                Draining,
                Stopping,
                Stopped,
                LifecycleState::Failed,
                Running,
                LifecycleState::Starting,
            ])),
            _ => Kind::Shutdown(self.reason()),
        }
    }
}

pub(super) fn any_plan() -> impl Strategy<Value = Plan> {
    let moves = prop::collection::vec(any::<u64>(), 1..=40);
    (any::<u32>(), moves).prop_map(|(times, moves)| {
        let times = Dice(times.into()).times();
        let moves = moves.into_iter().map(|number| Dice(number).next_move());
        let mut moves: Vec<_> = moves.collect();
        if times.drain == 0 {
            // Whatever ends at the trigger or at the force may be cut just before, with either
            // outcome.
            for Move { op, .. } in &mut moves {
                match op {
                    Op::Spawn(when @ (When::Triggered | When::Draining), _) => *when = When::Never,
                    Op::Lend(lease @ Lease::UntilForced) => *lease = Lease::For(7),
                    Op::Request { hangs, .. } => *hangs = false,
                    _ => {}
                }
            }
        }
        for Move { op, then, .. } in &mut moves {
            // Tasks that wait for the force must already wait when it comes.
            let waits = matches!(
                op,
                Op::Lend(Lease::UntilForced) | Op::Request { hangs: true, .. }
            );
            if waits && matches!(then, Then::Nothing) {
                *then = Then::Settle;
            }
        }
        Plan { times, moves }
    })
}
