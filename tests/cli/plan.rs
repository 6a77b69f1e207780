//! `plan`: the memory of a run, without taking it.

use super::{json, train, workplace};
use serde_json::Value;
use tetrad::config::PRESETS;

const CATEGORIES: [&str; 6] = ["weights", "residue", "state", "gradient", "activations", "scratch"];

fn bytes(plan: &Value, category: &str) -> u64 {
    plan["categories"][category].as_u64().unwrap()
}

#[test]
fn the_totals_are_those_that_training_prints() {
    let place = workplace();
    let said = train(&place, &["--set", "train.steps=20"]);
    let memory = said.lines().find_map(|line| line.strip_prefix("memory   ")).unwrap();
    let (parts, total) = memory.split_once("; planned ").unwrap();
    let parts: Vec<&str> = parts.split(", ").collect();
    let table = place.ok(&["plan", "tiny.toml"]);
    let (_, sums) = table.rsplit_once("\n\n").unwrap();
    for (category, part) in CATEGORIES.iter().zip(parts) {
        let size = part.strip_prefix(category).unwrap().trim();
        let row = sums.lines().find(|line| line.starts_with(category)).unwrap();
        assert!(row.contains(&format!("  {size}  ")), "training says {part}, the plan {row}");
    }
    let planned = sums.lines().find(|line| line.starts_with("planned")).unwrap();
    assert!(planned.ends_with(total.strip_suffix(" in all").unwrap()), "{planned}, but {total}");
}

#[test]
fn every_preset_is_planned_without_its_memory() {
    let place = workplace();
    for preset in PRESETS {
        // One GiB of address space, of which the larger presets would need several times as much.
        let program = env!("CARGO_BIN_EXE_tetrad");
        let script = format!("ulimit -v 1048576; exec {program} plan {preset} --json --set run.threads=2");
        let output = std::process::Command::new("sh").args(["-c", &script]).current_dir(place.path("")).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{preset}: {}", String::from_utf8_lossy(&output.stderr));
        let plan = json(&String::from_utf8(output.stdout).unwrap());
        let total = plan["total_bytes"].as_u64().unwrap();
        let of_items = |category: &str| -> u64 {
            let items = plan["items"].as_array().unwrap().iter();
            items.filter(|item| item["category"] == category).map(|item| item["bytes"].as_u64().unwrap()).sum()
        };
        for category in CATEGORIES {
            // What is there for the whole run is there at once; of the others each exists at some time.
            let (most, all) = (bytes(&plan, category), of_items(category));
            assert!(most <= all && (all == most || !CATEGORIES[..3].contains(&category)), "{preset}: {category}");
        }
        let kept: u64 = CATEGORIES[..3].iter().map(|category| bytes(&plan, category)).sum();
        let all: u64 = CATEGORIES.iter().map(|category| bytes(&plan, category)).sum();
        // Each of the kept planes begins at a multiple of 64 bytes.
        assert!(kept + bytes(&plan, "gradient") < total && total < all + all / 50, "{preset}: {plan}");
    }
    assert!(
        std::fs::read_dir(place.path("")).unwrap().all(|entry| entry.unwrap().path().is_file()),
        "a folder was made"
    );
}

/// Counted by hand: nibbles and one f16 a group of 64 for the seven matrices of 32 blocks, bf16 tables, f32 norms.
#[test]
fn seven_billion_parameters_take_what_was_counted() {
    let place = workplace();
    let plan = json(&place.ok(&["plan", "7b", "--json"]));
    let (matrices, tables, norms) = (32 * (4 * 4096 * 4096 + 3 * 4096 * 11008u64), 2 * 32_000 * 4096u64, 65 * 4096u64);
    assert_eq!(plan["parameters"].as_u64(), Some(matrices + tables + norms));
    let packed = |elements: u64| elements / 2 + elements / 64 * 2;
    assert_eq!(bytes(&plan, "weights"), packed(matrices) + 2 * tables + 4 * norms);
    assert_eq!(bytes(&plan, "residue"), matrices / 2);
    // 32 blocks of 9 tensors, two tables, the last norm: eight float32 scalars each.
    let scalars = (32 * 9 + 3) * 8 * 4;
    assert_eq!(bytes(&plan, "state"), 2 * packed(matrices + tables) + 2 * 4 * norms + scalars);
    // One matrix gradient: the largest is a table's.
    assert_eq!(bytes(&plan, "gradient"), 4 * tables / 2 + 4 * 4096);
}

/// One m code a weight, and one float32 per row and per column of each matrix and table in place of v's codes.
#[test]
fn a_compact_state_is_counted_to_the_byte() {
    let place = workplace();
    let plan = json(&place.ok(&["plan", "7b-compact", "--json"]));
    let (matrices, tables, norms) = (32 * (4 * 4096 * 4096 + 3 * 4096 * 11008u64), 2 * 32_000 * 4096u64, 65 * 4096u64);
    let m = (matrices + tables) / 2 + (matrices + tables) / 64 * 2;
    let sides = 32 * (4 * (4096 + 4096) + 3 * (4096 + 11008)) + 2 * (32_000 + 4096);
    assert_eq!(bytes(&plan, "state"), m + 4 * sides + 2 * 4 * norms + (32 * 9 + 3) * 8 * 4);
    let rows = json(&place.ok(&["plan", "7b", "--json", "--set", "storage.v=row"]));
    let sides = 32 * (5 * 4096 + 2 * 11008) + 2 * 32_000;
    assert_eq!(bytes(&rows, "state"), m + 4 * sides + 2 * 4 * norms + (32 * 9 + 3) * 8 * 4);
}

#[test]
fn the_lines_that_matter_come_first_and_do_not_contradict_each_other() {
    let place = workplace();
    // Parameters leave the device, and so the largest batch is one with parameters elsewhere.
    let said = place.ok(&["plan", "7b-compact", "--device", "cuda", "--budget", "8GiB"]);
    let lines: Vec<&str> = said.lines().take(3).collect();
    assert!(lines[0].starts_with("planned: ") && lines[0].contains("for steps of 16 x 256 tokens"), "{said}");
    assert!(lines[1].starts_with("chosen:  ") && lines[1].contains("offload."), "{said}");
    let largest = lines[2].strip_prefix("largest train.batch within 8.00 GiB").unwrap();
    assert!(largest.contains("with block (offload."), "{said}");
    let batch: usize = largest.rsplit_once(" with block (").unwrap().0.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(batch >= 16, "what was chosen has 16 rows: {said}");
    let json = json(&place.ok(&["plan", "7b-compact", "--device", "cuda", "--budget", "8GiB", "--json"]));
    assert_eq!((json["fits"].as_bool(), json["largest_batch"]["block"].as_u64()), (Some(true), Some(batch as u64)));
    // What does not fit says so, and no batch does.
    let said = place.ok(&["plan", "7b", "--device", "cpu", "--budget", "10MB"]);
    assert!(
        said.contains("too much: ") && said.contains("none with none, none with block, none with block-int4"),
        "{said}"
    );
}

#[test]
fn a_fine_tuning_is_planned_by_its_model() {
    let place = workplace();
    train(&place, &["--set", "train.steps=20"]);
    let said = place.ok(&["plan", "--from", "run/model.tetrad"]);
    assert!(said.lines().nth(1).unwrap().starts_with("assumed: 16 x 64 tokens"), "{said}");
    // The same that the run says in its header, whose steps are known there.
    let told = |said: &str, begin: &str| {
        let line =
            said.lines().find_map(|line| line.strip_prefix(begin)).unwrap_or_else(|| panic!("no {begin:?} in {said}"));
        line.trim().split(';').next().unwrap().to_owned()
    };
    let tuned = ["--from", "run/model.tetrad", "--steps", "3", "--set", "train.sequence=32", "--batch", "4"];
    let header = place.ok(&[&["train", "--data", "train.txt", "--set", "run.dir=tuned"], &tuned[..]].concat());
    let (planned, trained) = (told(&place.ok(&[&["plan"], &tuned[..]].concat()), "codes:"), told(&header, "codes "));
    let distance = |line: &str| line.split(' ').next().unwrap().parse::<f64>().unwrap();
    let ratio = distance(&planned) / distance(&trained);
    assert!((0.8..1.25).contains(&ratio), "two samples of groups: {planned}, {trained}");
    assert!(!place.ok(&["plan", "--from", "run", "--set", "storage.weights=int8"]).contains("codes:"), "rounded anew");
    let planned = |args: &[&str]| json(&place.ok(&[&["plan", "--json"], args].concat()))["total_bytes"].clone();
    let own = planned(&["--from", "run/model.tetrad", "--set", "train.batch=4", "--set", "train.sequence=32"]);
    assert_eq!(own, planned(&["tiny.toml"]), "the model's shape and storage");
    assert!(place.fails(&["plan", "--from", "none.tetrad"]).contains("none.tetrad: no such file"));
}

#[test]
fn a_plan_takes_the_options_of_the_run_it_is_of() {
    let place = workplace();
    train(&place, &["--set", "train.steps=20"]);
    let planned = |args: &[&str]| json(&place.ok(&[&["plan", "--json"], args].concat()));
    assert_eq!(planned(&["run"])["total_bytes"], planned(&["tiny.toml"])["total_bytes"], "a run's folder");
    let shape = ["--from", "run", "--data", "tiny.toml", "--batch", "4", "--set", "train.sequence=32", "--lr", "1e-3"];
    let whole = planned(&shape);
    let adapter = planned(&[&shape[..], &["--adapter", "lora"]].concat());
    assert!(bytes(&adapter, "residue") == 0 && bytes(&adapter, "state") < bytes(&whole, "state"), "{adapter}");
    let by_key = planned(&[&shape[..], &["--set", "adapter.kind=lora"]].concat());
    assert_eq!(adapter["items"], by_key["items"]);
}

#[test]
fn sizes_beyond_any_machine_are_refused_instead_of_overflowing() {
    let place = workplace();
    let refused = |sets: &[&str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        place.fails(&[&["plan"], &sets[..]].concat())
    };
    insta::assert_snapshot!(refused(&["model.layers=2000"]), @"tetrad: model.layers = 2000 (--set): must be 1 to 1024");
    insta::assert_snapshot!(refused(&["model.hidden=16777216", "model.intermediate=16777216"]), @"tetrad: model.hidden = 16777216 (--set): makes 7881308088827904 parameters, at most 70368744177664 are possible");
    insta::assert_snapshot!(refused(&["train.batch=1048576", "train.sequence=16777216", "model.context=16777216"]), @"tetrad: train.batch = 1048576 (--set): makes 24206847997116416 activations of a kind with train.sequence = 16777216 and this model, at most 70368744177664 are possible");
    // The most that is allowed is still planned in a moment.
    place.ok(&["plan", "--json", "--set", "model.layers=1024"]);
}

#[test]
fn a_plan_for_ranks_says_what_each_holds_and_sends() {
    let place = workplace();
    let plan = |ranks| json(&place.ok(&["plan", "--json", "--ranks", ranks]));
    let (one, four) = (plan("1"), plan("4"));
    assert!(one["ranks"].is_null() && four["ranks"] == 4);
    assert_eq!(bytes(&one, "weights"), bytes(&four, "weights"));
    assert!(3 * bytes(&four, "activations") < bytes(&one, "activations"), "a quarter of the rows");
    assert!(bytes(&four, "gradient") > bytes(&one, "gradient"), "a block's gradient until its pass ends");
    assert_eq!(four["sent_bytes"].as_u64().unwrap(), 4 * four["parameters"].as_u64().unwrap());
    let weights = bytes(&four, "weights");
    assert!(four["shared_bytes"].as_u64().unwrap().abs_diff(weights) < weights / 50, "{four}");
    let [part, whole] = [&four, &one].map(|plan| bytes(plan, "residue") + bytes(plan, "state"));
    assert!(4 * part >= whole && 3 * part < whole, "about a quarter of {whole} bytes of residue and state, not {part}");
    let said = place.ok(&["plan", "--ranks", "4"]);
    assert!(said.contains("ranks:   the one of 4 that holds the most, with up to 4 sequences a step; "), "{said}");
    assert!(said.contains("messages between ranks, on the host, in addition"), "{said}");
    assert!(place.fails(&["plan", "--ranks", "99"]).contains("99 ranks share batches of 16 sequences"));
}
