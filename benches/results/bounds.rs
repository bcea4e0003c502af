//! The bounds of the layers, and whether they are met.

use crate::Figures;
use crate::results::{Contended, Instructions, Measured};
use crate::stats::quantile;
use crate::times::Times;

const TRACKING: &str = "RequestTrackingLayer";
const DRAIN: &str = "DrainLayer";
/// It only counts, so it shows what must be paid for that.
const GAUGE: &str = "tower-http InFlightRequests";

/// A figure and its bound.
pub struct Bound {
    what: String,
    measured: Option<f64>,
    limit: Limit,
    unit: &'static str,
}

#[derive(Clone, Copy)]
enum Limit {
    Most(f64),
    Least(f64),
    /// The figure it is compared with has not been measured either.
    Unknown,
}

/// Returns all bounds.
pub fn all(figures: &Figures) -> Vec<Bound> {
    let mut bounds = Vec::new();
    instructions(figures.instructions.as_ref(), &mut bounds);
    times(&figures.times, &mut bounds);
    contention(figures, &mut bounds);
    scale(figures, &mut bounds);
    throughput(figures, &mut bounds);
    deadline(figures, &mut bounds);
    bounds
}

fn instructions(instructions: Option<&Instructions>, bounds: &mut Vec<Bound>) {
    let over = |group: &str, name: &str| instructions?.over(group, name);
    let mut at_most = |what: &str, most, measured| {
        let what = format!("instructions over {what}");
        bounds.push(Bound::at_most(what, most, "", measured));
    };
    at_most("bare, tracking, ready", 90.0, over("ready", TRACKING));
    at_most(
        "bare, tracking, pending once",
        95.0,
        over("pending_once", TRACKING),
    );
    at_most("bare, drain, ready", 190.0, over("ready", DRAIN));
    at_most(
        "bare, drain, pending once",
        350.0,
        over("pending_once", DRAIN),
    );
    let further = instructions.and_then(|instructions| instructions.further_poll(DRAIN));
    at_most("bare, drain, each further pending poll", 40.0, further);
    for (kind, layer) in [("tracking", TRACKING), ("drain", DRAIN)] {
        for (place, suffix) in [("inside the router", ""), ("around it", ", around")] {
            let over = |name: &str| over("http1", &format!("{name}{suffix}"));
            let measured = over(layer).zip(over("empty wrapper"));
            let measured = measured.map(|(ours, empty)| ours - empty);
            let what = format!("an empty wrapper, server, {kind} {place}");
            at_most(&what, 260.0, measured);
        }
    }
    for (what, group, most) in [
        ("ready", "cloned", 4.0),
        ("pending once", "cloned_pending", 9.0),
    ] {
        let what = format!("locked operations with the clone, drain, {what}");
        let case = instructions.and_then(|instructions| instructions.case(group, DRAIN));
        bounds.push(Bound::at_most(what, most, "", case.map(|case| case.locked)));
    }
}

/// The time over the bare service's, of the drain layer and of the gauge.
fn times(times: &Times, bounds: &mut Vec<Bound>) {
    for (what, group, most) in [
        ("ready", "clone_and_ready", 1.0),
        ("pending once", "clone_and_pending", 1.6),
    ] {
        let ns = |name: &str| {
            let (_, times) = times.groups().find(|(other, _)| *other == group)?;
            Some(Times::find(times, name)?.ns.median)
        };
        let over = |name: &str| Some(ns(name)? - ns("bare")?);
        let ratio = over(DRAIN).zip(over(GAUGE));
        let ratio = ratio.map(|(ours, gauge)| ours / gauge);
        let what = format!("time over bare, drain over the gauge, {what}");
        bounds.push(Bound::at_most(what, most, "", ratio));
    }
}

fn contention(figures: &Figures, bounds: &mut Vec<Bound>) {
    let contention = figures
        .contention
        .as_ref()
        .map(|measured| &measured.figures);
    let ratio = |services: &[Contended], name: &str| {
        Some(
            services
                .iter()
                .find(|service| service.name == name)?
                .ratio?
                .median,
        )
    };
    for (kind, name) in [("tracking", TRACKING), ("drain", DRAIN)] {
        let measured = contention.and_then(|contention| ratio(&contention.services, name));
        let what = format!("time on two threads over one, {kind}");
        bounds.push(Bound::at_most(what, 1.1, "", measured));
    }
    let measured = contention.and_then(|contention| {
        Some(ratio(&contention.router, DRAIN)? / ratio(&contention.router, "bare")?)
    });
    let what = "the same through a router, over the bare router's".to_owned();
    bounds.push(Bound::at_most(what, 1.1, "", measured));
}

fn scale(figures: &Figures, bounds: &mut Vec<Bound>) {
    let scale = figures.scale.as_ref().map(|measured| &measured.figures);
    let mut at_most = |what: String, most, unit, measured| {
        bounds.push(Bound::at_most(what, most, unit, measured));
    };
    let heap = figures.heap.as_ref().and_then(|Measured { figures, .. }| {
        let of = |name: &str| figures.ways.iter().find(|heap| heap.name == name);
        Some(of(DRAIN)?.bytes - of("bare")?.bytes)
    });
    at_most(
        "heap over the bare task, pending".to_owned(),
        32.0,
        "B",
        heap,
    );
    for (kind, runtime) in ["current_thread", "multi_thread"].map(|kind| {
        let forces = scale.map(|scale| &scale.force[..]).unwrap_or_default();
        let mut ours = forces.iter().filter(|force| force.name == DRAIN);
        (kind, ours.find(|force| force.runtime.starts_with(kind)))
    }) {
        let caller = runtime.map(|force| force.caller_ms.median);
        at_most(
            format!("`force()` for its caller, {kind}"),
            2.0,
            "ms",
            caller,
        );
        // On one thread, waking the tasks alone takes as long.
        if kind == "multi_thread" {
            let ratio = runtime.map(|force| force.ratio.median);
            let what = format!("force to all gone, over abort, {kind}");
            at_most(what, 1.3, "", ratio);
        }
    }
    for kind in ["current_thread", "multi_thread"] {
        let drained = scale.and_then(|scale| {
            let mut drained = scale.drained.iter();
            let drained = drained.find(|drained| drained.runtime.starts_with(kind))?;
            Some(quantile(&drained.us, 0.5) / 1e3)
        });
        at_most(
            format!("last guard to `drained`, median, {kind}"),
            1.0,
            "ms",
            drained,
        );
    }
    let further = scale.map(|scale| &scale.further[..]).unwrap_or_default();
    let further: Vec<_> = further
        .iter()
        .filter(|further| further.name == DRAIN)
        .collect();
    let ends = further.first().zip(further.last());
    let ready = ends.map(|(one, most)| most.ready_ns / one.ready_ns);
    let pending = ends.map(|(one, most)| most.pending_ns / one.pending_ns);
    let most = further.last().map_or(0, |further| further.in_flight);
    at_most(
        format!("a ready request, {most} in flight over 1"),
        1.1,
        "",
        ready,
    );
    at_most(
        format!("one pending once, {most} in flight over 1"),
        1.1,
        "",
        pending,
    );
    let last = scale.and_then(|scale| scale.questions.last());
    let in_flight = last.map(|questions| questions.in_flight_ns / 1e3);
    at_most(
        format!("`in_flight()`, {most} in flight"),
        2.0,
        "µs",
        in_flight,
    );
    let health = last.map(|questions| questions.health_ns / 1e3);
    at_most(
        format!("a health answer, {most} in flight"),
        2.0,
        "µs",
        health,
    );
}

fn throughput(figures: &Figures, bounds: &mut Vec<Bound>) {
    let servers = figures
        .throughput
        .as_ref()
        .map(|measured| &measured.figures.servers[..]);
    let servers = servers.unwrap_or_default();
    let control = servers.get(1).map(|control| control.ratio.low);
    for name in [DRAIN, "DrainLayer around the router"] {
        let server = servers.iter().find(|server| server.name == name);
        bounds.push(Bound {
            what: format!("requests per second over bare, {name}"),
            measured: server.map(|server| server.ratio.median),
            limit: control.map_or(Limit::Unknown, Limit::Least),
            unit: "",
        });
    }
}

fn deadline(figures: &Figures, bounds: &mut Vec<Bound>) {
    let cases = match &figures.deadline {
        Some(Measured { figures, .. }) => &figures.cases[..],
        None => &[],
    };
    // The first is the bare timer.
    let ours = cases
        .iter()
        .skip(1)
        .flat_map(|case| case.ms.last().copied());
    let what = "the latest of all shutdowns after its deadline".to_owned();
    bounds.push(Bound::at_most(what, 5.0, "ms", ours.reduce(f64::max)));
}

// ===== impl Bound =====

impl Bound {
    fn at_most(what: String, most: f64, unit: &'static str, measured: Option<f64>) -> Self {
        let limit = Limit::Most(most);
        Self {
            what,
            measured,
            limit,
            unit,
        }
    }

    pub fn row(&self) -> [String; 4] {
        let (limit, is_kept) = match self.limit {
            Limit::Most(most) => (
                format!("≤ {}", self.amount(most)),
                self.measured.map(|it| it <= most),
            ),
            Limit::Least(least) => (
                format!("≥ {}", self.amount(least)),
                self.measured.map(|it| it >= least),
            ),
            Limit::Unknown => ("-".to_owned(), None),
        };
        let measured = self.measured.map(|measured| self.amount(measured));
        [
            self.what.clone(),
            limit,
            measured.unwrap_or_else(|| "not measured".to_owned()),
            is_kept
                .map_or("-", |is_kept| if is_kept { "yes" } else { "**no**" })
                .to_owned(),
        ]
    }

    /// With three digits, or as many as there are before the decimal point.
    fn amount(&self, amount: f64) -> String {
        let digits = match amount.abs() {
            0.0..10.0 => 3,
            10.0..100.0 => 1,
            _ => 0,
        };
        let amount = format!("{amount:.digits$}");
        format!("{amount} {}", self.unit).trim_end().to_owned()
    }
}
