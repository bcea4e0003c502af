//! The states that a client can observe.

use std::time::Duration;

use arbitrary::Arbitrary;
use tower_lifecycle::{InFlightGuard, ShutdownConfig, ShutdownController, ShutdownReason};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
pub enum Phase {
    Running,
    Paused,
    LameDuck,
    /// Draining, while late requests are served.
    Late,
    /// Draining, after late requests are no longer served.
    Draining,
    Forced,
    Stopped,
}

/// A controller in a phase.
pub struct Held {
    pub ctl: ShutdownController,
    /// Keeps the controller in its phase.
    pub guard: Option<InFlightGuard>,
}

pub const LAME_DUCK: Duration = Duration::from_secs(3);

impl Phase {
    pub async fn reach(self, config: ShutdownConfig) -> Held {
        let config = match self {
            Self::LameDuck => config.lame_duck(LAME_DUCK),
            Self::Draining => config.late_for(Duration::ZERO),
            _ => config,
        };
        let ctl = ShutdownController::with_config(config).expect("it fits");
        let guard = self.is_held().then(|| ctl.track());
        match self {
            Self::Running => {}
            Self::Paused => assert!(ctl.pause()),
            Self::LameDuck | Self::Late | Self::Draining => {
                assert!(ctl.trigger(ShutdownReason::Manual))
            }
            Self::Forced => ctl.force(),
            Self::Stopped => drop(ctl.shutdown(ShutdownReason::Manual).await),
        }
        Held { ctl, guard }
    }

    /// Whether a request in flight keeps the controller in its phase.
    pub fn is_held(self) -> bool {
        matches!(self, Self::Late | Self::Draining | Self::Forced)
    }

    pub fn refuses(self) -> bool {
        !matches!(self, Self::Running | Self::LameDuck | Self::Late)
    }

    /// Whether HTTP/1 clients are asked to leave.
    pub fn sends_close(self) -> bool {
        !matches!(self, Self::Running | Self::Paused)
    }
}

impl Held {
    /// Returns the number in flight without the guard that holds the phase.
    pub fn in_flight(&self) -> u64 {
        self.ctl.in_flight() - u64::from(self.guard.is_some())
    }
}
