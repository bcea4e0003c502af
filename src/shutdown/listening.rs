//! Whether a controller listens for signals, and how to stop. The listener itself is in `signal`.

use std::io;
use std::mem;

use crate::sync::{Arc, Mutex, lock};

/// Whether a controller listens for signals, and how to stop.
#[derive(Default)]
pub(crate) struct Listening {
    starts: Mutex<Starts>,
    /// During a shutdown, prevents other signals from ending the process.
    absorbing: Mutex<Option<Absorbing>>,
}

#[derive(Default)]
struct Starts {
    /// The number of starts so far, which is the number of the latest.
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
    /// Stops listening, so that other code can handle the signals.
    pub(crate) stop: Box<dyn FnOnce() + Send>,
    /// Prevents other signals from ending the process.
    pub(crate) absorb: Arc<dyn Fn() -> Option<Absorbing> + Send + Sync>,
}

/// Absorbs signals until it is dropped.
pub(crate) type Absorbing = Box<dyn Send>;

impl Listening {
    /// Returns the number of a new start, or `None` if the controller already listens.
    pub(crate) fn claim(&self) -> Option<u64> {
        let mut starts = lock(&self.starts);
        if !matches!(starts.state, StartState::Stopped) {
            return None;
        }
        starts.state = StartState::Starting;
        starts.count += 1;
        Some(starts.count)
    }

    /// Records the result of a start. If listening was stopped meanwhile, stops the new listener too.
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

    /// Stops listening, so that other code can handle the signals. Later calls do nothing.
    pub(crate) fn stop(&self) {
        let state = mem::take(&mut lock(&self.starts).state);
        if let StartState::Started(start) = state {
            (start.stop)();
        }
        self.release();
    }

    /// If the controller listens for signals, prevents all others from ending the process, until
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

    /// Like `stop`, but does nothing if listening was started again since.
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
