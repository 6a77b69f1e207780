//! `tetrad report`.

mod chart;

use super::CliResult;
use super::output::{escape, print};
use chart::{Series, chart};
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
const CHARTS: [(&str, &str, &[&str], bool); 5] = [
    ("Loss", "nats per token", &["loss", "val_loss"], false),
    ("Gradient norm", "", &["grad_norm"], true),
    ("Learning rate", "", &["lr"], false),
    ("Speed", "tokens per second", &["tokens_per_s"], false),
    ("Groups with a new scale", "per step", &["refits"], false),
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
    let html = page(&args.run.to_string_lossy(), &lines)
        .ok_or_else(|| format!("{shown}: holds no step yet; the run has not begun"))?;
    let output = args.output.unwrap_or_else(|| args.run.join("report.html"));
    publish(&output, |out| out.write_all(html.as_bytes()))
        .map_err(|e| format!("{}: cannot be written: {e}", escape(&output.to_string_lossy())))?;
    print(|out| writeln!(out, "{}: {} lines of metrics", escape(&output.to_string_lossy()), lines.len()))?;
    Ok(ExitCode::SUCCESS)
}

/// The whole page; nothing without a step.
fn page(run: &str, lines: &[Value]) -> Option<String> {
    let last = lines.iter().filter_map(|line| line["step"].as_u64()).max()?;
    let mut body = String::new();
    for (title, unit, metrics, logarithmic) in CHARTS {
        let series: Vec<Series> = metrics.iter().map(|&metric| Series::of(metric, lines)).collect();
        if let Some(svg) = chart(&series, logarithmic) {
            let unit = if unit.is_empty() { String::new() } else { format!(" <small>{unit}</small>") };
            body += &format!("<h2>{title}{unit}</h2>\n{svg}\n");
        }
    }
    let name = html(run);
    Some(format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{name}</title>\n<style>{STYLE}</style>\n\
         <h1>{name}</h1>\n<p>{last} steps</p>\n{body}</html>\n"
    ))
}

const STYLE: &str = "body{font:14px system-ui,sans-serif;max-width:860px;margin:2em auto;color:#222}\
    h2{font-size:1em;margin:1.5em 0 .3em}small{color:#777;font-weight:normal}svg{width:100%;height:auto}\
    .grid{stroke:#ddd}.axis{fill:#666;font-size:11px}polyline{fill:none;stroke-width:1.4}\
    .s0{stroke:#36c}.s1{stroke:#c33;stroke-width:2}.k0{fill:#36c}.k1{fill:#c33}";

/// Text inside HTML.
fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_holds_the_curves_it_has_numbers_for() {
        let lines: Vec<_> = (1..=50).map(|s| json!({ "step": s, "loss": 5.0 / f64::from(s), "lr": 0.1 })).collect();
        let page = page("runs/<b>", &lines).unwrap();
        assert!(page.contains("runs/&lt;b&gt;") && page.contains("50 steps"));
        assert_eq!(page.matches("<polyline").count(), 2, "loss and learning rate, and no chart without numbers");
        assert!(!page.contains("NaN") && !page.contains("inf"));
        assert!(!page.contains("http"), "nothing is fetched");
    }

    #[test]
    fn a_run_without_steps_has_no_page() {
        assert_eq!(page("x", &[]), None);
        assert_eq!(page("x", &[json!({ "loss": 1.0 })]), None);
    }
}
