//! Reads criterion's results: the time of each benchmark.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::results::folder;
use crate::stats::Median;

/// All times, by group.
pub struct Times(Vec<Time>);

pub struct Time {
    pub group: String,
    pub name: String,
    pub ns: Median,
}

impl Times {
    /// # Errors
    ///
    /// If a file cannot be read, or is not in criterion's format.
    pub fn read() -> Result<Self, String> {
        let mut times = Vec::new();
        for group in folders(&home()) {
            for benchmark in folders(&group) {
                let latest = benchmark.join("new");
                // Some directories are reports, not benchmarks.
                if latest.is_dir() {
                    times.push(time(&latest)?);
                }
            }
        }
        // Sorted by time, in each group.
        times.sort_by(|a: &Time, b| {
            let by_time = a.ns.median.total_cmp(&b.ns.median);
            a.group.cmp(&b.group).then(by_time)
        });
        Ok(Self(times))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the time of that name in a group.
    pub fn find<'a>(group: &'a [Time], name: &str) -> Option<&'a Time> {
        group.iter().find(|time| time.name == name)
    }

    pub fn groups(&self) -> impl Iterator<Item = (&str, &[Time])> {
        let groups = self.0.chunk_by(|a, b| a.group == b.group);
        groups.map(|times| (&*times[0].group, times))
    }
}

/// The directory that `benches/run` sets for criterion.
fn home() -> PathBuf {
    env::var_os("CRITERION_HOME").map_or_else(|| folder().join("criterion"), PathBuf::from)
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten();
    let paths = entries.filter_map(|entry: io::Result<_>| Some(entry.ok()?.path()));
    paths.filter(|path| path.is_dir()).collect()
}

fn time(latest: &Path) -> Result<Time, String> {
    let read = |name: &str| {
        let path = latest.join(name);
        let json = fs::read(&path).map_err(|error| format!("criterion's {name}: {error}"))?;
        serde_json::from_slice(&json).map_err(|error| format!("criterion's {name}: {error}"))
    };
    let (benchmark, estimates): (Value, Value) = (read("benchmark.json")?, read("estimates.json")?);
    let text = |name: &str| benchmark[name].as_str().map(str::to_owned);
    let median = &estimates["median"];
    let interval = &median["confidence_interval"];
    let ns = || {
        Some(Median {
            median: median["point_estimate"].as_f64()?,
            low: interval["lower_bound"].as_f64()?,
            high: interval["upper_bound"].as_f64()?,
        })
    };
    let group = text("group_id").ok_or("criterion's benchmark.json: no group")?;
    Ok(Time {
        // A benchmark without a group forms its own group.
        name: text("function_id").unwrap_or_else(|| group.clone()),
        ns: ns().ok_or("criterion's estimates.json: no median")?,
        group,
    })
}
