//! What the runs of a page were: program, text and configuration; and the texts that they wrote on the way.

use super::Run;
use crate::cli::chart::html;
use crate::cli::units::grouped;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tetrad::checkpoint::{ADAPTER, Checkpoint, MODEL, latest};

/// Samples of a run that are shown, the newest.
const SAMPLES: usize = 20;

/// What the newest file of a run says of its origin.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    /// The program that wrote it, with its version.
    program: String,
    /// Fingerprint of the training tokens.
    data: String,
}

impl Written {
    /// Nothing is told of a run whose files are gone or damaged: its curves do not need them.
    pub fn of(dir: &Path) -> Self {
        let finished = [MODEL, ADAPTER].map(|name| dir.join(name)).into_iter().find(|path| path.is_file());
        let file = latest(dir).ok().flatten().or(finished);
        let meta = file.and_then(|path| Checkpoint::open(&path).ok()).map(|file| file.meta.clone());
        meta.map_or_else(Self::default, |meta| Self { program: meta.tool, data: meta.data })
    }
}

/// A table of what the runs were, and in what their configurations differ; all keys of each behind a click.
pub(super) fn configuration(runs: &[Run]) -> String {
    let row = |name: &str, cells: Vec<&str>| {
        let cells: String = cells.into_iter().map(|cell| format!("<td>{}</td>", html(cell))).collect();
        format!("<tr><td>{}</td>{cells}</tr>\n", html(name))
    };
    let heads: String = runs.iter().map(|run| format!("<th>{}</th>", html(&run.name))).collect();
    let mut table = format!("<tr><th></th>{heads}</tr>\n");
    table += &row("program", runs.iter().map(|run| run.written.program.as_str()).collect());
    table += &row("fingerprint of the text", runs.iter().map(|run| run.written.data.as_str()).collect());
    for key in differing(&runs.iter().map(|run| &run.keys).collect::<Vec<_>>()) {
        table += &row(key, runs.iter().map(|run| run.keys.get(key).map_or("", String::as_str)).collect());
    }
    let mut text = format!("<h2>Configuration</h2>\n<div class=\"wide\"><table>{table}</table></div>\n");
    for run in runs.iter().filter(|run| !run.keys.is_empty()) {
        let keys: String = run.keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        text += &format!(
            "<details><summary>all keys of {}</summary><pre>{}</pre></details>\n",
            html(&run.name),
            html(&keys)
        );
    }
    text
}

/// Keys in which configurations differ, but for where a run is kept.
fn differing<'a>(runs: &[&'a BTreeMap<String, String>]) -> Vec<&'a str> {
    let keys: BTreeSet<&str> = runs.iter().flat_map(|keys| keys.keys()).map(String::as_str).collect();
    let differs = |key: &&str| *key != "run.dir" && runs.iter().any(|run| run.get(*key) != runs[0].get(*key));
    keys.into_iter().filter(differs).collect()
}

/// What the models wrote during training, the newest text of each run in the open; nothing if none wrote any.
pub(super) fn samples(runs: &[Run]) -> String {
    let mut text = String::new();
    for run in runs {
        let shown = |line: &Value| {
            let (step, sample) = (line["step"].as_u64()?, line["sample"].as_str()?);
            let asked = line["asked"].as_str().map_or_else(String::new, |asked| format!(", asked \"{asked}\""));
            let head = format!("{}, step {}{asked}", run.name, grouped(step));
            Some(format!("<p class=\"note\">{}</p><pre>{}</pre>\n", html(&head), html(sample)))
        };
        let mut all = run.lines.iter().rev().filter_map(shown).take(SAMPLES);
        let Some(last) = all.next() else { continue };
        text += &last;
        let earlier: Vec<String> = all.collect();
        if !earlier.is_empty() {
            text += &format!("<details><summary>earlier</summary>{}</details>\n", earlier.concat());
        }
    }
    if text.is_empty() { text } else { format!("<h2>Samples</h2>\n{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_newest_sample_is_in_the_open_and_keys_that_differ_are_in_the_table() {
        let keys = |lr: &str| BTreeMap::from([("optimizer.lr".into(), lr.into()), ("run.seed".into(), "1".into())]);
        let lines = vec![
            json!({ "step": 5, "sample": "<first>" }),
            json!({ "step": 9, "sample": "second", "asked": "why?" }),
            json!({ "step": 10, "loss": 2.0 }),
        ];
        let written = Written { program: "tetrad 0.1.0".into(), data: "ab12".into() };
        let run = |name: &str, lr: &str, lines: &[Value]| Run {
            name: name.into(),
            keys: keys(lr),
            lines: lines.to_vec(),
            written: written.clone(),
            ..Run::default()
        };
        let runs = [run("a", "0.1", &lines), run("b", "0.2", &[])];
        let told = configuration(&runs);
        assert!(
            told.contains("<td>optimizer.lr</td><td>0.1</td><td>0.2</td>") && told.contains("<td>ab12</td>"),
            "{told}"
        );
        assert!(!told.contains("<td>run.seed</td>") && told.contains("run.seed = 1\n"), "{told}");
        let told = samples(&runs);
        let (open, hidden) = told.split_once("<details>").unwrap();
        assert!(open.contains("a, step 9, asked &quot;why?&quot;</p><pre>second</pre>"), "{told}");
        assert!(hidden.contains("a, step 5</p><pre>&lt;first&gt;</pre>"), "{told}");
        assert_eq!(samples(&runs[1..]), "");
    }
}
