//! Ranks on emulated devices that reach each other by the emulated NCCL: threads of this process, each with its device.

use crate::harness::adapter::{base, lora};
use crate::harness::gpu::{checked, emulated, emulator};
use crate::harness::small;
use crate::harness::state::{joined, whole_state};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tetrad::backend::cuda::{Cuda, NcclLibrary, UniqueId};
use tetrad::backend::{Backend, Memory, Precision};
use tetrad::checkpoint::{Checkpoint, contribute};
use tetrad::config::Config;
use tetrad::error::{BackendError, RanksError};
use tetrad::memory::{Category, Lifetime, Plan};
use tetrad::model::{ActivationCheckpointing, AdapterScale, GradBuffer, Offload};
use tetrad::ranks::{Alone, Ranks, in_process};
use tetrad::train::Trainer;
use zerocopy::IntoBytes;

const BATCH: usize = 6;
const SEQUENCE: usize = 12;

/// Loss, gradient norm and factor of clipping of a step.
type Steps = Vec<[f64; 3]>;

/// What a rank ends with: its steps, and every byte of its weights and of the state that it holds, by planes.
type End = (Steps, Vec<Vec<u8>>);

fn config() -> Config {
    let mut config = small::config();
    (config.train.batch, config.train.sequence) = (BATCH, SEQUENCE);
    config
}

/// A run from its beginning, or from a checkpoint.
#[derive(Clone, Copy)]
struct Life<'a> {
    config: &'a Config,
    base: Option<&'a Checkpoint>,
    from: Option<&'a Checkpoint>,
    steps: (u32, u32),
}

impl<'a> Life<'a> {
    fn new(config: &'a Config) -> Self {
        Self { config, base: None, from: None, steps: (0, 2) }
    }

    fn trainer(&self, ranks: Arc<dyn Ranks>, gpu: Cuda) -> Trainer {
        let mut config = self.config.clone();
        config.run.ranks = ranks.size();
        let base = self.base.map(|base| base.base().unwrap());
        let mut trainer = Trainer::with_ranks(&config, base, ranks, Box::new(gpu)).unwrap();
        trainer.initialize();
        if let Some(from) = self.from {
            from.restore(&mut trainer, "text").unwrap();
        }
        trainer
    }

    fn live(&self, trainer: &mut Trainer) -> Steps {
        let rows = trainer.rows();
        let part = |all: &[u32]| all[rows.start * SEQUENCE..rows.end * SEQUENCE].to_vec();
        let mut step = |number: u32| {
            let text: Vec<u32> = (0..=(BATCH * SEQUENCE) as u32).map(|i| (i * i + number * 31) % 256).collect();
            let report = trainer.step(&part(&text[..BATCH * SEQUENCE]), &part(&text[1..]));
            trainer.status().unwrap();
            [report.loss, report.grad_norm, report.clip_factor.unwrap_or(1.0)]
        };
        (self.steps.0..self.steps.1).map(&mut step).collect()
    }

    fn alone(&self) -> End {
        let mut trainer = self.trainer(Arc::new(Alone), open(0));
        (self.live(&mut trainer), whole_state(&trainer))
    }

    /// What each of `size` ranks ends with; they show their trainers to `last`.
    fn on_ranks(&self, size: usize, last: &(dyn Fn(&Trainer) + Sync)) -> Vec<End> {
        on_each(size, |gpu, ranks| {
            let mut trainer = self.trainer(ranks.clone(), gpu);
            let steps = self.live(&mut trainer);
            last(&trainer);
            let end = (steps, whole_state(&trainer));
            ranks.finish().unwrap();
            end
        })
    }
}

fn open(device: usize) -> Cuda {
    emulator().set_devices(4);
    Cuda::open_with(device as u32, &emulated()).unwrap()
}

/// What `work` gives on each of `size` ranks, whose devices alone connect them.
fn on_each<T: Send>(size: usize, work: impl Fn(Cuda, Arc<dyn Ranks>) -> T + Sync) -> Vec<T> {
    let id = NcclLibrary::open(&emulated()).unwrap().unique_id().unwrap();
    std::thread::scope(|scope| {
        let work = &work;
        let start = |rank| {
            scope.spawn(move || {
                let (mut gpu, library) = (open(rank), NcclLibrary::open(&emulated()).unwrap());
                let lost = Box::new(|error: &RanksError| panic!("the emulator does not stand still: {error}"));
                let ranks = gpu.join(library, (rank, size), &id, Some(Duration::from_secs(300)), lost).unwrap();
                work(gpu, ranks)
            })
        };
        let threads: Vec<_> = (0..size).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Sums of another order: the loss before the first update is the same, everything else near.
fn assert_near(found: &Steps, expected: &Steps, what: &str) {
    assert_eq!(found[0][0], expected[0][0], "{what}: no sum of the first loss depends on ranks");
    for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
        assert!((found - expected).abs() <= 5e-3 * expected.abs(), "{what}: {found}, not {expected}");
    }
}

/// What makes a variant of the configuration.
type Edit = fn(&mut Config);

fn rounded(config: &mut Config) {
    (config.train.reproducible, config.train.reduce_dtype) = (false, Precision::Bf16);
}

/// Devices round and add as the host does: two ranks have one order of sums.
#[test]
fn sums_that_are_rounded_on_the_device_are_those_that_the_host_rounds() {
    for dtype in [Precision::F32, Precision::Bf16] {
        let lengths = [1usize, 255, 256, 4099];
        let values = |rank: usize, count: usize| -> Vec<f32> {
            let special = [0.0, -0.0, 1.0 + f32::EPSILON, 3.0e38, -1e-40, 257.0 / 256.0, 259.0 / 256.0];
            (0..count)
                .map(|i| special.get(i).copied().unwrap_or(((i * 37 + rank * 11) % 1013) as f32 / 7.0 - 60.0))
                .collect()
        };
        let found = on_each(2, |mut gpu, ranks| {
            let mut plan = Plan::default();
            let spans = lengths.map(|count| plan.add("sums", Category::Scratch, 4 * count, Lifetime::ALWAYS));
            let workspace = plan.add("kernels", Category::Scratch, 64 << 20, Lifetime::ALWAYS);
            gpu.allocate(plan.total(), None, workspace).unwrap();
            for (span, count) in spans.iter().zip(lengths) {
                gpu.upload(values(ranks.rank(), count).as_bytes(), *span);
            }
            let peers = gpu.peers().unwrap();
            match ranks.rank() {
                0 => peers.add_sums(&spans, 1, dtype),
                _ => peers.send_sums(&spans, 0, dtype),
            }
            let sums = spans.map(|span| {
                let mut sums = vec![0f32; span.bytes / 4];
                gpu.download(span, sums.as_mut_bytes());
                sums
            });
            gpu.status().unwrap();
            ranks.finish().unwrap();
            sums
        });
        for (count, found) in lengths.into_iter().zip(&found[0]) {
            let both = values(0, count).into_iter().zip(values(1, count));
            let expected: Vec<u32> = both.map(|(own, other)| (own + dtype.round(other)).to_bits()).collect();
            assert_eq!(found.iter().map(|sum| sum.to_bits()).collect::<Vec<_>>(), expected, "{count} in {dtype:?}");
        }
    }
}

/// All ranks end in the same bytes, twice the same, and near to one GPU.
#[test]
fn ranks_end_alike_each_time_and_near_to_one_gpu() {
    let edits: [(&str, usize, Edit); 8] = [
        ("chained", 3, |_| {}),
        ("summed, rounded to bfloat16", 3, rounded),
        ("summed, rounded, tied, clipped", 2, |config| {
            rounded(config);
            (config.model.tied, config.optimizer.grad_clip) = (true, 0.1);
        }),
        ("chained, tied, micro-batches", 2, |config| (config.model.tied, config.train.micro_batch) = (true, 1)),
        ("chained, clipped", 2, |config| config.optimizer.grad_clip = 0.1),
        ("summed", 3, |config| config.train.reproducible = false),
        ("summed, tied, micro-batches, clipped", 2, |config| {
            (config.model.tied, config.train.micro_batch) = (true, 2);
            (config.train.reproducible, config.optimizer.grad_clip) = (false, 0.1);
        }),
        ("chained, weights and state in host memory", 2, |config| {
            (config.offload.weights, config.offload.optimizer) = (Offload::Host, Offload::Host);
        }),
    ];
    for (number, (what, size, edit)) in edits.into_iter().enumerate() {
        let mut config = config();
        edit(&mut config);
        let life = Life::new(&config);
        let alone = checked(number == 0, || life.alone());
        let end = joined(life.on_ranks(size, &|_| {}));
        assert!(end.1 == joined(life.on_ranks(size, &|_| {})).1, "{what}: {size} ranks end as before");
        assert_near(&end.0, &alone.0, what);
        let start = if number == 0 { Life { steps: (0, 0), ..life }.alone().1 } else { Vec::new() };
        assert!(start != end.1, "{what}: the steps moved nothing");
    }
}

/// A chain goes on where the rank before it ended, as one GPU does with the same micro-batches.
#[test]
fn a_chain_of_ranks_ends_in_the_bytes_of_one_gpu_with_the_same_micro_batches() {
    let edits: [(&str, usize, Edit); 5] = [
        ("rows one by one", 3, |config| config.train.micro_batch = 1),
        ("two rows each", 3, |config| config.train.micro_batch = 2),
        ("tied, clipped", 2, |config| {
            (config.model.tied, config.train.micro_batch, config.optimizer.grad_clip) = (true, 3, 0.1);
        }),
        ("computed again from packed inputs", 3, |config| {
            config.train.micro_batch = 1;
            config.run.activation_checkpointing = ActivationCheckpointing::BlockInt4;
        }),
        ("tensor by tensor", 4, |config| {
            (config.train.micro_batch, config.run.grad_buffer) = (1, GradBuffer::Tensor);
        }),
    ];
    for (what, size, edit) in edits {
        let mut config = config();
        edit(&mut config);
        let life = Life::new(&config);
        let (alone, end) = (life.alone(), joined(life.on_ranks(size, &|_| {})));
        assert!(alone.0 == end.0, "{what}: {:?}, not {:?}", end.0, alone.0);
        let differ: Vec<_> = (0..alone.1.len()).filter(|&i| alone.1[i] != end.1[i]).collect();
        assert!(differ.is_empty(), "{what}: planes {differ:?} of {}", alone.1.len());
    }
}

/// What ranks exchange does not make the host wait: a step of a model with twice the blocks waits as often.
#[test]
fn no_tensor_makes_the_host_wait() {
    for reproducible in [true, false] {
        let waits = [2, 4].map(|layers| {
            let mut config = config();
            (config.model.layers, config.train.reproducible) = (layers, reproducible);
            let life = Life { steps: (0, 1), ..Life::new(&config) };
            on_each(2, |gpu, ranks| {
                let mut trainer = life.trainer(ranks.clone(), gpu);
                trainer.status().unwrap();
                let before = emulator().waits();
                life.live(&mut trainer);
                let waits = emulator().waits() - before;
                ranks.finish().unwrap();
                waits
            })
        });
        assert!(waits[0] == waits[1] && waits[0].iter().all(|waits| (1..20).contains(waits)), "{waits:?}");
    }
}

#[test]
fn an_adapter_trains_on_ranks_beside_its_base() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let mut config = lora();
    (config.train.batch, config.train.sequence, config.train.micro_batch) = (BATCH, SEQUENCE, 1);
    (config.adapter.dropout, config.adapter.scale) = (0.2, AdapterScale::Learned);
    let life = Life { base: Some(&base), ..Life::new(&config) };
    let end = joined(life.on_ranks(2, &|_| {}));
    let alone = life.alone();
    assert!(alone.0 == end.0 && alone.1 == end.1, "micro-batches of one row on both");
}

/// What connects processes, as MPI does, may be something else than what connects their devices.
#[test]
fn numbers_of_the_host_may_go_another_way() {
    let config = config();
    let life = Life::new(&config);
    let expected = joined(life.on_ranks(2, &|_| {}));
    let others: Vec<Mutex<Option<_>>> = in_process(2).into_iter().map(|rank| Mutex::new(Some(rank))).collect();
    let ends = on_each(2, |gpu, ranks| {
        let own: Arc<dyn Ranks> = Arc::new(others[ranks.rank()].lock().unwrap().take().unwrap());
        let mut trainer = life.trainer(own.clone(), gpu);
        let end = (life.live(&mut trainer), whole_state(&trainer));
        ranks.finish().unwrap();
        own.finish().unwrap();
        end
    });
    let found = joined(ends);
    assert!(found.0 == expected.0 && found.1 == expected.1);
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config.train.micro_batch = 1;
    let expected = Life { steps: (0, 4), ..Life::new(&config) }.alone();
    let (mut from, mut steps): (Option<Checkpoint>, Steps) = (None, Vec::new());
    for (size, range) in [(3, (0, 2)), (2, (2, 4))] {
        let path = folder.path().join(format!("{}.tetrad", range.1));
        let life = Life { from: from.as_ref(), steps: range, ..Life::new(&config) };
        let end = joined(life.on_ranks(size, &|trainer| match trainer.ranks().rank() {
            0 => small::write(trainer, &path),
            _ => contribute(trainer).unwrap(),
        }));
        steps.extend(&end.0);
        let saved = Checkpoint::open_sound(&path).unwrap();
        let read = Life { from: Some(&saved), steps: (0, 0), ..Life::new(&config) }.alone();
        assert!(read.1 == end.1, "what {size} ranks saved is what they held");
        from = Some(saved);
    }
    assert!(steps == expected.0, "3 ranks, then 2: {steps:?}, not {:?}", expected.0);
}

#[test]
fn a_lost_rank_is_an_error_of_the_others() {
    let config = config();
    let life = Life { steps: (0, 1), ..Life::new(&config) };
    let found = on_each(3, |gpu, ranks| {
        let mut trainer = life.trainer(ranks.clone(), gpu);
        life.live(&mut trainer);
        if ranks.rank() == 1 {
            // As a process that ends: its sockets are closed.
            ranks.abort(0);
            return None;
        }
        let rows = trainer.rows().len() * SEQUENCE;
        trainer.step(&vec![1; rows], &vec![2; rows]);
        Some(trainer.status())
    });
    for status in found.into_iter().flatten() {
        assert!(
            matches!(&status, Err(BackendError::Ranks(RanksError::Call { said, .. })) if said.starts_with("remote process")),
            "{status:?}"
        );
    }
}

#[test]
fn ranks_that_cannot_meet_say_why() {
    let join = |device: usize, rank: (usize, usize), id: UniqueId, seconds| {
        let (mut gpu, library) = (open(device), NcclLibrary::open(&emulated()).unwrap());
        let lost = Box::new(|error: &RanksError| panic!("{error}"));
        gpu.join(library, rank, &id, Some(Duration::from_secs(seconds)), lost).err()
    };
    let id = || NcclLibrary::open(&emulated()).unwrap().unique_id().unwrap();
    let alone = join(0, (0, 2), id(), 1);
    assert_eq!(alone, Some(BackendError::Ranks(RanksError::Timeout { call: "ncclCommInitRank", seconds: 1 })));
    let shared = id();
    let both = std::thread::scope(|scope| {
        [0, 1].map(|rank| scope.spawn(move || join(0, (rank, 2), shared, 300))).map(|thread| thread.join().unwrap())
    });
    let refused = |error: &Option<BackendError>| {
        matches!(error, Some(BackendError::Ranks(RanksError::Refused { call: "ncclCommInitRank", .. })))
    };
    assert!(both.iter().any(refused), "one device for two ranks: {both:?}");
}
