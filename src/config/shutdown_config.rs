//! The `ShutdownConfig` type.

use std::time::Duration;

use super::error::ConfigError;
use super::field::{Field, Given, Value};
use super::platform::Platform;

/// How long each part of a shutdown may take.
///
/// All parts fit into one total, [`shutdown_timeout`](Self::shutdown_timeout):
///
/// ```text
/// |── lame_duck ──|──── drain ────|── worker_reserve ──|── cleanup_reserve ──|
/// |─────────────────────────── shutdown_timeout ─────────────────────────────|
/// ```
///
/// The `worker_reserve` applies only if there is a
/// [worker](crate::ShutdownController::spawn_worker).
///
/// The fields can be read. Set them with the setters of the same names.
/// [`ShutdownController::with_config`](crate::ShutdownController::with_config) validates the
/// configuration as a whole. A duration that the clock cannot represent, such as `Duration::MAX`,
/// means no limit.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tower_lifecycle::{ShutdownConfig, ShutdownController};
///
/// let config = ShutdownConfig::default()
///     .shutdown_timeout(Duration::from_secs(25))
///     .lame_duck(Duration::from_secs(5));
/// assert!(ShutdownController::with_config(config).is_ok());
///
/// let config = ShutdownConfig::default()
///     .shutdown_timeout(Duration::from_secs(5))
///     .lame_duck(Duration::from_secs(10));
/// let error = ShutdownController::with_config(config).unwrap_err();
/// assert_eq!(error.field(), "lame_duck");
/// ```
///
/// # From files and the environment
///
/// With the feature `serde`, a configuration can be read from any self-describing format, such as
/// JSON, YAML and TOML. The keys are the names of the fields. A duration is a number of seconds or
/// [text](Self::parse_duration); `lame_duck_probes` is a whole number. A missing key keeps the default. An unknown or duplicate key is an
/// error, and so is any other value, including `null`. All fields are written, durations as text
/// that reads back to the same durations, including `Duration::MAX`. Only a `cleanup_reserve`,
/// `worker_reserve` or `exit_after` of `None` is left out.
///
/// [`from_env`](Self::from_env) reads the environment, and [`merge`](Self::merge) overlays one
/// configuration with another. Only the result must fit into its total.
///
#[cfg_attr(feature = "serde", doc = "```")]
#[cfg_attr(not(feature = "serde"), doc = "```ignore")]
/// use std::time::Duration;
/// use tower_lifecycle::{ShutdownConfig, ShutdownController};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let file = r#"{ "shutdown_timeout": "1m 30s", "lame_duck": 5 }"#;
/// let file: ShutdownConfig = serde_json::from_str(file)?;
/// let env = ShutdownConfig::from_env("MY_APP")?; // MY_APP_LAME_DUCK and so on
/// let cli = ShutdownConfig::default().lame_duck(ShutdownConfig::parse_duration("2.5")?);
///
/// let config = file.merge(env).merge(cli);
/// assert_eq!(config.shutdown_timeout, Duration::from_secs(90));
/// assert_eq!(config.lame_duck, Duration::from_millis(2500));
/// ShutdownController::with_config(config)?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use = "a configuration does nothing until it is given to a controller"]
pub struct ShutdownConfig {
    /// The total time, from the trigger to the end. Default 30 s. Zero cuts at once.
    pub shutdown_timeout: Duration,
    /// How long all requests are still served after readiness turns red. Default zero.
    pub lame_duck: Duration,
    /// How often each prober must have seen readiness red for the lame duck to end early. Default
    /// zero: it never does.
    pub lame_duck_probes: u32,
    /// How long no request may have come for the lame duck to end early. Default 500 ms.
    pub lame_duck_quiet: Duration,
    /// How long requests that arrive while draining are still served. Default 1 s.
    pub late_for: Duration,
    /// How long the listener stays open and refuses requests after draining began. Default zero.
    pub refuse_for: Duration,
    /// The part of the total that is reserved for clean-up. A quarter of it is for saves of state,
    /// if there are any. Defaults to the smaller of 5 s and a quarter of the total.
    pub cleanup_reserve: Option<Duration>,
    /// The part of the total that is reserved for workers, if there are any at the trigger.
    /// Defaults to the smaller of 5 s and a quarter of the total, and at most half of what lame
    /// duck and clean-up leave.
    pub worker_reserve: Option<Duration>,
    /// The `Retry-After` of a refused request, rounded up to whole seconds. Default 1 s, because
    /// the next attempt most likely reaches another instance.
    pub retry_after: Duration,
    /// How often progress is logged while draining. Default 5 s.
    pub progress_interval: Duration,
    /// How long after the first signal a second one forces the shutdown. Default 500 ms.
    pub force_after: Duration,
    /// How long after the report the process is terminated if it has not exited. Default `None`:
    /// never.
    pub exit_after: Option<Duration>,
    /// The fields that were given, for `merge`.
    pub(super) given: Given,
    /// The platform that it was made for.
    pub(super) platform: Option<Platform>,
}

// ===== impl ShutdownConfig =====

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self {
            shutdown_timeout: Duration::from_secs(30),
            lame_duck: Duration::ZERO,
            lame_duck_probes: 0,
            lame_duck_quiet: Duration::from_millis(500),
            late_for: Duration::from_secs(1),
            refuse_for: Duration::ZERO,
            cleanup_reserve: None,
            worker_reserve: None,
            retry_after: Duration::from_secs(1),
            progress_interval: Duration::from_secs(5),
            force_after: Duration::from_millis(500),
            exit_after: None,
            given: Given::default(),
            platform: None,
        }
    }
}

impl ShutdownConfig {
    /// Sets the total time for lame duck, drain and clean-up.
    ///
    /// Stay below the time after which the platform kills the process:
    /// `terminationGracePeriodSeconds` on Kubernetes (less the `preStop` hook), `TimeoutStopSec`
    /// under systemd. [`within`](Self::within) does this, and [`fits`](Self::fits) checks it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// // Kubernetes kills after 30 s by default.
    /// let config = ShutdownConfig::default().shutdown_timeout(Duration::from_secs(25));
    /// assert_eq!(config.shutdown_timeout, Duration::from_secs(25));
    /// ```
    pub fn shutdown_timeout(self, timeout: Duration) -> Self {
        self.with(Field::ShutdownTimeout, timeout.into())
    }

    /// Sets how long all requests are still served after readiness turns red.
    ///
    /// This should be longer than the load balancer takes to notice: probe period × failure
    /// threshold, plus a margin. With zero the lame duck is skipped.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// // A probe every 2 s that has to fail twice, plus one second of margin.
    /// ```
    pub fn lame_duck(self, time: Duration) -> Self {
        self.with(Field::LameDuck, time.into())
    }

    /// Ends the lame duck early, once each prober has seen readiness red this many times and it is
    /// [quiet](Self::lame_duck_quiet). Zero, the default, turns this off.
    ///
    /// Choose the number of failed checks after which the load balancer stops sending requests: `fall`
    /// of HAProxy, `unhealthy_threshold` of Envoy. [`lame_duck`](Self::lame_duck) is then
    /// the longest time that it may take. The time that is saved goes to
    /// the drain. Without a lame duck this has no effect.
    ///
    /// A prober is who asks a [`HealthService`](crate::HealthService) or a
    /// [`HealthLayer`](crate::health::HealthLayer) for readiness: in the lame duck, or within the time
    /// of one `lame_duck` before it. All of them must have seen it red this often since the trigger. So
    /// the lame duck takes its full time if one of them probes no more, and if nobody probes. Probers
    /// are told apart by their address, if the request has a `SocketAddr` or axum's
    /// `ConnectInfo<SocketAddr>` in its extensions, and by their `User-Agent`. Those that cannot be told
    /// apart count as one: give this many probes for all of them.
    ///
    /// What is not promised: a proxy between the balancer and this process hides who has probed, and a
    /// platform that does not use the probe to route, such as Kubernetes when it deletes a pod, is not
    /// waited for. Leave this off there. Probes by other means, such as gRPC, are not seen.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// // HAProxy: `inter 500ms fall 2`.
    /// let config = ShutdownConfig::default()
    ///     .lame_duck(Duration::from_secs(3)) // at most
    ///     .lame_duck_probes(2);
    /// assert_eq!(config.lame_duck_probes, 2);
    /// ```
    pub fn lame_duck_probes(self, probes: u32) -> Self {
        self.with(Field::LameDuckProbes, probes.into())
    }

    /// Sets how long no request may have come for the lame duck to end early.
    ///
    /// It has an effect only with [`lame_duck_probes`](Self::lame_duck_probes). A request is one that
    /// counts as a [late arrival](crate::ShutdownReport::late_arrivals), or that a pause refuses. It is
    /// checked four times in this time, and at least once a second. So a probe that passes through a
    /// layer, whose path is not [exempt](crate::DrainLayer::exempt_paths), is a request.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// let config = ShutdownConfig::default()
    ///     .lame_duck(Duration::from_secs(3))
    ///     .lame_duck_probes(2)
    ///     .lame_duck_quiet(Duration::from_millis(300));
    /// assert_eq!(config.lame_duck_quiet, Duration::from_millis(300));
    /// ```
    pub fn lame_duck_quiet(self, time: Duration) -> Self {
        self.with(Field::LameDuckQuiet, time.into())
    }

    /// Sets how long HTTP requests that arrive while draining are still served.
    ///
    /// Such a late request comes on a connection that was open before, or from the listener's
    /// backlog. It is admitted, waited for and cut like any other, and its response asks the client
    /// to close the connection. After that time, and after a force, requests are refused. The time
    /// is at most half of the drain. Zero refuses all late requests, and so does a
    /// [`refuse_for`](Self::refuse_for) above zero.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// // Clients keep their connections for up to two seconds between two requests.
    /// let config = ShutdownConfig::default().late_for(Duration::from_secs(3));
    /// assert_eq!(config.late_for, Duration::from_secs(3));
    /// ```
    pub fn late_for(self, time: Duration) -> Self {
        self.with(Field::LateFor, time.into())
    }

    /// Sets how long the listener stays open and refuses requests after draining began.
    ///
    /// The default of zero closes the listener when draining begins. A load balancer that finds the
    /// connection refused sends the request to another server, but it passes a 503 on to its
    /// client. A time above zero is for clients that honor `Retry-After`: all requests that arrive
    /// while draining are refused, and [`late_for`](Self::late_for) has no effect.
    ///
    /// It is the minimum time that
    /// [`ShutdownController::stop_accepting`](crate::ShutdownController::stop_accepting) waits, but
    /// never longer than half of the drain, so that the server can finish in the other half. A
    /// force shortens it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// let config = ShutdownConfig::default().refuse_for(Duration::from_millis(500));
    /// assert_eq!(config.refuse_for, Duration::from_millis(500));
    /// ```
    pub fn refuse_for(self, time: Duration) -> Self {
        self.with(Field::RefuseFor, time.into())
    }

    /// Sets the part of the total that is reserved for clean-up, however long the drain takes.
    ///
    /// A quarter of it is reserved for saves by `ShutdownController::persist`, if there are any.
    /// Time in which the process does not run at all (SIGSTOP, a starved cgroup) does not count:
    /// the end is postponed by it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// let config = ShutdownConfig::default().cleanup_reserve(Duration::from_secs(10));
    /// assert_eq!(config.reserve(), Duration::from_secs(10));
    /// ```
    pub fn cleanup_reserve(self, reserve: Duration) -> Self {
        self.with(Field::CleanupReserve, reserve.into())
    }

    /// Sets the part of the total that is reserved for workers, after the drain and before the
    /// clean-up.
    ///
    /// It is reserved only if a [worker](crate::ShutdownController::spawn_worker) is running at the
    /// trigger. A service without workers has that time for its requests. Workers also get the time
    /// that the requests do not use.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// // The longest queue takes ten seconds to drain.
    /// ```
    pub fn worker_reserve(self, reserve: Duration) -> Self {
        self.with(Field::WorkerReserve, reserve.into())
    }

    /// Sets the `Retry-After` of refused requests.
    ///
    /// It is sent in whole seconds, rounded up (RFC 9110 §10.2.3). A layer may have a [setting of
    /// its own](crate::DrainLayer::retry_after).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// let config = ShutdownConfig::default().retry_after(Duration::from_secs(3));
    /// assert_eq!(config.retry_after, Duration::from_secs(3));
    /// ```
    pub fn retry_after(self, time: Duration) -> Self {
        self.with(Field::RetryAfter, time.into())
    }

    /// Sets how often progress is logged while draining.
    ///
    /// It must be above zero.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// let config = ShutdownConfig::default().progress_interval(Duration::from_secs(1));
    /// assert_eq!(config.progress_interval, Duration::from_secs(1));
    /// ```
    pub fn progress_interval(self, interval: Duration) -> Self {
        self.with(Field::ProgressInterval, interval.into())
    }

    /// Sets how long after the first signal a second one forces the shutdown.
    ///
    /// Some supervisors, including GNU `timeout`, signal a process and then its group, which
    /// delivers one stop twice. A signal within this time after the first is ignored. So if Ctrl-C
    /// is pressed twice within that time, only the first counts, and the next one forces. With zero
    /// every second signal forces.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// let config = ShutdownConfig::default().force_after(Duration::from_secs(1));
    /// assert_eq!(config.force_after, Duration::from_secs(1));
    /// ```
    pub fn force_after(self, time: Duration) -> Self {
        self.with(Field::ForceAfter, time.into())
    }

    /// Terminates the process if it has not exited this long after the report.
    ///
    /// Dropping a runtime waits for `spawn_blocking` tasks and for a read of stdin, so returning
    /// from `main` may never finish although the report is complete. With this setting a thread
    /// then ends the process with the [exit code](crate::ShutdownReport::exit_code) of the report.
    /// If there is no report, it ends the process with 1, this long after the final deadline. It
    /// logs an error first. It does nothing if the process exits in time, or if the shutdown is
    /// called off.
    ///
    /// It ends the whole process, whatever else runs in it, and destructors do not run.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// let config = ShutdownConfig::default().exit_after(Duration::from_secs(1));
    /// assert_eq!(config.exit_after, Some(Duration::from_secs(1)));
    /// ```
    pub fn exit_after(self, time: Duration) -> Self {
        self.with(Field::ExitAfter, time.into())
    }

    /// Returns the part of the total that is reserved for clean-up: as set, or the default.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// let config = ShutdownConfig::default();
    /// assert_eq!(config.reserve(), Duration::from_secs(5));
    ///
    /// let short = config.shutdown_timeout(Duration::from_secs(8));
    /// assert_eq!(short.reserve(), Duration::from_secs(2)); // a quarter
    /// ```
    pub fn reserve(&self) -> Duration {
        self.cleanup_reserve
            .unwrap_or_else(|| Duration::from_secs(5).min(self.shutdown_timeout / 4))
    }

    /// Returns the part of the total that is reserved for workers, if there are any: as set, or the
    /// default.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// let config = ShutdownConfig::default();
    /// assert_eq!(config.reserve_for_workers(), Duration::from_secs(5));
    ///
    /// let short = config.shutdown_timeout(Duration::from_secs(8));
    /// assert_eq!(short.reserve_for_workers(), Duration::from_secs(2)); // a quarter
    ///
    /// let lame_duck = short.lame_duck(Duration::from_secs(4));
    /// assert_eq!(lame_duck.reserve_for_workers(), Duration::from_secs(1)); // half of the rest
    /// ```
    pub fn reserve_for_workers(&self) -> Duration {
        self.worker_reserve.unwrap_or_else(|| {
            let total = self.shutdown_timeout;
            let left = total.saturating_sub(self.reserve());
            let left = left.saturating_sub(self.lame_duck);
            Duration::from_secs(5).min(total / 4).min(left / 2)
        })
    }

    /// Overlays this configuration with another: values given in `over` win, the rest stays.
    ///
    /// A value is given if it was set by a setter, or read by [`from_env`](Self::from_env) or from
    /// a file, even if it equals the default. A value that was assigned to a field is given if it
    /// differs from the default. So in `file.merge(env).merge(cli)` the command line wins over the
    /// environment, and the environment wins over the file. A `cleanup_reserve`, `worker_reserve`
    /// or `exit_after` of `None` is never given. If both were made [within](Self::within) a platform, that
    /// of `over` wins.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_lifecycle::ShutdownConfig;
    ///
    /// let file = ShutdownConfig::default()
    ///     .shutdown_timeout(Duration::from_secs(60))
    ///     .lame_duck(Duration::from_secs(5));
    /// let cli = ShutdownConfig::default().lame_duck(Duration::ZERO); // the default, but given
    ///
    /// let config = file.merge(cli);
    /// assert_eq!(config.shutdown_timeout, Duration::from_secs(60));
    /// assert_eq!(config.lame_duck, Duration::ZERO);
    /// ```
    pub fn merge(self, over: Self) -> Self {
        let merged = Field::ALL
            .into_iter()
            .filter_map(|field| Some((field, over.given(field)?)))
            .fold(self, |config, (field, value)| config.with(field, value));
        let platform = over.platform.or(merged.platform);
        Self { platform, ..merged }
    }

    /// Returns the value of `field` if it was given.
    fn given(&self, field: Field) -> Option<Value> {
        let value = self.value(field);
        let given = self.given.contains(field) || value != Self::default().value(field);
        value.filter(|_| given)
    }

    pub(super) fn value(&self, field: Field) -> Option<Value> {
        let value = match field {
            Field::ShutdownTimeout => self.shutdown_timeout.into(),
            Field::LameDuck => self.lame_duck.into(),
            Field::LameDuckProbes => self.lame_duck_probes.into(),
            Field::LameDuckQuiet => self.lame_duck_quiet.into(),
            Field::LateFor => self.late_for.into(),
            Field::RefuseFor => self.refuse_for.into(),
            Field::CleanupReserve => self.cleanup_reserve?.into(),
            Field::WorkerReserve => self.worker_reserve?.into(),
            Field::RetryAfter => self.retry_after.into(),
            Field::ProgressInterval => self.progress_interval.into(),
            Field::ForceAfter => self.force_after.into(),
            Field::ExitAfter => self.exit_after?.into(),
        };
        Some(value)
    }

    /// Sets the value of `field`, and marks it as given.
    pub(super) fn with(mut self, field: Field, value: Value) -> Self {
        match field {
            Field::ShutdownTimeout => self.shutdown_timeout = value.time(),
            Field::LameDuck => self.lame_duck = value.time(),
            Field::LameDuckProbes => self.lame_duck_probes = value.count(),
            Field::LameDuckQuiet => self.lame_duck_quiet = value.time(),
            Field::LateFor => self.late_for = value.time(),
            Field::RefuseFor => self.refuse_for = value.time(),
            Field::CleanupReserve => self.cleanup_reserve = Some(value.time()),
            Field::WorkerReserve => self.worker_reserve = Some(value.time()),
            Field::RetryAfter => self.retry_after = value.time(),
            Field::ProgressInterval => self.progress_interval = value.time(),
            Field::ForceAfter => self.force_after = value.time(),
            Field::ExitAfter => self.exit_after = Some(value.time()),
        }
        self.given.insert(field);
        self
    }

    /// Returns whether requests that arrive while draining are served at all.
    pub(crate) fn serves_late(&self) -> bool {
        self.refuse_for.is_zero() && !self.late_for.is_zero()
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let (total, reserve) = (self.shutdown_timeout, self.reserve());
        if self.progress_interval.is_zero() {
            let field = Field::ProgressInterval.name();
            return Err(ConfigError::not_above_zero(field, self.progress_interval));
        }
        if reserve > total {
            let field = Field::CleanupReserve.name();
            return Err(ConfigError::too_long(field, reserve, total, &[]));
        }
        let mut kept = vec![(Field::CleanupReserve.name(), reserve)];
        let mut left = total - reserve;
        if let Some(workers) = self.worker_reserve {
            let field = Field::WorkerReserve.name();
            if workers > left {
                return Err(ConfigError::too_long(field, workers, total, &kept));
            }
            kept.push((field, workers));
            left -= workers;
        }
        if self.lame_duck > left {
            let field = Field::LameDuck.name();
            let lame_duck = self.lame_duck;
            return Err(ConfigError::too_long(field, lame_duck, total, &kept));
        }
        Ok(())
    }
}

/// Compares the durations, but not how they were given.
impl PartialEq for ShutdownConfig {
    fn eq(&self, other: &Self) -> bool {
        Field::ALL
            .into_iter()
            .all(|field| self.value(field) == other.value(field))
    }
}

impl Eq for ShutdownConfig {}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_default_reserve_is_a_quarter_and_at_most_five_seconds() {
        let config = ShutdownConfig::default();
        assert_eq!(config.reserve(), secs(5));
        assert_eq!(config.clone().shutdown_timeout(secs(8)).reserve(), secs(2));
        assert_eq!(config.shutdown_timeout(Duration::MAX).reserve(), secs(5));
    }

    #[test]
    fn the_default_for_workers_leaves_requests_at_least_as_much() {
        let config = ShutdownConfig::default();
        assert_eq!(config.reserve_for_workers(), secs(5));
        let lame = config.clone().lame_duck(secs(21));
        assert_eq!(lame.reserve_for_workers(), secs(2));
        let all_lame = config.clone().lame_duck(secs(25));
        assert_eq!(all_lame.reserve_for_workers(), secs(0));
        let endless = config.shutdown_timeout(Duration::MAX);
        assert_eq!(endless.reserve_for_workers(), secs(5));
    }

    #[test]
    fn what_is_kept_for_workers_has_to_fit_too() {
        let config = ShutdownConfig::default().worker_reserve(secs(26));
        let error = config.validate().unwrap_err();
        assert_eq!(
            error.to_string(),
            "worker_reserve is 26s, but may be at most 25s: the shutdown_timeout of 30s, \
             less the cleanup_reserve of 5s"
        );

        let config = ShutdownConfig::default()
            .worker_reserve(secs(4))
            .lame_duck(secs(22));
        let error = config.validate().unwrap_err();
        assert_eq!(
            error.to_string(),
            "lame_duck is 22s, but may be at most 21s: the shutdown_timeout of 30s, \
             less the cleanup_reserve of 5s and the worker_reserve of 4s"
        );
    }

    #[test]
    fn what_cannot_fit_is_named_with_its_value_and_bound() {
        let config = ShutdownConfig::default().lame_duck(secs(26));
        let error = config.validate().unwrap_err();
        assert_eq!(error.field(), "lame_duck");
        assert_eq!(
            error.to_string(),
            "lame_duck is 26s, but may be at most 25s: the shutdown_timeout of 30s, \
             less the cleanup_reserve of 5s"
        );

        let config = ShutdownConfig::default().cleanup_reserve(secs(31));
        let error = config.validate().unwrap_err();
        assert_eq!(
            error.to_string(),
            "cleanup_reserve is 31s, but may be at most 30s, the shutdown_timeout"
        );

        let config = ShutdownConfig::default().progress_interval(Duration::ZERO);
        let error = config.validate().unwrap_err();
        assert_eq!(
            error.to_string(),
            "progress_interval is 0ns, but must be above zero"
        );
    }

    #[test]
    fn an_error_of_validation_has_the_field_as_its_key_and_no_cause() {
        let config = ShutdownConfig::default().lame_duck(secs(26));
        let error = config.validate().unwrap_err();
        assert_eq!(error.key(), "lame_duck");
        assert!(std::error::Error::source(&error).is_none());
    }

    #[test]
    fn zero_and_endless_are_legal() {
        let zero = ShutdownConfig::default().shutdown_timeout(Duration::ZERO);
        assert_eq!(zero.validate(), Ok(()));
        let endless = ShutdownConfig::default()
            .shutdown_timeout(Duration::MAX)
            .lame_duck(secs(1))
            .late_for(Duration::MAX)
            .refuse_for(Duration::MAX)
            .retry_after(Duration::MAX)
            .progress_interval(Duration::MAX);
        assert_eq!(endless.validate(), Ok(()));
        let all_reserve = ShutdownConfig::default().cleanup_reserve(secs(30));
        assert_eq!(all_reserve.validate(), Ok(()));
    }
}
