//! Draws requests over time: a row for each client, a line for each request, a panel for each
//! restart.

use std::fmt::Write;
use std::time::Duration;

use crate::check::report::{Report, Restart, client_name, index, relative};
use crate::ledger::{Entry, Fate};

/// The bounds that keep the file small.
const PANELS: usize = 12;
const PLAIN_LINES: usize = 6000;
const FAILED_LINES: usize = 2000;
/// The time before the signal, and after the restart.
const BEFORE: f64 = 400.0;
const AFTER: f64 = 250.0;

const LEFT: f64 = 130.0;
const WIDTH: f64 = 820.0;
const ROW: f64 = 7.0;
/// The height of a panel without its rows.
const FRAME: f64 = 58.0;
const TOP: f64 = 56.0;

const STYLE: &str = "text{font:12px sans-serif;fill:#222}.s{font-size:10px;fill:#555}\
path{stroke-width:4;fill:none}.answered{stroke:#8fc9a3}.refused{stroke:#2f6fd0}\
.never{stroke:#b5b5b5}.ambiguous{stroke:#f08c00}.lost{stroke:#d00000;stroke-width:6}\
.draining{fill:#fff3c4}.down{fill:#e3e3e8}.up{fill:#fafafa}.mark{stroke:#444;stroke-width:1}\
.red{stroke:#d00000;stroke-width:1;stroke-dasharray:3 3}";

/// The classes of the lines, and their names.
const LEGEND: [(&str, &str); 5] = [
    ("answered", "answered in full"),
    ("refused", "refused, retry-safe"),
    ("never", "never sent"),
    ("ambiguous", "ambiguous"),
    ("lost", "lost"),
];

pub fn html(report: &Report) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>drain-check: {}</title>\n\
         <style>body{{font-family:sans-serif;margin:1.5em;max-width:1000px}}pre{{white-space:pre-wrap}}\
         </style>\n<pre>{}</pre>\n{}</html>\n",
        escape(&report.command),
        escape(&report.to_string()),
        svg(report)
    )
}

pub fn svg(report: &Report) -> String {
    let panels = panels(&report.restarts);
    let clients = report.entries.iter().map(|entry| entry.client).max();
    let rows = clients.map_or(1, |number| number + 1);
    let panel_height = FRAME + f64::from(rows) * ROW;
    let height = TOP + panel_height * panels.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{height}\" \
         viewBox=\"0 0 {0} {height}\">\n<style>{STYLE}</style>\n",
        LEFT + WIDTH + 20.0
    );
    legend(&mut svg, report);
    let mut left = Drawn {
        plain: (PLAIN_LINES / panels.len().max(1)).max(1),
        failed: FAILED_LINES,
        omitted: 0,
    };
    for (place, number) in panels.iter().enumerate() {
        let restart = &report.restarts[*number];
        let top = TOP + panel_height * place as f64;
        let of_panel = report.entries.iter();
        let of_panel = of_panel.filter(|entry| index(&report.restarts, entry.ended) == *number);
        let panel = Panel::new(restart, top, rows);
        panel.background(&mut svg, restart);
        if place == 0 {
            panel.names(&mut svg, &report.entries);
        }
        panel.lines(&mut svg, restart, of_panel, &mut left);
    }
    if left.omitted > 0 || panels.len() < report.restarts.len() {
        let _ = writeln!(
            svg,
            "<text class=\"s\" x=\"{LEFT}\" y=\"{}\">{} of {} restarts; {} failed requests are not \
             drawn</text>",
            TOP - 4.0,
            panels.len(),
            report.restarts.len(),
            left.omitted
        );
    }
    svg + "</svg>\n"
}

/// Returns the restarts to draw, those with losses first of all, in the order of time.
fn panels(restarts: &[Restart]) -> Vec<usize> {
    let mut panels: Vec<_> = (0..restarts.len()).collect();
    panels.sort_by_key(|number| {
        let restart = &restarts[*number];
        let bad = (restart.counts.lost, restart.counts.ambiguous);
        std::cmp::Reverse((restart.was_killed, bad))
    });
    panels.truncate(PANELS);
    panels.sort_unstable();
    panels
}

fn legend(svg: &mut String, report: &Report) {
    let verdict = match report.exit_code() {
        0 => "nothing lost",
        _ => "FAILED",
    };
    let _ = writeln!(
        svg,
        "<text x=\"10\" y=\"18\">{}: {verdict}</text>",
        escape(&report.command)
    );
    let counts = report.counts;
    let counts = [
        counts.answered,
        counts.refused,
        counts.never_sent,
        counts.ambiguous,
        counts.lost,
    ];
    for (place, ((class, name), count)) in LEGEND.into_iter().zip(counts).enumerate() {
        let x = 10.0 + 185.0 * place as f64;
        let _ = writeln!(
            svg,
            "<path class=\"{class}\" d=\"M{x} 35h20\"/><text class=\"s\" x=\"{}\" y=\"39\">{name}: \
             {count}</text>",
            x + 25.0
        );
    }
}

/// The classes that are sampled.
const PLAIN: [&str; 3] = ["answered", "refused", "never"];

/// How much may be drawn.
struct Drawn {
    /// Of each class, in each panel.
    plain: usize,
    /// In all panels.
    failed: usize,
    omitted: usize,
}

/// The place of a restart.
struct Panel {
    top: f64,
    rows: u32,
    /// Its first and last moment, in milliseconds after the signal.
    from: f64,
    to: f64,
}

impl Panel {
    fn new(restart: &Restart, top: f64, rows: u32) -> Self {
        let over = restart.ready_after.unwrap_or(restart.ended_after);
        Self {
            top: top + 22.0,
            rows,
            from: -BEFORE,
            to: relative(over.max(restart.ended_after), Duration::ZERO) + AFTER,
        }
    }

    fn x(&self, millis: f64) -> f64 {
        let x = (millis - self.from) / (self.to - self.from) * WIDTH;
        LEFT + x.clamp(0.0, WIDTH)
    }

    fn height(&self) -> f64 {
        f64::from(self.rows) * ROW
    }

    fn background(&self, svg: &mut String, restart: &Restart) {
        let (top, height) = (self.top, self.height());
        let _ = writeln!(
            svg,
            "<text class=\"s\" x=\"{LEFT}\" y=\"{}\">{}</text>",
            top - 6.0,
            escape(&restart.to_string())
        );
        let ended = relative(restart.ended_after, Duration::ZERO);
        let ready = restart
            .ready_after
            .map_or(self.to, |time| relative(time, Duration::ZERO));
        for (class, from, to) in [
            ("up", self.from, 0.0),
            ("draining", 0.0, ended),
            ("down", ended, ready),
            ("up", ready, self.to),
        ] {
            let x = self.x(from);
            let _ = writeln!(
                svg,
                "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{height}\"/>",
                (self.x(to) - x).max(0.0)
            );
        }
        let mut mark = |class: &str, at: f64, name: &str, line: f64| {
            let x = self.x(at);
            let bottom = top + height;
            let anchor = if x > LEFT + WIDTH * 0.8 {
                "end"
            } else {
                "start"
            };
            let _ = writeln!(
                svg,
                "<path class=\"{class}\" d=\"M{x:.1} {top}V{bottom}\"/><text class=\"s\" x=\"{x:.1}\" \
                 y=\"{}\" text-anchor=\"{anchor}\">{name} {at:.0} ms</text>",
                bottom + 11.0 * line
            );
        };
        mark("mark", 0.0, "signal", 1.0);
        mark("mark", ended, "ended", 2.0);
        if let Some(time) = restart.ready_after {
            mark("mark", relative(time, Duration::ZERO), "ready again", 1.0);
        }
        if let Some(time) = restart.red_after {
            mark("red", relative(time, Duration::ZERO), "not ready", 3.0);
        }
    }

    /// Names the rows, once for each kind of client.
    fn names(&self, svg: &mut String, entries: &[Entry]) {
        let mut names = std::collections::BTreeMap::<String, u32>::new();
        for entry in entries {
            let first = names.entry(client_name(entry)).or_insert(entry.client);
            *first = (*first).min(entry.client);
        }
        for (name, client) in names {
            let y = self.top + f64::from(client) * ROW + 9.0;
            let _ = writeln!(svg, "<text class=\"s\" x=\"10\" y=\"{y}\">{name}</text>");
        }
    }

    fn lines<'a>(
        &self,
        svg: &mut String,
        restart: &Restart,
        entries: impl Iterator<Item = &'a Entry>,
        left: &mut Drawn,
    ) {
        // Those that need no text of their own are drawn as one.
        let mut plain = [const { Vec::new() }; 3];
        let mut failed = String::new();
        for entry in entries {
            let began = relative(entry.began, restart.signal_at);
            let ended = relative(entry.ended, restart.signal_at);
            let is_outside = ended < self.from || began > self.to;
            let class = class(entry.fate);
            if is_outside && class != "lost" {
                continue;
            }
            let y = self.top + f64::from(entry.client) * ROW + ROW / 2.0;
            let x = self.x(began);
            let line = format!("M{x:.1} {y:.1}h{:.1}", (self.x(ended) - x).max(1.5));
            if let Some(place) = PLAIN.iter().position(|plain| *plain == class) {
                plain[place].push(line);
            } else if left.failed == 0 {
                left.omitted += 1;
            } else {
                left.failed -= 1;
                let seen: String = entry
                    .seen
                    .iter()
                    .flat_map(|seen| seen.chars())
                    .take(160)
                    .collect();
                let _ = writeln!(
                    failed,
                    "<path class=\"{class}\" d=\"{line}\"><title>{}, {began:.1} to {ended:.1} ms: \
                     {}</title></path>",
                    client_name(entry),
                    escape(&seen)
                );
            }
        }
        for (class, lines) in PLAIN.iter().zip(plain) {
            let step = lines.len().div_ceil(left.plain).max(1);
            let sample: String = lines.into_iter().step_by(step).collect();
            let _ = writeln!(svg, "<path class=\"{class}\" d=\"{sample}\"/>");
        }
        // Over the others.
        *svg += &failed;
    }
}

fn class(fate: Fate) -> &'static str {
    match fate {
        Fate::Answered => "answered",
        Fate::Refused(_) => "refused",
        Fate::NeverSent(_) => "never",
        Fate::Ambiguous => "ambiguous",
        Fate::Lost(_) => "lost",
    }
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}
