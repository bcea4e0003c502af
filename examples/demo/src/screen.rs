//! Shows the requests in flight: a progress bar on a terminal, otherwise a line twice a second.

use std::io::Write;
use std::time::{Duration, Instant};

use drain_check::Ledger;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{MissedTickBehavior, interval};
use tower_lifecycle::{LifecycleState, ShutdownController, ShutdownNotice};

const STYLE: &str = "{spinner} {prefix:10} {bar:30} {pos:>3} in flight  {msg}";

/// Shows each state until the shutdown has ended.
pub async fn show(ctl: ShutdownController, ledger: Ledger) {
    let began = Instant::now();
    let bar = ProgressBar::new(1);
    bar.set_style(ProgressStyle::with_template(STYLE).expect("a valid template"));
    let is_terminal = !bar.is_hidden();
    let tell = {
        let bar = bar.clone();
        move |text: &str| {
            let line = format!("{:6.2} s  {text}", began.elapsed().as_secs_f64());
            if is_terminal {
                bar.println(line);
            } else {
                let _ = writeln!(std::io::stderr(), "{line}");
            }
        }
    };
    ctl.on_state_change({
        let tell = tell.clone();
        move |old, new| tell(&format!("{old} -> {new}"))
    });

    let period = Duration::from_millis(if is_terminal { 50 } else { 500 });
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut stopped = ctl.stopped();
    let mut most = 1;
    loop {
        tokio::select! {
            () = &mut stopped => break,
            _ = ticks.tick() => {}
        }
        let (state, in_flight) = (ctl.state(), ctl.in_flight());
        let entries = ledger.counts();
        let progress = format!(
            "{} answered, {} refused{}",
            entries.answered,
            entries.refused,
            time_left(&ctl, state),
        );
        if is_terminal {
            most = most.max(in_flight);
            bar.set_length(most);
            bar.set_position(in_flight);
            bar.set_prefix(state.name());
            bar.set_message(progress);
            bar.tick();
        } else {
            tell(&format!("{state:10} {in_flight:>3} in flight  {progress}"));
        }
    }
    bar.finish_and_clear();
}

fn time_left(ctl: &ShutdownController, state: LifecycleState) -> String {
    let left = ctl.notice().as_ref().and_then(|notice| match state {
        LifecycleState::LameDuck | LifecycleState::Draining => notice.drain_remaining(),
        _ => ShutdownNotice::time_remaining(notice),
    });
    left.map_or_else(String::new, |left| {
        format!(", {:.1} s left", left.as_secs_f64())
    })
}
