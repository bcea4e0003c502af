//! The signals that begin a shutdown.

/// The signals that begin a shutdown, for
/// [`listen_for`](crate::ShutdownController::listen_for).
///
/// By default these are the signals that ask a process to end: SIGTERM and SIGINT or, on Windows,
/// Ctrl-C, Ctrl-Break, Close and Shutdown. The setters add further signals. They exist on Unix only.
///
/// # Examples
///
/// ```
/// use tower_lifecycle::signal::Signals;
///
/// let signals = Signals::default();
/// # #[cfg(unix)]
/// let signals = signals.hangup().quit();
/// # let _ = signals;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "signals are not listened for until they are given to a controller"]
pub struct Signals {
    #[cfg(unix)]
    /// Sorted, each once.
    pub(super) numbers: Vec<i32>,
    #[cfg(not(unix))]
    _private: (),
}

// ===== impl Signals =====

impl Default for Signals {
    fn default() -> Self {
        #[cfg(unix)]
        return Self {
            numbers: vec![signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM],
        };
        #[cfg(not(unix))]
        Self { _private: () }
    }
}

#[cfg(unix)]
impl Signals {
    /// Adds SIGHUP, which a terminal sends when it is closed.
    pub fn hangup(self) -> Self {
        self.and(signal_hook::consts::SIGHUP)
    }

    /// Adds SIGQUIT, which some container images, such as that of nginx, use for a graceful stop.
    pub fn quit(self) -> Self {
        self.and(signal_hook::consts::SIGQUIT)
    }

    /// Adds SIGUSR1.
    pub fn user1(self) -> Self {
        self.and(signal_hook::consts::SIGUSR1)
    }

    /// Adds SIGUSR2.
    pub fn user2(self) -> Self {
        self.and(signal_hook::consts::SIGUSR2)
    }

    fn and(mut self, signal: i32) -> Self {
        if let Err(place) = self.numbers.binary_search(&signal) {
            self.numbers.insert(place, signal);
        }
        self
    }
}
