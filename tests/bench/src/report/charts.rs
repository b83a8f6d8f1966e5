//! The curves, as SVG.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

/// One curve: its name and its points.
pub type Curve = (String, Vec<(f64, f64)>);

const SIZE: (u32, u32) = (760, 400);
const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(90, 90, 90),
];

/// What a chart shows.
#[derive(Clone, Debug)]
pub struct Chart<'a> {
    /// Its title.
    pub title: &'a str,
    /// What the axis to the right counts.
    pub across: &'a str,
    /// What the axis upwards counts.
    pub up: &'a str,
    /// The curves.
    pub curves: &'a [Curve],
}

/// Draws a chart into a file. Both axes begin at 0.
pub fn draw(path: &Path, chart: &Chart<'_>) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    try_draw(path, chart).map_err(|error| anyhow!("drawing {}: {error}", path.display()))
}

fn try_draw(path: &Path, chart: &Chart<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let points = || chart.curves.iter().flat_map(|(_, points)| points);
    let right = points().map(|point| point.0).fold(1.0, f64::max);
    let top = points().map(|point| point.1).fold(0.0, f64::max).max(1e-9) * 1.1;
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut context = ChartBuilder::on(&area)
        .caption(chart.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..right, 0.0..top)?;
    context
        .configure_mesh()
        .x_desc(chart.across)
        .y_desc(chart.up)
        .x_label_formatter(&|value| format!("{value:.0}"))
        .light_line_style(WHITE)
        .draw()?;
    for ((name, points), colour) in chart.curves.iter().zip(COLOURS.iter().cycle()) {
        let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3);
        let colour = *colour;
        context
            .draw_series(line)?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    if chart.curves.len() > 1 {
        context
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .border_style(BLACK)
            .draw()?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_is_an_svg_with_its_title_and_its_curves() {
        let folder = std::env::temp_dir().join(format!("bench-charts-{}", std::process::id()));
        let path = folder.join("chart.svg");
        let curves =
            [("one".to_owned(), vec![(0.0, 1.0), (10.0, 2.0)]), ("two".to_owned(), vec![(0.0, 3.0)])];
        let chart = Chart { title: "Cost", across: "tasks", up: "ms", curves: &curves };
        draw(&path, &chart).expect("drawn");
        let text = std::fs::read_to_string(&path).expect("a file");
        for part in ["<svg", "Cost", "tasks", "one", "two", "<polyline"] {
            assert!(text.contains(part), "{part} is missing");
        }
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
