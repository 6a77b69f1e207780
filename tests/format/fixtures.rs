//! Committed files, sound and broken: the broken ones with their exact errors.
//!
//! `TETRAD_WRITE_FIXTURES=1 cargo test --test format fixtures` writes them anew.

use crate::support::{bad, committed, fixture, good, writing};
use std::collections::BTreeSet;
use tetrad::format::{Field, File, HEADER_FIELDS, PLANE_FIELDS, TENSOR_FIELDS, cap};

/// What is wrong with a file, all of it.
fn errors(bytes: &[u8]) -> Vec<String> {
    match File::parse(bytes) {
        Ok(file) => file.verify().iter().map(ToString::to_string).collect(),
        Err(e) => vec![e.to_string()],
    }
}

#[test]
fn sound_files_are_as_committed_and_sound() {
    for (name, parts) in good::all() {
        let bytes = parts.encode();
        committed(&fixture(&format!("good/{name}.tetrad")), &bytes);
        assert_eq!(errors(&bytes), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn every_broken_file_gives_its_one_exact_error() {
    let mut list = String::new();
    for (name, rule, bytes) in bad::all() {
        committed(&fixture(&format!("bad/{name}.tetrad")), &bytes);
        let errors = errors(&bytes);
        assert_eq!(errors.len(), 1, "{name}: {errors:?}");
        assert!(errors[0].ends_with(&format!("({rule})")), "{name} should break {rule}: {}", errors[0]);
        list += &format!("{name}: {}\n", errors[0]);
    }
    committed(&fixture("bad/errors.txt"), list.as_bytes());
}

#[test]
fn no_fixture_is_left_behind_by_a_renamed_test() {
    let good = good::all().into_iter().map(|(name, _)| format!("{name}.tetrad")).collect();
    let bad =
        bad::all().into_iter().map(|(name, _, _)| format!("{name}.tetrad")).chain(["errors.txt".into()]).collect();
    for (dir, expected) in [("good", good), ("bad", bad)] {
        let files = std::fs::read_dir(fixture(dir)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let found: BTreeSet<String> = files.collect();
        let expected: BTreeSet<String> = expected;
        assert!(writing() || found == expected, "{dir}: {:?}", found.symmetric_difference(&expected));
    }
}

/// The rules that a file can break, and that SPEC.md states.
#[test]
fn every_rule_has_a_broken_file() {
    let spec = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/format-spec/SPEC.md")).unwrap();
    let stated: BTreeSet<u32> = spec
        .split("**R")
        .skip(1)
        .filter_map(|rest| rest.split("**").next()?.trim_end_matches('.').parse().ok())
        .collect();
    let broken: BTreeSet<u32> = bad::all().iter().map(|(_, rule, _)| rule[1..].parse().unwrap()).collect();
    assert_eq!(broken, (1..=37).chain(42..=44).collect(), "rules without a fixture");
    assert!(broken.is_subset(&stated), "rules that SPEC.md does not state: {:?}", broken.difference(&stated));
}

/// The tables of SPEC.md are the records of the program, in the same order; the caps are its caps.
#[test]
fn the_tables_of_the_spec_are_those_of_the_program() {
    let spec = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/format-spec/SPEC.md")).unwrap();
    let rows: Vec<Vec<&str>> = spec.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
    let stated: Vec<(usize, usize, String)> = (rows.iter())
        .filter(|cells| cells.len() > 6)
        .filter_map(|cells| {
            let name = cells[4].strip_prefix('`')?.split('`').next()?;
            Some((cells[1].parse().ok()?, cells[2].parse().ok()?, name.to_string()))
        })
        .collect();
    let known = [&HEADER_FIELDS[..], &TENSOR_FIELDS, &PLANE_FIELDS].concat();
    let known: Vec<_> = known.iter().map(|Field { name, at, size }| (*at, *size, name.to_string())).collect();
    assert_eq!(stated, known);
    let most = |what: &str| {
        let row = rows.iter().find(|cells| cells.len() == 5 && cells[1].starts_with(what)).expect(what);
        let number = row[3].split('(').next().unwrap().replace(' ', "");
        number.strip_prefix("2^").map_or_else(|| number.parse::<u64>().unwrap(), |k| 1 << k.parse::<u32>().unwrap())
    };
    assert_eq!(most("tensors"), u64::from(cap::TENSORS));
    assert_eq!(most("plane records"), u64::from(cap::PLANES));
    assert_eq!(most("attachments"), u64::from(cap::ATTACHMENTS));
    assert_eq!(most("dimensions"), cap::DIMS as u64);
    assert_eq!(most("elements of a tensor"), cap::ELEMENTS);
    assert_eq!(most("bytes of a name"), cap::NAME as u64);
    assert_eq!(most("bytes of all tensor names"), cap::NAMES);
    assert_eq!(most("bytes of metadata"), cap::METADATA);
    assert_eq!(most("bytes of all attachments"), cap::ATTACHMENTS_LEN);
    assert_eq!(most("levels"), cap::DEPTH as u64);
    assert_eq!(most("named state tensors"), cap::STATE as u64);
    assert_eq!(most("step"), cap::STEP);
}
