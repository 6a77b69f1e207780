//! The process takes what was planned: resident memory grows with the plan and nothing else, and stays within 1.15 times
//! the plan plus 40 MiB for code, stacks, the text and the system's own.

use crate::harness::process::Workplace;
use serde_json::Value;

fn lines(place: &Workplace, name: &str) -> Vec<Value> {
    let text = String::from_utf8(place.read(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Bytes that a run of this shape plans, and that are resident at most.
fn planned_and_resident(place: &Workplace, run: &str, shape: &[&str]) -> (u64, u64) {
    let planned: Value = serde_json::from_str(&place.ok(&[&["plan", "--json"][..], shape].concat())).unwrap();
    let dir = format!("run.dir={run}");
    let few = ["train", "--set", "train.steps=3", "--set", "train.sample_tokens=40", "--set", &dir];
    place.ok(&[&few[..], shape].concat());
    let metrics = lines(place, &format!("{run}/metrics.jsonl"));
    let resident = metrics.iter().filter_map(|line| line["rss_bytes"].as_u64()).max().unwrap();
    (planned["total_bytes"].as_u64().unwrap(), resident)
}

#[test]
fn resident_memory_keeps_to_the_plan() {
    let place = Workplace::new();
    let medium: &[&str] = &["--set", "model.hidden=256", "--set", "model.intermediate=688", "--set", "train.batch=32"];
    let runs = [("quickstart", &[][..]), ("medium", medium)].map(|(run, shape)| {
        let (planned, resident) = planned_and_resident(&place, run, shape);
        let bound = planned + planned * 15 / 100 + (40 << 20);
        assert!(resident <= bound, "{run}: {resident} bytes resident, {planned} planned");
        assert!(resident >= planned / 2, "{run}: {planned} planned, only {resident} resident");
        (planned, resident)
    });
    // What code, threads and the allocator take is the same in both; whatever grows with the model must be planned.
    let [(small, small_resident), (large, large_resident)] = runs;
    let (planned, resident) = (large - small, large_resident.saturating_sub(small_resident));
    assert!(resident <= planned + planned / 20, "{resident} bytes more are resident, {planned} more are planned");
}
