//! Answers of several numbers as a picture: a bar for each, with its 95 % interval.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use chaff_export::{Target as _, WholeFile};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::release::Answer;
use crate::request::{Request, Statistic};
use crate::show::{bars, number};

/// More bars than this are no picture.
const MOST: usize = 400;
const WIDTH: u32 = 900;
const ROW: i32 = 26;
const TOP: i32 = 64;
const BOTTOM: i32 = 44;
/// Where bars begin and end; labels stand left of them, numbers right.
const LEFT: i32 = 250;
const RIGHT: i32 = 740;
const FONT: &str = "sans-serif";
/// Letters of a label that have room.
const LABEL: usize = 34;
const BAR: RGBColor = RGBColor(0, 114, 178);
const INK: RGBColor = RGBColor(34, 34, 34);
const PALE: RGBColor = RGBColor(150, 150, 150);

/// Whether the answer of a request has several numbers.
pub fn can_draw(request: &Request) -> bool {
    matches!(
        request.statistic,
        Statistic::Histogram { .. } | Statistic::Count | Statistic::Top { .. }
    )
}

/// Draws an answer into a file of SVG.
///
/// # Errors
/// The answer is one number or has too many, or the file cannot be written.
pub fn write(path: &Path, answer: &Answer) -> Result<()> {
    let text = svg(answer)?;
    let mut file = WholeFile::create(path)?;
    file.write_all(text.as_bytes())?;
    Ok(file.close()?)
}

/// The picture as text.
///
/// # Errors
/// The answer is one number or has too many.
pub fn svg(answer: &Answer) -> Result<String> {
    let bars = bars(answer).ok_or_else(|| anyhow!("the answer is one number"))?;
    ensure!(
        bars.len() <= MOST,
        "{} bars, at most {MOST} can be drawn",
        bars.len()
    );
    let half = answer.half_width.unwrap_or(0.0);
    let height = TOP + BOTTOM + ROW * i32::try_from(bars.len().max(1))?;
    let mut out = String::new();
    {
        let root =
            SVGBackend::with_string(&mut out, (WIDTH, height.unsigned_abs())).into_drawing_area();
        let failed = |e| anyhow!("while drawing: {e}");
        root.fill(&WHITE).map_err(failed)?;
        let write = |text: &str, at: (i32, i32), size: i32, color: RGBColor, side: HPos| {
            let style = (FONT, size)
                .into_font()
                .color(&color)
                .pos(Pos::new(side, VPos::Center));
            root.draw(&Text::new(text.to_owned(), at, style))
                .map_err(failed)
        };
        let line = |ends: [(i32, i32); 2], color: RGBColor| {
            root.draw(&PathElement::new(ends.to_vec(), color.stroke_width(1)))
                .map_err(failed)
        };
        write(&title(answer), (20, 20), 17, INK, HPos::Left)?;
        let about = format!(
            "{} ± {} each, 95 %; epsilon {}{}",
            answer.unit,
            number(half),
            answer.epsilon,
            if answer.simulated {
                "; SIMULATED NOISE: protects nobody"
            } else {
                ""
            }
        );
        write(&about, (20, 43), 13, INK, HPos::Left)?;
        let low = bars.iter().fold(0.0f64, |m, (_, v)| m.min(v - half));
        let high = bars.iter().fold(1.0f64, |m, (_, v)| m.max(v + half));
        let x = |v: f64| LEFT + ((v - low) / (high - low) * f64::from(RIGHT - LEFT)).round() as i32;
        for (index, (label, value)) in bars.iter().enumerate() {
            let y = TOP + ROW * i32::try_from(index)? + ROW / 2;
            write(&short(label), (LEFT - 10, y), 13, INK, HPos::Right)?;
            let (from, to) = (x(value.min(0.0)), x(value.max(0.0)));
            root.draw(&Rectangle::new(
                [(from, y - 8), (to, y + 8)],
                BAR.mix(0.55).filled(),
            ))
            .map_err(failed)?;
            let (a, b) = (x(value - half), x(value + half));
            line([(a, y), (b, y)], INK)?;
            for end in [a, b] {
                line([(end, y - 5), (end, y + 5)], INK)?;
            }
            write(
                &number(*value),
                (WIDTH as i32 - 20, y),
                13,
                INK,
                HPos::Right,
            )?;
        }
        if bars.is_empty() {
            write(
                "no name that enough units have",
                (20, TOP + ROW / 2),
                13,
                INK,
                HPos::Left,
            )?;
        }
        line([(x(0.0), TOP), (x(0.0), height - BOTTOM)], PALE)?;
        let protects = format!("protects {}; {}", answer.protects, answer.mechanism);
        write(&protects, (20, height - 20), 12, PALE, HPos::Left)?;
        root.present().map_err(failed)?;
    }
    Ok(out)
}

fn title(answer: &Answer) -> String {
    let request = &answer.request;
    let of = match request["measure"].as_str() {
        Some("flows") => "flows".to_owned(),
        Some("any") => "units with and without a flow".to_owned(),
        Some("names") => "server names that many units have".to_owned(),
        _ => match (
            &request["measure"]["bytes"],
            request["measure"]["mean"].as_str(),
        ) {
            (_, Some(column)) => format!("mean {column} of each unit"),
            (direction, None) => format!("{} bytes of each unit", direction.as_str().unwrap_or("")),
        },
    };
    let mut title = of;
    let filter = &request["filter"];
    for (key, word) in [("ip", "to"), ("asn", "to AS")] {
        if !filter[key].is_null() {
            title += &format!(", {word} {}", filter[key].to_string().trim_matches('"'));
        }
    }
    if let Some(name) = filter["name"].as_object() {
        let text = ["domain", "subdomains", "pattern"]
            .iter()
            .find_map(|k| name.get(*k)?.as_str());
        title += &format!(", server name {}", text.unwrap_or_default());
    }
    title
}

/// A label that has room. Control characters steer nothing.
fn short(label: &str) -> String {
    let mut text: String = label
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    if text.chars().count() > LABEL {
        text = text.chars().take(LABEL - 1).chain(['…']).collect();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn answer(request: Value, value: Value) -> Answer {
        serde_json::from_value(json!({
            "version": 1, "request": request, "value": value, "unit": "units per bin", "half_width": 3.0,
            "mechanism": "discrete_laplace", "scale": 1.0, "epsilon": 1.0, "delta": 0.0, "protects": "x",
            "ledger_entry": 1, "simulated": false
        }))
        .unwrap()
    }

    #[test]
    fn names_from_logs_are_text_and_nothing_else() {
        let value = json!([{ "name": "<script>alert(1)</script>&\u{7}", "units": 12 }, { "name": "b", "units": -4 }]);
        let text = svg(&answer(json!({ "measure": "names" }), value)).unwrap();
        assert!(text.starts_with("<svg"));
        assert!(
            !text.contains("<script") && !text.contains('\u{7}'),
            "{text}"
        );
        assert!(text.contains("&lt;script&gt;"), "{text}");
    }

    #[test]
    fn one_number_is_no_picture() {
        assert!(svg(&answer(json!({}), json!(5))).is_err());
        let many = vec![1; MOST + 1];
        assert!(svg(&answer(json!({}), json!(many))).is_err());
        assert!(svg(&answer(json!({ "measure": "names" }), json!([]))).is_ok());
    }
}
