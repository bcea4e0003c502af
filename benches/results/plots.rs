//! The plots of the results page: black on white, so that they are readable on a dark page.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

const WIDTH: u32 = 800;
const FONT: &str = "sans-serif";
const OURS: RGBColor = RGBColor(0, 90, 181);
const CUTS: RGBColor = RGBColor(110, 110, 110);
const OTHERS: RGBColor = RGBColor(190, 190, 190);

/// One bar, from zero to its figure.
pub struct Bar {
    pub name: String,
    pub figure: f64,
    pub kind: Kind,
}

/// Whose service it is, and whether it can cut.
#[derive(Clone, Copy)]
pub enum Kind {
    Ours,
    /// It can cut requests in flight.
    Cuts,
    Other,
}

/// Draws horizontal bars, each with its figure at the end.
pub fn bars(
    path: &Path,
    title: &str,
    bars: &[Bar],
    label: impl Fn(f64) -> String,
) -> Result<(), Box<dyn Error>> {
    const HEAD: i32 = 75;
    const STEP: i32 = 28;
    const LEFT: i32 = 270;
    const RIGHT: i32 = 80;

    let height = (HEAD + STEP * bars.len() as i32 + 15) as u32;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    area.draw(&Text::new(
        title.to_owned(),
        (15, 15),
        (FONT, 18).into_font(),
    ))?;
    let legends = [(Kind::Ours, 15), (Kind::Cuts, 145), (Kind::Other, 435)];
    for (kind, left) in legends {
        let corners = [(left, 45), (left + 12, 57)];
        area.draw(&Rectangle::new(corners, kind.color().filled()))?;
        let text = (FONT, 13).into_font();
        area.draw(&Text::new(kind.legend(), (left + 18, 45), text))?;
    }
    let most = bars.iter().map(|bar| bar.figure).fold(0.0, f64::max);
    let scale = f64::from(WIDTH as i32 - LEFT - RIGHT) / most.max(f64::MIN_POSITIVE);
    for (place, bar) in bars.iter().enumerate() {
        let top = HEAD + STEP * place as i32;
        let end = LEFT + (bar.figure.max(0.0) * scale) as i32;
        let text = (FONT, 14).into_font();
        area.draw(&Text::new(bar.name.clone(), (15, top + 4), text.clone()))?;
        let corners = [(LEFT, top), (end.max(LEFT + 1), top + STEP - 8)];
        area.draw(&Rectangle::new(corners, bar.kind.color().filled()))?;
        area.draw(&Text::new(label(bar.figure), (end + 6, top + 4), text))?;
    }
    area.present()?;
    Ok(())
}

/// Draws a histogram for each name, one below the other, all with the same scale. The others are
/// compared with the first.
pub fn histograms(
    path: &Path,
    title: &str,
    unit: &str,
    rows: &[(&str, &[f64])],
) -> Result<(), Box<dyn Error>> {
    const BINS: usize = 60;
    const ROW: u32 = 110;
    const HEAD: u32 = 45;

    let all = || rows.iter().flat_map(|(_, figures)| figures.iter().copied());
    let least = all().fold(0.0, f64::min);
    let most = all().fold(least + f64::MIN_POSITIVE, f64::max);
    let width = (most - least) / BINS as f64;

    let height = HEAD + ROW * rows.len() as u32 + 15;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    area.draw(&Text::new(
        title.to_owned(),
        (15, 15),
        (FONT, 18).into_font(),
    ))?;
    let (_, area) = area.split_vertically(HEAD);
    for (place, (row, (name, figures))) in area
        .split_evenly((rows.len(), 1))
        .iter()
        .zip(rows)
        .enumerate()
    {
        let mut counts = [0_u32; BINS];
        for figure in *figures {
            counts[(((figure - least) / width) as usize).min(BINS - 1)] += 1;
        }
        let highest = counts.iter().copied().max().unwrap_or(0).max(1);
        let is_last = place + 1 == rows.len();
        let mut chart = ChartBuilder::on(row)
            .caption(*name, (FONT, 14))
            .margin_left(15)
            .margin_right(20)
            .x_label_area_size(if is_last { 35 } else { 18 })
            .y_label_area_size(35)
            .build_cartesian_2d(least..most, 0..highest)?;
        let mut mesh = chart.configure_mesh();
        mesh.disable_mesh()
            .y_labels(3)
            .x_labels(12)
            .label_style((FONT, 12));
        if is_last {
            mesh.x_desc(unit);
        }
        mesh.draw()?;
        chart.draw_series(counts.iter().enumerate().map(|(bin, count)| {
            let from = least + width * bin as f64;
            let color = if place == 0 { OTHERS } else { OURS };
            Rectangle::new([(from, 0), (from + width, *count)], color.filled())
        }))?;
    }
    area.present()?;
    Ok(())
}

// ===== impl Kind =====

impl Kind {
    fn color(self) -> RGBColor {
        match self {
            Kind::Ours => OURS,
            Kind::Cuts => CUTS,
            Kind::Other => OTHERS,
        }
    }

    fn legend(self) -> &'static str {
        match self {
            Kind::Ours => "of this crate",
            Kind::Cuts => "can cut what stays, as DrainLayer can",
            Kind::Other => "cannot",
        }
    }
}
