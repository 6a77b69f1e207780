//! Bytes that are sent, counted beside what a plan says.

use super::watched::{Call, Watched};
use super::{Edit, Life, config, on_each};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tetrad::backend::Precision;
use tetrad::train::Exchanged;

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
                let [sent, shared] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
                let counters = [sent.clone(), shared.clone()];
                let see = move |call| {
                    let (counter, bytes) = match call {
                        Call::Send(bytes) => (0, bytes),
                        Call::Share(bytes) => (1, bytes),
                        Call::Recv | Call::Gather => return Ok(()),
                    };
                    counters[counter].fetch_add(bytes as u64, Ordering::Relaxed);
                    Ok(())
                };
                let life = Life { steps: 0..1, ..Life::new(&config) };
                let mut trainer = life.trainer(Arc::new(Watched { inner: ranks, see }), 1);
                life.live(&mut trainer);
                let exchanged = Exchanged::of(trainer.model(), trainer.config());
                trainer.ranks().finish().unwrap();
                (exchanged, sent.load(Ordering::Relaxed), shared.load(Ordering::Relaxed))
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
