//! Adapters to and from the files of other programs: what `import` and `export` do with them.

use super::adapters::Expert;
use super::output::{escape, print};
use super::units::{bytes, grouped};
use super::{CliResult, overwrite};
use std::path::Path;
use std::process::ExitCode;
use tetrad::checkpoint::{Adapter, Checkpoint};
use tetrad::convert::adapter::{export_adapter_gguf, export_peft, open_adapter};
use tetrad::model::AdapterKind;

/// Imports the adapter `source` of `base` to `output`.
///
/// # Errors
/// A source that is no adapter of this base, errors of the file system.
pub(super) fn import(source: &Path, base: &Path, output: &Path, replace: bool) -> CliResult {
    let base = Checkpoint::open(base)?;
    let found = open_adapter(source, &base.meta.model)?;
    for note in &found.notes {
        eprintln!("note: {}", escape(note));
    }
    if let Some(name) = &found.base {
        eprintln!(
            "note: its base is called {}; that {} is this model is for you to know",
            escape(name),
            show(base.path())
        );
    }
    overwrite::refuse_file(output, replace)?;
    let format = found.format;
    let adapter = found.into_own(&base)?;
    adapter.write(output)?;
    print(|out| writeln!(out, "{}: {}, from a {format}", show(output), described(&adapter, output)))?;
    Ok(ExitCode::SUCCESS)
}

/// Exports the adapter `file`, or the module of it that is asked for, to a GGUF file or a PEFT folder.
///
/// # Errors
/// An adapter that the format cannot express, errors of the file system.
pub(super) fn export((file, module): (&Path, Option<Expert>), output: &Path, gguf: bool, replace: bool) -> CliResult {
    let adapter = Expert::read(module, &Checkpoint::open_sound(file)?)?;
    match gguf {
        true => overwrite::refuse_file(output, replace)?,
        false => overwrite::refuse_folder(output, replace)?,
    }
    let what = if gguf {
        export_adapter_gguf(&adapter, output)?;
        "a GGUF adapter for llama.cpp's --lora"
    } else {
        export_peft(&adapter, output)?;
        "a PEFT folder"
    };
    print(|out| writeln!(out, "{}: {}, as {what}", show(output), described(&adapter, file)))?;
    Ok(ExitCode::SUCCESS)
}

fn described(adapter: &Adapter, file: &Path) -> String {
    let numbers: usize = adapter.tensors.iter().map(|(_, values)| values.len()).sum();
    let size = std::fs::metadata(file).map_or(0, |meta| meta.len());
    let model = &adapter.meta.model;
    let beside = match &adapter.meta.adapter {
        Some(config) if config.kind == AdapterKind::Prefix => {
            format!("as a prefix in {} blocks", config.blocks(model).len())
        }
        Some(config) if config.kind == AdapterKind::Bottleneck => {
            format!("as bottlenecks in {} blocks", config.blocks(model).len())
        }
        config => format!("beside {} matrices", config.as_ref().map_or(0, |config| config.sites(model).len())),
    };
    format!("{} numbers {beside}, {} as .tetrad", grouped(numbers as u64), bytes(size))
}

fn show(path: &Path) -> String {
    escape(&path.to_string_lossy())
}
