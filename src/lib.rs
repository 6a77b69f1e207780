//! Trains LLaMA-family language models whose weights exist only as packed INT4 codes, on disk and in memory.
//!
//! | to | use |
//! | --- | --- |
//! | describe a run | [`Config`]: presets, TOML, validation |
//! | know its memory before it starts | [`train::plan`], [`train::autotune`], [`train::fastest`] |
//! | train and evaluate | [`Trainer`], [`train::run`] |
//! | generate text | [`Generator`](model::Generator) |
//! | read and write `.tetrad` files | [`Checkpoint`], [`checkpoint::save`]; without a model, [`mod@format`] |
//! | read text | [`data::Prepared`], [`data::Tokenizer`] |
//! | convert models and adapters, and merge these | [`convert`]: GGUF, safetensors, Hugging Face and PEFT directories |
//! | choose a device | [`Cpu`], [`Cuda`], or a [`Backend`] of your own |
//! | train with several processes | [`mod@ranks`], [`train::Trainer::with_ranks`] |
//!
//! The command line is not part of the library. `examples/` has three programs.
//!
//! ```
//! use tetrad::checkpoint::{Extent, Meta, save};
//! use tetrad::model::{Generator, Sampling};
//! use tetrad::{Checkpoint, Config, Cpu, Trainer};
//!
//! // A very small byte-level LLaMA, its matrices in four bits.
//! let mut config = Config::default();
//! (config.model.hidden, config.model.intermediate, config.model.layers) = (64, 128, 1);
//! (config.train.batch, config.train.sequence, config.train.warmup) = (2, 16, 2);
//! config.validate()?;
//!
//! // What the configuration leaves open is chosen for the device, and the plan says what it takes.
//! let config = tetrad::train::fastest(&config, &Cpu::new());
//! let (plan, _) = tetrad::train::plan(&config, &Cpu::new());
//! println!("{} bytes", plan.total());
//!
//! // Train: the tokens are bytes.
//! let mut trainer = Trainer::new(&config, Box::new(Cpu::new()))?;
//! trainer.initialize();
//! let text: Vec<u32> = b"to be or not to be, ".iter().cycle().take(33).map(|&byte| byte.into()).collect();
//! let (inputs, targets) = (&text[..32], &text[1..]);
//! let before = trainer.evaluate(2, inputs, targets);
//! for _ in 0..10 {
//!     trainer.step(inputs, targets);
//! }
//! assert!(trainer.evaluate(2, inputs, targets) < before);
//!
//! // Sample: the most likely byte after "to".
//! let (model, backend) = trainer.model_and_backend();
//! let mut generator = Generator::new(model);
//! generator.feed(backend, b"to".map(u32::from).as_slice());
//! let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
//! println!("{:?}", generator.sample(&greedy));
//!
//! // Save the weights, and read them back.
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("model.tetrad");
//! let meta = Meta::new(&config, trainer.counters(), false, "");
//! save(trainer.model(), trainer.backend(), &meta, None, Extent::Weights, &path)?;
//! let checkpoint = Checkpoint::open(&path)?;
//! checkpoint.verify()?;
//! assert_eq!(checkpoint.meta.model.hidden, 64);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The source
//!
//! The tree is the architecture; a floor imports only from floors below it.
//!
//! | floor | room | what lives there |
//! | --- | --- | --- |
//! | 12 | `cli` | the program's own, outside the library: one file per subcommand |
//! | 11 | `convert` | models and adapters of other programs <-> file: GGUF, safetensors, Hugging Face, PEFT; merging |
//! | 10 | `checkpoint` | training state <-> file |
//! | 9 | `train` | the loop, schedules, evaluation, metrics |
//! | 8 | `config` | the TOML configuration: the rooms' settings put together, presets, overrides, validation |
//! | 7 | `data` | settings of text and tokenizer, and from them a run's training and validation rows |
//! | 6 | `data::batch` | rows and their order: windows, packing, mixing, shuffling |
//! | 5 | `data::shard` | prepared token ids, memory-mapped |
//! | 5 | `model` | one table of parameters, forward, backward |
//! | 4 | `data::tokenize` | tokenizers, special tokens, chat templates, samples |
//! | 4 | `backend::cpu` | the operations on a CPU |
//! | 4 | `backend::cuda` | the operations on an NVIDIA GPU |
//! | 4 | `optim` | update rules: what each keeps of a parameter, and its step made of the backend's operations |
//! | 3 | `data::source` | files and the documents in them |
//! | 3 | `backend` | the operations' contracts |
//! | 3 | `ranks` | several processes that train one model: launchers, and bytes from one to another |
//! | 3 | `backend::cuda::runtime` | CUDA without any operation: driver, compiler, device, matrix products |
//! | 2 | `store` | memory maps, locks, atomic replace |
//! | 2 | `format` | the file format over bytes: no I/O, knows no model |
//! | 1 | `memory` | the plan and the arena that obeys it |
//! | 0 | `quant` | pure arithmetic on bytes: groups, grids, rounding, random numbers, state codecs |
//! | 0 | `error` | one error enum per layer |

pub use backend::Backend;
pub use backend::cpu::Cpu;
pub use backend::cuda::Cuda;
pub use checkpoint::Checkpoint;
pub use config::Config;
pub use model::Model;
pub use train::Trainer;

pub mod backend;
pub mod checkpoint;
pub mod config;
pub mod convert;
pub mod data;
pub mod error;
pub mod format;
pub mod memory;
pub mod model;
pub mod optim;
pub mod quant;
pub mod ranks;
pub mod store;
pub mod train;
