//! The page: a table of the runs, and charts that say the values under the pointer.

use super::{Run, about};
use crate::cli::chart::{COLOURS, Chart, Mark, Series, html, page, thinned};
use crate::cli::number::short;
use crate::cli::units::{bytes, duration, grouped};
use serde_json::Value;
use std::time::Duration;

/// What the script of the page does: values under the pointer, smoothing.
const SCRIPT: &str = include_str!("report.js");

/// Titles, what the axis counts, the metrics drawn in one chart with their names, and whether the axis is logarithmic.
type Drawn = (&'static str, &'static str, &'static [(&'static str, &'static str)], bool);

const CHARTS: [Drawn; 17] = [
    ("Training loss", "nats per token", &[("loss", "")], false),
    ("Validation loss", "nats per token", &[("val_loss", "")], false),
    ("Gradient norm", "norm", &[("grad_norm", "")], true),
    ("Clipping", "factor of the gradient", &[("clip_factor", "")], false),
    ("Clipped steps", "share of the steps so far", &[("clipped_share", "")], false),
    ("Factor of AdaGN", "median of the tensors", &[("adagn_factor", "")], true),
    ("Tensors that AdaClip cuts", "share of the tensors", &[("adaclip_share", "")], false),
    ("Learning rate", "rate", &[("lr", "")], false),
    ("Speed", "tokens per second", &[("tokens_per_s", "")], false),
    ("Memory", "MiB resident", &[("rss_bytes", "")], false),
    ("Groups with a new scale", "groups per step", &[("refits", "")], false),
    ("Weights that a step moves", "share of a sample", &[("moved_bytes", "stored"), ("moved_codes", "codes")], true),
    ("Codes that are not those of the start", "share of a sample", &[("changed_codes", "")], false),
    ("Updates that change no weight", "share of a sample", &[("unmoved_updates", "")], false),
    ("Moves of codes that undo the last", "share of the moves", &[("reversed_moves", "")], false),
    (
        "Groups rescaled since the last audit",
        "share of a sample",
        &[("rescaled_up", "up"), ("rescaled_down", "down")],
        false,
    ),
    ("Codes at an end of their range", "share of a sample", &[("saturated_codes", "")], false),
];

/// Bytes of one.
const MIB: f64 = (1u64 << 20) as f64;

/// The whole page, with the sections of sequences of tasks; one that is served asks for itself anew.
pub(super) fn page_of(runs: &[Run], sections: &str, live: bool) -> String {
    let mut body = format!("{sections}{}", table(runs));
    body += "<p class=\"note\"><label>smoothing <input id=\"smooth\" type=\"range\" min=\"0\" max=\"0.99\" step=\"0.01\" \
             value=\"0\"></label> exponential moving average of this weight; the measured lines stay visible</p>\n";
    for (title, unit, metrics, log_y) in CHARTS {
        let mut series = Vec::new();
        for (number, run) in runs.iter().enumerate() {
            for (i, (metric, word)) in metrics.iter().enumerate() {
                let colour = if runs.len() == 1 { i } else { number };
                let name = match (runs.len(), word.is_empty()) {
                    (1, true) => title.to_lowercase(),
                    (1, false) => (*word).into(),
                    (_, true) => run.name.clone(),
                    (_, false) => format!("{}, {word}", run.name),
                };
                let mut points = curve(metric, &run.lines);
                if *metric == "rss_bytes" {
                    points.iter_mut().for_each(|(_, bytes)| *bytes /= MIB);
                }
                series.push(series_of(name, colour, points));
            }
        }
        let names = runs.len() == 1 && metrics.len() > 1;
        let (title, unit, across) = (title.into(), unit.into(), "step".into());
        body += &Chart { title, unit, across, log_y, series, names, live: true, ..Chart::default() }
            .html()
            .unwrap_or_default();
    }
    body += &scales(runs);
    body += &about::samples(runs);
    body += &about::configuration(runs);
    body += &format!("<script>{SCRIPT}</script>\n");
    if live {
        body += "<script>setTimeout(() => location.reload(), 10000)</script>\n";
    }
    let title = if runs.len() == 1 { runs[0].name.clone() } else { format!("{} runs", runs.len()) };
    page(&title, &body)
}

/// Median scales against the first audit, whatever the width of a model makes of them.
fn scales(runs: &[Run]) -> String {
    let of_run = |(colour, run): (usize, &Run)| {
        let mut points = curve("median_scale", &run.lines);
        let first = points.first().map_or(1.0, |point| point.1);
        points.iter_mut().for_each(|(_, scale)| *scale /= first);
        series_of(run.name.clone(), colour, points)
    };
    let series = runs.iter().enumerate().map(of_run).collect();
    let (title, unit) = ("Median scale of the groups".into(), "against the first audit".into());
    Chart { title, unit, across: "step".into(), series, live: true, ..Chart::default() }.html().unwrap_or_default()
}

/// What the runs were and what became of them.
fn table(runs: &[Run]) -> String {
    let mut rows = String::new();
    for (i, run) in runs.iter().enumerate() {
        let (record, facts) = (&run.record, &run.record.facts);
        let last = |metric| curve(metric, &run.lines).last().map(|point| point.1);
        let validation = || record.validation.iter().filter(|(_, loss)| loss.is_finite());
        let best = validation().min_by(|a, b| a.1.total_cmp(&b.1));
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.4}"));
        let memory = run.lines.iter().filter_map(|line| line["rss_bytes"].as_u64()).max();
        let cells = [
            format!("{} of {}", grouped(record.steps_done), grouped(facts.steps)),
            grouped(record.steps_done * facts.tokens_per_step),
            facts.lr.map_or_else(String::new, short),
            number(last("loss")),
            number(last("val_loss")),
            best.map_or_else(String::new, |(step, loss)| format!("{loss:.4} at {}", grouped(*step))),
            number(record.bits_per_byte),
            duration(Duration::from_secs_f64(record.seconds.clamp(0.0, 1e15))),
            memory.map_or_else(String::new, bytes),
            facts.seed.to_string(),
        ];
        let colour = i % COLOURS;
        let key = if runs.len() > 1 { format!("<span class=\"key b{colour}\"></span>") } else { String::new() };
        rows += &format!("<tr><td>{key}{}</td>", html(&run.name));
        cells.iter().for_each(|cell| rows += &format!("<td class=\"n\">{}</td>", html(cell)));
        rows += "</tr>\n";
    }
    let heads = [
        "run",
        "steps",
        "tokens",
        "peak rate",
        "loss",
        "validation",
        "best validation",
        "bits per byte",
        "time in steps",
        "memory",
        "seed",
    ];
    let class = |i| if i > 0 { " class=\"n\"" } else { "" };
    let heads: String = heads.iter().enumerate().map(|(i, head)| format!("<th{}>{head}</th>", class(i))).collect();
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "<div class=\"wide\"><table><tr>{heads}</tr>\n{rows}</table></div>\n<p class=\"note\">losses in nats per token; written \
         by tetrad {version}</p>\n"
    )
}

/// The finite values of a metric.
fn curve(metric: &str, lines: &[Value]) -> Vec<(f64, f64)> {
    let points = lines.iter().filter_map(|line| Some((line["step"].as_f64()?, line[metric].as_f64()?)));
    points.filter(|(_, y)| y.is_finite()).collect()
}

fn series_of(name: String, colour: usize, points: Vec<(f64, f64)>) -> Series {
    Series { name, points: thinned(points), colour, mark: Mark::Line }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(name: &str, lines: Vec<Value>) -> Run {
        Run { name: name.into(), lines, ..Run::default() }
    }

    #[test]
    fn a_page_holds_the_curves_it_has_numbers_for() {
        let lines: Vec<_> = (1..=50).map(|s| json!({ "step": s, "loss": 5.0 / f64::from(s), "lr": 0.1 })).collect();
        let page = page_of(&[run("runs/<b>", lines)], "", false);
        assert!(page.contains("runs/&lt;b&gt;"));
        assert_eq!(page.matches("<polyline").count(), 2, "loss and learning rate, and no chart without numbers");
        assert!(page.contains("nats per token") && page.contains(">step<"), "axes have names");
        assert!(!page.contains("NaN") && !page.contains("http"), "nothing is fetched");
        assert!(!page.contains("location.reload"));
    }

    #[test]
    fn runs_are_drawn_together_and_told_apart() {
        let lines = |scale: f64| (1..=9).map(|s| json!({ "step": s, "loss": scale * f64::from(s) })).collect();
        let page = page_of(&[run("a", lines(1.0)), run("b", lines(2.0))], "", true);
        assert_eq!(page.matches("<h2>Training loss").count(), 1);
        assert_eq!(page.matches("<polyline").count(), 2);
        assert!(page.contains("class=\"s0\"") && page.contains("class=\"s1\"") && page.contains("location.reload"));
    }

    #[test]
    fn scales_are_drawn_against_the_first() {
        let lines: Vec<_> = (1..=9).map(|s| json!({ "step": s, "median_scale": 0.01 * f64::from(s) })).collect();
        let page = page_of(&[run("x", lines)], "", false);
        assert!(page.contains("Median scale") && page.contains(">8</text>"), "{page}");
    }

    #[test]
    fn memory_is_in_mib_and_one_validation_is_a_dot() {
        let mut lines: Vec<_> = (1..=9).map(|s| json!({ "step": s, "rss_bytes": s << 20 })).collect();
        lines.push(json!({ "step": 9, "val_loss": 2.0 }));
        let page = page_of(&[run("x", lines)], "", false);
        assert!(page.contains("MiB resident by step") && page.contains(">8</text>"), "{page}");
        assert_eq!((page.matches("<polyline").count(), page.matches("<circle").count()), (1, 1));
    }
}
