//! Metrics as CSV.

use super::Run;
use crate::cli::Failure;
use serde_json::Value;
use std::collections::BTreeMap;

/// One line for each run and step: what was noted of the step and after it, under the names of `metrics.jsonl`; what a line
/// lacks is empty.
///
/// # Errors
/// Never but of memory.
pub(super) fn csv(runs: &[Run]) -> Result<Vec<u8>, Failure> {
    let mut columns: Vec<&str> = Vec::new();
    for key in runs.iter().flat_map(|run| &run.lines).filter_map(Value::as_object).flat_map(|line| line.keys()) {
        if key != "step" && !columns.contains(&key.as_str()) {
            columns.push(key);
        }
    }
    let mut out = csv::Writer::from_writer(Vec::new());
    out.write_record(["run", "step"].iter().copied().chain(columns.iter().copied()))?;
    for run in runs {
        let mut steps: BTreeMap<u64, BTreeMap<&str, &Value>> = BTreeMap::new();
        for line in run.lines.iter().filter_map(Value::as_object) {
            let Some(step) = line.get("step").and_then(Value::as_u64) else { continue };
            let values = steps.entry(step).or_default();
            values.extend(line.iter().map(|(key, value)| (key.as_str(), value)));
        }
        for (step, values) in steps {
            let cell = |key: &&str| match values.get(key) {
                Some(Value::String(text)) => text.clone(),
                // What JSON has no number for.
                Some(Value::Null) => "nan".into(),
                Some(value) => value.to_string(),
                None => String::new(),
            };
            out.write_record([run.name.clone(), step.to_string()].into_iter().chain(columns.iter().map(cell)))?;
        }
    }
    Ok(out.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_step_is_one_line_whatever_was_noted_of_it() {
        let lines = vec![
            json!({ "step": 1, "loss": 5.5, "lr": 1e-4 }),
            json!({ "step": 2, "loss": 5.25, "lr": null }),
            json!({ "step": 2, "val_loss": 4.5, "event": "a \"b\", c" }),
        ];
        let run = |name: &str| Run { name: name.into(), lines: lines.clone(), ..Run::default() };
        let text = String::from_utf8(csv(&[run("a"), run("b,c")]).unwrap()).unwrap();
        let one = ["1,5.5,0.0001,,", "2,5.25,nan,4.5,\"a \"\"b\"\", c\""];
        let expected = format!(
            "run,step,loss,lr,val_loss,event\na,{}\na,{}\n\"b,c\",{}\n\"b,c\",{}\n",
            one[0], one[1], one[0], one[1]
        );
        let columns = |text: &str| text.lines().next().unwrap().split(',').count();
        assert_eq!(columns(&text), 6);
        // JSON objects may be sorted by name: the lines are compared by column.
        let parsed = |text: &str| {
            let mut reader = csv::Reader::from_reader(text.as_bytes());
            let rows: Vec<BTreeMap<String, String>> = reader.deserialize().map(Result::unwrap).collect();
            rows
        };
        assert_eq!(parsed(&text), parsed(&expected));
    }
}
