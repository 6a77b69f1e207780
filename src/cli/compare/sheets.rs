//! The tables of a comparison, as Markdown and as HTML.

use super::analysis::{Analysis, Group, Outcome, rate, signed};
use super::stats::{Interval, deviation, mean};
use crate::cli::chart::html;
use crate::cli::number::short;
use crate::cli::output::harmless;
use crate::cli::units::duration;
use std::collections::BTreeSet;
use std::time::Duration;

/// A table with its title and what has to be known to read it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sheet {
    pub title: String,
    pub note: String,
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Sheet {
    fn new(title: &str, note: impl Into<String>, head: &[&str]) -> Self {
        let head = head.iter().map(ToString::to_string).collect();
        Self { title: title.into(), note: note.into(), head, rows: Vec::new() }
    }

    /// As Markdown; nothing without a row.
    pub(super) fn markdown(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| harmless(cell).replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule = format!("|{}\n", " --- |".repeat(self.head.len()));
        let note = if self.note.is_empty() { String::new() } else { format!("{}\n\n", self.note) };
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("## {}\n\n{note}{}{rule}{rows}\n", self.title, line(&self.head))
    }

    /// As HTML; nothing without a row.
    pub(super) fn html(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let class = |text: &str| {
            let number = text.starts_with(|c: char| c.is_ascii_digit() || "+-".contains(c)) && !text.contains(' ');
            if number { " class=\"n\"" } else { "" }
        };
        let cell = |text: &String| format!("<td{}>{}</td>", class(text), html(text));
        let head = self.head.iter().zip(&self.rows[0]);
        let head: String = head.map(|(word, first)| format!("<th{}>{}</th>", class(first), html(word))).collect();
        let row = |row: &Vec<String>| format!("<tr>{}</tr>\n", row.iter().map(cell).collect::<String>());
        let rows: String = self.rows.iter().map(row).collect();
        let note =
            if self.note.is_empty() { String::new() } else { format!("<p class=\"note\">{}</p>\n", html(&self.note)) };
        format!(
            "<h2>{}</h2>\n{note}<div class=\"wide\"><table><tr>{head}</tr>\n{rows}</table></div>\n",
            html(&self.title)
        )
    }
}

/// All tables.
pub(super) fn sheets(analysis: &Analysis) -> Vec<Sheet> {
    vec![
        arms(analysis),
        warnings(analysis),
        differences(analysis),
        other_differences(analysis),
        rates(analysis),
        scores(analysis),
        audits(analysis),
        notes(analysis),
    ]
}

fn or_dash(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".into())
}

fn loss(x: f64) -> String {
    format!("{x:.4}")
}

/// Values with their seeds: `1.2568 (1), 1.2701 (2)`.
fn by_seed(values: impl Iterator<Item = (u64, String)>) -> String {
    values.map(|(seed, value)| format!("{value} ({seed})")).collect::<Vec<_>>().join(", ")
}

fn arms(analysis: &Analysis) -> Sheet {
    let target = analysis.target.map_or_else(|| "the target".into(), loss);
    let note = format!(
        "Each arm at its best learning rate. Loss: nats per token of the validation text after the last step. Steps to \
         {target}: the first validated step at or below it."
    );
    let head = [
        "arm",
        "rate",
        "runs",
        "mean loss",
        "sd",
        "lowest",
        "highest",
        "bits per byte",
        "bytes per weight",
        "tokens per parameter",
        "time per run",
        "steps to target",
    ];
    let mut sheet = Sheet::new("Arms", note, &head);
    for group in &analysis.groups {
        let best = group.best();
        let losses = best.losses();
        let records = || best.runs.iter().map(|run| &run.record);
        let bits: Vec<f64> = records().filter_map(|record| record.bits_per_byte).collect();
        let seconds: Vec<f64> = records().map(|record| record.seconds).collect();
        let first = records().next().expect("a rate has a run");
        sheet.rows.push(vec![
            group.name(),
            format!("{}{}", rate(best.lr), if group.at_an_end { " (end of its range)" } else { "" }),
            losses.len().to_string(),
            loss(best.mean),
            or_dash(deviation(&losses).map(loss)),
            loss(losses.iter().copied().fold(f64::MAX, f64::min)),
            loss(losses.iter().copied().fold(f64::MIN, f64::max)),
            or_dash((!bits.is_empty()).then(|| loss(mean(&bits)))),
            or_dash(first.facts.bytes_per_weight.map(|bytes| format!("{bytes:.2}"))),
            or_dash(first.facts.tokens_per_parameter().map(|tokens| format!("{tokens:.1}"))),
            duration(Duration::from_secs_f64(mean(&seconds))),
            steps_to_target(&best.runs),
        ]);
    }
    sheet
}

/// The mean of the steps, where every run reached the target.
fn steps_to_target(runs: &[Outcome]) -> String {
    let reached: Vec<f64> = runs.iter().filter_map(|run| run.steps_to_target).map(|step| step as f64).collect();
    match reached.len() {
        0 => "none reached it".into(),
        n if n == runs.len() => format!("{:.0}", mean(&reached)),
        n => format!("{n} of {} reached it", runs.len()),
    }
}

fn differences(analysis: &Analysis) -> Sheet {
    let note = "Loss of the arm less that of the other, seed by seed, each at its own best rate; below 0 the arm is better. \
                Intervals are Student's t at 95 %; the bounds are one-sided.";
    let mut sheet = Sheet::new("Paired differences", note, &[&["arm", "less"][..], &DIFFERENCE].concat());
    for pair in &analysis.pairs {
        let cells = difference(&pair.differences, pair.interval);
        sheet.rows.push([pair.name(), pair.to.clone()].into_iter().chain(cells).collect());
    }
    sheet
}

/// The same of what no rate was chosen by.
fn other_differences(analysis: &Analysis) -> Sheet {
    let note = "Of the same runs, by losses that no rate was chosen by: the mean training loss of the last tenth of the steps, of \
                text that pairs of one length read in the same order, and the losses on other texts.";
    let head = [&["arm", "less", "loss"][..], &DIFFERENCE].concat();
    let mut sheet = Sheet::new("Paired differences in other losses", note, &head);
    for (pair, other) in analysis.pairs.iter().flat_map(|pair| pair.others.iter().map(move |other| (pair, other))) {
        let cells = difference(&other.differences, other.interval);
        sheet.rows.push([pair.name(), pair.to.clone(), other.loss.clone()].into_iter().chain(cells).collect());
    }
    sheet
}

/// What [`difference`] gives.
const DIFFERENCE: [&str; 6] = ["pairs", "mean", "95 % interval", "upper bound", "lower bound", "by seed"];

fn difference(differences: &[(u64, f64)], interval: Option<Interval>) -> [String; 6] {
    let values: Vec<f64> = differences.iter().map(|(_, difference)| *difference).collect();
    let of = |value: Option<f64>| or_dash(value.map(signed));
    [
        values.len().to_string(),
        of((!values.is_empty()).then(|| mean(&values))),
        or_dash(interval.map(|i| format!("{} to {}", signed(i.low), signed(i.high)))),
        of(interval.map(|i| i.upper)),
        of(interval.map(|i| i.lower)),
        by_seed(differences.iter().map(|(seed, difference)| (*seed, signed(*difference)))),
    ]
}

fn rates(analysis: &Analysis) -> Sheet {
    let mut sheet = Sheet::new("Final loss by learning rate", "", &["arm", "rate", "mean loss", "by seed"]);
    for group in &analysis.groups {
        for one in &group.rates {
            let seeds = one.runs.iter().map(|run| (run.seed, loss(run.loss)));
            sheet.rows.push(vec![group.name(), rate(one.lr), loss(one.mean), by_seed(seeds)]);
        }
    }
    sheet
}

fn scores(analysis: &Analysis) -> Sheet {
    let head = ["arm", "text", "mean loss", "bits per byte", "by seed"];
    let note = "The finished weights of each arm at its best rate, on texts that no choice was made by.";
    let mut sheet = Sheet::new("Other texts", note, &head);
    let best = || analysis.groups.iter().flat_map(|group| group.best().runs.iter().map(move |run| (group, run)));
    let texts: BTreeSet<&String> = best().flat_map(|(_, run)| run.record.scores.keys()).collect();
    for text in texts {
        for group in &analysis.groups {
            let found = group.best().runs.iter().filter_map(|run| Some((run.seed, run.record.scores.get(text)?)));
            let found: Vec<_> = found.collect();
            let losses: Vec<f64> = found.iter().map(|(_, score)| score.loss).collect();
            let bits: Vec<f64> = found.iter().filter_map(|(_, score)| score.bits_per_byte).collect();
            if !losses.is_empty() {
                let seeds = by_seed(found.iter().map(|(seed, score)| (*seed, loss(score.loss))));
                let bits = or_dash((!bits.is_empty()).then(|| loss(mean(&bits))));
                sheet.rows.push(vec![group.name(), text.clone(), loss(mean(&losses)), bits, seeds]);
            }
        }
    }
    sheet
}

fn audits(analysis: &Analysis) -> Sheet {
    const COLUMNS: [(&str, &str); 8] = [
        ("bytes moved", "moved_bytes"),
        ("codes moved", "moved_codes"),
        ("moves undone", "reversed_moves"),
        ("updates without effect", "unmoved_updates"),
        ("groups rescaled up", "rescaled_up"),
        ("down", "rescaled_down"),
        ("codes at an end", "saturated_codes"),
        ("median scale against its start", "scale_against_start"),
    ];
    let head: Vec<&str> = ["arm"].into_iter().chain(COLUMNS.map(|(word, _)| word)).collect();
    let note = "Means over the audits of the last tenth of the steps and over the seeds at the best rate, as shares of a \
                sample of the blocks' weights.";
    let mut sheet = Sheet::new("Audit", note, &head);
    let value = |group: &Group, key: &str| {
        let found = group.best().runs.iter().filter_map(|run| run.record.audit.get(key).copied());
        let found: Vec<f64> = found.collect();
        or_dash((!found.is_empty()).then(|| short(mean(&found))))
    };
    for group in analysis.groups.iter().filter(|group| group.best().runs.iter().any(|run| !run.record.audit.is_empty()))
    {
        let values = COLUMNS.iter().map(|(_, key)| value(group, key));
        sheet.rows.push([group.name()].into_iter().chain(values).collect());
    }
    sheet
}

fn warnings(analysis: &Analysis) -> Sheet {
    let mut sheet = Sheet::new("Warning", "", &["what the losses do not show"]);
    sheet.rows = analysis.warnings.iter().map(|warning| vec![warning.clone()]).collect();
    sheet
}

fn notes(analysis: &Analysis) -> Sheet {
    let mut sheet = Sheet::new("Left out", "", &["run and reason"]);
    sheet.rows = analysis.notes.iter().map(|note| vec![note.clone()]).collect();
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_text_in_either_language() {
        let mut sheet = Sheet::new("A <b>", "note", &["x", "y"]);
        assert_eq!((sheet.markdown(), sheet.html()), (String::new(), String::new()));
        sheet.rows.push(vec!["a|b".into(), "+0.5".into()]);
        assert_eq!(sheet.markdown(), "## A <b>\n\nnote\n\n| x | y |\n| --- | --- |\n| a\\|b | +0.5 |\n\n");
        let html = sheet.html();
        assert!(
            html.contains("<h2>A &lt;b&gt;</h2>") && html.contains("<td>a|b</td><td class=\"n\">+0.5</td>"),
            "{html}"
        );
    }
}
