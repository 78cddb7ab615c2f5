//! Pictures of a synthetic trace beside the real one, as SVG.

use std::fmt::Display;
use std::path::Path;

use anyhow::{Result, anyhow};
use chaff_synth::{Curves, Report, Summary};
use plotters::coord::Shift;
use plotters::prelude::*;

const REAL: RGBColor = RGBColor(0, 0, 0);
const SYNTHETIC: RGBColor = RGBColor(213, 94, 0);
const WIDTH: u32 = 440;
const HEIGHT: u32 = 300;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn failed(e: &dyn Display) -> anyhow::Error {
    anyhow!("{e}")
}

/// Draws distributions, rate and services of both traces, and the summary over its floor, into one picture.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn compared(path: &Path, title: &str, curves: &Curves, report: &Report) -> Result<()> {
    let fail = |e: &dyn Display| anyhow!("while drawing {}: {e}", path.display());
    let panels = curves.numbers.len() + 3;
    let rows = panels.div_ceil(2);
    let size = (2 * WIDTH, rows as u32 * HEIGHT + 40);
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE).map_err(|e| fail(&e))?;
    let font = ("sans-serif", 18).into_font();
    area.draw(&Text::new(title.to_owned(), (12, 10), font.color(&BLACK)))
        .map_err(|e| fail(&e))?;
    let (_, area) = area.split_vertically(40);
    let mut panels = area.split_evenly((rows, 2)).into_iter();
    let mut panel = || panels.next().ok_or_else(|| fail(&"no room"));
    for curve in &curves.numbers {
        distribution(&panel()?, curve.name, &curve.values).map_err(|e| fail(&e))?;
    }
    rate(&panel()?, &curves.rate).map_err(|e| fail(&e))?;
    let names: Vec<String> = curves.services.iter().map(|(n, _)| n.clone()).collect();
    let shares: Vec<[f64; 2]> = curves.services.iter().map(|(_, s)| *s).collect();
    bars(
        &panel()?,
        "share of each service (black: real, orange: synthetic)",
        &names,
        &shares,
    )
    .map_err(|e| fail(&e))?;
    let (names, values) = summary(&report.summary, report.floor.as_ref());
    let what = "distances; 0 is alike (black: two halves of the real trace)";
    bars(&panel()?, what, &names, &values).map_err(|e| fail(&e))?;
    area.present().map_err(|e| fail(&e))
}

fn summary(s: &Summary, floor: Option<&Summary>) -> (Vec<String>, Vec<[f64; 2]>) {
    type Part = fn(&Summary) -> Option<f64>;
    let parts: [(&str, Part); 7] = [
        ("JSD, ports in buckets", |s| Some(s.jsd_mean_bucketed)),
        ("JSD", |s| Some(s.jsd_mean)),
        ("EMD of logarithms", |s| s.emd_log_relative_mean),
        ("pairs of fields, TVD", |s| Some(s.pair_tvd)),
        ("next service, TVD", |s| s.bigram_tvd),
        ("autocorrelation", |s| Some(s.acf_mae)),
        ("rules", |s| s.sanity_gap),
    ];
    parts
        .into_iter()
        .filter_map(|(name, part)| {
            let value = part(s)?;
            Some((
                name.to_owned(),
                [floor.and_then(part).unwrap_or(0.0), value],
            ))
        })
        .unzip()
}

/// Cumulative distributions, over log(1 + x) where values span more than a factor of 100.
fn distribution(area: &Area<'_>, name: &str, values: &[Vec<f64>; 2]) -> Result<()> {
    let most = values.iter().flatten().copied().fold(0.0, f64::max);
    let least = values
        .iter()
        .flatten()
        .copied()
        .fold(f64::INFINITY, f64::min);
    let log = most > 100.0 * least.max(0.01);
    let scale = |x: f64| if log { (1.0 + x).log10() } else { x };
    let mut chart = ChartBuilder::on(area)
        .caption(
            format!("{name}: share up to it (black: real, orange: synthetic)"),
            ("sans-serif", 13),
        )
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(36)
        .build_cartesian_2d(scale(least)..scale(most).max(scale(least) + 1e-6), 0.0..1.0)
        .map_err(|e| failed(&e))?;
    let label = |x: &f64| {
        // From ten on the one that logarithms add is not seen.
        let value = match log {
            true if *x < 1.0 => 10f64.powf(*x) - 1.0,
            true => 10f64.powf(*x),
            false => *x,
        };
        if value >= 1e4 {
            format!("{value:.0e}")
        } else if value >= 10.0 {
            format!("{value:.0}")
        } else {
            format!("{value:.1}")
        }
    };
    chart
        .configure_mesh()
        .x_labels(6)
        .y_labels(5)
        .x_label_formatter(&label)
        .light_line_style(WHITE)
        .draw()
        .map_err(|e| failed(&e))?;
    for (values, colour) in values.iter().zip([REAL, SYNTHETIC]) {
        let n = values.len().max(2) as f64 - 1.0;
        let points = values
            .iter()
            .enumerate()
            .map(|(i, x)| (scale(*x), i as f64 / n));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))
            .map_err(|e| failed(&e))?;
    }
    Ok(())
}

fn rate(area: &Area<'_>, rate: &[Vec<f64>; 2]) -> Result<()> {
    let most = rate.iter().flatten().copied().fold(1e-9, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(
            "share of records over time (black: real, orange: synthetic)",
            ("sans-serif", 13),
        )
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..100.0, 0.0..most * 1.05)
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .x_labels(6)
        .y_labels(5)
        .x_label_formatter(&|x| format!("{x:.0} %"))
        .light_line_style(WHITE)
        .draw()
        .map_err(|e| failed(&e))?;
    for (values, colour) in rate.iter().zip([REAL, SYNTHETIC]) {
        let points = values.iter().enumerate().map(|(i, y)| (i as f64 + 0.5, *y));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(1)))
            .map_err(|e| failed(&e))?;
    }
    Ok(())
}

/// Two bars for each name, black above red.
fn bars(area: &Area<'_>, what: &str, names: &[String], values: &[[f64; 2]]) -> Result<()> {
    let text = |s: String, at: (i32, i32), size: i32| {
        let font = ("sans-serif", size).into_font();
        area.draw(&Text::new(s, at, font.color(&BLACK)))
            .map_err(|e| failed(&e))
    };
    text(what.to_owned(), (40, 10), 13)?;
    let most = values.iter().flatten().copied().fold(1e-9, f64::max);
    let row = (HEIGHT as i32 - 44) / names.len().max(1) as i32;
    let (left, width) = (160, WIDTH as i32 - 240);
    for ((name, pair), i) in names.iter().zip(values).zip(0..) {
        let top = 34 + i * row;
        text(name.clone(), (12, top + row / 2 - 6), 12)?;
        for ((value, colour), j) in pair.iter().zip([REAL, SYNTHETIC]).zip(0..) {
            let high = (row - 4) / 2;
            let y = top + j * high;
            let end = left + (f64::from(width) * value / most) as i32;
            area.draw(&Rectangle::new(
                [(left, y), (end, y + high - 1)],
                colour.filled(),
            ))
            .map_err(|e| failed(&e))?;
        }
        let [a, b] = pair;
        text(
            format!("{a:.3} {b:.3}"),
            (left + width + 6, top + row / 2 - 6),
            11,
        )?;
    }
    Ok(())
}
