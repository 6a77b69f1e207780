//! Bytes that are sent, counted beside what a plan says.

use super::{Edit, Life, config, on_each};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tetrad::backend::Precision;
use tetrad::error::RanksError;
use tetrad::ranks::Ranks;
use tetrad::train::Exchanged;

/// Counts what goes out.
struct Counted {
    inner: Arc<dyn Ranks>,
    sent: AtomicU64,
    shared: AtomicU64,
}

impl Ranks for Counted {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn send(&self, bytes: &[u8], to: usize) -> Result<(), RanksError> {
        self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.inner.send(bytes, to)
    }

    fn recv(&self, bytes: &mut [u8], from: usize) -> Result<(), RanksError> {
        self.inner.recv(bytes, from)
    }

    fn share(&self, bytes: &mut [u8], from: usize) -> Result<(), RanksError> {
        if from == self.rank() {
            self.shared.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        self.inner.share(bytes, from)
    }

    fn gather(&self, own: &[u8], all: &mut [u8]) -> Result<(), RanksError> {
        self.inner.gather(own, all)
    }

    fn finish(&self) -> Result<(), RanksError> {
        self.inner.finish()
    }

    fn abort(&self, code: u8) {
        self.inner.abort(code);
    }
}

/// Beside gradients and weights: losses, norms, what updates did.
const NUMBERS: u64 = 4096;

#[test]
fn ranks_send_what_the_plan_says() {
    let edits: [(&str, Edit); 6] = [
        ("a chain", |_| {}),
        ("a chain that goes round twice for a tied table", |config| config.model.tied = true),
        ("a chain, clipped", |config| config.optimizer.grad_clip = 0.1),
        ("sums", |config| config.train.reproducible = false),
        ("rounded sums", |config| {
            (config.train.reproducible, config.train.reduce_dtype) = (false, Precision::Bf16);
        }),
        ("sums, clipped", |config| (config.train.reproducible, config.optimizer.grad_clip) = (false, 0.1)),
    ];
    for (what, edit) in edits {
        let mut config = config();
        edit(&mut config);
        for size in [2u64, 3] {
            config.run.ranks = size as usize;
            let counts = on_each(size as usize, |ranks| {
                let counted = Arc::new(Counted { inner: ranks, sent: AtomicU64::new(0), shared: AtomicU64::new(0) });
                let life = Life { steps: 0..1, ..Life::new(&config) };
                let mut trainer = life.trainer(counted.clone(), 1);
                life.live(&mut trainer);
                let exchanged = Exchanged::of(trainer.model(), trainer.config());
                trainer.ranks().finish().unwrap();
                (exchanged, counted.sent.load(Ordering::Relaxed), counted.shared.load(Ordering::Relaxed))
            });
            let planned = counts[0].0;
            assert!(counts.iter().all(|count| count.0 == planned), "{what}: every rank plans alike");
            let near = |found: u64, planned: u64| (planned..planned + NUMBERS).contains(&found);
            let shared = counts.iter().map(|count| count.2).sum();
            assert!(near(shared, planned.shared), "{what}, {size} ranks: {shared} bytes of weights, {planned:?}");
            let sent = match config.train.reproducible {
                // The first sends each gradient once; the last what it does not update itself.
                true => counts[0].1,
                false => counts.iter().map(|count| count.1).sum::<u64>() / size,
            };
            assert!(near(sent, planned.sent), "{what}, {size} ranks: {sent} bytes of gradients, {planned:?}");
        }
    }
}
