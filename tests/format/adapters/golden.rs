//! Folders that PEFT wrote and a file that llama.cpp loaded: the numbers are those of the recordings, bit for bit.

use super::{base, module, of, pairs, recorded};
use crate::harness::Golden;
use tetrad::convert::adapter::{ForeignAdapter, Parts, ScaleRule, is_adapter, open_adapter};
use tetrad::model::BlockParam as P;

/// Whether an adapter has the pairs of a recording and no others.
fn assert_recorded(adapter: &ForeignAdapter, golden: &Golden) {
    let (_, found) = pairs(adapter);
    for pair in found {
        let module = module(pair.site);
        assert_eq!(pair.a, golden.floats(&format!("A.{module}")), "A of {module}");
        assert_eq!(pair.b, golden.floats(&format!("B.{module}")), "B of {module}");
        assert_eq!(pair.a.len() % pair.rank, 0);
    }
    let recorded = golden.tensors.keys().filter(|name| name.starts_with("A.")).count();
    assert_eq!(found.len(), recorded);
}

#[test]
fn golden_pairs_of_peft_folders_are_the_recorded_ones_with_their_factors() {
    for (folder, golden, rule, factor) in [
        ("adapter_lora", "lora", ScaleRule::AlphaOverRank, 2.0),
        ("adapter_rslora", "rslora", ScaleRule::RankStabilized, 4.0),
        ("adapter_dora", "dora", ScaleRule::AlphaOverRank, 2.0),
    ] {
        let golden = Golden::load(&format!("adapters/{golden}"));
        assert!(is_adapter(&recorded(folder)).unwrap());
        let adapter = open_adapter(&recorded(folder), &base()).unwrap();
        assert_recorded(&adapter, &golden);
        let (found, pairs) = pairs(&adapter);
        assert_eq!((adapter.format, found, pairs.len()), ("PEFT folder", rule, 14));
        assert_eq!(adapter.base.as_deref(), Some("tiny-llama"));
        for pair in pairs {
            assert_eq!((pair.rank, rule.factor(pair.alpha, pair.rank)), (4, factor));
            let magnitude = golden.tensors.get(&format!("magnitude.{}", module(pair.site)));
            let magnitude = magnitude.map(|(_, values)| values.iter().map(|&x| x as f32).collect::<Vec<_>>());
            assert_eq!(pair.magnitude, magnitude);
        }
    }
}

/// Rank and alpha by pattern: 2 and 3 for every q, 3 for down of the first block, 6 for that of the second.
#[test]
fn golden_patterns_give_each_module_its_rank_and_alpha() {
    let adapter = open_adapter(&recorded("adapter_patterns"), &base()).unwrap();
    assert_recorded(&adapter, &Golden::load("adapters/lora_patterns"));
    let found: Vec<_> = pairs(&adapter).1.iter().map(|pair| (pair.site, pair.rank, pair.alpha)).collect();
    let expected = [
        (of(0, P::Query), 2, 3.0),
        (of(0, P::Value), 4, 8.0),
        (of(0, P::Down), 3, 8.0),
        (of(1, P::Query), 2, 3.0),
        (of(1, P::Value), 4, 8.0),
        (of(1, P::Down), 6, 8.0),
    ];
    assert_eq!(found, expected);
}

/// GGUF permutes the rows of B of queries and keys; what comes out is PEFT's.
#[test]
fn golden_gguf_adapter_is_the_peft_folder() {
    assert!(is_adapter(&recorded("adapter.gguf")).unwrap());
    let gguf = open_adapter(&recorded("adapter.gguf"), &base()).unwrap();
    let peft = open_adapter(&recorded("adapter_lora"), &base()).unwrap();
    assert_eq!(gguf.parts, peft.parts);
    assert_recorded(&gguf, &Golden::load("adapters/lora"));
}

#[test]
fn golden_prefix_is_cut_into_keys_and_values_of_each_block() {
    let adapter = open_adapter(&recorded("adapter_prefix"), &base()).unwrap();
    let values = Golden::load("adapters/prefix").floats("prompt_embeddings");
    let Parts::Prefix { length, blocks } = &adapter.parts else { panic!("{adapter:?}") };
    assert_eq!((*length, blocks.len()), (5, 2));
    for (block, parts) in blocks.iter().enumerate() {
        for (which, part) in parts.iter().enumerate() {
            for (token, row) in part.chunks(32).enumerate() {
                let at = token * 128 + (2 * block + which) * 32;
                assert_eq!(row, &values[at..at + 32], "token {token} of block {block}");
            }
            assert_eq!(part.len(), 5 * 32);
        }
    }
}

#[test]
fn a_model_is_no_adapter() {
    let fixture = crate::harness::fixture("convert");
    for entry in std::fs::read_dir(fixture).unwrap() {
        let path = entry.unwrap().path();
        assert!(!is_adapter(&path).unwrap(), "{}", path.display());
    }
}
