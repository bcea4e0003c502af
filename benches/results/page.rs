//! A Markdown page, and tables on it.

use std::fmt::{self, Display, Write as _};

/// A page under construction.
#[derive(Default)]
pub struct Page {
    text: String,
}

impl Page {
    pub fn title(&mut self, title: impl Display) {
        self.line(format_args!("# {title}\n"));
    }

    pub fn section(&mut self, title: impl Display) {
        self.line(format_args!("## {title}\n"));
    }

    pub fn paragraph(&mut self, text: impl Display) {
        self.line(format_args!("{text}\n"));
    }

    /// The first column is text, the others are figures.
    pub fn table<Row: AsRef<[String]>>(
        &mut self,
        head: &[&str],
        rows: impl IntoIterator<Item = Row>,
    ) {
        self.rows(head, rows, "---:");
    }

    /// All columns are text.
    pub fn words<Row: AsRef<[String]>>(
        &mut self,
        head: &[&str],
        rows: impl IntoIterator<Item = Row>,
    ) {
        self.rows(head, rows, "---");
    }

    fn rows<Row: AsRef<[String]>>(
        &mut self,
        head: &[&str],
        rows: impl IntoIterator<Item = Row>,
        others: &str,
    ) {
        let mut rule = vec![others; head.len()];
        rule[0] = "---";
        self.line(format_args!("| {} |", head.join(" | ")));
        self.line(format_args!("|{}|", rule.join("|")));
        for row in rows {
            self.line(format_args!("| {} |", row.as_ref().join(" | ")));
        }
        self.line("");
    }

    pub fn line(&mut self, line: impl Display) {
        writeln!(self.text, "{line}").expect("memory");
    }
}

impl Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.trim_end())?;
        f.write_str("\n")
    }
}
