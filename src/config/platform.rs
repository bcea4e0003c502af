//! What a platform grants a process to end.

use std::time::Duration;

/// The time that a platform grants a process to end before it kills it.
///
/// Platforms end a process with SIGTERM, and kill it with SIGKILL when a grace is over. A killed process
/// runs no hooks and writes no report. [`ShutdownConfig::within`](crate::ShutdownConfig::within) makes a
/// configuration that ends before that. [`ShutdownConfig::fits`](crate::ShutdownConfig::fits) checks one
/// that you have made.
///
/// | constructor | name of the grace there | default |
/// |---|---|---|
/// | [`kubernetes`](Self::kubernetes) | `terminationGracePeriodSeconds` | 30 s |
/// | [`docker`](Self::docker) | `docker stop --timeout`, `stop_grace_period` of Compose | 10 s |
/// | [`systemd`](Self::systemd) | `TimeoutStopSec` | 90 s |
///
/// These are the defaults of the platforms. The process cannot see what its platform is really set to, so
/// give another grace with [`termination_grace`](Self::termination_grace).
///
/// The fields can be read. Set them with the setters of the same names.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_lifecycle::{Platform, ShutdownConfig};
///
/// # fn main() -> Result<(), tower_lifecycle::config::ConfigError> {
/// let platform = Platform::kubernetes() // terminationGracePeriodSeconds: 60
///     .termination_grace(Duration::from_secs(60));
/// let config = ShutdownConfig::within(platform)?;
/// assert_eq!(config.shutdown_timeout, Duration::from_secs(59));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "a platform does nothing until a configuration is made for it or checked against it"]
pub struct Platform {
    /// The time from the beginning of the end to the kill, with the preStop hook in it.
    pub termination_grace: Duration,
    /// The part of the grace that has passed when SIGTERM is sent. Default zero.
    pub pre_stop: Duration,
    /// The part of the grace that is kept for the end of the process after the report. Default 1 s.
    pub margin: Duration,
    pub(super) name: &'static str,
    /// How long the platform itself takes to stop sending requests, from the beginning of the grace.
    routes_for: Duration,
}

// ===== impl Platform =====

impl Platform {
    /// Creates a platform that kills after this grace.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::{Platform, ShutdownConfig};
    ///
    /// # fn main() -> Result<(), tower_lifecycle::config::ConfigError> {
    /// let config = ShutdownConfig::within(Platform::new(Duration::from_secs(20)))?;
    /// assert_eq!(config.shutdown_timeout, Duration::from_secs(19));
    /// # Ok(()) }
    /// ```
    pub const fn new(termination_grace: Duration) -> Self {
        Self::named("the platform", termination_grace)
    }

    /// Creates Kubernetes with its default grace of 30 s.
    ///
    /// Kubernetes removes a pod from its services and ends it at the same time, and it takes a while until
    /// all nodes know. So the configuration has a lame duck of 5 s, less the
    /// [`pre_stop`](Self::pre_stop). This is enough for most clusters, but no cluster promises it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::{Platform, ShutdownConfig};
    ///
    /// # fn main() -> Result<(), tower_lifecycle::config::ConfigError> {
    /// let config = ShutdownConfig::within(Platform::kubernetes())?;
    /// assert_eq!(config.shutdown_timeout, Duration::from_secs(29));
    /// assert_eq!(config.lame_duck, Duration::from_secs(5));
    /// # Ok(()) }
    /// ```
    pub const fn kubernetes() -> Self {
        Self {
            routes_for: Duration::from_secs(5),
            ..Self::named("Kubernetes", Duration::from_secs(30))
        }
    }

    /// Creates Docker with its default grace of 10 s for Linux containers, which is also Podman's.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::{Platform, ShutdownConfig};
    ///
    /// # fn main() -> Result<(), tower_lifecycle::config::ConfigError> {
    /// let config = ShutdownConfig::within(Platform::docker())?;
    /// assert_eq!(config.shutdown_timeout, Duration::from_secs(9));
    /// # Ok(()) }
    /// ```
    pub const fn docker() -> Self {
        Self::named("Docker", Duration::from_secs(10))
    }

    /// Creates systemd with its default grace of 90 s.
    ///
    /// Some distributions set a shorter `DefaultTimeoutStopSec`. For example, Fedora's is 45 s.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::{Platform, ShutdownConfig};
    ///
    /// # fn main() -> Result<(), tower_lifecycle::config::ConfigError> {
    /// let config = ShutdownConfig::within(Platform::systemd())?;
    /// assert_eq!(config.shutdown_timeout, Duration::from_secs(89));
    /// # Ok(()) }
    /// ```
    pub const fn systemd() -> Self {
        Self::named("systemd", Duration::from_secs(90))
    }

    pub(super) const fn named(name: &'static str, termination_grace: Duration) -> Self {
        Self {
            termination_grace,
            pre_stop: Duration::ZERO,
            margin: Duration::from_secs(1),
            name,
            routes_for: Duration::ZERO,
        }
    }

    /// Sets the time after which the platform kills the process.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::Platform;
    ///
    /// let platform = Platform::systemd() // TimeoutStopSec=20
    ///     .termination_grace(Duration::from_secs(20));
    /// assert_eq!(platform.termination_grace, Duration::from_secs(20));
    /// ```
    pub fn termination_grace(mut self, grace: Duration) -> Self {
        self.termination_grace = grace;
        self
    }

    /// Sets the part of the grace that has passed when SIGTERM is sent.
    ///
    /// On Kubernetes this is the time of the container's `preStop` hook. The grace begins with the hook,
    /// and SIGTERM is sent when it has ended (Kubernetes: Pod Lifecycle, termination of pods).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::{Platform, ShutdownConfig};
    ///
    /// # fn main() -> Result<(), tower_lifecycle::config::ConfigError> {
    /// let platform = Platform::kubernetes() // preStop: { sleep: { seconds: 5 } }
    ///     .pre_stop(Duration::from_secs(5));
    /// let config = ShutdownConfig::within(platform)?;
    /// assert_eq!(config.shutdown_timeout, Duration::from_secs(24));
    /// assert_eq!(config.lame_duck, Duration::ZERO); // the hook has waited
    /// # Ok(()) }
    /// ```
    pub fn pre_stop(mut self, time: Duration) -> Self {
        self.pre_stop = time;
        self
    }

    /// Sets the part of the grace that is kept for the end of the process after the report.
    ///
    /// In the default of 1 s the signal reaches the process, admin servers close (250 ms at most), the
    /// log is written (100 ms at most), and the runtime ends. Choose more if `main` has work to do after
    /// the report, if the process may get little CPU time, or if a sidecar has to end after it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::{Platform, ShutdownConfig};
    ///
    /// # fn main() -> Result<(), tower_lifecycle::config::ConfigError> {
    /// let platform = Platform::kubernetes().margin(Duration::from_secs(4));
    /// let config = ShutdownConfig::within(platform)?;
    /// assert_eq!(config.shutdown_timeout, Duration::from_secs(26));
    /// # Ok(()) }
    /// ```
    pub fn margin(mut self, margin: Duration) -> Self {
        self.margin = margin;
        self
    }

    /// Returns how long the platform itself goes on sending requests after SIGTERM.
    pub(super) fn routes_after_sigterm(&self) -> Duration {
        self.routes_for.saturating_sub(self.pre_stop)
    }
}
