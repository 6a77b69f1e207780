//! The audit of a run: whether its weights move, and how.
//!
//! Rounding makes small updates disappear, so a loss that falls is no proof that the packed weights learn: norms and
//! tables may do it alone. Every `train.audit_every` steps a [`Sample`] of the blocks' weights is read before and after
//! the step and compared. The sample costs far less than a hundredth of a step; a run that seems to stand still is
//! compared as a whole before it is stopped.

mod adaptive;
mod sample;

pub use sample::AuditReport;

use super::{StepReport, StopReason, Trainer};
use crate::model::ParamSpec;
use adaptive::Averages;
use sample::{Change, Sample};

pub(crate) use sample::median;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};
use zerocopy::IntoBytes;

/// Bytes that are read at once for a digest.
const PIECE: usize = 1 << 16;

/// Watches the weights of a run. Everything is allocated by [`Audit::new`].
pub struct Audit {
    sample: Sample,
    /// The sample as it was last read, and room to read it again.
    kept: Vec<u8>,
    read: Vec<u8>,
    /// The sample at the start.
    start: Vec<u8>,
    averages: Averages,
    /// Whether `kept` is from right before the step that is under way.
    armed: bool,
    /// What changed between the last audit and the step that is audited now.
    since: Change,
    piece: Vec<u8>,
    /// Steps so far that should have moved weights: at a learning rate above 0, and not skipped.
    moving: u64,
    /// The state at the first audit of those up to now that found nothing moved.
    still: Option<Still>,
    /// Digest of every weight at the start of a run that has a learning rate of 0.
    frozen: Option<u64>,
}

/// The weights of the blocks at some step.
struct Still {
    digest: u64,
    moving: u64,
}

impl Audit {
    /// An audit that begins with the weights as they are; of several ranks each has one, and asks it at the same time.
    pub fn new(trainer: &mut Trainer) -> Self {
        let sample = Sample::choose(trainer.model(), trainer.config().run.seed);
        let (mut kept, read) = (vec![0; sample.bytes()], vec![0; sample.bytes()]);
        read_all(&sample, trainer, &mut kept);
        let mut piece = vec![0; PIECE];
        let frozen = (trainer.config().optimizer.lr == 0.0).then(|| digest(trainer, &mut piece, |spec| spec.trainable));
        let (since, start) = (Change::default(), kept.clone());
        Self {
            sample,
            kept,
            read,
            start,
            averages: Averages::of(trainer),
            armed: false,
            since,
            piece,
            moving: 0,
            still: None,
            frozen,
        }
    }

    /// Before every step.
    pub fn before(&mut self, trainer: &mut Trainer) {
        let every = trainer.config().train.audit_every;
        let number = trainer.counters().step + 1;
        self.armed = every > 0 && (number.is_multiple_of(every) || number == trainer.config().train.steps);
        if self.armed {
            self.since = self.compare(trainer);
            self.averages.before(trainer);
        }
    }

    /// After every step: the audit's findings go into the report; gives the reason to stop, if there is one.
    pub fn after(&mut self, trainer: &mut Trainer, report: &mut StepReport) -> Option<StopReason> {
        self.moving += u64::from(report.lr > 0.0 && !report.skipped_loss && !report.frozen);
        let last = report.step == trainer.config().train.steps;
        let start = self.frozen.filter(|_| self.armed || last);
        if start.is_some_and(|start| digest(trainer, &mut self.piece, |spec| spec.trainable) != start) {
            return Some(StopReason::FrozenMoved);
        }
        if !self.armed {
            return None;
        }
        let step = self.compare(trainer);
        let found = AuditReport::new(&step, &self.since, self.sample.median_scale(&self.kept));
        let changed_codes = self.sample.changed_codes(&self.start, &self.kept);
        // The optimizer counts its own steps.
        let frozen = trainer.config().continual.stage.map_or(0, |stage| stage.freeze);
        let adapted = self.averages.after(trainer, report.step.saturating_sub(frozen).max(1), report.lr);
        let (adagn_factor, adaclip_share) = (adapted.factor, adapted.clipped);
        report.audit = Some(AuditReport { changed_codes, adagn_factor, adaclip_share, ..found });
        self.standing(trainer, step.moved + self.since.moved > 0)
    }

    /// Reads the sample and says in what it differs from the last time.
    fn compare(&mut self, trainer: &mut Trainer) -> Change {
        read_all(&self.sample, trainer, &mut self.read);
        let change = self.sample.compare(&self.kept, &self.read);
        std::mem::swap(&mut self.kept, &mut self.read);
        change
    }

    /// Whether the weights stand still for too long. What moves only outside of the sample shows in the digest.
    fn standing(&mut self, trainer: &mut Trainer, moved: bool) -> Option<StopReason> {
        let most = trainer.config().train.max_unmoved;
        if moved || most == 0 || self.sample.is_empty() {
            self.still = None;
            return None;
        }
        let passed = self.still.as_ref().map(|still| self.moving - still.moving);
        if passed.is_some_and(|passed| passed < most) {
            return None;
        }
        let now = digest(trainer, &mut self.piece, |spec| {
            spec.trainable && spec.kind.block().is_some() && !spec.kind.is_vector()
        });
        match (&self.still, passed) {
            (Some(still), Some(steps)) if still.digest == now => Some(StopReason::Unmoved { steps }),
            _ => {
                self.still = Some(Still { digest: now, moving: self.moving });
                None
            }
        }
    }
}

/// The median distance between neighbouring codes of the blocks' matrices, of the same sample; nothing if they are floats
/// or their codes are not evenly spaced.
pub fn code_distance(trainer: &Trainer) -> Option<f64> {
    let model = trainer.model();
    let blocks = model.specs.iter().zip(&model.stored);
    let mut matrices = blocks.filter(|(spec, _)| spec.kind.block().is_some() && !spec.kind.is_vector());
    if !matrices.all(|(_, param)| param.weight.format.has_even_codes()) {
        return None;
    }
    let mut sample = Sample::choose(model, trainer.config().run.seed);
    let mut reading = vec![0; sample.bytes()];
    sample.read(trainer.backend(), &mut reading);
    sample.median_scale(&reading)
}

/// Reads all of a sample, whichever rank holds it.
fn read_all(sample: &Sample, trainer: &mut Trainer, out: &mut [u8]) {
    sample.read(trainer.backend(), out);
    trainer.team().complete(out, sample.parts());
}

/// Digest of the weights, residue included, of the parameters that `counts`: of several ranks, of what each holds.
fn digest(trainer: &mut Trainer, piece: &mut [u8], counts: impl Fn(&ParamSpec) -> bool) -> u64 {
    let (model, backend) = (trainer.model(), trainer.backend());
    let mut digest = Xxh3::new();
    for (_, param) in model.specs.iter().zip(&model.stored).filter(|(spec, _)| counts(spec)) {
        for span in param.weight.planes().into_iter().filter(|span| !span.is_none() && !span.is_away()) {
            for from in (0..span.bytes).step_by(PIECE) {
                let count = PIECE.min(span.bytes - from);
                backend.download(span.part(from, count), &mut piece[..count]);
                digest.update(&piece[..count]);
            }
            backend.advise_cold(span);
        }
    }
    xxh3_64(trainer.team().all(digest.digest()).as_bytes())
}
