//! A run that another command asks for: one of a chain of runs.

use super::ranks::Joined;
use super::start::InitFrom;
use super::{Args, Asked, Run};
use crate::cli::device::Device;
use crate::cli::overrides::Overrides;
use crate::cli::signals::Interrupts;
use crate::cli::{Failure, pool};
use tetrad::checkpoint::Resume;
use tetrad::config::Config;
use tetrad::store::Lock;

/// What a run of a chain starts from.
#[derive(Clone, Copy)]
pub(in crate::cli) struct Begin<'a> {
    /// The base of its adapter, or the model that is trained itself.
    pub model: &'a InitFrom,
    /// The adapter of the run before.
    pub adapter: Option<&'a InitFrom>,
}

/// Trains it, or goes on with it if it was begun; whoever asked sees by its files whether it was stopped.
///
/// # Errors
/// As `tetrad train`.
pub(in crate::cli) fn train_stage(
    config: &Config,
    begin: Begin<'_>,
    device: Device,
    interrupts: &Interrupts,
) -> Result<(), Failure> {
    let args = Args {
        config: None,
        overrides: Overrides::default(),
        resume: Some("auto".into()),
        from: None,
        adapter: None,
        overwrite: false,
        stop_at: None,
        budget: None,
        device,
        profile: None,
        dry_run: false,
    };
    let mut config = config.clone();
    let there = config.run.dir.is_dir();
    let lock = there.then(|| Lock::acquire(config.run.dir.join(".lock"))).transpose()?;
    let start = Resume::Newest.find(&config.run.dir)?;
    pool::run(config.run.threads, || {
        config.look_at_files()?;
        let Begin { model, adapter } = begin;
        let asked = Asked { args: &args, model: Some(model), adapter, textless: false, chained: true };
        let joined = Joined::alone(&config);
        super::train(Run { config: &config, asked: &asked, joined: &joined, interrupts }, start, lock)
    })??;
    Ok(())
}
