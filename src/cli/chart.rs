//! Charts as SVG, and the page that holds them: nothing is fetched. Those of `report` carry their numbers for its script.

use super::number::short;
use serde_json::json;

/// Points of a curve at most; more cannot be seen.
const POINTS: usize = 800;

/// Size and margins of a chart, in its own units.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const BOTTOM: f64 = 24.0;
const TOP: f64 = 10.0;

/// Colours that [`page`] defines.
pub(super) const COLOURS: usize = 10;

/// One point, perhaps with an interval, and what is shown when the pointer rests on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Point {
    pub x: f64,
    pub y: f64,
    pub interval: Option<[f64; 2]>,
    pub note: String,
}

impl Point {
    pub(super) fn at(x: f64, y: f64) -> Self {
        Self { x, y, ..Self::default() }
    }
}

/// How points are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// A line through them.
    Line,
    /// The same, thin.
    Thin,
    /// A dot for each.
    Dots,
    /// Dots on a line.
    DotsOnLine,
}

/// Points of one colour.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub name: String,
    pub points: Vec<Point>,
    /// Number of its colour.
    pub colour: usize,
    pub mark: Mark,
}

/// A chart; axes are linear unless they are said to be logarithmic.
#[derive(Clone, Debug, Default)]
pub(super) struct Chart {
    pub title: String,
    /// What the vertical axis counts.
    pub unit: String,
    /// What the horizontal axis counts, if that is not steps.
    pub across: String,
    pub log_x: bool,
    pub log_y: bool,
    pub series: Vec<Series>,
    /// Whether names stand in the chart; else the page says what colours mean.
    pub names: bool,
    /// Whether it carries axes and points for a script.
    pub live: bool,
}

/// Consecutive points averaged so that few enough are left; single values that stand out stay visible as a shift.
pub(super) fn thinned(points: Vec<(f64, f64)>) -> Vec<Point> {
    let each = points.len().div_ceil(POINTS).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let n = chunk.len() as f64;
        Point::at(chunk.iter().map(|p| p.0).sum::<f64>() / n, chunk.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(each).map(mean).collect()
}

/// A map of an interval to pixels.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    log: bool,
}

impl Axis {
    /// An axis for some values, with a margin of a share of it at both ends; on a logarithmic one those that are not above
    /// 0 stand at its low end.
    fn of(values: impl Iterator<Item = f64>, log: bool, margin: f64, ends: [f64; 2]) -> Option<Self> {
        let values = values.filter(|&x| x.is_finite() && !(log && x <= 0.0));
        let scaled = values.map(|x| if log { x.log10() } else { x });
        let (low, high) = scaled.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
        if low > high {
            return None;
        }
        let pad = match high > low {
            true => margin * (high - low),
            // One value alone still needs an interval around it.
            false if log => 0.1,
            false => 0.5 * low.abs().max(1e-6),
        };
        let [from, to] = ends;
        Some(Self { low: low - pad, high: high + pad, from, to, log })
    }

    fn at(&self, value: f64) -> f64 {
        let value = match self.log {
            true if value <= 0.0 => self.low,
            true => value.log10(),
            false => value,
        };
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// A few round numbers inside.
    fn ticks(&self) -> Vec<f64> {
        if self.log && self.high - self.low > 0.5 {
            return self.log_ticks();
        }
        // Across less than half a power of ten, linear steps are the rounder ones.
        let [low, high] = [self.low, self.high].map(|end| if self.log { 10f64.powf(end) } else { end });
        let span = high - low;
        let power = 10f64.powf((span / 5.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| span / step <= 6.0);
        let step = step.unwrap_or(power * 10.0);
        let first = (low / step).ceil() as i64;
        (first..).map(|i| i as f64 * step).take_while(|&tick| tick <= high).collect()
    }

    fn log_ticks(&self) -> Vec<f64> {
        let powers = self.low.floor() as i32..=self.high.ceil() as i32;
        let within = |tick: &f64| (self.low - 1e-9..=self.high + 1e-9).contains(&tick.log10());
        let fine = powers.clone().flat_map(|p| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(p)));
        let fine: Vec<f64> = fine.filter(within).collect();
        let coarse = powers.map(|p| 10f64.powi(p)).filter(within);
        if fine.len() <= 8 { fine } else { coarse.collect() }
    }
}

impl Chart {
    /// As SVG under its title; nothing without a point.
    pub(super) fn html(&self) -> Option<String> {
        let svg = self.svg()?;
        let unit = [self.unit.as_str(), self.across.as_str()].map(html);
        let unit = match unit.each_ref().map(|word| word.is_empty()) {
            [true, true] => String::new(),
            [false, true] => format!(" <small>{}</small>", unit[0]),
            _ => format!(" <small>{} by {}</small>", unit[0], unit[1]),
        };
        Some(format!("<h2>{}{unit}</h2>\n{svg}\n", html(&self.title)))
    }

    fn svg(&self) -> Option<String> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let heights = points().flat_map(|p| [Some(p.y), p.interval.map(|i| i[0]), p.interval.map(|i| i[1])]).flatten();
        // Curves may touch the edges, dots would be cut.
        let dots = self.series.iter().any(|series| series.has_dots());
        let margin = if dots { 0.04 } else { 0.0 };
        let x = Axis::of(points().map(|p| p.x), self.log_x, margin, [LEFT, WIDTH - RIGHT])?;
        let y = Axis::of(heights, self.log_y, margin, [HEIGHT - BOTTOM, TOP])?;
        let data = if self.live { format!(" data-chart=\"{}\"", html(&self.data(&x, &y))) } else { String::new() };
        let title = html(&self.title);
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\"{data}>");
        for tick in y.ticks() {
            let at = y.at(tick);
            svg += &format!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
            svg += &label(LEFT - 6.0, at + 4.0, "end", &short(tick));
        }
        // The name of the axis stands at its left end.
        let named = if self.live { LEFT + 16.0 } else { 0.0 };
        for tick in x.ticks().into_iter().filter(|&tick| x.at(tick) >= named) {
            svg += &label(x.at(tick), HEIGHT - 6.0, "middle", &short(tick));
        }
        if self.live {
            svg += &label(LEFT - 6.0, HEIGHT - 6.0, "end", &html(&self.across));
        }
        for series in self.series.iter().filter(|series| !series.points.is_empty()) {
            svg += &series.svg(&x, &y);
        }
        for (i, series) in self.series.iter().filter(|series| self.names && !series.points.is_empty()).enumerate() {
            let (colour, height) = (series.colour % COLOURS, 24.0 + 16.0 * i as f64);
            let name = html(&series.name);
            svg += &format!(
                "<text class=\"f{colour}\" x=\"{}\" y=\"{height}\" text-anchor=\"end\">{name}</text>",
                WIDTH - RIGHT
            );
        }
        Some(svg + "</svg>")
    }
}

impl Chart {
    /// Axes and points as JSON.
    fn data(&self, x: &Axis, y: &Axis) -> String {
        let axis = |axis: &Axis| {
            let Axis { low, high, from, to, log } = *axis;
            json!({ "low": low, "high": high, "from": from, "to": to, "log": log })
        };
        let series = self.series.iter().filter(|series| !series.points.is_empty()).map(|series| {
            let points: Vec<[f64; 2]> = series.points.iter().map(|point| [point.x, point.y]).collect();
            json!({ "name": series.name, "colour": series.colour % COLOURS, "points": points })
        });
        let series: Vec<_> = series.collect();
        json!({ "across": self.across, "x": axis(x), "y": axis(y), "series": series }).to_string()
    }
}

impl Series {
    /// Whether its points are dots: a line through one point would not be seen.
    fn has_dots(&self) -> bool {
        matches!(self.mark, Mark::Dots | Mark::DotsOnLine) || self.points.len() == 1
    }

    fn svg(&self, x: &Axis, y: &Axis) -> String {
        let colour = self.colour % COLOURS;
        let (name, mut svg) = (html(&self.name), String::new());
        if self.mark != Mark::Dots && self.points.len() > 1 {
            let path: Vec<_> = self.points.iter().map(|p| format!("{:.1},{:.1}", x.at(p.x), y.at(p.y))).collect();
            let thin = if self.mark == Mark::Thin { " thin" } else { "" };
            let path = path.join(" ");
            svg += &format!("<polyline class=\"s{colour}{thin}\" points=\"{path}\"><title>{name}</title></polyline>");
        }
        if self.has_dots() {
            for point in &self.points {
                let (across, up) = (x.at(point.x), y.at(point.y));
                if let Some([low, high]) = point.interval {
                    let [low, high] = [low, high].map(|end| y.at(end));
                    svg += &format!(
                        "<line class=\"s{colour}\" x1=\"{across:.1}\" x2=\"{across:.1}\" y1=\"{low:.1}\" y2=\"{high:.1}\"/>"
                    );
                }
                let note = if point.note.is_empty() { &self.name } else { &point.note };
                let note = html(note);
                svg += &format!(
                    "<circle class=\"f{colour}\" cx=\"{across:.1}\" cy=\"{up:.1}\" r=\"4\"><title>{note}</title></circle>"
                );
            }
        }
        svg
    }
}

fn label(x: f64, y: f64, anchor: &str, text: &str) -> String {
    format!("<text class=\"axis\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>")
}

/// Text inside HTML.
pub(super) fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// What every page begins with.
pub(super) const HEAD: &str = "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
    <meta name=\"viewport\" content=\"width=device-width\"><title>";

/// A whole page around `body`.
pub(super) fn page(title: &str, body: &str) -> String {
    let title = html(title);
    let mut colours = String::new();
    for i in 0..COLOURS {
        colours += &format!(".s{i}{{stroke:var(--c{i})}}.f{i}{{fill:var(--c{i})}}.b{i}{{background:var(--c{i})}}");
    }
    format!(
        "{HEAD}{title}</title>\n<style>{STYLE}{colours}</style>\n\
         <h1>{title}</h1>\n{body}</html>\n"
    )
}

/// The colours tell apart for every kind of sight, on light and on dark ground.
const STYLE: &str = ":root{color-scheme:light dark;--text:#222;--dim:#666;--grid:#ddd;\
    --c0:#1f5fc4;--c1:#c8381f;--c2:#178a63;--c3:#b5650a;--c4:#8c3fa8;--c5:#0f8aa8;--c6:#a8326f;--c7:#6b6f1a;\
    --c8:#5b5b66;--c9:#3a3ad0}\
    @media(prefers-color-scheme:dark){:root{--text:#ddd;--dim:#999;--grid:#3a3a3a;--c0:#7fb0ff;--c1:#ff8f78;\
    --c2:#5fd3a6;--c3:#f2b04d;--c4:#d49bef;--c5:#63cfe8;--c6:#f08fc0;--c7:#c9cd62;--c8:#b4b4c0;--c9:#a3a3ff}}\
    body{font:14px/1.45 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:var(--text)}\
    h2{font-size:1em;margin:1.8em 0 .3em}small{color:var(--dim);font-weight:normal}svg{width:100%;height:auto}\
    .grid{stroke:var(--grid)}.axis{fill:var(--dim);font-size:11px}polyline{fill:none;stroke-width:1.6}\
    .thin{stroke-width:1;opacity:.65}svg text{font-size:12px}table{border-collapse:collapse;margin:.5em 0}\
    th,td{text-align:left;padding:.15em .9em .15em 0;border-bottom:1px solid var(--grid);vertical-align:top}\
    th{font-weight:600}td:first-child,td.n{white-space:nowrap}td.n,th.n{text-align:right}td.n{font-variant-numeric:tabular-nums}.wide{overflow-x:auto}\
    .key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}\
    \
    .tip{position:fixed;display:none;pointer-events:none;background:canvas;border:1px solid var(--grid);padding:.3em .6em}\
    details{margin:.4em 0}summary{cursor:pointer}pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3em 0 1em;\
    padding-left:.8em;border-left:2px solid var(--grid)}\
    ul.keys{list-style:none;padding:0;columns:2}p.note{color:var(--dim)}";

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<Point>, mark: Mark) -> Chart {
        let series = vec![Series { name: "y".into(), points, colour: 0, mark }];
        Chart { title: "t".into(), series, ..Chart::default() }
    }

    #[test]
    fn curves_stay_inside_and_long_ones_are_thinned() {
        let points = thinned((0..5000).map(|s| (f64::from(s), f64::from(s % 7))).collect());
        assert!(points.len() <= POINTS);
        let svg = chart(points, Mark::Line).svg().unwrap();
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        for point in points.split(' ') {
            let (x, y) = point.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((LEFT..=WIDTH).contains(&x) && (TOP..=HEIGHT).contains(&y), "{point}");
        }
    }

    #[test]
    fn a_single_or_constant_value_has_a_chart_and_nothing_has_none() {
        for value in [0.0, 3.0, -1e-9] {
            for log in [false, true] {
                let chart = Chart { log_y: log, ..chart(vec![Point::at(1.0, value)], Mark::Dots) };
                let svg = chart.svg();
                assert_eq!(svg.is_some(), !log || value > 0.0);
                assert!(svg.is_none_or(|svg| !svg.contains("NaN") && !svg.contains("inf")));
            }
        }
        assert!(chart(Vec::new(), Mark::Line).svg().is_none());
    }

    #[test]
    fn ticks_are_round_and_few() {
        let axis = |low, high, log| Axis { low, high, from: 0.0, to: 1.0, log };
        assert_eq!(axis(1.3, 5.6, false).ticks(), [2.0, 3.0, 4.0, 5.0]);
        let log = axis(0.0005f64.log10(), 0.008f64.log10(), true).ticks();
        let near = |a: &f64, b: f64| (a / b - 1.0).abs() < 1e-9;
        assert!(log.iter().zip([5e-4, 1e-3, 2e-3, 5e-3]).all(|(a, b)| near(a, b)) && log.len() == 4, "{log:?}");
        assert_eq!(axis(0.0, 9.0, true).ticks().len(), 10, "powers of ten alone");
        assert_eq!(axis(1.3f64.log10(), 1.8f64.log10(), true).ticks().len(), 6);
    }

    #[test]
    fn names_and_notes_are_text() {
        let points = vec![Point { note: "<b>&".into(), interval: Some([0.0, 2.0]), ..Point::at(1.0, 1.0) }];
        let page = page("<x>", &chart(points, Mark::DotsOnLine).html().unwrap());
        assert!(page.contains("<title>&lt;b&gt;&amp;</title>") && page.contains("<h1>&lt;x&gt;</h1>"), "{page}");
        assert!(!page.contains("http") && !page.contains("<script"), "nothing is fetched or run");
    }
}
