//! The progress bar, on a terminal only.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::ledger::Ledger;

const STYLE: &str = "{spinner} {bar:20} {pos}/{len} restarts  {prefix:9} {msg}";

#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    show: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Progress {
    pub fn new(restarts: u32) -> Self {
        // Hidden by itself where the standard error is no terminal.
        let bar = ProgressBar::new(restarts.into());
        bar.set_style(ProgressStyle::with_template(STYLE).expect("a valid template"));
        bar.enable_steady_tick(Duration::from_millis(100));
        let show = std::sync::Mutex::default();
        Self { bar, show }
    }

    /// Shows the counts of this ledger from now on.
    pub fn show(&self, ledger: &Ledger) {
        let (bar, ledger) = (self.bar.clone(), ledger.clone());
        let show = tokio::spawn(async move {
            loop {
                let counts = ledger.counts();
                bar.set_message(format!(
                    "{} answered, {} refused, {} ambiguous, {} lost",
                    counts.answered, counts.refused, counts.ambiguous, counts.lost
                ));
                sleep(Duration::from_millis(100)).await;
            }
        });
        if let Ok(mut shown) = self.show.lock() {
            *shown = Some(show);
        }
    }

    pub fn phase(&self, phase: &'static str) {
        self.bar.set_prefix(phase);
    }

    pub fn restarted(&self, count: usize) {
        self.bar.set_position(count as u64);
        self.phase("load");
    }

    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Ok(Some(show)) = self.show.get_mut().map(Option::take) {
            show.abort();
        }
        self.bar.finish_and_clear();
    }
}
