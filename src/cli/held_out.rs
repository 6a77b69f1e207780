//! Held-out text, window by window: some of it for one thing, the rest for another.

use super::device::Device;
use super::output::escape;
use super::signals::{Doing, Interrupts};
use super::{Failure, device, eval};
use std::path::Path;
use tetrad::checkpoint::{Adapted, Capacity, Checkpoint, TOKENIZER_CONFIG};
use tetrad::data::{
    Corpus, Dataset, IGNORE, Overlong, Packing, SampleFormat, Source, TokenizerConfig, Windows, prepare,
};
use tetrad::model::{Batch, EnsembleLosses};

/// Tokens in one pass, at least one window: enough to keep all cores busy.
const PASS_TOKENS: usize = 2048;

/// A text in windows of one length.
pub(super) struct HeldOut {
    pub windows: Windows,
    /// Tokens of a window.
    pub sequence: usize,
    /// Tokens of the text.
    pub tokens: usize,
    /// Bytes of text per token, where they are known.
    pub bytes_per_token: Option<f64>,
    packing: bool,
}

/// How a text is read and cut into windows.
#[derive(Clone, Copy, Default)]
pub(super) struct Cut<'a> {
    /// Tokens of a window; as in training, at most the model's context and the text, where nothing is said.
    pub sequence: Option<usize>,
    /// Windows at most; 0: all.
    pub most: usize,
    /// The chat template, unless it is the model's own.
    pub template: Option<&'a str>,
}

impl HeldOut {
    /// Prepares text for a model.
    ///
    /// # Errors
    /// Text that cannot be read or that the model has no tokens for, or that has no window.
    pub fn prepare(model: &Checkpoint, text: &[String], cut: Cut<'_>, cache: &Path) -> Result<Self, Failure> {
        let config = match model.attachment(TOKENIZER_CONFIG) {
            Some(json) => TokenizerConfig::parse(&model.path().to_string_lossy(), &json)?,
            None => TokenizerConfig::default(),
        };
        let config = match cut.template {
            Some(template) => config.with_template(template)?,
            None => config,
        };
        let format = SampleFormat { tokenizer: eval::tokenizer(model)?, config };
        let corpus = Corpus::resolve(text)?;
        if let Some(told) = corpus.told_repeated() {
            eprintln!("note: {}", escape(&told));
        }
        let interrupts = Interrupts::watch()?;
        interrupts.now(Doing::Preparing);
        let mut progress = super::progress::preparing(&interrupts);
        let (shard, dataset) = prepare(&corpus, &format, Packing::Auto, Overlong::Truncate, cache, &mut progress)?;
        interrupts.now(Doing::Nothing);
        shard.check_vocabulary(&corpus, model.meta.model.vocab)?;
        let (tokens, bytes_per_token) = (shard.tokens.len(), shard.bytes_per_token());
        let sequence = sequence(cut.sequence, model, (&corpus, tokens))?;
        let packing = matches!(dataset, Dataset::Samples(_));
        let part = Source { name: String::new(), weight: 1.0, dataset };
        let windows = Windows::of(&[part], sequence, cut.most)?;
        Ok(Self { windows, sequence, tokens, bytes_per_token, packing })
    }

    /// Windows.
    pub fn len(&self) -> usize {
        self.windows.len()
    }

    /// The tokens of some windows, one after the other.
    pub fn tokens(&self, windows: impl Iterator<Item = usize>) -> Vec<u32> {
        let mut all = Vec::new();
        let (mut inputs, mut targets) = (vec![0; self.sequence], vec![0; self.sequence]);
        let mut starts = vec![0; if self.packing { self.sequence } else { 0 }];
        for window in windows {
            self.windows.fill_segments(window, &mut inputs, &mut targets, &mut starts);
            all.extend_from_slice(&inputs);
        }
        all
    }

    /// What a model scores on some windows.
    ///
    /// # Errors
    /// A device that cannot be used or fails.
    pub fn loss(&self, model: &Adapted<'_>, chosen: &[usize], device: Device) -> Result<HeldOutLoss, Failure> {
        mean_loss(model, (&self.windows, chosen), (self.sequence, self.packing), device)
    }
}

/// Tokens of a window of a text of so many tokens.
fn sequence(asked: Option<usize>, model: &Checkpoint, (text, tokens): (&Corpus, usize)) -> Result<usize, Failure> {
    let context = model.meta.model.context;
    if let Some(asked) = asked {
        return match asked {
            0 => Err("--sequence 0: at least 1 token".into()),
            asked if asked > context => {
                Err(format!("--sequence {asked}: the model's context is {context} tokens, the longest possible").into())
            }
            asked if asked >= tokens => {
                let tokens = counted(tokens);
                Err(format!("--sequence {asked}: the text has {tokens}, and one more than a sequence is needed").into())
            }
            asked => Ok(asked),
        };
    }
    if tokens < 2 {
        let first = text.inputs.first().map_or_else(Default::default, |input| input.name.to_string_lossy());
        let others = match text.inputs.len() {
            0 | 1 => String::new(),
            files => format!(" and {} more", files - 1),
        };
        let found = counted(tokens);
        let advice = "at least 2 are needed, the second to be predicted from the first; give more with --text";
        return Err(format!("{}{others}: {found} in total; {advice}", escape(&first)).into());
    }
    // A text shorter than a training sequence is one sequence.
    Ok(model.meta.train.sequence.min(context).min(tokens - 1))
}

fn counted(tokens: usize) -> String {
    if tokens == 1 { "1 token".into() } else { format!("{tokens} tokens") }
}

/// What a model scores on held-out text.
pub(super) struct HeldOutLoss {
    /// The mean loss in nats per token; of two experts by the ensemble of the model.
    pub loss: f64,
    /// Tokens that it is the mean of.
    pub counted: u64,
    /// The device that computed it, in words.
    pub device: String,
    /// The losses by every ensemble, if there are two experts.
    pub both: Option<EnsembleLosses>,
}

/// Scores some windows by a model.
///
/// # Errors
/// A device that cannot be used or fails.
pub(super) fn mean_loss(
    model: &Adapted<'_>,
    (windows, chosen): (&Windows, &[usize]),
    (sequence, packing): (usize, bool),
    device: Device,
) -> Result<HeldOutLoss, Failure> {
    let ensemble = model.ensemble().filter(|_| model.has_experts());
    // Two experts are twice the rows.
    let pass = if ensemble.is_some() { PASS_TOKENS / 2 } else { PASS_TOKENS };
    let batch = (pass / sequence).clamp(1, chosen.len());
    let capacity = Capacity { tokens: batch * sequence, keys: sequence, sampling: false, packing };
    let mut opened = device::open_for(device, model, capacity)?;
    let described = opened.describe();
    let backend = opened.backend.as_mut();
    let model = model.open(backend, capacity)?;
    let (mut inputs, mut targets) = (vec![0; batch * sequence], vec![0; batch * sequence]);
    let mut starts = vec![0; if packing { batch * sequence } else { 0 }];
    let mut losses = vec![0.0f32; batch * sequence];
    let (mut sum, mut counted, mut both) = (0.0, 0, EnsembleLosses::default());
    for part in chosen.chunks(batch) {
        let tokens = part.len() * sequence;
        let starts = if packing { &mut starts[..tokens] } else { &mut [][..] };
        for (i, &window) in part.iter().enumerate() {
            let at = i * sequence..(i + 1) * sequence;
            let own = if packing { &mut starts[at.clone()] } else { &mut [][..] };
            windows.fill_segments(window, &mut inputs[at.clone()], &mut targets[at], own);
        }
        let (inputs, targets) = (&inputs[..tokens], &targets[..tokens]);
        counted += targets.iter().filter(|&&target| target != IGNORE).count() as u64;
        let pass = Batch::whole(part.len(), sequence);
        match ensemble {
            Some(_) => both.merge(&model.evaluate_experts(backend, pass, inputs, targets, starts)),
            None => sum += model.evaluate(backend, pass, inputs, targets, starts, &mut losses[..tokens]),
        }
    }
    backend.status()?;
    let loss = ensemble.map_or(sum / counted.max(1) as f64, |ensemble| both.mean(ensemble));
    Ok(HeldOutLoss { loss, counted, device: described, both: ensemble.map(|_| both) })
}
