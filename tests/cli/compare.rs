//! `compare`: what runs of several arms say together.

use super::harness::process::Workplace;
use super::{json, train, workplace};

/// Two rates and two seeds in four bits, one rate and two seeds in float32, and a run that was stopped.
fn trained() -> Workplace {
    let place = workplace();
    let run = |dir: &str, sets: &[&str]| {
        let dir = format!("run.dir={dir}");
        let sets = [&["train.steps=6", "train.warmup=2", "train.eval_every=3", dir.as_str()], sets].concat();
        train(&place, &sets.iter().flat_map(|set| ["--set", set]).collect::<Vec<_>>());
    };
    for seed in ["run.seed=1", "run.seed=2"] {
        run(&format!("runs/int4-{seed}"), &[seed, "optimizer.lr=0.004"]);
        run(&format!("runs/float-{seed}"), &[seed, "optimizer.lr=0.004", "storage.weights=f32"]);
    }
    run("runs/slow", &["run.seed=1", "optimizer.lr=0.001"]);
    train(&place, &["--set", "run.dir=runs/stopped", "--set", "run.seed=5", "--stop-at", "2"]);
    place
}

#[test]
fn arms_are_told_apart_paired_and_charted() {
    let place = trained();
    let found = json(&place.ok(&["compare", "runs", "--json", "--baseline", "weights=f32 steps=6"]));
    let groups = found["groups"].as_array().unwrap();
    let names: Vec<_> = groups.iter().map(|group| group["arm"].as_str().unwrap()).collect();
    // The stopped run is of 200 steps, as the file says.
    assert_eq!(names, ["weights=f32 steps=6", "weights=int4 steps=6"], "{found}");
    let rates: Vec<_> =
        groups[1]["rates"].as_array().unwrap().iter().map(|rate| rate["lr"].as_f64().unwrap()).collect();
    assert_eq!((rates, &groups[1]["best"]), (vec![0.001, 0.004], &1.into()));
    let [pair] = &found["pairs"].as_array().unwrap()[..] else { panic!("{found}") };
    let loss = |group: usize, seed: usize| {
        let rates = groups[group]["rates"].as_array().unwrap();
        rates.last().unwrap()["runs"][seed]["loss"].as_f64().unwrap()
    };
    for seed in [0, 1] {
        let expected = loss(1, seed) - loss(0, seed);
        assert!((pair["differences"][seed][1].as_f64().unwrap() - expected).abs() < 1e-12, "{pair}");
    }
    let mean = (loss(1, 0) - loss(0, 0) + loss(1, 1) - loss(0, 1)) / 2.0;
    assert!((pair["interval"]["mean"].as_f64().unwrap() - mean).abs() < 1e-12);
    assert!(found["notes"][0].as_str().unwrap().contains("runs/stopped: at step 2 of 200"), "{found}");

    let said = place.ok(&["compare", "runs", "-o", "out/a.html", "-o", "out/a.md", "-o", "out/a.json"]);
    assert_eq!(said, "out/a.html: 2 arms\nout/a.md: 2 arms\nout/a.json: 2 arms\n");
    let page = String::from_utf8(place.read("out/a.html")).unwrap();
    for word in ["Paired differences", "Final loss by learning rate", "Final loss by memory", "<polyline", "<circle"] {
        assert!(page.contains(word), "{word} is not on the page");
    }
    assert!(!page.contains("http") && !page.contains("<script") && !page.contains("NaN"), "{page}");
    let text = String::from_utf8(place.read("out/a.md")).unwrap();
    assert_eq!(text, place.ok(&["compare", "runs"]).trim_end().to_owned() + "\n\n");
    assert!(text.contains("| weights=int4 steps=6 | weights=f32 steps=6 | 2 |"), "{text}");

    // What was written by this is written anew, and nothing else is.
    let again = ["compare", "runs", "-o", "out/a.html", "-o", "out/a.md", "-o", "out/a.json"];
    place.ok(&again);
    for (own, kind) in [("a.html", "a page"), ("a.md", "a comparison in Markdown"), ("a.json", "a comparison in JSON")]
    {
        let own = format!("out/{own}");
        std::fs::write(place.path(&own), "mine").unwrap();
        let said = place.fails(&again);
        assert!(said.contains(&format!("{own}: exists already and is not {kind}")), "{said}");
        assert!(said.contains("--overwrite") && place.read(&own) == b"mine", "{said}");
        place.ok(&[&again[..], &["--overwrite"]].concat());
    }
}

#[test]
fn a_run_of_an_older_version_is_compared_by_what_it_tells() {
    let place = trained();
    let config = String::from_utf8(place.read("runs/slow/config.toml")).unwrap();
    // A key of an earlier version, which this one refuses.
    std::fs::write(place.path("runs/slow/config.toml"), config.replace("grad_buffer", "gradient")).unwrap();
    let text = place.ok(&["compare", "runs/slow", "runs/int4-run.seed=1"]);
    assert!(text.contains("## Arms"), "{text}");
    let bare = ["compare", "runs/slow/metrics.jsonl"];
    assert!(place.ok(&bare).contains("| runs | 0.001 "), "{}", place.ok(&bare));
}

#[test]
fn what_cannot_be_compared_is_refused_by_name() {
    let place = trained();
    for (args, said) in [
        (&["none"][..], "none: neither a folder nor a sweep (.toml) nor records (.jsonl)"),
        (&["runs/stopped"], "no finished run with a validation loss; runs/stopped: at step 2 of 200"),
        (
            &["runs", "--baseline", "int8"],
            "--baseline int8: no finished arm of that name; arms are weights=f32 steps=6, ",
        ),
        (&["runs", "-o", "a.pdf"], "--output a.pdf: must end in .html, .md or .json"),
    ] {
        let found = place.fails(&[&["compare"], args].concat());
        assert!(found.contains(said), "{found}");
    }
    std::fs::create_dir(place.path("empty")).unwrap();
    let said = place.fails(&["compare", "empty"]);
    assert!(
        said.contains("empty: holds no run; name a run directory, a folder of them, a sweep or its records"),
        "{said}"
    );
}
