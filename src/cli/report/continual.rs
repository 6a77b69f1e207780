//! The matrices of a sequence of tasks as pictures: a cell is greener the more was gained on its task, and redder the more
//! was lost.

use crate::cli::chart::html;
use crate::cli::continual::RESULTS;
use serde_json::Value;
use std::path::Path;

/// The section of a folder that holds the results of `tetrad continual`; nothing of any other.
pub(super) fn section(folder: &Path) -> String {
    let found = std::fs::read(folder.join(RESULTS)).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    found.map_or_else(String::new, |results| of_results(&results))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().map(|x| x.as_f64().unwrap_or(f64::NAN)).collect()
}

fn of_results(results: &Value) -> String {
    let words = |value: &Value| value.as_str().map_or_else(String::new, html);
    let tasks: Vec<String> = results["tasks"].as_array().into_iter().flatten().map(words).collect();
    let base = numbers(&results["base"]);
    let all = results["results"].as_array().into_iter().flatten();
    let matrices: Vec<(&Value, Vec<Vec<f64>>)> =
        all.map(|one| (one, one["matrix"].as_array().into_iter().flatten().map(numbers).collect())).collect();
    let rows = matrices.iter().flat_map(|(_, matrix)| matrix);
    let changes = rows.flat_map(|row| row.iter().zip(&base).map(|(loss, base)| (loss - base).abs()));
    let most = changes.filter(|change| change.is_finite()).fold(f64::MIN_POSITIVE, f64::max);
    let row = |name: &str, losses: &[f64]| {
        let cells: String = losses.iter().zip(&base).map(|(&loss, base)| cell(loss, (loss - base) / most)).collect();
        format!("<tr><td>{name}</td>{cells}</tr>\n")
    };
    let heads: String = tasks.iter().map(|task| format!("<th>{task}</th>")).collect();
    let mut out = String::from("<h2>The loss on each task after each task</h2>\n");
    out += "<p class=\"note\">nats per token; green: below the base, red: above it</p>\n";
    for (one, matrix) in &matrices {
        let mut rows = row("base", &base);
        for (i, losses) in matrix.iter().enumerate() {
            let name = match (matrix.len() == tasks.len(), tasks.get(i)) {
                (true, Some(task)) => format!("after {task}"),
                _ => "after all".into(),
            };
            rows += &row(&name, losses);
        }
        let title = format!("{} {}", words(&one["method"]), words(&one["by"]));
        let measures = ["last", "average", "forgetting", "backward", "forward", "newest"];
        let told = measures.iter().filter_map(|name| Some(format!("{name} {:.4}", one[*name].as_f64()?)));
        let share = one["share_of_joint"].as_f64().map(|share| format!("{:.0} % of joint", 100.0 * share));
        let told: Vec<String> = told.chain(share).collect();
        out += &format!("<h3>{}</h3>\n<p class=\"note\">{}</p>\n", title.trim_end(), told.join(", "));
        out += &format!("<div class=\"wide\"><table><tr><th></th>{heads}</tr>\n{rows}</table></div>\n");
    }
    out
}

/// A loss on the colour of its change, from -1 to 1.
fn cell(loss: f64, change: f64) -> String {
    let colour = if change > 0.0 { "200, 40, 40" } else { "40, 160, 60" };
    let strength = if change.is_finite() { 0.7 * change.abs().min(1.0) } else { 0.0 };
    format!("<td class=\"n\" style=\"background: rgba({colour}, {strength:.3})\">{loss:.4}</td>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_matrix_is_a_table_whose_cells_say_what_was_gained() {
        let results = json!({
            "tasks": ["a", "<b>"], "base": [2.0, 4.0],
            "results": [
                { "method": "ema", "by": "max", "matrix": [[1.0, 4.5], [1.5, 3.0]], "last": 2.25, "share_of_joint": 0.5 },
                { "method": "joint", "by": "", "matrix": [[1.0, 3.0]], "last": 2.0 },
            ],
        });
        let page = of_results(&results);
        assert!(page.contains("<h3>ema max</h3>") && page.contains("last 2.2500, 50 % of joint"), "{page}");
        assert!(page.contains("<td>after &lt;b&gt;</td>") && page.contains("<td>after all</td>"));
        assert!(
            page.contains("rgba(40, 160, 60, 0.700)\">1.0000") && page.contains("rgba(200, 40, 40, 0.350)\">4.5000")
        );
        assert!(!of_results(&json!({ "tasks": 3 })).contains("<table>"), "anything may be in a file");
    }
}
