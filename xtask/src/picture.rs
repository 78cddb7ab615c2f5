//! The demo's picture: real and cover traffic apart, the total that an observer sees, every packet's size, and the numbers.
//!
//! Colours are Okabe and Ito's (readable with every kind of colour blindness). The SVG embeds nothing and loads nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, ensure};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::command;

const REAL: RGBColor = RGBColor(0, 114, 178);
const COVER: RGBColor = RGBColor(230, 159, 0);
const TOTAL: RGBColor = RGBColor(90, 90, 90);
const INK: RGBColor = RGBColor(34, 34, 34);
const SIZE: (u32, u32) = (1500, 1080);
const TITLE_HEIGHT: i32 = 64;
const TEXT_WIDTH: i32 = 390;
const FONT: &str = "sans-serif";
/// More bars than this are thinner than the eye resolves at this width.
const MOST_BARS: f64 = 160.0;

/// One packet on the link that an observer watches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Packet {
    /// Seconds since the start.
    pub time: f64,
    /// Sent by the home (true) or to it.
    pub out: bool,
    /// Length of the IP packet in bytes.
    pub bytes: u32,
    /// Cover, which carries nothing.
    pub cover: bool,
}

/// What the picture shows.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Headline.
    pub title: String,
    /// Every packet, in any order.
    pub packets: Vec<Packet>,
    /// Length of the time axis in seconds.
    pub seconds: f64,
    /// The generator's slot in seconds: the width of a bar, or a fraction of it in long runs.
    pub slot: f64,
    /// Lines of the text box; a line that ends with a colon is a heading.
    pub facts: Vec<String>,
}

/// Reads `packets.csv` (time_s,dir,size_bytes,is_dummy,device; dir 1 is from the device) by its column names.
///
/// # Errors
/// When the file cannot be read, a column is missing, or a value is not a number; the message names file and line.
pub fn read_packets(path: &Path) -> Result<Vec<Packet>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("while reading {}", path.display()))?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let column = |name: &str| {
        header
            .iter()
            .position(|h| h.trim() == name)
            .with_context(|| format!("{}: no column {name}", path.display()))
    };
    let [time, dir, size, dummy] = [
        column("time_s")?,
        column("dir")?,
        column("size_bytes")?,
        column("is_dummy")?,
    ];
    lines
        .enumerate()
        .map(|(index, line)| {
            let values: Vec<&str> = line.split(',').collect();
            let value = |column: usize| -> Result<f64> {
                let text = values.get(column).copied().unwrap_or_default();
                text.parse()
                    .map_err(|_| anyhow!("{}:{}: {text:?} is no number", path.display(), index + 2))
            };
            Ok(Packet {
                time: value(time)?,
                out: value(dir)? > 0.0,
                bytes: value(size)? as u32,
                cover: matches!(values.get(dummy).copied(), Some("1" | "true")),
            })
        })
        .collect()
}

/// Bytes per slot: `[real out, cover out, real in, cover in]`.
type Slot = [f64; 4];

impl Picture {
    /// Writes `<stem>.svg` into `folder`, and `<stem>.png` when `rsvg-convert` is installed. Returns what it wrote.
    ///
    /// # Errors
    /// When a file cannot be written or the picture has no time axis.
    pub fn write(&self, folder: &Path, stem: &str) -> Result<Vec<PathBuf>> {
        ensure!(
            self.seconds > 0.0 && self.slot > 0.0,
            "nothing to draw: no time has passed"
        );
        let svg = folder.join(format!("{stem}.svg"));
        self.draw(&svg)
            .with_context(|| format!("while drawing {}", svg.display()))?;
        let mut written = vec![svg.clone()];
        if command::installed("rsvg-convert") {
            let png = folder.join(format!("{stem}.png"));
            let mut convert = Command::new("rsvg-convert");
            convert
                .arg("--background-color=white")
                .arg("--output")
                .arg(&png)
                .arg(&svg);
            command::output(convert)?;
            written.push(png);
        }
        Ok(written)
    }

    fn draw(&self, svg: &Path) -> Result<()> {
        let root = SVGBackend::new(svg, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(plain)?;
        let (title, body) = root.split_vertically(TITLE_HEIGHT);
        title
            .draw(&Text::new(
                self.title.clone(),
                (28, 20),
                (FONT, 26).into_font().color(&INK),
            ))
            .map_err(plain)?;
        let (plots, text) = body.split_horizontally(SIZE.0 as i32 - TEXT_WIDTH);
        let panels = plots.split_evenly((3, 1));
        let slots = self.slots();
        self.stacked(&panels[0], &slots)?;
        self.observer(&panels[1], &slots)?;
        self.raster(&panels[2])?;
        self.text(&text)?;
        root.present().map_err(plain)
    }

    /// Width of a bar in seconds: whole slots, few enough to be seen.
    fn bar(&self) -> f64 {
        self.slot * (self.seconds / self.slot / MOST_BARS).ceil().max(1.0)
    }

    fn slots(&self) -> Vec<Slot> {
        let bar = self.bar();
        let count = (self.seconds / bar).ceil() as usize;
        let mut slots = vec![Slot::default(); count];
        for packet in &self.packets {
            if let Some(slot) = slots.get_mut((packet.time.max(0.0) / bar) as usize) {
                slot[usize::from(packet.cover) + 2 * usize::from(!packet.out)] +=
                    f64::from(packet.bytes) / 1000.0;
            }
        }
        slots
    }

    /// (a) What the gateway knows: real and cover bytes, out above zero, in below.
    fn stacked<DB: DrawingBackend>(&self, area: &Panel<DB>, slots: &[Slot]) -> Result<()> {
        let bars = slots.iter().enumerate().flat_map(|(i, s)| {
            [
                self.rectangle(i, 0.0, s[0], REAL),
                self.rectangle(i, s[0], s[0] + s[1], COVER),
                self.rectangle(i, 0.0, -s[2], REAL),
                self.rectangle(i, -s[2], -s[2] - s[3], COVER),
            ]
        });
        self.bytes_chart(area, slots, "What the gateway knows", bars)
    }

    /// (b) What an observer on the link sees: one sum, and no way to split it.
    fn observer<DB: DrawingBackend>(&self, area: &Panel<DB>, slots: &[Slot]) -> Result<()> {
        let bars = slots.iter().enumerate().flat_map(|(i, s)| {
            [s[0] + s[1], -s[2] - s[3]].map(|sum| self.rectangle(i, 0.0, sum, TOTAL))
        });
        self.bytes_chart(area, slots, "What an observer sees", bars)
    }

    fn rectangle(&self, slot: usize, from: f64, to: f64, colour: RGBColor) -> Bar {
        let (left, right) = (
            (slot as f64 + 0.06) * self.bar(),
            (slot as f64 + 0.94) * self.bar(),
        );
        Rectangle::new(
            [(left, from), (right.min(self.seconds), to)],
            colour.filled(),
        )
    }

    fn bytes_chart<DB: DrawingBackend>(
        &self,
        area: &Panel<DB>,
        slots: &[Slot],
        caption: &str,
        bars: impl Iterator<Item = Bar>,
    ) -> Result<()> {
        let sums = |first: usize| slots.iter().map(move |s| s[first] + s[first + 1]);
        let (top, bottom) = (limit(sums(0)), limit(sums(2)));
        let mut chart = chart(
            area,
            &format!("{caption}: bytes per {}", seconds(self.bar())),
        )
        .build_cartesian_2d(0.0..self.seconds, -bottom..top)
        .map_err(plain)?;
        axes(&mut chart, "kB   (in below 0, out above)", &absolute)?;
        chart.draw_series(bars).map_err(plain)?;
        self.label_cut_bars(&mut chart, sums(0), top, 1.0)?;
        self.label_cut_bars(&mut chart, sums(2), bottom, -1.0)?;
        zero_line(&mut chart, self.seconds)
    }

    /// Writes the true height beside bars that reach out of the chart; of close ones only at the first.
    fn label_cut_bars<DB: DrawingBackend>(
        &self,
        chart: &mut Chart<'_, DB>,
        sums: impl Iterator<Item = f64>,
        limit: f64,
        sign: f64,
    ) -> Result<()> {
        let mut free_from = 0.0;
        for (slot, sum) in sums.enumerate() {
            let right = (slot as f64 + 1.1) * self.bar();
            if sum <= limit || right < free_from {
                continue;
            }
            let text = format!("{sum:.0} kB");
            let at = (right, sign * limit * if sign > 0.0 { 0.97 } else { 0.82 });
            let style = (FONT, 13).into_font().color(&INK);
            chart
                .draw_series([Text::new(text, at, style)])
                .map_err(plain)?;
            free_from = right + self.seconds * 0.06;
        }
        Ok(())
    }

    /// (c) Every packet: size over time.
    fn raster<DB: DrawingBackend>(&self, area: &Panel<DB>) -> Result<()> {
        let most = |out: bool| {
            let sizes = self
                .packets
                .iter()
                .filter(|p| p.out == out)
                .map(|p| p.bytes);
            f64::from(sizes.max().unwrap_or(0).max(100)) * 1.12
        };
        let mut chart = chart(area, "Every packet")
            .build_cartesian_2d(0.0..self.seconds, -most(false)..most(true))
            .map_err(plain)?;
        axes(&mut chart, "bytes   (in below 0, out above)", &absolute)?;
        // Cover first: where both lie, the real packet is the one that must be seen.
        for cover in [true, false] {
            let colour = if cover { COVER.mix(0.7) } else { REAL.mix(0.7) };
            let dots = self.packets.iter().filter(|p| p.cover == cover).map(|p| {
                let y = if p.out {
                    f64::from(p.bytes)
                } else {
                    -f64::from(p.bytes)
                };
                Circle::new((p.time, y), 2, colour.filled())
            });
            chart.draw_series(dots).map_err(plain)?;
        }
        zero_line(&mut chart, self.seconds)
    }

    /// (d) Legend and numbers.
    fn text<DB: DrawingBackend>(&self, area: &Panel<DB>) -> Result<()> {
        let body = (FONT, 16).into_font().color(&INK);
        let head = (FONT, 17).into_font().style(FontStyle::Bold).color(&INK);
        let mut y = 14;
        for (label, colour) in [
            ("real packets", REAL),
            ("cover packets", COVER),
            ("both, as seen on the link", TOTAL),
        ] {
            area.draw(&Rectangle::new([(14, y), (36, y + 16)], colour.filled()))
                .map_err(plain)?;
            area.draw(&Text::new(label, (46, y + 2), body.clone()))
                .map_err(plain)?;
            y += 27;
        }
        for line in &self.facts {
            let heading = line.ends_with(':');
            y += if heading { 16 } else { 0 };
            let style = if heading { head.clone() } else { body.clone() };
            let left = if heading { 14 } else { 24 };
            area.draw(&Text::new(line.clone(), (left, y), style))
                .map_err(plain)?;
            y += 24;
        }
        Ok(())
    }
}

type Bar = Rectangle<(f64, f64)>;
type Panel<DB> = DrawingArea<DB, Shift>;
type Chart<'a, DB> = ChartContext<
    'a,
    DB,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn chart<'a, 'b, DB: DrawingBackend>(
    area: &'a Panel<DB>,
    caption: &str,
) -> ChartBuilder<'a, 'b, DB> {
    let mut builder = ChartBuilder::on(area);
    builder
        .caption(caption, (FONT, 19).into_font().color(&INK))
        .margin_left(18)
        .margin_right(20)
        .margin_bottom(8)
        .x_label_area_size(46)
        .y_label_area_size(84);
    builder
}

fn axes<DB: DrawingBackend>(
    chart: &mut Chart<'_, DB>,
    y: &str,
    label: &dyn Fn(&f64) -> String,
) -> Result<()> {
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(RGBColor(120, 120, 120))
        .x_desc("time in seconds")
        .y_desc(y)
        .x_labels(13)
        .y_labels(7)
        .y_label_formatter(label)
        .x_label_formatter(&|x| format!("{x}"))
        .label_style((FONT, 14).into_font().color(&INK))
        .axis_desc_style((FONT, 15).into_font().color(&INK))
        .draw()
        .map_err(plain)
}

fn zero_line<DB: DrawingBackend>(chart: &mut Chart<'_, DB>, end: f64) -> Result<()> {
    let line = PathElement::new([(0.0, 0.0), (end, 0.0)], INK.stroke_width(1));
    chart.draw_series([line]).map(drop).map_err(plain)
}

/// Height of an axis in kB: that of the highest bar, unless few bars are far higher than all others, which are then cut.
fn limit(sums: impl Iterator<Item = f64>) -> f64 {
    let mut sums: Vec<f64> = sums.filter(|sum| *sum > 0.0).collect();
    sums.sort_by(f64::total_cmp);
    let most = sums.last().copied().unwrap_or(0.0).max(0.1) * 1.12;
    let common = sums.get(sums.len() * 9 / 10).copied().unwrap_or(most);
    most.min(common * 5.0)
}

/// Both directions are amounts: the axis below zero has no minus sign.
fn absolute(value: &f64) -> String {
    format!("{}", value.abs())
}

fn seconds(value: f64) -> String {
    if value >= 1.0 {
        format!("{value} s")
    } else {
        format!("{} ms", value * 1000.0)
    }
}

/// The backend's error type is tied to its lifetime; its text is what matters.
fn plain(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> Picture {
        // A burst every 7 s, small packets between, and cover that fills the gaps.
        let mut packets = Vec::new();
        for i in 0..500u32 {
            let time = f64::from(i) * 0.1;
            let burst = i % 70 < 6;
            for k in 0..if burst { 12 } else { 1 } {
                let time = time + f64::from(k) * 0.002;
                let bytes = if burst { 1500 } else { 60 + i % 40 };
                packets.push(Packet {
                    time,
                    out: true,
                    bytes,
                    cover: false,
                });
                packets.push(Packet {
                    time,
                    out: false,
                    bytes: 52,
                    cover: false,
                });
            }
            let bytes = 150 + (i * 7919) % 1250;
            packets.push(Packet {
                time: time + 0.03,
                out: i % 3 > 0,
                bytes,
                cover: true,
            });
        }
        let facts = [
            "Real traffic:",
            "843 packets, 337,984 B",
            "payload unchanged (SHA-256)",
            "Cover:",
            "500 sent, 500 authenticated",
            "0 leaked, overhead 41.2 %",
            "Latency added:",
            "p50 9 us, p99 31 us",
        ];
        Picture {
            title: "Chaff demo: demo.pcap, 50 s, cover generator.onnx".to_owned(),
            packets,
            seconds: 50.0,
            slot: 1.0,
            facts: facts.map(str::to_owned).to_vec(),
        }
    }

    #[test]
    fn slots_sum_to_the_packets() {
        let picture = made();
        let slots = picture.slots();
        assert_eq!(slots.len(), 50);
        let sum: f64 = slots.iter().flatten().sum();
        let bytes: u32 = picture.packets.iter().map(|p| p.bytes).sum();
        assert!((sum - f64::from(bytes) / 1000.0).abs() < 1e-6);
    }

    #[test]
    fn long_runs_have_few_bars_of_whole_slots() {
        let picture = Picture {
            seconds: 3600.0,
            ..made()
        };
        assert_eq!(picture.bar(), 23.0);
        assert!(picture.slots().len() <= 160);
    }

    #[test]
    fn rare_high_bars_do_not_set_the_axis() {
        let even = (1..=20).map(f64::from);
        assert!((limit(even.clone()) - 22.4).abs() < 1e-9);
        assert_eq!(limit(std::iter::repeat_n(2.0, 99).chain([500.0])), 10.0);
        assert!(limit(std::iter::empty()) > 0.0);
    }

    #[test]
    fn svg_has_all_parts_and_loads_nothing() {
        let folder = std::env::temp_dir().join(format!("chaff-picture-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let svg = made().write(&folder, "made").unwrap().remove(0);
        let text = fs::read_to_string(svg).unwrap();
        for part in [
            "What an observer sees",
            "time in seconds",
            "cover packets",
            "overhead 41.2 %",
        ] {
            assert!(text.contains(part), "{part}");
        }
        assert!(!text.contains("href") && !text.contains("url("));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn bad_csv_names_line_and_value() {
        let path = std::env::temp_dir().join(format!("chaff-packets-{}.csv", std::process::id()));
        fs::write(
            &path,
            "time_s,dir,size_bytes,is_dummy,device\n0.5,1,60,0,a\nx,1,60,0,a\n",
        )
        .unwrap();
        let text = format!("{:#}", read_packets(&path).unwrap_err());
        assert!(text.contains(":3") && text.contains("\"x\""), "{text}");
        fs::write(
            &path,
            "time_s,dir,size_bytes,is_dummy,device\n0.5,-1,60,1,a\n",
        )
        .unwrap();
        let read = read_packets(&path).unwrap();
        assert_eq!(
            read,
            [Packet {
                time: 0.5,
                out: false,
                bytes: 60,
                cover: true
            }]
        );
        fs::remove_file(path).unwrap();
    }
}
