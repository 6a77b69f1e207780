//! `tetrad report`.

use super::CliResult;
use super::chart::{Chart, Mark, Series, page, thinned};
use super::output::{escape, print};
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;
use tetrad::store::publish;

/// Write the curves of a run as one self-contained HTML page.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folder of the run: its `metrics.jsonl` is read.
    run: PathBuf,
    /// The page to write [default: RUN/report.html].
    #[arg(short, long)]
    output: Option<PathBuf>,
}

/// Titles, what the axis counts, the metrics drawn in one chart, and whether the axis is logarithmic.
type Drawn = (&'static str, &'static str, &'static [&'static str], bool);

const CHARTS: [Drawn; 11] = [
    ("Loss", "nats per token", &["loss", "val_loss"], false),
    ("Gradient norm", "", &["grad_norm"], true),
    ("Learning rate", "", &["lr"], false),
    ("Speed", "tokens per second", &["tokens_per_s"], false),
    ("Groups with a new scale", "per step", &["refits"], false),
    ("Weights that a step moves", "share of a sample", &["moved_bytes", "moved_codes"], true),
    ("Codes that are not those of the start", "share of a sample", &["changed_codes"], false),
    ("Updates that change no weight", "share of a sample", &["unmoved_updates"], false),
    ("Moves of codes that undo the last", "share of the moves", &["reversed_moves"], false),
    ("Groups rescaled since the last audit", "share of a sample", &["rescaled_up", "rescaled_down"], false),
    ("Codes at an end of their range", "share of a sample", &["saturated_codes"], false),
];

/// Runs `tetrad report`.
///
/// # Errors
/// If there are no metrics or the page cannot be written.
pub fn run(args: Args) -> CliResult {
    let source = args.run.join("metrics.jsonl");
    let shown = escape(&source.to_string_lossy());
    let text = std::fs::read_to_string(&source)
        .map_err(|e| format!("{shown}: cannot be read: {e}; name the folder of a run (run.dir)"))?;
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let html = report(&args.run.to_string_lossy(), &lines)
        .ok_or_else(|| format!("{shown}: holds no step yet; the run has not begun"))?;
    let output = args.output.unwrap_or_else(|| args.run.join("report.html"));
    publish(&output, |out| out.write_all(html.as_bytes()))
        .map_err(|e| format!("{}: cannot be written: {e}", escape(&output.to_string_lossy())))?;
    print(|out| writeln!(out, "{}: {} lines of metrics", escape(&output.to_string_lossy()), lines.len()))?;
    Ok(ExitCode::SUCCESS)
}

/// The whole page; nothing without a step.
fn report(run: &str, lines: &[Value]) -> Option<String> {
    let last = lines.iter().filter_map(|line| line["step"].as_u64()).max()?;
    let mut body = format!("<p>{last} steps</p>\n");
    for (title, unit, metrics, log_y) in CHARTS {
        let series = metrics.iter().enumerate().map(|(i, &metric)| series(metric, i, curve(metric, lines)));
        let (title, unit, names) = (title.into(), unit.into(), metrics.len() > 1);
        let chart = Chart { title, unit, log_y, series: series.collect(), names, ..Chart::default() };
        body += &chart.html().unwrap_or_default();
    }
    let mut scales = curve("median_scale", lines);
    if let Some(&(_, first)) = scales.first() {
        scales.iter_mut().for_each(|(_, scale)| *scale /= first);
        let series = vec![series("median scale", 0, scales)];
        let (title, unit) = ("Median scale of the groups".into(), "against the first audit".into());
        body += &Chart { title, unit, series, ..Chart::default() }.html().unwrap_or_default();
    }
    Some(page(run, &body))
}

/// The finite values of a metric.
fn curve(metric: &str, lines: &[Value]) -> Vec<(f64, f64)> {
    let points = lines.iter().filter_map(|line| Some((line["step"].as_f64()?, line[metric].as_f64()?)));
    points.filter(|(_, y)| y.is_finite()).collect()
}

fn series(name: &str, colour: usize, points: Vec<(f64, f64)>) -> Series {
    Series { name: name.into(), points: thinned(points), colour, mark: Mark::Line }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_holds_the_curves_it_has_numbers_for() {
        let lines: Vec<_> = (1..=50).map(|s| json!({ "step": s, "loss": 5.0 / f64::from(s), "lr": 0.1 })).collect();
        let page = report("runs/<b>", &lines).unwrap();
        assert!(page.contains("runs/&lt;b&gt;") && page.contains("50 steps"));
        assert_eq!(page.matches("<polyline").count(), 2, "loss and learning rate, and no chart without numbers");
        assert!(!page.contains("NaN") && !page.contains("inf"));
        assert!(!page.contains("http"), "nothing is fetched");
    }

    #[test]
    fn scales_are_drawn_against_the_first() {
        let lines: Vec<_> = (1..=9).map(|s| json!({ "step": s, "median_scale": 0.01 * f64::from(s) })).collect();
        let page = report("x", &lines).unwrap();
        assert!(page.contains("Median scale") && page.contains(">8</text>") && !page.contains("0.01"), "{page}");
    }

    #[test]
    fn a_run_without_steps_has_no_page() {
        assert_eq!(report("x", &[]), None);
        assert_eq!(report("x", &[json!({ "loss": 1.0 })]), None);
    }
}
