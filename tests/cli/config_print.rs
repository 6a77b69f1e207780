//! `tetrad config`: what it prints is a configuration, and what it explains is in the configuration.

use crate::harness::process::Workplace;

#[test]
fn a_printed_configuration_trains_as_its_preset() {
    let place = Workplace::new();
    let printed = place.ok(&["config", "compact", "--set", "train.steps=7", "--set", "optimizer.name=lion"]);
    std::fs::write(place.path("my.toml"), &printed).unwrap();
    let sets = ["--set", "train.steps=7", "--set", "optimizer.name=lion", "--dry-run"];
    let from_preset = place.ok(&[&["train", "compact"], &sets[..]].concat());
    assert_eq!(place.ok(&["train", "my.toml", "--dry-run"]), from_preset);
    assert!(printed.contains("one of steps, epochs and tokens.\nsteps = 7\n"), "{printed}");
    assert_eq!(place.ok(&["config", "my.toml"]), printed, "printing it again changes nothing");
}

#[test]
fn a_key_is_explained_by_its_full_name_its_last_name_or_with_its_table() {
    let place = Workplace::new();
    let full = place.ok(&["config", "optimizer.lr"]);
    assert!(full.starts_with("optimizer.lr\n    Peak learning rate"), "{full}");
    assert!(full.contains("\n    a number; 0.004 by default\n"), "{full}");
    assert!(
        full.contains("0.001 (60m, 130m)") && full.contains("0.0001 (7b); those sizes' compact forms likewise"),
        "{full}"
    );
    assert_eq!(place.ok(&["config", "lr"]), full);
    let rare = place.ok(&["config", "momentum"]);
    assert!(rare.contains("a number; 0.0 by default") && !rare.contains("presets"), "{rare}");
    let table = place.ok(&["config", "offload"]);
    assert!(table.contains("offload.weights\n") && table.contains("offload.optimizer\n"), "{table}");
    assert!(place.ok(&["config", "optimiser.lr"]).starts_with("optimizer.lr\n"), "the key that is meant");
    let error = place.fails(&["config", "nothing.such"]);
    assert!(error.contains("nothing.such") && error.contains("presets are"), "{error}");
}

#[test]
fn the_schema_is_one_of_json() {
    let place = Workplace::new();
    let schema: serde_json::Value = serde_json::from_str(&place.ok(&["config", "--schema"])).unwrap();
    assert_eq!(schema["properties"]["model"]["properties"]["hidden"]["type"], "integer");
    assert!(place.fails(&["config", "60m", "--schema"]).contains("--schema"));
}
