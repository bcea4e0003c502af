//! The page for people. It has no script, so it works wherever HTML does, and nothing can be injected.

use std::fmt::{Display, Formatter, Result};

use super::action::Action;
use super::status::{Connection, Deadline, Hook, Item, Service, Status};

/// The page, formatted by `Display`.
pub(super) struct Page<'a> {
    pub(super) status: &'a Status,
    /// What to say first. The page does not refresh itself then.
    pub(super) note: Option<Note<'a>>,
}

/// What a page says first.
#[derive(Debug, Clone, Copy)]
pub(super) enum Note<'a> {
    /// Asks whether to do this.
    Confirm(Action),
    Error(&'a str),
}

/// Text in an element or in a quoted attribute.
struct Text<'a>(&'a str);

/// A time in the largest units that matter.
struct Seconds(f64);

// ===== impl Page =====

impl Display for Page<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let status = self.status;
        // During a shutdown its state matters more than a pause.
        let shown = if status.paused && status.state == "running" {
            "paused"
        } else {
            status.state
        };
        let in_flight = status.in_flight.total;
        f.write_str("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")?;
        f.write_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n")?;
        if self.note.is_none() {
            f.write_str("<meta http-equiv=\"refresh\" content=\"2\">\n")?;
        }
        writeln!(f, "<title>{shown}, {in_flight} in flight</title>")?;
        writeln!(f, "<style>\n{}</style>", include_str!("page.css"))?;
        writeln!(f, "</head>\n<body class=\"{shown}\">")?;
        self.heading(f, shown)?;
        self.note(f)?;
        self.deadlines(f)?;
        if self.note.is_none() {
            self.actions(f)?;
        }
        self.in_flight(f)?;
        table(
            f,
            "Oldest in flight",
            &["name", "kind", "stage", "!age"],
            &status.oldest,
        )?;
        table(
            f,
            "Connections",
            &["peer", "stage", "!age"],
            &status.connections,
        )?;
        table(
            f,
            "Services and tasks",
            &["name", "status"],
            &status.services,
        )?;
        table(f, "Hooks", &["name", "status", "!phase"], &status.hooks)?;
        table(f, "Saves", &["name", "status", "!phase"], &status.saves)?;
        self.requests(f)?;
        writeln!(
            f,
            "<footer>up for {} · <a href=\"?format=json\">JSON</a> · tower-lifecycle</footer>",
            Seconds(status.uptime_seconds)
        )?;
        f.write_str("</body>\n</html>\n")
    }
}

impl Page<'_> {
    fn heading(&self, f: &mut Formatter<'_>, shown: &str) -> Result {
        let status = self.status;
        let ready = if status.ready { "ready" } else { "not ready" };
        write!(f, "<header><h1>{}</h1><p>{ready}", shown.replace('_', " "))?;
        if status.paused && shown != "paused" {
            f.write_str(" · paused")?;
        }
        if let Some(reason) = status.reason {
            write!(f, " · shutdown by {}", reason.replace('_', " "))?;
        }
        if let Some(signal) = status.signal {
            write!(f, " {}", Text(signal))?;
        }
        if let Some(elapsed) = status.elapsed_seconds {
            let word = if status.result.is_some() {
                "took"
            } else {
                "for"
            };
            write!(f, " · {word} {}", Seconds(elapsed))?;
        }
        match status.result {
            Some(result) => write!(f, " · {}", result.replace('_', " "))?,
            None if status.forced => write!(f, " · forced")?,
            None => {}
        }
        f.write_str("</p></header>\n")
    }

    fn note(&self, f: &mut Formatter<'_>) -> Result {
        const BACK: &str = "<a class=\"button\" href=\"?format=html\">Back</a>";
        match self.note {
            None => Ok(()),
            Some(Note::Confirm(action)) => {
                f.write_str(
                    "<section class=\"note\"><p>Begin the shutdown of this process?</p>\n",
                )?;
                f.write_str("<div class=\"actions\">")?;
                button(f, action.name())?;
                writeln!(f, "{BACK}</div></section>")
            }
            Some(Note::Error(text)) => writeln!(
                f,
                "<section class=\"note\"><p class=\"bad\">{}</p>\n<div class=\"actions\">{BACK}</div></section>",
                Text(text)
            ),
        }
    }

    fn deadlines(&self, f: &mut Formatter<'_>) -> Result {
        let Some(deadlines) = &self.status.deadlines else {
            return Ok(());
        };
        f.write_str("<section><h2>Time left</h2>\n")?;
        for (name, deadline) in [
            ("lame duck", &deadlines.lame_duck),
            ("drain", &deadlines.drain),
            ("total", &deadlines.total),
        ] {
            if let Some(Deadline {
                limit_seconds: limit,
                remaining_seconds: left,
            }) = deadline
            {
                writeln!(
                    f,
                    "<p><label>{name}: {} of {}<progress max=\"{limit}\" value=\"{left}\"></progress></label></p>",
                    Seconds(*left),
                    Seconds(*limit)
                )?;
            }
        }
        if deadlines.total.is_none() {
            f.write_str("<p>no limit</p>\n")?;
        }
        f.write_str("</section>\n")
    }

    fn in_flight(&self, f: &mut Formatter<'_>) -> Result {
        let (in_flight, tasks) = (&self.status.in_flight, &self.status.tasks);
        let figures = [
            ("requests", in_flight.requests),
            ("connections", in_flight.connections),
            ("tasks", in_flight.tasks),
            ("workers", tasks.worker),
            ("servers", in_flight.servers),
            ("admin servers", tasks.admin),
            ("starting", in_flight.starts),
        ];
        list(f, "In flight", &figures)
    }

    fn requests(&self, f: &mut Formatter<'_>) -> Result {
        let status = self.status;
        let figures = [
            ("admitted", status.admitted),
            ("refused", status.refused),
            ("in the lame duck", status.late_arrivals),
            ("late", status.late_requests),
            ("aborted", status.aborted),
            ("abandoned", status.abandoned),
        ];
        list(f, "Requests since the start", &figures)?;
        if let (Some(end), Some(lasted)) = (status.lame_duck_end, status.lame_duck_lasted_seconds) {
            let (end, lasted) = (end.replace('_', " "), Seconds(lasted));
            writeln!(
                f,
                "<section><p>The lame duck ended after {lasted}: {end}</p></section>"
            )?;
        }
        Ok(())
    }

    fn actions(&self, f: &mut Formatter<'_>) -> Result {
        if self.status.actions.is_empty() {
            return Ok(());
        }
        f.write_str("<section><h2>Actions</h2>\n<div class=\"actions\">")?;
        for action in &self.status.actions {
            if *action == Action::Drain.name() {
                // It cannot be undone, and there is no script that could ask.
                write!(
                    f,
                    "<a class=\"button\" href=\"?confirm={action}\">{action} …</a>"
                )?;
            } else {
                button(f, action)?;
            }
        }
        f.write_str("</div></section>\n")
    }
}

fn button(f: &mut Formatter<'_>, action: &str) -> Result {
    write!(
        f,
        "<form method=\"post\" action=\"?action={action}\"><button>{action}</button></form>"
    )
}

fn list(f: &mut Formatter<'_>, title: &str, figures: &[(&str, u64)]) -> Result {
    writeln!(f, "<section><h2>{title}</h2>\n<dl>")?;
    for (name, figure) in figures {
        writeln!(f, "<div><dt>{name}</dt><dd>{figure}</dd></div>")?;
    }
    f.write_str("</dl></section>\n")
}

/// A row of a table.
trait Row {
    fn cells(&self, f: &mut Formatter<'_>) -> Result;
}

/// Writes a table, unless it is empty. A column with `!` is one of numbers.
fn table<R: Row>(f: &mut Formatter<'_>, title: &str, columns: &[&str], rows: &[R]) -> Result {
    if rows.is_empty() {
        return Ok(());
    }
    write!(f, "<section><h2>{title}</h2>\n<table><tr>")?;
    for column in columns {
        match column.strip_prefix('!') {
            Some(column) => write!(f, "<th class=\"n\">{column}</th>")?,
            None => write!(f, "<th>{column}</th>")?,
        }
    }
    f.write_str("</tr>\n")?;
    for row in rows {
        f.write_str("<tr>")?;
        row.cells(f)?;
        f.write_str("</tr>\n")?;
    }
    f.write_str("</table></section>\n")
}

impl Row for Item {
    fn cells(&self, f: &mut Formatter<'_>) -> Result {
        let (name, age) = (Text(&self.name), Seconds(self.age_seconds));
        let Self { kind, stage, .. } = self;
        write!(
            f,
            "<td>{name}</td><td>{kind}</td><td>{stage}</td><td class=\"n\">{age}</td>"
        )
    }
}

impl Row for Connection {
    fn cells(&self, f: &mut Formatter<'_>) -> Result {
        let (peer, age) = (Text(&self.peer), Seconds(self.age_seconds));
        let stage = self.stage;
        write!(
            f,
            "<td>{peer}</td><td>{stage}</td><td class=\"n\">{age}</td>"
        )
    }
}

impl Row for Service {
    fn cells(&self, f: &mut Formatter<'_>) -> Result {
        let class = if self.status == "failed" {
            " class=\"bad\""
        } else {
            ""
        };
        write!(f, "<td>{}</td><td{class}>{}", Text(&self.name), self.status)?;
        if let Some(error) = &self.error {
            write!(f, ": {}", Text(error))?;
        }
        f.write_str("</td>")
    }
}

impl Row for Hook {
    fn cells(&self, f: &mut Formatter<'_>) -> Result {
        let Self { status, phase, .. } = self;
        let is_fine = matches!(*status, "registered" | "running" | "completed");
        let class = if is_fine { "" } else { " class=\"bad\"" };
        let (name, status) = (Text(&self.name), status.replace('_', " "));
        write!(
            f,
            "<td>{name}</td><td{class}>{status}</td><td class=\"n\">{phase}</td>"
        )
    }
}

// ===== impl Text =====

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for part in self.0.split_inclusive(['&', '<', '>', '"', '\'']) {
            let mut chars = part.chars();
            let escaped = match chars.next_back() {
                Some('&') => "&amp;",
                Some('<') => "&lt;",
                Some('>') => "&gt;",
                Some('"') => "&quot;",
                Some('\'') => "&#39;",
                _ => {
                    f.write_str(part)?;
                    continue;
                }
            };
            f.write_str(chars.as_str())?;
            f.write_str(escaped)?;
        }
        Ok(())
    }
}

// ===== impl Seconds =====

impl Display for Seconds {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let seconds = self.0;
        if seconds < 60.0 {
            return write!(f, "{seconds:.1} s");
        }
        // Saturates.
        let seconds = seconds as u64;
        let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
        if minutes < 60 {
            write!(f, "{minutes} min {} s", seconds % 60)
        } else if hours < 24 {
            write!(f, "{hours} h {} min", minutes % 60)
        } else {
            write!(f, "{days} d {} h", hours % 24)
        }
    }
}

#[cfg(all(test, not(tower_lifecycle_loom)))]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        let shown = |text| Text(text).to_string();
        assert_eq!(
            shown("<b>\"a\" & 'b'"),
            "&lt;b&gt;&quot;a&quot; &amp; &#39;b&#39;"
        );
        assert_eq!(shown("GET /ä&amp;"), "GET /ä&amp;amp;");
        assert_eq!(shown(""), "");
    }

    #[test]
    fn times_have_at_most_two_units() {
        let shown = |seconds| Seconds(seconds).to_string();
        assert_eq!(shown(0.0), "0.0 s");
        assert_eq!(shown(59.94), "59.9 s");
        assert_eq!(shown(61.0), "1 min 1 s");
        assert_eq!(shown(3_661.0), "1 h 1 min");
        assert_eq!(shown(90_000.0), "1 d 1 h");
        assert_eq!(shown(f64::INFINITY), "213503982334601 d 7 h");
    }
}
