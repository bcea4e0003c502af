//! Notifying systemd.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;

use super::environment::Environment;
use super::error::{SystemdError, SystemdErrorKind};
use super::messenger::Messenger;
use super::socket::NotifySocket;
use super::watchdog;
use crate::controller::ShutdownController;
use crate::panic;
use crate::state::LifecycleState;
use crate::sync::{Arc, Ordering};

impl ShutdownController {
    /// Notifies systemd of the lifecycle from now on, for a unit with `Type=notify`.
    ///
    /// Returns `false`, and does nothing, if the environment has no `NOTIFY_SOCKET`: systemd has not started
    /// the process, or does not want to be notified. So a program may always call it. The environment is
    /// read, and never changed. Calling this again does nothing.
    ///
    /// The messages are those of sd_notify(3):
    ///
    /// - `READY=1` when the state is `Running`: at once, or when the start-up is done. Without a
    ///   [`Startup`](crate::Startup), call this after the listener is bound.
    /// - `STATUS=` at each change of the state or of a [pause](Self::pause) and, during a shutdown, every
    ///   [`progress_interval`](crate::ShutdownConfig::progress_interval), but at least every 5 s, such as
    ///   `draining: 3 in flight, 21 s left`. `systemctl status` shows it.
    /// - `STOPPING=1` when draining begins, or when a start-up is rolled back; not during the lame duck,
    ///   which may be [called off](Self::resume). systemd takes `STOPPING=1` for final, and kills a
    ///   service that still runs when `TimeoutStopSec=` is over.
    /// - `EXTEND_TIMEOUT_USEC=` from the trigger to the end, every 5 s or more often: what is left of the
    ///   [`shutdown_timeout`](crate::ShutdownConfig::shutdown_timeout) and 15 s more. So `TimeoutStopSec=`
    ///   does not have to be longer than the shutdown. While a start-up is starting services, the same
    ///   holds for `TimeoutStartSec=` if each of them has a
    ///   [limit](crate::startup::StartStep::timeout). A start without a limit could last forever, so it
    ///   is left to `TimeoutStartSec=`.
    /// - `WATCHDOG=1` twice in each `WatchdogSec=` from the end of the start-up on, if systemd waits for it from
    ///   this process. It is sent by a task of the runtime that calls this method, until that runtime ends,
    ///   during the shutdown too. If the runtime is blocked, systemd restarts the service.
    /// - `RELOADING=1` and `MONOTONIC_USEC=` when a hand-over begins (feature `restart`), `MAINPID=` and
    ///   `READY=1` when the new process is ready, and `READY=1` alone if it is not. After a hand-over this process
    ///   sends nothing more, unless it is called off. A new process that ends in the lame duck
    ///   needs `NotifyAccess=all`, because this one is not the main process by then.
    ///
    /// They are sent by tasks of this runtime, and end with it. Sending does not block. A message that
    /// cannot be sent is logged at debug and dropped. What is still true is sent again with the next
    /// message, or a second later if the buffer of the socket is full.
    ///
    /// What is not promised: that systemd is told of every state. If the state changes twice before the task
    /// runs, only the later one is told. If the process ends at once, the last messages may be missing.
    ///
    /// # Errors
    ///
    /// Returns a [`SystemdError`] outside a tokio runtime, if `NOTIFY_SOCKET`, `WATCHDOG_USEC` or
    /// `WATCHDOG_PID` has an invalid value, if there is a `NOTIFY_SOCKET` but the runtime has no timer, or if
    /// the system refuses a socket. Sockets of the kind `vsock:` are not supported.
    ///
    /// # Examples
    ///
    /// ```
    /// use tokio::net::TcpListener;
    /// use tower_lifecycle::{BoxError, ShutdownController};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// let ctl = ShutdownController::new();
    /// let listener = TcpListener::bind("127.0.0.1:0").await?;
    /// let by_systemd = ctl.notify_systemd()?; // ready from here on
    /// assert!(!by_systemd); // not here
    /// # drop(listener);
    /// # Ok(()) }
    /// ```
    pub fn notify_systemd(&self) -> Result<bool, SystemdError> {
        let runtime = Handle::try_current().map_err(|_| SystemdErrorKind::OutsideRuntime)?;
        let Some(environment) = Environment::read()? else {
            return Ok(false);
        };
        self.notify(environment, &runtime)?;
        Ok(true)
    }

    fn notify(&self, environment: Environment, runtime: &Handle) -> Result<(), SystemdError> {
        // Tokio panics in a runtime without a timer, and has no way to check for one.
        if !panic::contained(|| drop(sleep(Duration::ZERO))) {
            return Err(SystemdErrorKind::WithoutTimer.into());
        }
        let core = self.core();
        core.capture_runtime();
        let socket = NotifySocket::open(environment.socket).map_err(SystemdErrorKind::Socket)?;
        // AcqRel: pairs with the same swap of another call.
        if core.notifies_systemd.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let socket = Arc::new(socket);
        if let Some(limit) = environment.watchdog {
            let started = self.wait_for(LifecycleState::Running);
            runtime.spawn(watchdog::run(
                started,
                Arc::downgrade(core),
                Arc::clone(&socket),
                limit,
            ));
        }
        runtime.spawn(Messenger::new(core, socket).run());
        Ok(())
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use tokio::runtime::Builder;
    use tokio::task::yield_now;

    use super::*;
    use crate::config::ShutdownConfig;
    use crate::error::BoxError;
    use crate::startup::Startup;
    use crate::state::ShutdownReason;
    use crate::systemd::recorder::{MOMENT, Recorder, seconds};

    fn notify(ctl: &ShutdownController, systemd: &Recorder, watchdog: Duration) {
        let environment = Environment {
            socket: systemd.address(),
            watchdog: Some(watchdog),
        };
        let notified = ctl.notify(environment, &Handle::current());
        notified.expect("a socket");
    }

    fn keep_alives(messages: &[String]) -> usize {
        let is_keep_alive = |message: &&String| *message == "WATCHDOG=1";
        messages.iter().filter(is_keep_alive).count()
    }

    #[tokio::test(start_paused = true)]
    async fn keep_alive_messages_come_twice_in_each_limit_from_the_start_to_the_end_of_the_process()
    {
        let systemd = Recorder::new("signs");
        let mut startup = Startup::new(ShutdownConfig::default()).unwrap();
        let ctl = startup.controller();
        notify(&ctl, &systemd, seconds(20));
        let start = async {
            sleep(seconds(100)).await;
            Ok::<_, BoxError>(())
        };
        startup.start("slow", start, |()| async {}).await.unwrap();
        assert_eq!(
            keep_alives(&systemd.read()),
            0,
            "a start may block the runtime"
        );
        startup.finish().await.unwrap();
        assert_eq!(keep_alives(&systemd.read_for(MOMENT).await), 1);
        assert_eq!(keep_alives(&systemd.read_for(seconds(50)).await), 5);

        let request = ctl.track();
        ctl.trigger(ShutdownReason::Manual);
        assert_eq!(keep_alives(&systemd.read_for(seconds(20)).await), 2);
        drop(request);
        ctl.stopped().await;
        assert_eq!(keep_alives(&systemd.read_for(seconds(50)).await), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_up_that_failed_sends_no_keep_alive_message() {
        let systemd = Recorder::new("failed");
        let startup = Startup::new(ShutdownConfig::default()).unwrap();
        notify(&startup.controller(), &systemd, seconds(20));
        startup.fail("no").await;
        assert_eq!(keep_alives(&systemd.read_for(seconds(100)).await), 0);
    }

    #[test]
    fn a_runtime_without_a_timer_is_an_error_and_nothing_is_sent() {
        let systemd = Recorder::new("timeless");
        let ctl = ShutdownController::new();
        let environment = Environment {
            socket: systemd.address(),
            watchdog: Some(seconds(20)),
        };
        let bare = Builder::new_current_thread().build().unwrap();
        let error = bare.block_on(async {
            let error = ctl.notify(environment, &Handle::current()).unwrap_err();
            yield_now().await;
            error
        });
        assert_eq!(
            error.to_string(),
            "systemd can only be notified from a tokio runtime with a timer: build it with `enable_time`"
        );
        assert!(systemd.read().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_call_changes_nothing() {
        let systemd = Recorder::new("twice");
        let ctl = ShutdownController::new();
        for _ in 0..2 {
            notify(&ctl, &systemd, seconds(20));
        }
        let expected = ["WATCHDOG=1", "READY=1\nSTATUS=running"];
        assert_eq!(systemd.read_for(MOMENT).await, expected);
    }
}
