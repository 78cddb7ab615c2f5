//! Pictures of results, as SVG.

use std::fmt::Display;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Colours of up to eight series (Okabe and Ito 2008), told apart by colour-blind readers too.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 0, 0),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(204, 121, 167),
    RGBColor(150, 150, 150),
];

fn failed(path: &Path) -> impl Fn(&dyn Display) -> anyhow::Error + '_ {
    move |e| anyhow!("while drawing {}: {e}", path.display())
}

/// Draws a confusion matrix: rows are the true labels, a cell's darkness is its share of the row.
///
/// # Errors
/// When the file cannot be written.
pub fn confusion(path: &Path, title: &str, labels: &[String], counts: &[Vec<u32>]) -> Result<()> {
    const CELL: i32 = 22;
    let fail = failed(path);
    let n = labels.len() as i32;
    let longest = labels.iter().map(String::len).max().unwrap_or(0) as i32;
    let (left, top) = (30 + 7 * longest, 60 + 6 * longest);
    // Wide enough for the heading.
    let wide = (left + n * CELL + 40).max(460);
    let size = (wide as u32, (top + n * CELL + 40) as u32);
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE).map_err(|e| fail(&e))?;
    let text = |s: &str, at: (i32, i32), size: i32, turned: bool, dark: bool| {
        let font = ("sans-serif", size).into_font();
        let font = if turned {
            font.transform(FontTransform::Rotate270)
        } else {
            font
        };
        let colour = if dark { &BLACK } else { &WHITE };
        area.draw(&Text::new(s.to_owned(), at, font.color(colour)))
            .map_err(|e| fail(&e))
    };
    text(title, (10, 10), 16, false, true)?;
    text(
        "rows: what it was; columns: what it was taken for, per cent of the row",
        (10, 30),
        12,
        false,
        true,
    )?;
    for (i, label) in (0..).zip(labels) {
        text(label, (10, top + i * CELL + 5), 12, false, true)?;
        text(label, (left + i * CELL + 5, top - 4), 12, true, true)?;
    }
    for (i, row) in (0..).zip(counts) {
        let all: u32 = row.iter().sum();
        for (j, &count) in (0..).zip(row) {
            let share = f64::from(count) / f64::from(all.max(1));
            let fade = |full: u8| (255.0 - share * (255.0 - f64::from(full))) as u8;
            let (x, y) = (left + j * CELL, top + i * CELL);
            let colour = RGBColor(fade(0), fade(60), fade(130));
            area.draw(&Rectangle::new(
                [(x, y), (x + CELL - 1, y + CELL - 1)],
                colour.filled(),
            ))
            .map_err(|e| fail(&e))?;
            if count > 0 {
                let percent = format!("{:.0}", 100.0 * share);
                text(&percent, (x + 3, y + 6), 10, false, share < 0.5)?;
            }
        }
    }
    area.present().map_err(|e| fail(&e))
}

/// A named curve with points (x, y, half the width of y's interval).
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points in order of x.
    pub points: Vec<(f64, f64, f64)>,
}

/// Draws curves of accuracy (0 to 1) over a cost (above 0, logarithmic), and `levels` that have no cost as horizontal lines.
///
/// # Errors
/// When the file cannot be written.
pub fn curves(
    path: &Path,
    title: &str,
    x_name: &str,
    levels: &[(String, f64)],
    series: &[Series],
) -> Result<()> {
    let fail = failed(path);
    let area = SVGBackend::new(path, (1000, 560)).into_drawing_area();
    area.fill(&WHITE).map_err(|e| fail(&e))?;
    let costs = || series.iter().flat_map(|s| s.points.iter().map(|p| p.0));
    let least = costs().fold(f64::INFINITY, f64::min).clamp(1e-6, 1.0) / 1.25;
    let most = costs().fold(least * 2.0, f64::max) * 1.25;
    let (plot, legend) = area.split_horizontally(820);
    let mut chart = ChartBuilder::on(&plot)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(54)
        .build_cartesian_2d((least..most).log_scale(), 0.0..1.0)
        .map_err(|e| fail(&e))?;
    chart
        .configure_mesh()
        .x_desc(x_name)
        .y_desc("attacker's balanced accuracy")
        .light_line_style(WHITE)
        .draw()
        .map_err(|e| fail(&e))?;
    let grey = BLACK.mix(0.4);
    for (name, y) in levels {
        let line = [(least, *y), (most, *y)];
        chart
            .draw_series(DashedLineSeries::new(line, 6, 4, grey.stroke_width(1)))
            .map_err(|e| fail(&e))?;
        let label = Text::new(name.clone(), (least * 1.02, y + 0.03), ("sans-serif", 12));
        chart.draw_series([label]).map_err(|e| fail(&e))?;
    }
    for (i, s) in series.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        chart
            .draw_series(LineSeries::new(
                s.points.iter().map(|p| (p.0, p.1)),
                colour.stroke_width(2),
            ))
            .map_err(|e| fail(&e))?;
        for &(x, y, half) in &s.points {
            let (low, high) = ((y - half).max(0.0), (y + half).min(1.0));
            let bar = PathElement::new([(x, low), (x, high)], colour.stroke_width(1));
            chart.draw_series([bar]).map_err(|e| fail(&e))?;
            let dot = Circle::new((x, y), 4, colour.filled());
            chart.draw_series([dot]).map_err(|e| fail(&e))?;
        }
        let y = 60 + 22 * i as i32;
        let key = PathElement::new([(0, y), (18, y)], colour.stroke_width(3));
        legend.draw(&key).map_err(|e| fail(&e))?;
        let name = Text::new(s.name.clone(), (24, y - 7), ("sans-serif", 14));
        legend.draw(&name).map_err(|e| fail(&e))?;
    }
    area.present().map_err(|e| fail(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_svg_with_their_labels() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("a.svg");
        let labels = ["plug".to_owned(), "camera".to_owned()];
        confusion(&path, "title", &labels, &[vec![3, 1], vec![0, 0]]).expect("drawn");
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(text.starts_with("<svg") && text.contains("camera") && text.contains("75"));
        let s = Series {
            name: "envelope".into(),
            points: vec![(1.0, 0.4, 0.1)],
        };
        let levels = [("chance".to_owned(), 0.04)];
        curves(&path, "title", "bytes", &levels, &[s]).expect("drawn");
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(text.contains("envelope") && text.contains("chance"));
        assert!(curves(Path::new("/nowhere/x.svg"), "t", "x", &[], &[]).is_err());
    }
}
