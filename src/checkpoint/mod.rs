//! Training state <-> file. The bytes of a plane in the arena are the bytes of the plane in the file.

mod adapter;
mod carried;
mod code_distance;
mod divided;
mod load;
mod meta;
mod open;
mod planes;
mod recode;
mod resume;
mod run_folder;
mod runs;
mod save;
mod sound;
mod special;

pub use adapter::Adapter;
pub use carried::{CARRIED, CarriedTokenizer};
pub use divided::contribute;
pub use load::Checkpoint;
pub use meta::{BaseModel, GENERATION_CONFIG, Meta, TOKENIZER, TOKENIZER_CONFIG};
pub use open::{Adapted, Capacity, open_model};
pub use planes::spec;
pub use resume::{Named, Resume, write_record};
pub use run_folder::RunFolder;
pub use runs::{ADAPTER, BEST, METRICS, MODEL, checkpoint_path, clear, finished, latest, list, prune, retire_finished};
pub use save::{Extent, save, save_divided, save_with};
pub use sound::{Newest, newest_sound, set_aside};
