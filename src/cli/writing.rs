//! What `sample` and `chat` share: how tokens are drawn, where the text ends, and how it is shown.

use super::output::harmless;
use std::io::{ErrorKind, IsTerminal, Write};
use tetrad::data::{Decoder, SpecialTokens, Tokenizer};
use tetrad::error::DataError;
use tetrad::model::Sampling;

/// What to do about text that is not UTF-8.
pub(super) const NOT_UTF8: &str = "convert it, as `iconv -f latin1 -t utf-8` does";

/// Prompt tokens in one pass.
pub(super) const PASS_TOKENS: usize = 256;

/// The tokens of a text to continue. A model whose tokenizer puts a beginning-of-text token before every text was trained
/// with it, so it is added here; `came` is whether anything came with the tokenizer that says so.
///
/// # Errors
/// Text that the tokenizer refuses.
pub(super) fn text_prompt(
    text: &str,
    tokenizer: &Tokenizer,
    special: &SpecialTokens,
    came: bool,
) -> Result<Vec<u32>, DataError> {
    let mut ids = tokenizer.encode(text)?;
    let begins =
        special.bos.filter(|bos| came && special.add_bos.unwrap_or(tokenizer.beginning().first() == Some(bos)));
    if begins.is_some() && ids.first() != begins.as_ref() {
        ids.splice(..0, begins);
    }
    if ids.is_empty() {
        ids.extend(special.bos.or(special.eos));
    }
    Ok(ids)
}

/// How tokens are drawn.
#[derive(clap::Args, Clone, Debug)]
pub struct SamplingArgs {
    /// 0 = greedy; 1 = the model's distribution; higher = more random.
    #[arg(long, default_value_t = 0.8, allow_negative_numbers = true)]
    temperature: f64,
    /// Sample from the K most likely tokens only; 0 = from all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Sample from the smallest set of most likely tokens whose probabilities add up to P.
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true)]
    top_p: f64,
    /// Sample from tokens at least P times as likely as the most likely one; 0 = from all.
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f64,
    /// Make tokens that already occur in the text less likely; 1 = off.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f64,
    /// Seed: the same seed gives the same text.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stop before this text would appear; may be repeated.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

impl SamplingArgs {
    /// The library's options.
    ///
    /// # Errors
    /// An option out of range, with what is allowed.
    pub(super) fn sampling(&self) -> Result<Sampling, String> {
        let &Self { temperature, top_k, top_p, min_p, repetition_penalty, seed, .. } = self;
        let checks = [
            (temperature >= 0.0 && temperature.is_finite(), "temperature", temperature, "must be 0 or more"),
            (top_p > 0.0 && top_p <= 1.0, "top-p", top_p, "must be above 0 and at most 1"),
            ((0.0..=1.0).contains(&min_p), "min-p", min_p, "must be 0 to 1"),
            (
                repetition_penalty > 0.0 && repetition_penalty.is_finite(),
                "repetition-penalty",
                repetition_penalty,
                "must be above 0; 1 changes nothing, 1.1 is usual",
            ),
        ];
        match checks.iter().find(|(ok, ..)| !ok) {
            Some((_, name, found, allowed)) => Err(format!("--{name} {found}: {allowed}")),
            None if self.stop.iter().any(String::is_empty) => Err("--stop: give at least one character".into()),
            None => Ok(Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed }),
        }
    }

    /// Where the text ends, apart from the model's own token.
    pub(super) fn stops(&self) -> Stops {
        Stops { texts: self.stop.clone(), held: String::new(), reached: false }
    }
}

/// Watches a text for the strings that end it; what may become one of them is held back.
pub(super) struct Stops {
    texts: Vec<String>,
    held: String,
    /// Whether one was found.
    pub reached: bool,
}

impl Stops {
    /// Adds text and gives what can be shown; nothing once a stop was reached.
    pub fn push(&mut self, text: &str) -> String {
        if self.reached {
            return String::new();
        }
        self.held.push_str(text);
        if let Some(at) = self.texts.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.reached = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let ends = |stop: &String| {
            (1..stop.len()).rev().find(|&len| stop.is_char_boundary(len) && self.held.ends_with(&stop[..len]))
        };
        let keep = self.texts.iter().filter_map(ends).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back, at the end of the text.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Prints text to standard output as it is generated; may be silent.
pub(super) struct TokenPrinter {
    decoder: Decoder,
    stops: Stops,
    silent: bool,
    terminal: bool,
    /// Everything that was generated, as far as it is shown.
    pub text: String,
    /// Whether standard output still has a reader.
    pub open: bool,
}

impl TokenPrinter {
    pub fn new(tokenizer: &Tokenizer, prompt: &[u32], stops: Stops, silent: bool) -> Self {
        let (decoder, terminal) = (Decoder::after(tokenizer, prompt), std::io::stdout().is_terminal());
        Self { decoder, stops, silent, terminal, text: String::new(), open: true }
    }

    /// Shows text that the model did not generate.
    pub fn write(&mut self, text: &str) -> std::io::Result<()> {
        if self.silent {
            return Ok(());
        }
        let shown = if self.terminal { harmless(text) } else { text.into() };
        let mut out = std::io::stdout().lock();
        match out.write_all(shown.as_bytes()).and_then(|()| out.flush()) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => self.open = false,
            other => other?,
        }
        Ok(())
    }

    /// Adds a token; whether the text ends with it.
    pub fn push(&mut self, id: u32) -> std::io::Result<bool> {
        let text = self.decoder.push(id);
        let text = self.stops.push(&text);
        self.write(&text)?;
        self.text += &text;
        Ok(self.stops.reached)
    }

    /// Shows what was held back, and ends the line.
    pub fn finish(&mut self) -> std::io::Result<()> {
        let rest = self.decoder.finish();
        let rest = self.stops.push(&rest) + &self.stops.finish();
        self.text += &rest;
        self.write(&(rest + "\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::Stops;

    fn shown(stops: &[&str], pieces: &[&str]) -> (Vec<String>, String, bool) {
        let texts = stops.iter().map(|stop| stop.to_string()).collect();
        let mut stops = Stops { texts, held: String::new(), reached: false };
        let shown = pieces.iter().map(|piece| stops.push(piece)).collect();
        (shown, stops.finish(), stops.reached)
    }

    #[test]
    fn a_stop_across_tokens_is_found_and_never_shown() {
        let (parts, rest, reached) = shown(&["\nUser:"], &["Yes.", "\n", "Us", "er: and"]);
        assert_eq!((parts.concat().as_str(), rest.as_str(), reached), ("Yes.", "", true));
    }

    #[test]
    fn what_only_looked_like_a_stop_is_shown_in_the_end() {
        let (parts, rest, reached) = shown(&["END", "é!"], &["a E", "N", "O", " é", " EN"]);
        assert_eq!(parts, ["a ", "", "ENO", " ", "é "]);
        assert_eq!((rest.as_str(), reached), ("EN", false));
    }

    #[test]
    fn the_first_of_several_stops_counts() {
        assert_eq!(shown(&["later", "now"], &["a now b later"]).0, ["a "]);
        assert_eq!(shown(&[], &["a", "b"]).0, ["a", "b"], "no stops, nothing held back");
    }
}
