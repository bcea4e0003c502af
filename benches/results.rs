//! Makes the results page and its plots from the results of the other benches.
//!
//! ```text
//! benches/run                                # measures everything, and then does this
//! cargo bench -p benches --features page --bench results                # shows the page
//! cargo bench -p benches --features page --bench results -- --write     # writes it to `benches/`
//! ```
//!
//! Everything that the page says about a figure is computed from it. The page says which figures
//! have not been measured.

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;

#[path = "results/bounds.rs"]
mod bounds;
mod common;
#[path = "results/instructions.rs"]
mod instructions;
#[path = "results/machine.rs"]
mod machine;
#[path = "results/measured.rs"]
mod measured;
#[path = "results/page.rs"]
mod page;
#[path = "results/plots.rs"]
mod plots;
#[path = "common/results.rs"]
mod results;
#[path = "results/sections.rs"]
mod sections;
#[path = "common/stats.rs"]
mod stats;
#[path = "results/times.rs"]
mod times;

use plots::{Bar, Kind};
use results::{Contended, Contention, Deadline, Heap, Instructions, Measured, Scale, Throughput};
use times::Times;

const OURS: [&str; 2] = ["RequestTrackingLayer", "DrainLayer"];

/// All results.
struct Figures {
    instructions: Option<Instructions>,
    times: Times,
    contention: Option<Measured<Contention>>,
    heap: Option<Measured<Heap>>,
    scale: Option<Measured<Scale>>,
    throughput: Option<Measured<Throughput>>,
    deadline: Option<Measured<Deadline>>,
    /// A table made by the bench itself.
    endings: Option<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let figures = Figures::read()?;
    let page = figures.page()?;
    if env::args().any(|argument| argument == "--write") {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        fs::write(folder.join("RESULTS.md"), page.to_string())?;
        figures.plot(folder)?;
    } else {
        print!("{page}");
    }
    Ok(())
}

// ===== impl Figures =====

impl Figures {
    fn read() -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            instructions: results::read("instructions")?,
            times: Times::read()?,
            contention: results::read("contention")?,
            heap: results::read("heap")?,
            scale: results::read("scale")?,
            throughput: results::read("throughput")?,
            deadline: results::read("deadline")?,
            endings: fs::read_to_string(results::folder().join("endings.md")).ok(),
        })
    }

    /// Removes the plots of benches without results, so that none is left from an earlier run.
    fn plot(&self, folder: &Path) -> Result<(), Box<dyn Error>> {
        let [instructions, contention, deadline] =
            ["instructions.svg", "contention.svg", "deadline.svg"].map(|name| folder.join(name));
        match self.over_bare("ready") {
            Some(bars) => plots::bars(
                &instructions,
                "Instructions of one request over those of the bare service",
                &bars,
                |figure| format!("{figure:.0}"),
            )?,
            None => remove(&instructions)?,
        }
        match &self.contention {
            Some(Measured { figures, .. }) => plots::bars(
                &contention,
                "Time of a request on two threads at once over that on one alone",
                &ratios(&figures.services),
                |figure| format!("{figure:.2}"),
            )?,
            None => remove(&contention)?,
        }
        match &self.deadline {
            Some(Measured { figures, .. }) => {
                let cases = figures.cases.iter();
                let rows: Vec<_> = cases.map(|case| (&*case.name, &*case.ms)).collect();
                plots::histograms(
                    &deadline,
                    "How long after its deadline a shutdown ends",
                    "ms late",
                    &rows,
                )?;
            }
            None => remove(&deadline)?,
        }
        Ok(())
    }

    /// The cost of each service over the bare one, in ascending order.
    fn over_bare(&self, group: &str) -> Option<Vec<Bar>> {
        let group: Vec<_> = self.instructions.as_ref()?.group(group).collect();
        let (bare, others) = group.split_first()?;
        let mut bars: Vec<_> = others
            .iter()
            .map(|case| Bar {
                name: case.name.clone(),
                figure: case.instructions - bare.instructions,
                kind: kind(&case.name),
            })
            .collect();
        bars.sort_by(|a, b| a.figure.total_cmp(&b.figure));
        Some(bars)
    }
}

fn ratios(services: &[Contended]) -> Vec<Bar> {
    let bars = services.iter().filter_map(|service| {
        Some(Bar {
            name: service.name.clone(),
            figure: service.ratio?.median,
            kind: kind(&service.name),
        })
    });
    bars.collect()
}

fn kind(name: &str) -> Kind {
    if OURS.contains(&name) {
        return Kind::Ours;
    }
    let peers = common::peers::all(common::request::ready());
    let cuts = peers
        .iter()
        .any(|peer| peer.name == name && peer.covers.contains("cuts"));
    if cuts { Kind::Cuts } else { Kind::Other }
}

fn remove(plot: &Path) -> std::io::Result<()> {
    match fs::remove_file(plot) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
