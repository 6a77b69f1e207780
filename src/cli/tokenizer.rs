//! `tetrad tokenizer`.

use super::output::{escape, print, shell, write_file};
use super::units::{bytes, grouped};
use super::{CliResult, overwrite, pool};
use std::path::PathBuf;
use std::process::ExitCode;
use tetrad::data::{Corpus, Tokenizer, least_vocabulary, train_byte_pairs};

/// Make a tokenizer.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    Train(TrainArgs),
}

/// Train a byte-level BPE tokenizer on texts and write it as tokenizer.json.
///
/// Train a model with it by `--set tokenizer.file=FILE --set model.vocab=N`.
#[derive(clap::Args, Debug)]
struct TrainArgs {
    /// Text files and patterns, of any type that training reads.
    #[arg(required = true, value_name = "TEXT")]
    texts: Vec<String>,
    /// The file to write.
    #[arg(short, long, value_name = "FILE", default_value = "tokenizer.json")]
    output: PathBuf,
    /// Size of the vocabulary, the 256 bytes and the special tokens included.
    #[arg(long, default_value_t = 8192)]
    vocab: usize,
    /// How often a pair must occur to become a token.
    #[arg(long, alias = "least", value_name = "N", default_value_t = 2)]
    min_frequency: u64,
    /// A further special token, such as the marks of a chat template; may be repeated.
    #[arg(long, value_name = "TOKEN")]
    special: Vec<String>,
    /// Replace FILE if it is there already.
    #[arg(long)]
    overwrite: bool,
    /// Threads; 0: all processors.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

/// Runs `tetrad tokenizer`.
///
/// # Errors
/// Texts that cannot be read, a vocabulary without room for every byte, a file that cannot be written.
pub fn run(args: Args) -> CliResult {
    let Command::Train(args) = args.command;
    pool::run(args.threads, || train(&args))?
}

fn train(args: &TrainArgs) -> CliResult {
    overwrite::refuse_file(&args.output, args.overwrite)?;
    if args.special.iter().any(String::is_empty) {
        return Err("--special: names no token; give its text, such as \"<|im_start|>\"".into());
    }
    let least = least_vocabulary(&args.special);
    if args.vocab < least {
        let why = "there is a token for each of the 256 bytes, the end of a text and each --special";
        return Err(format!("--vocab {}: must be at least {least}: {why}", args.vocab).into());
    }
    let corpus = Corpus::resolve(&args.texts)?;
    let json = train_byte_pairs(&corpus, args.vocab, args.min_frequency, &args.special)?;
    let made = Tokenizer::from_json(&json)?;
    let shown = escape(&args.output.to_string_lossy());
    write_file(&args.output, &json)?;
    print(|out| {
        let (tokens, size) = (made.vocab_size(), bytes(json.len() as u64));
        writeln!(out, "{shown}: {} tokens, {size}", grouped(tokens))?;
        if (tokens as usize) < args.vocab {
            let least = args.min_frequency;
            writeln!(out, "note: the texts have no more pairs of tokens that occur {least} times")?;
        }
        writeln!(out, "use it with --set tokenizer.file={} --set model.vocab={tokens}", shell(&args.output))
    })?;
    Ok(ExitCode::SUCCESS)
}
