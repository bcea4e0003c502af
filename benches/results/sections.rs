//! The text of the page, section by section.

use crate::page::Page;
use crate::results::Measured;
use crate::times::Times;
use crate::{Figures, bounds, common, machine};

pub const NOT_MEASURED: &str = "Not measured.";

impl Figures {
    /// Makes the page.
    ///
    /// # Errors
    ///
    /// If the versions of the crates cannot be determined.
    pub fn page(&self) -> Result<Page, String> {
        let mut page = Page::default();
        page.title("Results");
        page.paragraph(
            "Made by `benches/run`, which measures everything anew, and not by hand. Every figure is \
             of one run on one machine: compare those beside each other, not with those of another.",
        );
        if self.is_trial() {
            page.paragraph("**A trial by short runs (`--quick`): its figures tell little.**");
        }
        self.setting(&mut page)?;
        self.bounds(&mut page);
        self.instructions(&mut page);
        self.times(&mut page);
        self.contention(&mut page);
        self.heap(&mut page);
        self.scale(&mut page);
        self.throughput(&mut page);
        self.deadline(&mut page);
        self.endings(&mut page);
        Ok(page)
    }

    fn is_trial(&self) -> bool {
        is_quick(&self.contention)
            || is_quick(&self.heap)
            || is_quick(&self.scale)
            || is_quick(&self.throughput)
            || is_quick(&self.deadline)
    }

    fn setting(&self, page: &mut Page) -> Result<(), String> {
        page.section("Setting");
        let facts = machine::facts().into_iter();
        page.words(&["", ""], facts.map(|(name, fact)| [name.to_owned(), fact]));
        let versions: Vec<_> = machine::versions()?
            .into_iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        page.paragraph(format_args!(
            "Benches are built with optimization and one codegen unit, with all features. Crates: {}.",
            versions.join(", ")
        ));
        let dates = [
            ("contention", date(&self.contention)),
            ("heap", date(&self.heap)),
            ("scale", date(&self.scale)),
            ("throughput", date(&self.throughput)),
            ("deadline", date(&self.deadline)),
        ];
        let dates = dates.map(|(name, date)| format!("{name} {}", date.unwrap_or("not measured")));
        page.paragraph(format_args!("Measured at: {}.", dates.join(", ")));
        Ok(())
    }

    fn bounds(&self, page: &mut Page) {
        page.section("Bounds");
        page.paragraph("What the layers are held to, and what they were measured at.");
        let bounds = bounds::all(self);
        page.table(
            &["", "bound", "measured", "kept"],
            bounds.iter().map(bounds::Bound::row),
        );
    }

    fn instructions(&self, page: &mut Page) {
        page.section("Instructions");
        let Some(instructions) = &self.instructions else {
            return page.paragraph(NOT_MEASURED);
        };
        page.paragraph(format_args!(
            "Counted by callgrind ({}, rustc {}): the first row in full, the others over it. A \
             request is `poll_ready`, `call`, all polls of the future and of the body, and their drop; \
             *pending once* is answered at the second poll, *further poll* is what each more costs, \
             *cloned* has the service cloned for it, as servers do. *Locked* are operations that lock \
             the bus: when it is ready; then with the service cloned; then pending once, too.",
            instructions.valgrind, instructions.rustc
        ));
        page.paragraph("![Instructions over the bare service](instructions.svg)");
        let peers = common::peers::all(common::request::ready());
        let rows = peers.iter().map(|peer| {
            let of = |group| instructions.cell(group, peer.name);
            let further = instructions.further_poll(peer.name);
            [
                peer.name.to_owned(),
                of("ready"),
                of("pending_once"),
                further.map_or("-".to_owned(), |further| format!("{further:+.1}")),
                of("cloned"),
                instructions.locked("ready", peer.name),
                instructions.locked("cloned", peer.name),
                instructions.locked("cloned_pending", peer.name),
                peer.covers.to_owned(),
            ]
        });
        page.table(
            &[
                "service",
                "ready",
                "pending once",
                "further poll",
                "cloned",
                "locked",
                "locked, cloned",
                "locked, cloned, pending",
                "what it does",
            ],
            rows,
        );
        page.paragraph(
            "The same in a whole server, each in a program of its own; its client's part is in the first row.",
        );
        let servers = instructions.group("http1").map(|server| {
            let of = |group| instructions.cell(group, &server.name);
            [
                server.name.clone(),
                of("http1"),
                of("http1_later"),
                of("http2"),
            ]
        });
        page.table(
            &["server", "HTTP/1", "HTTP/1, pending once", "HTTP/2"],
            servers,
        );
    }

    fn times(&self, page: &mut Page) {
        page.section("Time on one thread");
        if self.times.is_empty() {
            return page.paragraph(NOT_MEASURED);
        }
        page.paragraph(
            "By criterion, in ns: medians. Columns are criterion's groups, as `benches/layers.rs` has them.",
        );
        let (compared, others): (Vec<_>, Vec<_>) = self
            .times
            .groups()
            .partition(|(_, times)| Times::find(times, "bare").is_some());
        let mut head = vec!["service"];
        head.extend(compared.iter().map(|(group, _)| *group));
        let services = compared.last().map(|(_, times)| *times).unwrap_or_default();
        let rows = services.iter().map(|service| {
            let mut row = vec![service.name.clone()];
            row.extend(compared.iter().map(|(_, times)| {
                let ns = Times::find(times, &service.name).map(|time| time.ns.median);
                ns.map_or("-".to_owned(), |ns| format!("{ns:.1}"))
            }));
            row
        });
        page.table(&head, rows);
        for (group, times) in others {
            let rows = times
                .iter()
                .map(|time| [time.name.clone(), format!("{:.1}", time.ns.median)]);
            page.table(&[group, "ns"], rows);
        }
    }

    fn endings(&self, page: &mut Page) {
        page.section("Endings");
        let Some(endings) = &self.endings else {
            return page.paragraph(NOT_MEASURED);
        };
        page.paragraph(
            "What a shutdown meets, and how it ends, by the way to serve; `benches/endings.rs` says what \
             the columns mean.",
        );
        page.line(endings.trim());
    }
}

fn date<T>(measured: &Option<Measured<T>>) -> Option<&str> {
    measured.as_ref().map(|measured| &*measured.date)
}

fn is_quick<T>(measured: &Option<Measured<T>>) -> bool {
    measured.as_ref().is_some_and(|measured| measured.quick)
}
