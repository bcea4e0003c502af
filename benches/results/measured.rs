//! The sections of the benches that write JSON.

use crate::Figures;
use crate::page::Page;
use crate::results::{Contention, Drained, Further, Measured, Questions, Scale, Throughput};
use crate::sections::NOT_MEASURED;
use crate::stats::{Median, quantile};

impl Figures {
    pub fn contention(&self, page: &mut Page) {
        page.section("Contention");
        let Some(Measured { figures, .. }) = &self.contention else {
            return page.paragraph(NOT_MEASURED);
        };
        let Contention {
            cores,
            rounds,
            dropped_rounds,
            dropped_samples,
            ..
        } = figures;
        page.paragraph(format_args!(
            "Processor time in ns per request and thread, the service cloned for each request as \
             servers do: medians of {rounds} rounds on {cores} cores. {dropped_rounds} rounds were \
             dropped in which the two cores were not two, and {dropped_samples} measurements of two \
             threads in which one was kept from its core. *Two over one* is compared round by round; \
             that of the bare service says what the machine adds. More threads than cores take turns: \
             their columns say what sharing a core costs, not what more cores would."
        ));
        page.paragraph("![Two threads over one](contention.svg)");
        let threads: Vec<_> = figures.threads.iter().map(usize::to_string).collect();
        let tables = [
            ("one service", &figures.services),
            (
                "through an axum `Router`, with `Router::layer`",
                &figures.router,
            ),
        ];
        for (title, services) in tables {
            let mut head = vec![title];
            head.extend(threads.iter().map(String::as_str));
            head.push("two over one (95 %)");
            let rows = services.iter().map(|service| {
                let mut row = vec![service.name.clone()];
                row.extend(service.ns.iter().map(|ns| plain(*ns)));
                row.push(
                    service
                        .ratio
                        .map_or("too few rounds".to_owned(), two_digits),
                );
                row
            });
            page.table(&head, rows);
        }
        if let Some(watched) = &figures.watched {
            page.paragraph(format_args!(
                "A request through `DrainLayer` on one thread takes {:.1} ns, {:.1} ns while another \
                 core asks for `in_flight()` every millisecond, and {:.1} ns while it asks without \
                 pause.",
                watched.alone, watched.every_millisecond, watched.without_pause
            ));
        }
    }

    pub fn heap(&self, page: &mut Page) {
        page.section("Memory of many requests at once");
        let Some(Measured { figures, .. }) = &self.heap else {
            return page.paragraph(NOT_MEASURED);
        };
        page.paragraph(format_args!(
            "{} requests are pending, each in a task of tokio's. Heap in bytes for each, its task \
             included: for one service, and on average over services of eight sizes, since tasks come in \
             steps of 128 bytes.",
            figures.pending
        ));
        let bare = figures.ways.first();
        let bare = bare.map_or((0.0, 0.0), |bare| (bare.bytes, bare.average));
        let rows = figures.ways.iter().map(|heap| {
            [
                heap.name.clone(),
                format!("{:.1}", heap.bytes),
                format!("{:+.1}", heap.bytes - bare.0),
                format!("{:.1}", heap.average),
                format!("{:+.1}", heap.average - bare.1),
            ]
        });
        page.table(
            &["heap", "bytes", "over bare", "average", "over bare"],
            rows,
        );
    }

    pub fn scale(&self, page: &mut Page) {
        page.section("The end of many requests at once, and one more");
        let Some(Measured { figures, .. }) = &self.scale else {
            return page.paragraph(NOT_MEASURED);
        };
        let Scale {
            pending, processes, ..
        } = figures;
        page.paragraph(format_args!(
            "{pending} requests are cut, each in a task of tokio's; bare tasks are aborted one by one. Medians of {processes} processes: \
             how long the caller is kept, when nothing of any is left, and that over what it takes to \
             abort, round by round."
        ));
        for forces in figures.force.chunk_by(|a, b| a.runtime == b.runtime) {
            let rows = forces.iter().map(|force| {
                [
                    force.name.clone(),
                    format!("{:.2}", force.caller_ms.median),
                    format!("{:.1}", force.resolved_ms.median),
                    two_digits(force.ratio),
                ]
            });
            let title = format!("force, {}", forces[0].runtime);
            page.table(
                &[&*title, "caller, ms", "all gone, ms", "over abort (95 %)"],
                rows,
            );
        }

        page.paragraph(
            "From the drop of the last guard to the next step of who waits for `drained`.",
        );
        let rows = figures.drained.iter().map(|Drained { runtime, us }| {
            let [median, most] = [0.5, 0.99].map(|part| format!("{:.1}", quantile(us, part)));
            [runtime.clone(), us.len().to_string(), median, most]
        });
        page.table(&["drained", "shutdowns", "median, µs", "99 %, µs"], rows);

        page.paragraph(
            "What one more request costs, in ns, by how many are in flight, and an answer about them.",
        );
        further(page, "one more, ready", &figures.further, |further| {
            further.ready_ns
        });
        further(
            page,
            "one more, pending once",
            &figures.further,
            |further| further.pending_ns,
        );
        let rows = figures.questions.iter().map(|questions| {
            let Questions {
                in_flight,
                in_flight_ns,
                health_ns,
            } = questions;
            [
                in_flight.to_string(),
                format!("{in_flight_ns:.1}"),
                format!("{health_ns:.1}"),
            ]
        });
        page.table(
            &["in flight", "`in_flight()`, ns", "health answer, ns"],
            rows,
        );
    }

    pub fn throughput(&self, page: &mut Page) {
        page.section("Throughput");
        let Some(Measured { figures, .. }) = &self.throughput else {
            return page.paragraph(NOT_MEASURED);
        };
        let Throughput {
            seconds,
            connections,
            rounds,
            dropped,
            servers,
        } = figures;
        page.paragraph(format_args!(
            "An axum app that says hello, on one thread and one processor, asked by `wrk` from another \
             over {connections} connections: {rounds} rounds of {seconds} s for each in turn, \
             {dropped} dropped in which the two processors were not two cores. Ratios are those to the \
             bare server in the same round. *Inside* is whether that is where the ratio of the second \
             bare server, the control, lies with 95 % certainty."
        ));
        let control = servers.get(1).map(|control| control.ratio);
        let rows = servers.iter().map(|server| {
            let inside = control.map_or("-", |control| {
                if control.contains(server.ratio.median) {
                    "yes"
                } else {
                    "no"
                }
            });
            [
                server.name.clone(),
                format!("{:.0}", server.requests_per_second.median),
                three_digits(server.ratio),
                inside.to_owned(),
                server
                    .cpu_ns
                    .map_or("-".to_owned(), |ns| format!("{:.0}", ns.median)),
                server.cpu_ratio.map_or("-".to_owned(), three_digits),
            ]
        });
        page.table(
            &[
                "server",
                "requests/s",
                "over bare (95 %)",
                "inside",
                "its ns per request",
                "over bare (95 %)",
            ],
            rows,
        );
    }

    pub fn deadline(&self, page: &mut Page) {
        page.section("Deadlines");
        let Some(Measured { figures, .. }) = &self.deadline else {
            return page.paragraph(NOT_MEASURED);
        };
        let runs = figures.cases.first().map_or(0, |case| case.ms.len());
        page.paragraph(format_args!(
            "How many ms after its deadline it is over, in {runs} runs of some 100 ms each: real time, \
             in turns with a timer of tokio's alone, which shows what is not ours."
        ));
        page.paragraph("![How late](deadline.svg)");
        let rows = figures.cases.iter().map(|case| {
            let at = |part| format!("{:.2}", quantile(&case.ms, part));
            [
                case.name.clone(),
                at(0.0),
                at(0.5),
                at(0.9),
                at(0.99),
                at(1.0),
            ]
        });
        page.table(&["", "least", "median", "90 %", "99 %", "most"], rows);
    }
}

/// A row for each service, and a column for each number in flight.
fn further(page: &mut Page, title: &str, all: &[Further], ns: impl Fn(&Further) -> f64) {
    let mut services = all.chunk_by(|a, b| a.name == b.name).peekable();
    let columns = services.peek().copied().unwrap_or_default().iter();
    let columns: Vec<_> = columns
        .map(|further| further.in_flight.to_string())
        .collect();
    let mut head = vec![title];
    head.extend(columns.iter().map(String::as_str));
    let rows = services.map(|service| {
        let name = service.iter().take(1).map(|further| further.name.clone());
        name.chain(service.iter().map(|further| format!("{:.1}", ns(further))))
            .collect::<Vec<_>>()
    });
    page.table(&head, rows);
}

fn plain(ns: Option<f64>) -> String {
    ns.map_or("-".to_owned(), |ns| format!("{ns:.1}"))
}

fn two_digits(Median { median, low, high }: Median) -> String {
    format!("{median:.2} ({low:.2} to {high:.2})")
}

fn three_digits(Median { median, low, high }: Median) -> String {
    format!("{median:.3} ({low:.3} to {high:.3})")
}
