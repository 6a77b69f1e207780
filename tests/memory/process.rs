//! The process takes what was planned: resident memory stays within 1.15 times the plan plus 40 MiB for code, stacks,
//! the text and the system's own.

use crate::harness::process::Workplace;
use serde_json::Value;

fn lines(place: &Workplace, name: &str) -> Vec<Value> {
    let text = String::from_utf8(place.read(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn resident_memory_keeps_to_the_plan() {
    let place = Workplace::new();
    let medium: &[&str] = &["--set", "model.hidden=256", "--set", "model.intermediate=688", "--set", "train.batch=32"];
    for (run, shape) in [("quickstart", &[][..]), ("medium", medium)] {
        let planned: Value = serde_json::from_str(&place.ok(&[&["plan", "--json"][..], shape].concat())).unwrap();
        let planned = planned["total_bytes"].as_u64().unwrap();
        let dir = format!("run.dir={run}");
        let few = ["train", "--set", "train.steps=3", "--set", "train.sample_tokens=40", "--set", &dir];
        let said = place.ok(&[&few[..], shape].concat());
        let metrics = lines(&place, &format!("{run}/metrics.jsonl"));
        let most = metrics.iter().filter_map(|line| line["rss_bytes"].as_u64()).max().unwrap();
        let bound = planned + planned * 15 / 100 + (40 << 20);
        assert!(most <= bound, "{run}: {most} bytes resident, {planned} planned\n{said}");
        assert!(most >= planned / 2, "{run}: a plan twice as large as what is used promises nothing");
    }
}
