//! Whether a controller listens for signals, and how that is ended. The wing `signal` listens.

use std::io;
use std::mem;

use crate::sync::{Arc, Mutex, lock};

/// Whether a controller listens, and how that is ended.
#[derive(Default)]
pub(crate) struct Listening {
    starts: Mutex<Starts>,
    /// During a shutdown: what keeps other signals from ending the process.
    absorbing: Mutex<Option<Absorbing>>,
}

#[derive(Default)]
struct Starts {
    /// How many there were; the number of the latest.
    count: u64,
    state: StartState,
}

#[derive(Default)]
enum StartState {
    #[default]
    Stopped,
    Starting,
    Started(Start),
}

/// A start of listening that has succeeded.
pub(crate) struct Start {
    /// Gives signals back to whoever else wants them.
    pub(crate) stop: Box<dyn FnOnce() + Send>,
    /// Keeps other signals from ending the process.
    pub(crate) absorb: Arc<dyn Fn() -> Option<Absorbing> + Send + Sync>,
}

/// Ends by being dropped.
pub(crate) type Absorbing = Box<dyn Send>;

impl Listening {
    /// Gives the number of a new start, unless somebody listens already.
    pub(crate) fn claim(&self) -> Option<u64> {
        let mut starts = lock(&self.starts);
        if !matches!(starts.state, StartState::Stopped) {
            return None;
        }
        starts.state = StartState::Starting;
        starts.count += 1;
        Some(starts.count)
    }

    /// Notes how a start went. If it was stopped meanwhile, it ends here.
    pub(crate) fn started(&self, number: u64, start: io::Result<Start>) -> io::Result<()> {
        let mut starts = lock(&self.starts);
        let is_current = starts.count == number && matches!(starts.state, StartState::Starting);
        match start {
            Ok(start) if is_current => starts.state = StartState::Started(start),
            Ok(start) => {
                drop(starts);
                (start.stop)();
            }
            Err(error) => {
                if is_current {
                    starts.state = StartState::Stopped;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Gives signals back to whoever else wants them; once, however often it is called.
    pub(crate) fn stop(&self) {
        let state = mem::take(&mut lock(&self.starts).state);
        if let StartState::Started(start) = state {
            (start.stop)();
        }
        self.release();
    }

    /// Keeps signals that nobody listens for from ending the process, if any are listened for, until
    /// [`release`](Self::release).
    pub(crate) fn absorb(&self) {
        let absorb = match &lock(&self.starts).state {
            StartState::Started(start) => Arc::clone(&start.absorb),
            _ => return,
        };
        let absorbing = absorb();
        let former = mem::replace(&mut *lock(&self.absorbing), absorbing);
        drop(former);
    }

    pub(crate) fn release(&self) {
        let absorbing = lock(&self.absorbing).take();
        drop(absorbing);
    }

    /// As `stop`, unless there was another start since.
    pub(crate) fn stop_if(&self, start: u64) {
        let mut starts = lock(&self.starts);
        if starts.count == start {
            let state = mem::take(&mut starts.state);
            drop(starts);
            if let StartState::Started(start) = state {
                (start.stop)();
            }
        }
    }
}
