//! Sends systemd what has changed.

use std::io;
use std::process;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::moment::Moment;
use super::socket::NotifySocket;
use crate::shutdown::{Core, HandOverState, until};
use crate::sync::{Arc, Weak};

/// Added to the time that is asked for. It covers several messages, should some be late or lost.
const MARGIN: Duration = Duration::from_secs(15);
/// The longest time that is asked for at once. systemd ignores a time that does not fit into 64 bits.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// After which time messages are sent again that did not fit into the buffer of the socket.
const RETRY: Duration = Duration::from_secs(1);

/// Sends systemd what has changed since the last message.
pub(super) struct Messenger {
    /// Weak, so that it does not keep a lifecycle alive that nobody can end any more.
    core: Weak<Core>,
    changes: watch::Receiver<()>,
    socket: Arc<NotifySocket>,
    told_ready: bool,
    told_stopping: bool,
    told_status: String,
    told_hand_over: HandOverState,
}

impl Messenger {
    pub(super) fn new(core: &Arc<Core>, socket: Arc<NotifySocket>) -> Self {
        Self {
            core: Arc::downgrade(core),
            changes: core.readiness.subscribe(),
            socket,
            told_ready: false,
            told_stopping: false,
            told_status: String::new(),
            told_hand_over: HandOverState::None,
        }
    }

    /// Sends messages until the lifecycle is over.
    pub(super) async fn run(mut self) {
        while let Some(core) = self.core.upgrade() {
            let moment = Moment::of(&core);
            drop(core);
            let told = self.tell(&moment);
            if moment.is_over {
                return;
            }
            let retry = (told == Err(io::ErrorKind::WouldBlock)).then_some(RETRY);
            let next = moment.next.into_iter().chain(retry).min();
            let next = next.and_then(|next| Instant::now().checked_add(next));
            if let Some(Err(_)) = until(next, self.changes.changed()).await {
                return;
            }
        }
    }

    /// Sends what has changed. What could not be sent counts as not told.
    fn tell(&mut self, moment: &Moment) -> Result<(), io::ErrorKind> {
        let status = format!("STATUS={}", moment.status);
        if moment.is_started && !self.told_ready {
            self.socket.send(&format!("READY=1\n{status}"))?;
            self.told_ready = true;
            self.told_status.clone_from(&moment.status);
        }
        if moment.hand_over != self.told_hand_over {
            self.socket
                .send(&hand_over(moment.hand_over, self.told_hand_over, &status))?;
            self.told_hand_over = moment.hand_over;
            self.told_status.clone_from(&moment.status);
        }
        if let HandOverState::Done { .. } = self.told_hand_over {
            // The service is the new process now.
            return Ok(());
        }
        let mut lines = Vec::new();
        if moment.is_stopping && !self.told_stopping {
            lines.push("STOPPING=1".to_owned());
        }
        if moment.status != self.told_status {
            lines.push(status);
        }
        if let Some(left) = moment.time_left {
            let micros = (left.min(LONGEST) + MARGIN).as_micros();
            lines.push(format!("EXTEND_TIMEOUT_USEC={micros}"));
        }
        if !lines.is_empty() {
            self.socket.send(&lines.join("\n"))?;
            self.told_stopping |= moment.is_stopping;
            self.told_status.clone_from(&moment.status);
        }
        Ok(())
    }
}

/// Says what has become of the hand-over. systemd waits for `READY=1` after `RELOADING=1`.
fn hand_over(now: HandOverState, before: HandOverState, status: &str) -> String {
    let message = match now {
        HandOverState::UnderWay { since_micros } => format!(
            "RELOADING=1\nMONOTONIC_USEC={since_micros}\nSTATUS=handing over to a new process"
        ),
        // The new process says `READY=1`, too, but systemd may not have listened to it before.
        HandOverState::Done { pid, .. } => return format!("MAINPID={pid}\nREADY=1"),
        HandOverState::None => format!("READY=1\n{status}"),
    };
    match before {
        // It was called off, and another one may have begun since.
        HandOverState::Done { .. } => format!("MAINPID={}\n{message}", process::id()),
        _ => message,
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use tokio::task::JoinHandle;
    use tokio::time::sleep;

    use super::*;
    use crate::config::ShutdownConfig;
    use crate::controller::ShutdownController;
    use crate::error::BoxError;
    use crate::startup::Startup;
    use crate::state::ShutdownReason;
    use crate::systemd::recorder::{MOMENT, Recorder, seconds};

    /// Starts a messenger, and records what it sends.
    fn record(ctl: &ShutdownController, name: &str) -> (Recorder, JoinHandle<()>) {
        let systemd = Recorder::new(name);
        let socket = NotifySocket::open(systemd.address()).expect("a socket");
        let messenger = tokio::spawn(Messenger::new(ctl.core(), Arc::new(socket)).run());
        (systemd, messenger)
    }

    fn controller(config: ShutdownConfig) -> ShutdownController {
        ShutdownController::with_config(config).expect("valid")
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_is_told_with_the_time_that_it_may_take() {
        let config = ShutdownConfig::default().lame_duck(seconds(5));
        let ctl = controller(config.progress_interval(seconds(4)));
        let (systemd, messenger) = record(&ctl, "phases");
        assert_eq!(systemd.read_for(MOMENT).await, ["READY=1\nSTATUS=running"]);
        assert!(systemd.read_for(seconds(100)).await.is_empty());
        ctl.pause();
        let paused = ["STATUS=paused: refusing new work"];
        assert_eq!(systemd.read_for(MOMENT).await, paused);
        ctl.unpause();
        assert_eq!(systemd.read_for(MOMENT).await, ["STATUS=running"]);

        let request = ctl.track();
        ctl.on_shutdown("slow", |_| async {
            sleep(seconds(1)).await;
            Ok(())
        })
        .unwrap();
        ctl.trigger(ShutdownReason::Manual);
        // By whole seconds: 30 s in total, and 25 s for the drain.
        let messages = systemd.read_for(seconds(10)).await;
        assert_eq!(
            messages,
            [
                "STATUS=lame duck: not ready, 1 in flight, 5 s left\nEXTEND_TIMEOUT_USEC=45000000",
                "STATUS=lame duck: not ready, 1 in flight, 1 s left\nEXTEND_TIMEOUT_USEC=41000000",
                "STOPPING=1\nSTATUS=draining: 1 in flight, 20 s left\nEXTEND_TIMEOUT_USEC=40000000",
                "STATUS=draining: 1 in flight, 16 s left\nEXTEND_TIMEOUT_USEC=36000000",
            ]
        );
        drop(request);
        let messages = systemd.read_for(seconds(2)).await;
        assert_eq!(
            messages,
            [
                "STATUS=stopping: cleaning up, 20 s left\nEXTEND_TIMEOUT_USEC=35000000",
                "STATUS=stopped",
            ]
        );
        assert!(messenger.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_day_at_most_is_asked_for_at_once() {
        let config = ShutdownConfig::default().shutdown_timeout(seconds(u64::MAX / 1_000));
        let ctl = controller(config);
        let (systemd, _) = record(&ctl, "day");
        systemd.read_for(MOMENT).await;
        let _request = ctl.track();
        ctl.trigger(ShutdownReason::Manual);
        let message = systemd.read_for(MOMENT).await.remove(0);
        assert!(
            message.ends_with("EXTEND_TIMEOUT_USEC=86415000000"),
            "{message}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_asked_for_every_five_seconds_even_without_a_limit() {
        let config = ShutdownConfig::default().shutdown_timeout(Duration::MAX);
        let ctl = controller(config.progress_interval(Duration::MAX));
        let (systemd, _) = record(&ctl, "unlimited");
        let _request = ctl.track();
        systemd.read_for(MOMENT).await;
        ctl.trigger(ShutdownReason::Manual);
        let messages = systemd.read_for(MOMENT).await;
        let draining = "STOPPING=1\nSTATUS=draining: 1 in flight\nEXTEND_TIMEOUT_USEC=15000000";
        assert_eq!(messages[0], draining);
        let messages = systemd.read_for(seconds(11)).await;
        assert_eq!(messages, ["EXTEND_TIMEOUT_USEC=15000000"; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lame_duck_that_is_called_off_is_not_stopping() {
        let ctl = controller(ShutdownConfig::default().lame_duck(seconds(5)));
        let (systemd, _) = record(&ctl, "resume");
        systemd.read_for(MOMENT).await;
        ctl.trigger(ShutdownReason::Manual);
        assert_eq!(systemd.read_for(seconds(1)).await.len(), 1);
        ctl.resume().unwrap();
        assert_eq!(systemd.read_for(seconds(100)).await, ["STATUS=running"]);

        ctl.trigger(ShutdownReason::Manual);
        let messages = systemd.read_for(seconds(6)).await;
        assert!(messages[0].starts_with("STATUS=lame duck"), "{messages:?}");
        assert!(
            messages
                .iter()
                .any(|message| message.starts_with("STOPPING=1"))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_up_gets_the_time_that_its_starts_are_limited_to() {
        let mut startup = Startup::new(ShutdownConfig::default()).unwrap();
        let ctl = startup.controller();
        let (systemd, _) = record(&ctl, "starts");
        let slow = || async {
            sleep(seconds(6)).await;
            Ok::<_, BoxError>(())
        };
        let initializing = ["STATUS=initializing"];
        assert_eq!(systemd.read_for(MOMENT).await, initializing);
        let limited = startup.start("limited", slow(), |()| async {});
        limited.timeout(seconds(60)).await.unwrap();
        assert_eq!(
            systemd.read(),
            [
                "STATUS=starting\nEXTEND_TIMEOUT_USEC=75000000",
                "EXTEND_TIMEOUT_USEC=70000000",
            ]
        );
        let unlimited = startup.start("unlimited", slow(), |()| async {});
        unlimited.await.unwrap();
        assert!(systemd.read().is_empty(), "left to `TimeoutStartSec`");
        startup.finish().await.unwrap();
        assert_eq!(systemd.read_for(MOMENT).await, ["READY=1\nSTATUS=running"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_up_that_is_rolled_back_is_stopping_and_never_ready() {
        let mut startup = Startup::new(ShutdownConfig::default()).unwrap();
        let (systemd, _) = record(&startup.controller(), "rollback");
        let start = async { Ok::<_, BoxError>(()) };
        let stop = |()| sleep(seconds(1));
        startup.start("a", start, stop).await.unwrap();
        let before = systemd.read_for(MOMENT).await;
        startup.fail("no").await;
        let messages = systemd.read_for(MOMENT).await;
        let rolling_back = "STOPPING=1\nSTATUS=rolling back the start-up: 0 in flight, 25 s left\nEXTEND_TIMEOUT_USEC=45000000";
        assert_eq!(messages[0], rolling_back);
        assert_eq!(messages[messages.len() - 1], "STATUS=failed");
        let messages = [before, messages].concat();
        assert!(!messages.concat().contains("READY"));
    }

    /// Else systemd would take the end of the process for a start that failed.
    #[tokio::test(start_paused = true)]
    async fn ready_comes_first_even_if_the_end_came_before() {
        let ctl = controller(ShutdownConfig::default());
        ctl.shutdown(ShutdownReason::Manual).await;
        let (systemd, _) = record(&ctl, "late");
        let expected = ["READY=1\nSTATUS=stopped", "STOPPING=1"];
        assert_eq!(systemd.read_for(MOMENT).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fit_is_sent_again_and_delays_nothing() {
        let ctl = controller(ShutdownConfig::default());
        let (systemd, _) = record(&ctl, "full");
        let others = systemd.fill();
        assert!(others > 0);
        sleep(seconds(10)).await;
        assert_eq!(systemd.read().len(), others);
        assert_eq!(
            systemd.read_for(seconds(1)).await,
            ["READY=1\nSTATUS=running"]
        );

        systemd.fill();
        let began = Instant::now();
        let report = ctl.shutdown(ShutdownReason::Manual).await;
        assert!(report.is_graceful());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_vanishes_delays_nothing_and_may_come_back() {
        let ctl = controller(ShutdownConfig::default());
        let (mut systemd, _) = record(&ctl, "vanished");
        systemd.vanish();
        sleep(seconds(10)).await;
        systemd.come_back();
        ctl.pause();
        let expected = ["READY=1\nSTATUS=paused: refusing new work"];
        assert_eq!(systemd.read_for(MOMENT).await, expected);

        systemd.vanish();
        let began = Instant::now();
        assert!(ctl.shutdown(ShutdownReason::Manual).await.is_graceful());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    /// Else systemd would keep the process of the first hand-over as the main one.
    #[cfg(feature = "restart")]
    #[tokio::test(start_paused = true)]
    async fn the_main_process_is_told_again_even_if_another_hand_over_has_begun() {
        let ctl = controller(ShutdownConfig::default());
        let core = ctl.core();
        let (systemd, _) = record(&ctl, "called-off");
        systemd.read_for(MOMENT).await;
        core.hand_over.begin(1);
        core.hand_over.done(7, true);
        core.readiness.notify();
        let messages = systemd.read_for(MOMENT).await;
        assert_eq!(messages, ["MAINPID=7\nREADY=1"]);

        core.hand_over.end();
        core.readiness.notify();
        core.hand_over.begin(2);
        core.readiness.notify();
        let reloading =
            "RELOADING=1\nMONOTONIC_USEC=2\nSTATUS=handing over to a new process".to_owned();
        let ours = format!("MAINPID={}\n{reloading}", process::id());
        assert_eq!(systemd.read_for(MOMENT).await, [ours]);

        core.hand_over.end();
        core.readiness.notify();
        let messages = systemd.read_for(MOMENT).await;
        assert_eq!(messages, ["READY=1\nSTATUS=running"]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_a_lifecycle_that_nobody_ends() {
        let ctl = controller(ShutdownConfig::default());
        let (_systemd, messenger) = record(&ctl, "dropped");
        sleep(MOMENT).await;
        drop(ctl);
        messenger.await.unwrap();
    }
}
