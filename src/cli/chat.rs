//! `tetrad chat`: a conversation with a model, in its own chat template.

use super::compute::ComputeArgs;
use super::model_file::model_file;
use super::output::escape;
use super::signals::ReplyInterrupts;
use super::writing::{NOT_UTF8, PASS_TOKENS, SamplingArgs, TokenPrinter};
use super::{CliResult, Failure, adapters, device, eval, pool};
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tetrad::backend::Backend;
use tetrad::checkpoint::{Adapted, Capacity, Checkpoint, TOKENIZER_CONFIG};
use tetrad::data::{ChatPrompt, Message, SpecialTokens, Tokenizer, TokenizerConfig};
use tetrad::model::{Generator, Sampling};

/// Talk with a model in its own chat template.
///
/// Each line of standard input is a message; one that ends with a backslash goes on in the next line. `/reset` begins a new
/// conversation, `/quit` or the end of the input ends it. On a terminal Ctrl-C ends a reply, and between replies the
/// conversation. When the conversation no longer fits into the context, its oldest messages are left out, which is said.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The model, or the folder of a run that is finished.
    #[arg(value_parser = model_file())]
    file: PathBuf,
    /// The system prompt: what the model is told before the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// A chat template in place of the model's own: a .jinja file or a tokenizer_config.json.
    #[arg(long, value_name = "FILE")]
    chat_template: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Tokens that the conversation may take, for which memory is allocated [default: the model's context, at most 8192].
    #[arg(long, value_name = "TOKENS")]
    context: Option<usize>,
    /// Tokens of a reply at most; the model may end it earlier.
    #[arg(long, default_value_t = 512)]
    max_tokens: usize,
    /// Add this adapter, times SCALE if that is given: a file, or the folder of its finished run; may be repeated.
    #[arg(long = "adapter", value_name = "FILE[=SCALE]")]
    adapters: Vec<String>,
    /// Of an adapter that has learned several tasks, use one module alone [default: both, as its file says].
    #[arg(long, value_enum, value_name = "MODULE")]
    expert: Option<adapters::Expert>,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Where to compute: auto (a GPU if one can be used), cpu, cuda, cuda:N.
    #[arg(long, value_name = "DEVICE", env = "TETRAD_DEVICE", default_value = "auto")]
    device: device::Device,
    /// Threads; 0: all processors.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

/// Tokens of a conversation unless more is asked for: caches of what some models could read would fill any memory.
const CONTEXT: usize = 8192;

/// What may be typed in place of a message.
const COMMANDS: &str = "/reset begins a new conversation, /quit ends; a line that ends with \\ goes on in the next";

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
    let adapted = args.compute.apply(&checkpoint, adapted)?;
    checkpoint.verify_weights()?;
    let template = template(&args.file, &checkpoint, args.chat_template.as_deref())?;
    let tokenizer = eval::tokenizer(&checkpoint)?;
    let special = checkpoint.special_tokens(&tokenizer);
    let most = checkpoint.meta.model.context;
    let context = match args.context {
        Some(given) if !(1..=most).contains(&given) => {
            return Err(format!("--context {given}: must be 1 to {most}, the model's context").into());
        }
        Some(given) => given,
        None => most.min(CONTEXT),
    };
    let capacity = Capacity { tokens: PASS_TOKENS.min(context), keys: context, sampling: true, packing: false };
    let mut opened = device::open_for(args.device, &adapted, capacity)?;
    let interactive = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if interactive {
        eprintln!("{}, {context} tokens of context\n{COMMANDS}", opened.describe());
    }
    let interrupts = if interactive { Some(ReplyInterrupts::watch()?) } else { None };
    let model = adapted.open(opened.backend.as_mut(), capacity)?;
    let system = args.system.iter().map(|text| Message { role: "system", content: text.clone() });
    let mut talk = Talk {
        args,
        sampling,
        template,
        tokenizer,
        special,
        context,
        most,
        vocab: checkpoint.meta.model.vocab,
        messages: system.collect(),
        interrupts,
        tokens: 0,
        writing: Duration::ZERO,
    };
    let mut generator = Generator::by(&model, adapted.ensemble().unwrap_or_default());
    let mut lines = (1..).zip(std::io::stdin().lock().lines());
    while let Some(line) = message(&mut lines, interactive)? {
        match line.trim() {
            "" => continue,
            "/quit" | "/exit" | "/bye" => break,
            "/reset" | "/clear" => talk.messages.truncate(usize::from(args.system.is_some())),
            "/help" | "/?" => eprintln!("{COMMANDS}"),
            word if is_command(word) => eprintln!("{} is no command; {COMMANDS}", escape(word)),
            message if !talk.reply(opened.backend.as_mut(), &mut generator, message)? => break,
            _ => {}
        }
    }
    talk.summary();
    Ok(ExitCode::SUCCESS)
}

/// The next message, of several lines where they end with a backslash; nothing at the end of the input.
fn message(
    lines: &mut impl Iterator<Item = (usize, io::Result<String>)>,
    prompts: bool,
) -> Result<Option<String>, Failure> {
    let mut message = String::new();
    loop {
        if prompts {
            eprint!("{}", if message.is_empty() { "> " } else { ". " });
            std::io::stderr().flush()?;
        }
        let line = match lines.next() {
            Some((number, Err(error))) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(format!("standard input, line {number}: is not UTF-8; {NOT_UTF8}").into());
            }
            line => line.map(|(_, line)| line).transpose()?,
        };
        match line {
            None if message.is_empty() => return Ok(None),
            None => return Ok(Some(message)),
            Some(line) => match line.strip_suffix('\\') {
                Some(line) => message += &format!("{line}\n"),
                None => return Ok(Some(message + &line)),
            },
        }
    }
}

/// Whether a message is a word that looks like a command.
fn is_command(message: &str) -> bool {
    message.strip_prefix('/').is_some_and(|word| !word.is_empty() && word.chars().all(char::is_alphabetic))
}

/// A conversation in the making.
struct Talk<'a> {
    args: &'a Args,
    sampling: &'a Sampling,
    template: ChatPrompt,
    tokenizer: Tokenizer,
    special: SpecialTokens,
    context: usize,
    /// The model's own.
    most: usize,
    vocab: usize,
    /// The system's message, if there is one, then those of user and assistant in turns.
    messages: Vec<Message>,
    /// Of a conversation on a terminal.
    interrupts: Option<Arc<ReplyInterrupts>>,
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
                let advice = match self.context < self.most {
                    true => format!("shorten it, or raise --context (to {} at most)", self.most),
                    false => "shorten it".into(),
                };
                eprintln!(
                    "the message has {tokens} tokens with the template around it, the context {}: {advice}",
                    self.context
                );
                return Ok(true);
            }
        };
        // What is cached already is not computed again.
        let common = generator.history().iter().zip(&prompt).take_while(|(a, b)| a == b).count();
        let kept = common.min(prompt.len() - 1);
        generator.rewind(kept);
        self.interrupts.iter().for_each(|interrupts| interrupts.set_replying(true));
        generator.feed(backend, &prompt[kept..]);
        let mut printer = TokenPrinter::new(&self.tokenizer, &prompt, self.args.sampling.stops(), false);
        let (begun, mut cut_off) = (Instant::now(), false);
        let most = self.args.max_tokens.min(self.context - prompt.len());
        for left in (0..most).rev() {
            backend.status()?;
            let Some(id) = generator.sample(self.sampling) else {
                let file = escape(&self.args.file.to_string_lossy());
                return Err(format!("{file}: the model's output is not finite; its training diverged").into());
            };
            self.tokens += 1;
            if self.special.ends_with(id) || printer.push(id)? || !printer.open || self.stopped() {
                break;
            }
            if left == 0 {
                cut_off = true;
                break;
            }
            generator.feed(backend, &[id]);
        }
        self.writing += begun.elapsed();
        printer.finish()?;
        if let Some(interrupts) = &self.interrupts {
            interrupts.set_replying(false);
            if cut_off {
                let option = if most == self.args.max_tokens { "--max-tokens" } else { "--context" };
                eprintln!("(cut off after {most} tokens by {option})");
            }
        }
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

    /// Whether Ctrl-C ended the reply.
    fn stopped(&self) -> bool {
        self.interrupts.as_ref().is_some_and(|interrupts| interrupts.stopped())
    }

    fn summary(&self) {
        let seconds = self.writing.as_secs_f64();
        if self.tokens > 0 && seconds > 0.0 {
            let each = self.tokens as f64 / seconds;
            eprintln!("{} tokens, {each:.1} tokens/s", self.tokens);
        }
    }
}
