//! Held-out text, window by window: some of it for one thing, the rest for another.

use super::device::Device;
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
    windows: Windows,
    /// Tokens of a window.
    pub sequence: usize,
    packing: bool,
}

impl HeldOut {
    /// Prepares text for a model.
    ///
    /// # Errors
    /// Text that cannot be read, or that has no window.
    pub fn prepare(
        model: &Checkpoint,
        text: &[String],
        sequence: Option<usize>,
        cache: &Path,
    ) -> Result<Self, Failure> {
        let config = match model.attachment(TOKENIZER_CONFIG) {
            Some(json) => TokenizerConfig::parse(&model.path().to_string_lossy(), &json)?,
            None => TokenizerConfig::default(),
        };
        let format = SampleFormat { tokenizer: eval::tokenizer(model)?, config };
        let corpus = Corpus::resolve(text)?;
        let interrupts = Interrupts::watch()?;
        interrupts.now(Doing::Preparing);
        let mut progress = super::progress::preparing(&interrupts);
        let (shard, dataset) = prepare(&corpus, &format, Packing::Auto, Overlong::Truncate, cache, &mut progress)?;
        interrupts.now(Doing::Nothing);
        shard.check_vocabulary(&corpus, model.meta.model.vocab)?;
        let (context, tokens) = (model.meta.model.context, shard.tokens.len());
        let sequence = sequence.unwrap_or(model.meta.train.sequence.min(context));
        if sequence == 0 || sequence > context || sequence >= tokens {
            let most = context.min(tokens.saturating_sub(1));
            return Err(format!("--sequence {sequence}: windows of 1 to {most} tokens are possible").into());
        }
        let packing = matches!(dataset, Dataset::Samples(_));
        let part = Source { name: String::new(), weight: 1.0, dataset };
        Ok(Self { windows: Windows::of(&[part], sequence, 0)?, sequence, packing })
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

    /// The mean loss of a model on some windows, in nats per token, and how many tokens it is the mean of.
    ///
    /// # Errors
    /// A device that cannot be used or fails.
    pub fn loss(&self, model: &Adapted<'_>, chosen: &[usize], device: Device) -> Result<(f64, u64), Failure> {
        let found = mean_loss(model, (&self.windows, chosen), (self.sequence, self.packing), device)?;
        Ok((found.loss, found.counted))
    }
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
