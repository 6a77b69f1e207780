//! One chart as SVG.

use serde_json::Value;

/// Points of a curve at most; more cannot be seen.
const POINTS: usize = 800;

/// Size and margins of a chart, in its own units.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 24.0;
const TOP: f64 = 10.0;

/// A metric over steps.
pub(super) struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Series {
    /// The finite values of `metric`, thinned out to the means of equally many lines.
    pub(super) fn of(metric: &str, lines: &[Value]) -> Self {
        let all: Vec<(f64, f64)> = lines
            .iter()
            .filter_map(|line| Some((line["step"].as_f64()?, line[metric].as_f64()?)))
            .filter(|(_, y)| y.is_finite())
            .collect();
        let each = all.len().div_ceil(POINTS).max(1);
        let mean = |chunk: &[(f64, f64)]| {
            let n = chunk.len() as f64;
            (chunk.iter().map(|p| p.0).sum::<f64>() / n, chunk.iter().map(|p| p.1).sum::<f64>() / n)
        };
        Self { name: metric.into(), points: all.chunks(each).map(mean).collect() }
    }
}

/// A linear map of an interval to pixels.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// About five round numbers inside.
    fn ticks(&self) -> Vec<f64> {
        let span = self.high - self.low;
        let power = 10f64.powf((span / 5.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| span / step <= 6.0);
        let step = step.unwrap_or(power * 10.0);
        let first = (self.low / step).ceil() as i64;
        (first..).map(|i| i as f64 * step).take_while(|&tick| tick <= self.high).collect()
    }
}

/// A chart of all series that have points; nothing if none has.
pub(super) fn chart(series: &[Series], logarithmic: bool) -> Option<String> {
    let scale = |y: f64| if logarithmic { y.max(1e-12).log10() } else { y };
    let points = || series.iter().flat_map(|s| &s.points);
    points().next()?;
    let bounds = |value: &dyn Fn(&(f64, f64)) -> f64| {
        let (low, high) = points().map(value).fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
        // One value alone still needs an interval around it.
        if high > low { (low, high) } else { (low - 0.5 * low.abs().max(1e-6), high + 0.5 * high.abs().max(1e-6)) }
    };
    let (first, last) = bounds(&|p| p.0);
    let (low, high) = bounds(&|p| scale(p.1));
    let x = Axis { low: first, high: last, from: LEFT, to: WIDTH - 10.0 };
    let y = Axis { low, high, from: HEIGHT - BOTTOM, to: TOP };
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\">");
    for tick in y.ticks() {
        let (at, value) = (y.at(tick), if logarithmic { 10f64.powf(tick) } else { tick });
        svg += &format!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
        svg += &label(LEFT - 6.0, at + 4.0, "end", &crate::cli::number::short(value));
    }
    for tick in x.ticks() {
        svg += &label(x.at(tick), HEIGHT - 6.0, "middle", &crate::cli::number::short(tick));
    }
    for (i, series) in series.iter().enumerate().filter(|(_, series)| !series.points.is_empty()) {
        let path: Vec<_> = series.points.iter().map(|p| format!("{:.1},{:.1}", x.at(p.0), y.at(scale(p.1)))).collect();
        svg += &format!("<polyline class=\"s{i}\" points=\"{}\"/>", path.join(" "));
        let name = &series.name;
        svg += &format!("<text class=\"k{i}\" x=\"{}\" y=\"{}\">{name}</text>", WIDTH - 90.0, 24.0 + 16.0 * i as f64);
    }
    Some(svg + "</svg>")
}

fn label(x: f64, y: f64, anchor: &str, text: &str) -> String {
    format!("<text class=\"axis\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn curves_stay_inside_and_long_ones_are_thinned() {
        let lines: Vec<_> = (0..5000).map(|s| json!({ "step": s, "y": f64::from(s % 7) })).collect();
        let series = Series::of("y", &lines);
        assert!(series.points.len() <= POINTS);
        let svg = chart(&[series], false).unwrap();
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        for point in points.split(' ') {
            let (x, y) = point.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((LEFT..=WIDTH).contains(&x) && (TOP..=HEIGHT).contains(&y), "{point}");
        }
    }

    #[test]
    fn a_single_or_constant_value_has_a_chart() {
        for value in [0.0, 3.0, -1e-9] {
            let series = Series::of("y", &[json!({ "step": 1, "y": value })]);
            let svg = chart(&[series], false).unwrap();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn ticks_are_round_and_few() {
        let axis = Axis { low: 1.3, high: 5.6, from: 0.0, to: 1.0 };
        assert_eq!(axis.ticks(), [2.0, 3.0, 4.0, 5.0]);
    }
}
