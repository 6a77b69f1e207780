//! `tetrad chat`: a conversation with a model, in its own chat template.

use super::output::escape;
use super::writing::{PASS_TOKENS, SamplingArgs, TokenPrinter};
use super::{CliResult, Failure, adapters, device, eval, pool};
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tetrad::backend::Backend;
use tetrad::checkpoint::{Adapted, Capacity, Checkpoint, TOKENIZER_CONFIG};
use tetrad::data::{ChatPrompt, Message, SpecialTokens, Tokenizer, TokenizerConfig};
use tetrad::model::{Generator, Sampling};

/// Talk with a model in its own chat template.
///
/// Each line of standard input is a message; `/reset` begins a new conversation, `/quit` or the end of the input ends it.
/// When the conversation no longer fits into the model's context, its oldest messages are left out, which is said.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The model.
    file: PathBuf,
    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// A chat template in place of the model's own: a .jinja file or a tokenizer_config.json.
    #[arg(long, value_name = "FILE")]
    chat_template: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Tokens of a reply at most; the model may end it earlier.
    #[arg(long, default_value_t = 512)]
    max_tokens: usize,
    /// Add this adapter, times SCALE if that is given; may be repeated.
    #[arg(long = "adapter", value_name = "FILE[=SCALE]")]
    adapters: Vec<String>,
    /// Of an adapter that has learned several tasks, use one module alone [default: both, as its file says].
    #[arg(long, value_enum, value_name = "MODULE")]
    expert: Option<adapters::Expert>,
    /// Where to compute: auto (a GPU if one can be used), cpu, cuda, cuda:N.
    #[arg(long, value_name = "DEVICE", env = "TETRAD_DEVICE", default_value = "auto")]
    device: device::Device,
    /// Threads; 0: all processors.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

/// Runs `tetrad chat`.
///
/// # Errors
/// A file that is not a valid model or has no chat template, or options out of range.
pub fn run(args: Args) -> CliResult {
    let sampling = args.sampling.sampling()?;
    if args.max_tokens == 0 {
        return Err("--max-tokens 0: must be 1 or more".into());
    }
    pool::run(args.threads, || chat(&args, &sampling))?
}

/// The chat template of a model, or the one that was named.
///
/// # Errors
/// A model without a template, or a template with a mistake.
pub(super) fn template(file: &Path, checkpoint: &Checkpoint, given: Option<&str>) -> Result<ChatPrompt, Failure> {
    let name = escape(&file.to_string_lossy());
    let config = match checkpoint.attachment(TOKENIZER_CONFIG) {
        Some(json) => TokenizerConfig::parse(&name, &json)?,
        None => TokenizerConfig::default(),
    };
    let config = match given {
        Some(given) => config.with_template(given)?,
        None => config,
    };
    config.chat_prompt()?.ok_or_else(|| {
        let advice = "name one with --chat-template, or continue plain text with `tetrad sample`";
        format!("{name}: the model has no chat template; {advice}").into()
    })
}

fn chat(args: &Args, sampling: &Sampling) -> CliResult {
    let checkpoint = Checkpoint::open(&args.file)?;
    let adapters = adapters::open(&args.adapters)?;
    let adapted = adapters::Expert::choose(args.expert, Adapted::new(&checkpoint, &adapters)?)?;
    checkpoint.verify_weights()?;
    let template = template(&args.file, &checkpoint, args.chat_template.as_deref())?;
    let tokenizer = eval::tokenizer(&checkpoint)?;
    let special = checkpoint.special_tokens(&tokenizer);
    let context = checkpoint.meta.model.context;
    let capacity = Capacity { tokens: PASS_TOKENS.min(context), keys: context, sampling: true, packing: false };
    let mut opened = device::open_for(args.device, &adapted, capacity)?;
    let interactive = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if interactive {
        eprintln!("{}; /reset begins a new conversation, /quit ends", opened.describe());
    }
    let model = adapted.open(opened.backend.as_mut(), capacity)?;
    let system = args.system.iter().map(|text| Message { role: "system", content: text.clone() });
    let mut talk = Talk {
        args,
        sampling,
        template,
        tokenizer,
        special,
        context,
        vocab: checkpoint.meta.model.vocab,
        messages: system.collect(),
        tokens: 0,
        writing: Duration::ZERO,
    };
    let mut generator = Generator::by(&model, adapted.ensemble().unwrap_or_default());
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if interactive {
            eprint!("> ");
            std::io::stderr().flush()?;
        }
        let Some(line) = lines.next().transpose()? else { break };
        match line.trim() {
            "" => continue,
            "/quit" | "/exit" => break,
            "/reset" => talk.messages.truncate(usize::from(args.system.is_some())),
            message if !talk.reply(opened.backend.as_mut(), &mut generator, message)? => break,
            _ => {}
        }
    }
    talk.summary();
    Ok(ExitCode::SUCCESS)
}

/// A conversation in the making.
struct Talk<'a> {
    args: &'a Args,
    sampling: &'a Sampling,
    template: ChatPrompt,
    tokenizer: Tokenizer,
    special: SpecialTokens,
    context: usize,
    vocab: usize,
    /// The system's message, if there is one, then those of user and assistant in turns.
    messages: Vec<Message>,
    /// Generated so far, and how long that took.
    tokens: usize,
    writing: Duration,
}

impl Talk<'_> {
    /// Answers a message; whether standard output still has a reader.
    fn reply(&mut self, backend: &mut dyn Backend, generator: &mut Generator, said: &str) -> Result<bool, Failure> {
        self.messages.push(Message { role: "user", content: said.into() });
        let prompt = match self.prompt()? {
            Ok(prompt) => prompt,
            Err(tokens) => {
                self.messages.pop();
                eprintln!("the message has {tokens} tokens with what surrounds it, the context {}", self.context);
                return Ok(true);
            }
        };
        // What is cached already is not computed again.
        let common = generator.history().iter().zip(&prompt).take_while(|(a, b)| a == b).count();
        let kept = common.min(prompt.len() - 1);
        generator.rewind(kept);
        generator.feed(backend, &prompt[kept..]);
        let mut printer = TokenPrinter::new(&self.tokenizer, &prompt, self.args.sampling.stops(), false);
        let begun = Instant::now();
        let most = self.args.max_tokens.min(self.context - prompt.len());
        for left in (0..most).rev() {
            backend.status()?;
            let Some(id) = generator.sample(self.sampling) else {
                let file = escape(&self.args.file.to_string_lossy());
                return Err(format!("{file}: the model's output is not finite; its training diverged").into());
            };
            self.tokens += 1;
            if self.special.ends_with(id) || printer.push(id)? || !printer.open || left == 0 {
                break;
            }
            generator.feed(backend, &[id]);
        }
        self.writing += begun.elapsed();
        printer.finish()?;
        self.messages.push(Message { role: "assistant", content: printer.text.trim().into() });
        Ok(printer.open)
    }

    /// The tokens of the conversation, whose oldest messages are left out until it fits with room for a reply; or how
    /// many they are, where nothing is left to leave out.
    fn prompt(&mut self) -> Result<Result<Vec<u32>, usize>, Failure> {
        let first = usize::from(self.args.system.is_some());
        let room = self.args.max_tokens.min(self.context / 2).max(1);
        let mut left_out = 0;
        loop {
            let text = self.template.render(&self.messages)?;
            let ids = self.tokenizer.encode(&text)?;
            if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab) {
                return Err(format!("token {id} is beyond the model's vocabulary of {}", self.vocab).into());
            }
            if ids.len() + room <= self.context && !ids.is_empty() {
                if left_out > 0 {
                    eprintln!("(the {left_out} oldest messages no longer fit into the context and are left out)");
                }
                return Ok(Ok(ids));
            }
            // A turn is a message and its answer.
            if self.messages.len() < first + 3 {
                return Ok(Err(ids.len()));
            }
            self.messages.drain(first..first + 2);
            left_out += 2;
        }
    }

    fn summary(&self) {
        let seconds = self.writing.as_secs_f64();
        if self.tokens > 0 && seconds > 0.0 {
            let each = self.tokens as f64 / seconds;
            eprintln!("{} tokens, {each:.1} tokens/s", self.tokens);
        }
    }
}
