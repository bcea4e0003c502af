//! Reads gungraun's figures, compares them with the recorded ones, and shows them.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How far a figure may exceed its recorded value: this fraction, or one instruction.
const TOLERANCE: f64 = 0.02;
/// The same, as a fraction of all instructions of the case. Equal sources of a whole server differ by this
/// much from build to build.
const NOISE: f64 = 0.001;

/// The services whose figures depend on this crate only. The others are shown; they depend on other
/// crates, and some of them take branches at random.
const OURS: [&str; 4] = [
    "RequestTrackingLayer",
    "DrainLayer",
    "RequestNamesLayer",
    "tower_lifecycle",
];

/// Shown, and not checked: equal runs differ by up to 200 instructions, which is more than some
/// layers cost.
const UNSTEADY: [&str; 1] = ["http2"];

/// Figures, and the compiler they were measured with. Other compilers give other figures.
#[derive(Debug, Deserialize, Serialize)]
pub struct Figures {
    pub rustc: String,
    pub valgrind: String,
    pub cases: Vec<Case>,
}

/// The cost of a request.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Case {
    pub group: String,
    pub name: String,
    pub instructions: f64,
    /// Locked operations: those on atomics that both read and write.
    pub locked: f64,
    /// Allocated blocks, where they are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocations: Option<f64>,
}

/// The result of the comparison with the recorded figures.
#[derive(Debug)]
pub enum Verdict {
    /// No figure is worse. The lines have further information.
    Good(Vec<String>),
    /// The lines say which figures are worse, and which were not measured.
    Bad(Vec<String>),
    /// Not comparable: the recorded figures were measured with something else.
    Incomparable { recorded: String, present: String },
}

// ===== impl Case =====

impl Case {
    /// Reads one of gungraun's lines; `name` maps the case's id to group and name.
    pub fn read(line: &str, requests: u32, name: impl Fn(&str) -> (String, String)) -> Self {
        let line: Value = serde_json::from_str(line).expect("gungraun writes JSON");
        let (group, name) = name(line["id"].as_str().expect("each case has an id"));
        let per_request = |tool: &str, metric: &str| {
            let profiles = line["profiles"].as_array()?;
            let mut totals = profiles
                .iter()
                .map(|of| &of["summaries"]["total"]["summary"]);
            let metrics = &totals.find_map(|of| of.get(tool))?[metric]["metrics"];
            // `Both` is this run and the one before it.
            let present = metrics.get("Left").unwrap_or(&metrics["Both"][0]);
            Some(present["Int"].as_f64()? / f64::from(requests))
        };
        Self {
            group,
            name,
            instructions: per_request("Callgrind", "Ir").expect("callgrind counts instructions"),
            locked: per_request("Callgrind", "Ge").expect("it was told to count bus events"),
            allocations: per_request("Dhat", "TotalBlocks"),
        }
    }

    fn title(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }

    fn is_checked(&self) -> bool {
        let is_ours = OURS.iter().any(|name| self.name.contains(name));
        is_ours && !UNSTEADY.contains(&self.group.as_str())
    }
}

// ===== impl Figures =====

impl Figures {
    /// Adds to the cases what they were measured with.
    pub fn new(cases: Vec<Case>) -> Self {
        let rustc = output_of("rustc", &["-vV"]);
        let of = |what: &str| {
            let line = rustc.lines().find_map(|line| line.strip_prefix(what));
            line.unwrap_or("unknown").trim().to_owned()
        };
        Self {
            rustc: format!("{} {}", of("release:"), of("host:")),
            valgrind: output_of("valgrind", &["--version"]),
            cases,
        }
    }

    /// Adds a group with the cost of each pending poll after the first.
    pub fn derive_further_pending(&mut self, once: &str, often: &str, polls: f64) {
        let per_poll = |once: &Case, often: &Case| Case {
            group: "further_pending".to_owned(),
            name: once.name.clone(),
            instructions: (often.instructions - once.instructions) / polls,
            locked: (often.locked - once.locked) / polls,
            allocations: None,
        };
        let cases_of = |group| self.cases.iter().filter(move |case| case.group == group);
        let pairs = cases_of(once).filter_map(|once| {
            let often = cases_of(often).find(|case| case.name == once.name)?;
            Some(per_poll(once, often))
        });
        let derived: Vec<Case> = pairs.collect();
        self.cases.extend(derived);
    }

    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
    }

    /// Writes one line for each case, so that diffs show single cases.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let cases: Result<Vec<String>, _> = self.cases.iter().map(serde_json::to_string).collect();
        let text = format!(
            "{{\n  \"rustc\": {},\n  \"valgrind\": {},\n  \"cases\": [\n    {}\n  ]\n}}\n",
            serde_json::to_string(&self.rustc)?,
            serde_json::to_string(&self.valgrind)?,
            cases?.join(",\n    "),
        );
        fs::write(path, text)
    }

    /// Compares the cost of each of this crate's services over the bare one. That is far less than
    /// the whole cost of a request, so a small increase is still seen. No lock and no allocation
    /// may be added.
    ///
    /// If only some cases were measured, the others are not reported as missing.
    pub fn verdict(&self, recorded: &Self, are_all: bool) -> Verdict {
        if self.tools() != recorded.tools() {
            return Verdict::Incomparable {
                recorded: recorded.tools(),
                present: self.tools(),
            };
        }
        let mut good = Vec::new();
        let mut bad = Vec::new();
        for case in self.checked() {
            let title = case.title();
            let Some(before) = recorded.find(case) else {
                good.push(format!("not recorded: {title}"));
                continue;
            };
            let [present, past] = [self.over_bare(case), recorded.over_bare(before)];
            let tolerated = (past * TOLERANCE).max(case.instructions * NOISE).max(1.0);
            let line = format!("{title}: {present:.1} over the bare one, recorded {past:.1}");
            if present - past > tolerated {
                bad.push(format!("DEARER: {line}"));
            } else if past - present > tolerated {
                good.push(format!("cheaper: {line}"));
            }
            // One more operation, at each request or at every second request.
            if case.locked - before.locked > 0.4 {
                let [present, past] = [case.locked, before.locked];
                bad.push(format!("LOCKS: {title}: {present:.1}, recorded {past:.1}"));
            }
            let blocks = |case: &Case| case.allocations.unwrap_or(0.0);
            let [present, past] = [blocks(case), blocks(before)];
            if present > past {
                bad.push(format!("ALLOCATES: {title}: {present}, recorded {past}"));
            }
        }
        if are_all {
            let lost = recorded.checked().filter(|case| self.find(case).is_none());
            bad.extend(lost.map(|case| format!("NOT MEASURED: {}", case.title())));
        }
        if bad.is_empty() {
            Verdict::Good(good)
        } else {
            Verdict::Bad(bad)
        }
    }

    fn tools(&self) -> String {
        format!("rustc {}, {}", self.rustc, self.valgrind)
    }

    fn checked(&self) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(|case| case.is_checked())
    }

    /// Returns the same case of these figures.
    fn find(&self, case: &Case) -> Option<&Case> {
        let mut cases = self.cases.iter();
        cases.find(|other| other.group == case.group && other.name == case.name)
    }

    /// Returns the cost of a case over the bare one, which is the first of its group.
    fn over_bare(&self, case: &Case) -> f64 {
        let mut cases = self.cases.iter();
        let bare = cases.find(|other| other.group == case.group);
        case.instructions - bare.map_or(0.0, |bare| bare.instructions)
    }
}

fn output_of(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|error| format!("{program}: {error}"))
}

// ===== the tables =====

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "per request, {}", self.tools())?;
        for group in self.cases.chunk_by(|a, b| a.group == b.group) {
            // The first of each group.
            let bare = &group[0];
            writeln!(
                f,
                "\n{:36} {:>12} {:>8} {:>7} {:>7}",
                bare.group, "instructions", "over", "locked", "allocs"
            )?;
            for case in group {
                let over = case.instructions - bare.instructions;
                write!(
                    f,
                    "{:36} {:12.1} {over:+8.1} {:7.1}",
                    case.name, case.instructions, case.locked
                )?;
                match case.allocations {
                    Some(allocations) => writeln!(f, " {allocations:7.1}")?,
                    None => writeln!(f)?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good(lines) => {
                for line in lines {
                    writeln!(f, "{line}")?;
                }
                f.write_str("none is dearer than recorded")
            }
            Self::Bad(lines) => {
                for line in lines {
                    writeln!(f, "{line}")?;
                }
                write!(f, "{} are dearer than recorded, or lost", lines.len())
            }
            Self::Incomparable { recorded, present } => write!(
                f,
                "!!! NOT CHECKED !!!\n\
                 recorded with {recorded}\n\
                 measured with {present}\n\
                 What two compilers make cannot be compared: take the recorded one, or record anew."
            ),
        }
    }
}
