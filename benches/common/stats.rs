//! Statistics: a median and its confidence interval.
// Each bench is a separate program, and uses only a part of this module.
#![allow(dead_code)]

use serde::{Deserialize, Serialize};

/// A median, and the 95 % confidence interval of the true median.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Median {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Median {
    /// `None` if there are too few values.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let figures = sorted(figures);
        let count = figures.len();
        if count < 3 {
            return None;
        }
        // This many values are below the true median: binomial, approximately normal.
        let reach = 0.98 * (count as f64).sqrt();
        let middle = count as f64 / 2.0;
        let low = (middle - reach).floor().max(0.0) as usize;
        let high = ((middle + reach).ceil() as usize).min(count - 1);
        Some(Self {
            median: quantile(&figures, 0.5),
            low: figures[low],
            high: figures[high],
        })
    }

    pub fn contains(&self, figure: f64) -> bool {
        (self.low..=self.high).contains(&figure)
    }
}

/// In ascending order.
pub fn sorted(figures: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures
}

/// Returns the quantile: this fraction of the values is below it.
///
/// # Panics
///
/// If there are no values.
pub fn quantile(sorted: &[f64], part: f64) -> f64 {
    let at = (sorted.len() - 1) as f64 * part;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}
