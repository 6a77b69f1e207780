//! The rules of the house, read off the sources: floors, unsafe code, standard output, concrete backends, sizes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A source file: its path below `src`, and its text without comments.
struct Source {
    path: String,
    code: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files below a folder, if it exists, whose names end in one of `extensions`.
fn collect(folder: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, extensions, found);
        } else if path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted)) {
            found.push(path);
        }
    }
}

/// All `.rs` files below a folder, in order of their paths.
fn sources(folder: &str) -> Vec<Source> {
    let base = root().join(folder);
    let mut paths = Vec::new();
    collect(&base, &["rs"], &mut paths);
    assert!(!paths.is_empty(), "{folder} holds no sources");
    paths.sort();
    let source = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.lines().map(without_comment).collect::<Vec<_>>().join("\n");
        Source { path: path.strip_prefix(&base).unwrap().display().to_string(), code }
    };
    paths.into_iter().map(source).collect()
}

/// Cut at `//`. A string that holds one loses its end, which no rule below looks at.
fn without_comment(line: &str) -> &str {
    line.find("//").map_or(line, |at| &line[..at])
}

/// Whether `word` stands in `code` by itself.
fn has_word(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| !code[..at].ends_with(part) && !code[at + word.len()..].starts_with(part))
}

/// Rooms and their floors, from the table in `src/lib.rs`.
fn floors() -> BTreeMap<String, u32> {
    let text = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | "));
    rows.filter_map(|row| {
        let mut cells = row.split(" | ");
        let floor = cells.next()?.parse().ok()?;
        Some((cells.next()?.trim_matches('`').to_owned(), floor))
    })
    .collect()
}

/// The room of a module path such as `backend::cpu::simd::gemm`: the longest that the table knows.
fn room<'a>(floors: &'a BTreeMap<String, u32>, path: &str) -> Option<(&'a str, u32)> {
    let inside = |room: &str| path == room || path.starts_with(&format!("{room}::"));
    floors.iter().filter(|(name, _)| inside(name)).max_by_key(|(name, _)| name.len()).map(|(n, f)| (n.as_str(), *f))
}

/// The module path of a file below `src`.
fn module(path: &str) -> String {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    path.replace('/', "::")
}

/// Paths from the library's root that a text names, `crate::{a, b::c}` taken apart; the program says `tetrad::`.
fn crate_paths(code: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect::<String>()
    };
    let mut found = Vec::new();
    let roots = ["crate::", "tetrad::"].into_iter().flat_map(|root| code.match_indices(root));
    for (at, root) in roots {
        let rest = &code[at + root.len()..];
        match rest.strip_prefix('{') {
            None => found.push(name(rest)),
            Some(list) => {
                let (mut depth, mut start) = (0, 0);
                for (i, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth > 0 => depth -= 1,
                        ',' | '}' if depth == 0 => {
                            found.push(name(list[start..i].trim()));
                            start = i + 1;
                            if c == '}' {
                                break;
                            }
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found.retain(|path| !path.is_empty());
    found.iter().map(|path| path.trim_end_matches(':').to_owned()).collect()
}

/// Names of the types that a text defines for others: `pub struct Name`, `pub(crate) enum Name`, ...
fn public_types(code: &str) -> Vec<String> {
    let mut words = code.split_whitespace().peekable();
    let mut names = Vec::new();
    while let Some(word) = words.next() {
        if word != "pub" && !word.starts_with("pub(") {
            continue;
        }
        let kind = words.next_if(|word| ["struct", "enum", "trait", "union", "type"].contains(word));
        if let Some(name) = kind.and_then(|_| words.peek()) {
            names.push(name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    names
}

#[test]
fn the_parsers_of_this_test_see_what_they_should() {
    assert_eq!(
        crate_paths("use crate::a::{b, c}; crate::d::E::f(); use crate::{g, h::{i, j}, k};"),
        ["a", "d::E::f", "g", "h", "k"]
    );
    assert_eq!(crate_paths("use tetrad::a::{b, c}; crate::cli::d();"), ["cli::d", "a"]);
    assert_eq!(
        public_types("pub struct A<T>(T); enum B {} pub(crate) enum C {} pub fn d() {} pub type E = A;"),
        ["A", "C", "E"]
    );
    assert!(has_word("x unsafe {", "unsafe") && !has_word("unsafe_op_in", "unsafe"));
    let floors = floors();
    assert_eq!(room(&floors, "backend::cpu::simd::gemm").unwrap().0, "backend::cpu");
    assert_eq!(room(&floors, "backend::Backend").unwrap().0, "backend");
    assert_eq!(room(&floors, "backendless"), None);
}

#[test]
fn every_room_is_in_the_table_and_every_row_is_a_room() {
    let floors = floors();
    let sources = sources("src");
    for source in sources.iter().filter(|s| !["lib.rs", "main.rs"].contains(&s.path.as_str())) {
        assert!(room(&floors, &module(&source.path)).is_some(), "{} belongs to no room of the table", source.path);
    }
    for room in floors.keys() {
        let folder = format!("{}/", room.replace("::", "/"));
        assert!(sources.iter().any(|source| source.path.starts_with(&folder)), "{room} is only a row of the table");
    }
}

#[test]
fn a_floor_imports_only_from_floors_below_it() {
    let floors = floors();
    let mut wrong = Vec::new();
    for source in sources("src") {
        let Some((own, floor)) = room(&floors, &module(&source.path)) else { continue };
        for path in crate_paths(&source.code) {
            match room(&floors, &path) {
                Some((other, _)) if other == own => {}
                Some((_, other)) if other < floor => {}
                _ => wrong.push(format!("{}: {own} (floor {floor}) names crate::{path}", source.path)),
            }
        }
        // Nor may a chain of `super::` climb out of the room; an inline `mod tests` is one step deeper.
        let depth = module(&source.path).split("::").count() + usize::from(source.code.contains("mod tests"));
        if source.code.contains(&"super::".repeat(depth)) {
            wrong.push(format!("{}: `super` leaves the crate's rooms by their roof", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Rooms of arithmetic and files, for which a configuration is nothing but the values they are passed.
const NUMERIC: [&str; 7] = ["quant", "memory", "store", "format", "backend", "optim", "model"];

#[test]
fn numeric_rooms_name_no_configuration_and_the_backend_no_model() {
    let mut wrong = Vec::new();
    for source in sources("src") {
        let room = source.path.split('/').next().unwrap();
        let mut forbidden = if NUMERIC.contains(&room) { vec!["config"] } else { Vec::new() };
        if room == "backend" {
            forbidden.push("model");
        }
        for path in crate_paths(&source.code) {
            if forbidden.iter().any(|other| path == *other || path.starts_with(&format!("{other}::"))) {
                wrong.push(format!("{} names crate::{path}", source.path));
            }
        }
        if !["config", "cli", "error", "main.rs"].contains(&room) && has_word(&source.code, "toml") {
            wrong.push(format!("{} knows TOML", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Names of types that more than two rooms still define. The list may only shrink.
const SHARED_NAMES: [&str; 1] = ["Source"];

#[test]
fn a_name_of_a_type_means_one_thing_or_two() {
    let floors = floors();
    let mut rooms: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for source in sources("src") {
        let Some((room, _)) = room(&floors, &module(&source.path)) else { continue };
        for name in public_types(&source.code) {
            rooms.entry(name).or_default().insert(room);
        }
    }
    assert!(rooms.len() > 50, "only {} public types were found", rooms.len());
    let shared = rooms.into_iter().filter(|(name, rooms)| rooms.len() > 2 && !SHARED_NAMES.contains(&name.as_str()));
    let shared: Vec<_> = shared.map(|(name, rooms)| format!("{name}: {rooms:?}")).collect();
    assert!(shared.is_empty(), "types of one name in more than two rooms:\n{}", shared.join("\n"));
}

/// Where code may be unsafe: maps, the arena, what is written for one instruction set or calls it, the tile that
/// threads write side by side, CUDA's functions, launches of kernels, NCCL's and MPI's functions, and the environment that NCCL
/// reads.
const UNSAFE: [&str; 81] = [
    "backend/cpu/peaks.rs",
    "backend/cpu/simd/adam/mod.rs",
    "backend/cpu/simd/adam/moments.rs",
    "backend/cpu/simd/adam/registers.rs",
    "backend/cpu/simd/adam/weight.rs",
    "backend/cpu/simd/bf16/amx.rs",
    "backend/cpu/simd/bf16/fused.rs",
    "backend/cpu/simd/bf16/mod.rs",
    "backend/cpu/simd/bf16/pairs.rs",
    "backend/cpu/simd/gemm/avx2.rs",
    "backend/cpu/simd/gemm/avx512.rs",
    "backend/cpu/simd/gemm/mod.rs",
    "backend/cpu/simd/gemm/pack.rs",
    "backend/cpu/simd/int8/avx2_dots.rs",
    "backend/cpu/simd/int8/avx512.rs",
    "backend/cpu/simd/int8/avx512_dots.rs",
    "backend/cpu/simd/int8/mod.rs",
    "backend/cpu/simd/isa.rs",
    "backend/cpu/simd/nibbles.rs",
    "backend/cpu/simd/scores.rs",
    "backend/cpu/simd/tile.rs",
    "backend/cpu/simd/uniform/avx2.rs",
    "backend/cpu/simd/uniform/avx512.rs",
    "backend/cpu/simd/uniform/mod.rs",
    "backend/cuda/ops/activation_pack.rs",
    "backend/cuda/ops/activation_quant.rs",
    "backend/cuda/ops/activation_scaling.rs",
    "backend/cuda/ops/adam.rs",
    "backend/cuda/ops/adam_statistics.rs",
    "backend/cuda/ops/attention.rs",
    "backend/cuda/ops/attention_grad.rs",
    "backend/cuda/ops/bias.rs",
    "backend/cuda/ops/bytes.rs",
    "backend/cuda/ops/embedding.rs",
    "backend/cuda/ops/factored.rs",
    "backend/cuda/ops/factors.rs",
    "backend/cuda/ops/gaussian.rs",
    "backend/cuda/ops/gelu.rs",
    "backend/cuda/ops/linear.rs",
    "backend/cuda/ops/linear_grad_int8.rs",
    "backend/cuda/ops/loss.rs",
    "backend/cuda/ops/magnitude.rs",
    "backend/cuda/ops/matmul.rs",
    "backend/cuda/ops/norm.rs",
    "backend/cuda/ops/normalize.rs",
    "backend/cuda/ops/prefix.rs",
    "backend/cuda/ops/rope.rs",
    "backend/cuda/ops/scaling.rs",
    "backend/cuda/ops/state.rs",
    "backend/cuda/ops/sums.rs",
    "backend/cuda/ops/swiglu.rs",
    "backend/cuda/ops/update.rs",
    "backend/cuda/ops/weights.rs",
    "backend/cuda/runtime/compile.rs",
    "backend/cuda/runtime/copies.rs",
    "backend/cuda/runtime/device.rs",
    "backend/cuda/runtime/exchange.rs",
    "backend/cuda/runtime/gpu.rs",
    "backend/cuda/runtime/graphs.rs",
    "backend/cuda/runtime/libraries.rs",
    "backend/cuda/runtime/memory.rs",
    "backend/cuda/runtime/modules.rs",
    "backend/cuda/runtime/nccl/calls.rs",
    "backend/cuda/runtime/nccl/library.rs",
    "backend/cuda/runtime/nccl/mod.rs",
    "backend/cuda/runtime/nccl/staging.rs",
    "backend/cuda/runtime/nccl/watch.rs",
    "backend/cuda/runtime/offload.rs",
    "backend/cuda/runtime/product.rs",
    "backend/cuda/runtime/stager.rs",
    "backend/cuda/runtime/symbols.rs",
    "backend/cuda/runtime/timer.rs",
    "cli/train/gpus.rs",
    "memory/arena.rs",
    "memory/host.rs",
    "quant/normal.rs",
    "quant/row_encoder.rs",
    "ranks/mpi/calls.rs",
    "ranks/mpi/world.rs",
    "store/map.rs",
    "store/work_file.rs",
];

/// Where a codec of weights may be told from another, beside `quant`: lists with a row or an arm for each, whose other
/// column is a word, a tag, a type of another program, a kernel, or the arm of a reference.
const CODEC_LISTS: [&str; 5] = [
    "backend/cuda/ops/weights.rs",
    "backend/ops/reference.rs",
    "convert/quants/mod.rs",
    "format/spec.rs",
    "model/storage.rs",
];

/// All else asks a format for its planes, elements and integers, so that a new codec is a row in each list.
#[test]
fn only_quant_and_the_lists_of_codecs_tell_formats_of_weights_apart() {
    let variants =
        ["F32", "F16", "Bf16", "Int8", "Int4", "Int4Offset", "Fp4"].map(|name| format!("WeightCodec::{name}"));
    for Source { path, code } in sources("src") {
        let production = code.split("#[cfg(test)]").next().unwrap_or_default();
        let named = variants.iter().find(|name| has_word(production, name));
        let allowed = path.starts_with("quant/") || CODEC_LISTS.contains(&path.as_str());
        assert!(allowed || named.is_none(), "{path} names {}", named.unwrap());
    }
}

/// Kernels are instantiated by the list of `codecs.h`; the usual path of the update is written for one codec by name.
#[test]
fn only_the_list_of_codecs_tells_kernels_apart() {
    let mut paths = Vec::new();
    collect(&root().join("src/backend/cuda/kernels"), &["cu", "h"], &mut paths);
    assert!(paths.len() > 20, "only {} files of kernels were found", paths.len());
    let structs = ["F32Weight", "Bf16Weight", "Int8Weight", "Int4Weight", "Int4OffsetWeight", "Fp4Weight"];
    for path in paths.iter().filter(|path| !path.ends_with("codecs.h")) {
        let text = std::fs::read_to_string(path).unwrap();
        let code = text.lines().map(without_comment).collect::<Vec<_>>().join("\n");
        let allowed = if path.ends_with("adam_update.cu") { "Int4Weight" } else { "" };
        let named = structs.iter().find(|name| **name != allowed && has_word(&code, name));
        assert!(named.is_none(), "{} names {}", path.display(), named.unwrap());
    }
}

#[test]
fn unsafe_code_stays_where_it_is_reviewed() {
    let found: Vec<_> = sources("src").into_iter().filter(|s| has_word(&s.code, "unsafe")).map(|s| s.path).collect();
    assert_eq!(found, UNSAFE, "the list in this test and the files that hold `unsafe`");
}

/// Where a clock is read apart from `store`: it decides how long to sleep, and nothing else.
const OWN_CLOCK: [&str; 1] = ["ranks/mpi/world.rs"];

/// So a simulation of the machine sees every operation on files, and gives the time. The program's display and the files of
/// its sweeps are its own.
#[test]
fn files_are_changed_and_clocks_read_by_store_alone() {
    let changes = [
        "fs::write",
        "fs::rename",
        "fs::remove_file",
        "fs::copy",
        "create_dir",
        "create_dir_all",
        "File::create",
        "OpenOptions",
    ];
    for Source { path, code } in sources("src") {
        if ["store/", "cli/"].iter().any(|room| path.starts_with(room)) {
            continue;
        }
        let production = code.split("#[cfg(test)]").next().unwrap_or_default();
        let clocks = ["Instant::now", "SystemTime::now"].into_iter().filter(|_| !OWN_CLOCK.contains(&path.as_str()));
        let named = changes.into_iter().chain(clocks).find(|name| has_word(production, name));
        assert!(named.is_none(), "{path} names {}", named.unwrap());
    }
}

#[test]
fn only_the_command_writes_to_standard_output() {
    for source in sources("src") {
        let speaks = ["print!(", "println!(", "stdout()", "io::Stdout"]
            .iter()
            .any(|word| source.code.match_indices(word).any(|(at, _)| !source.code[..at].ends_with('e')));
        let allowed = source.path.starts_with("cli/") || source.path == "main.rs";
        assert!(!speaks || allowed, "{} writes to standard output", source.path);
    }
}

#[test]
fn a_concrete_backend_is_named_only_by_the_command() {
    for source in sources("src") {
        let inside = source.path.starts_with("backend/");
        let names = ["backend::cpu", "backend::cuda"].iter().any(|path| source.code.contains(path))
            || ["Cpu", "Cuda"].iter().any(|name| has_word(&source.code, name));
        // The library's front page re-exports both.
        let allowed = source.path.starts_with("cli/") || source.path == "lib.rs";
        assert!(!names || inside || allowed, "{} names a concrete backend", source.path);
    }
}

#[test]
fn cuda_is_named_only_by_its_backend() {
    for source in sources("src").into_iter().filter(|source| !source.path.starts_with("backend/cuda/")) {
        for name in ["cudarc", "libloading"] {
            let mpi = name == "libloading" && source.path.starts_with("ranks/mpi/");
            assert!(mpi || !has_word(&source.code, name), "{} names {name}", source.path);
        }
    }
}

#[test]
fn the_command_line_stays_out_of_the_library() {
    for source in sources("src").into_iter().filter(|s| !s.path.starts_with("cli/") && s.path != "main.rs") {
        for name in ["clap", "indicatif", "signal_hook"] {
            assert!(!has_word(&source.code, name), "{} names {name}", source.path);
        }
    }
}

#[test]
fn no_file_is_too_long_to_be_read() {
    let (mut paths, mut wrong) = (Vec::new(), Vec::new());
    for folder in ["src", "tests", "benches", "crates", "examples"] {
        collect(&root().join(folder), &["rs", "cu", "h", "cpp"], &mut paths);
    }
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(root()).unwrap().display();
        let lines = text.lines().count();
        if lines >= 500 {
            wrong.push(format!("{path}: {lines} lines, below 500 are allowed"));
        }
        // rustfmt sees to lines of Rust; some messages in them cannot be cut.
        let wide = text.lines().position(|line| line.chars().count() > 120);
        if let Some(at) = wide.filter(|_| !path.to_string().ends_with(".rs")) {
            wrong.push(format!("{path}:{}: more than 120 columns", at + 1));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
