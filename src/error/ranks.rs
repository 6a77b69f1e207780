//! Errors of ranks: processes that train one model together.

use std::path::PathBuf;

/// Why ranks cannot begin, or came apart.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RanksError {
    /// A launcher's variable holds no number that makes sense.
    #[error("{variable}={found} of {launcher}: {allowed}")]
    Variable {
        /// Who sets the variable.
        launcher: &'static str,
        /// The variable.
        variable: &'static str,
        /// What it holds.
        found: String,
        /// What it should.
        allowed: &'static str,
    },
    /// The variables of two launchers are there, and say different things.
    #[error("the variables of {} say rank {} of {}, those of {} rank {} of {}", .first.0, .first.1, .first.2, .second.0, .second.1, .second.2)]
    Launchers {
        /// A launcher, its rank and its size.
        first: (&'static str, usize, usize),
        /// The other.
        second: (&'static str, usize, usize),
    },
    /// A launcher that starts no MPI processes.
    #[error("{launcher} started {size} processes; ranks on CPUs talk to each other by MPI, which has no part in that")]
    NoMpi {
        /// The launcher.
        launcher: &'static str,
        /// Processes.
        size: usize,
    },
    /// No library of MPI can be used.
    #[error("no MPI library was found for {size} ranks started by {launcher}: looked for {searched}{refused}")]
    Library {
        /// The launcher.
        launcher: &'static str,
        /// Ranks.
        size: usize,
        /// What was looked for.
        searched: String,
        /// Files that were found, and why each was rejected; starts with a separator if not empty.
        refused: String,
    },
    /// The library and the launcher do not belong together.
    #[error(
        "{launcher} started this process as rank {} of {}, and {library} ({}) sees rank {} of {}: they do not belong together",
        .launched.0, .launched.1, .path.display(), .seen.0, .seen.1
    )]
    World {
        /// The launcher.
        launcher: &'static str,
        /// Rank and size, by its variables.
        launched: (usize, usize),
        /// The library's name for itself.
        library: String,
        /// Its file.
        path: PathBuf,
        /// Rank and size, as it sees them.
        seen: (usize, usize),
    },
    /// The library cannot be called from threads.
    #[error("{library} gives thread support {found}, {needed} is needed (MPI_THREAD_SERIALIZED)")]
    Threads {
        /// The library's name for itself.
        library: String,
        /// What it gave.
        found: i32,
        /// What was asked for.
        needed: i32,
    },
    /// A call of the library failed.
    #[error("{call} failed: {said}")]
    Call {
        /// The function.
        call: &'static str,
        /// The library's text for the code.
        said: String,
    },
    /// A library refused a call: what it was asked for cannot be.
    #[error("{call} was refused: {said}")]
    Refused {
        /// The function.
        call: &'static str,
        /// The library's text for the code.
        said: String,
    },
    /// The launcher's store of keys could not be used.
    #[error("the store of {launcher} at {address}: {said}")]
    Store {
        /// The launcher.
        launcher: &'static str,
        /// Where it should be.
        address: String,
        /// What went wrong.
        said: String,
    },
    /// Ranks that did not come where rank 0 waited for them.
    #[error("ranks {ranks:?} did not come within {seconds} s")]
    Absent {
        /// Their numbers.
        ranks: Vec<usize>,
        /// The limit.
        seconds: u64,
    },
    /// Rank 0 left nothing to meet by.
    #[error("{}, by which ranks meet: rank 0 left nothing there for {seconds} s", .path.display())]
    NoMeeting {
        /// The file.
        path: PathBuf,
        /// The limit.
        seconds: u64,
    },
    /// The file by which ranks meet could not be used.
    #[error("{}, by which ranks meet: {said}", .path.display())]
    MeetingFile {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        said: String,
    },
    /// More ranks than GPUs on a machine.
    #[error("{ranks} ranks on this machine, which has {devices} GPUs; each rank needs its own")]
    FewDevices {
        /// Ranks.
        ranks: usize,
        /// GPUs that the driver shows.
        devices: usize,
    },
    /// One GPU, named for several ranks.
    #[error(
        "--device cuda:{device} names one GPU, and there are {ranks} ranks on this machine; each rank needs its own"
    )]
    OneDevice {
        /// The GPU.
        device: u32,
        /// Ranks.
        ranks: usize,
    },
    /// A peer did not answer in time.
    #[error("{call}: nothing came for {seconds} s; a rank is gone, stopped or far behind")]
    Timeout {
        /// What was waited in.
        call: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// A peer is gone.
    #[error("rank {rank} is gone")]
    Lost {
        /// Its number.
        rank: usize,
    },
    /// Another rank could not write its part of a file.
    #[error("rank {rank} cannot write its part of the file: {said}")]
    Part {
        /// Its number.
        rank: usize,
        /// What its file system or its device said.
        said: String,
    },
    /// Ranks wait for each other in a circle.
    #[error("every rank waits for another: their calls do not match")]
    Stuck,
    /// A peer made another call, or sent another number of bytes.
    #[error("{call} of {expected} bytes met {other} of {found} bytes of rank {rank}: their calls do not match")]
    Mismatch {
        /// What this rank called.
        call: &'static str,
        /// Bytes that it expected.
        expected: usize,
        /// What the other called.
        other: &'static str,
        /// Bytes that came.
        found: usize,
        /// The other rank.
        rank: usize,
    },
    /// Ranks do not agree on what they are about to train.
    #[error("ranks 0 and {rank} differ in {what}")]
    Differ {
        /// The first that differs from rank 0.
        rank: usize,
        /// In what.
        what: &'static str,
    },
    /// More ranks than rows of a batch.
    #[error("{ranks} ranks share batches of {batch} sequences; each needs one at least")]
    FewRows {
        /// Ranks.
        ranks: usize,
        /// Rows of a batch.
        batch: usize,
    },
    /// Sequences too short to be divided among ranks.
    #[error("{ranks} ranks share batches of sequences of {sequence} tokens; {least} is the least that can be divided")]
    ShortRows {
        /// Ranks.
        ranks: usize,
        /// Tokens of a sequence.
        sequence: usize,
        /// The least.
        least: usize,
    },
    /// An adapter whose gradients do not follow from sums that ranks continue.
    #[error(
        "{ranks} ranks cannot train a prefix with learned scales, whose gradients follow from complete sums alone; set \
         adapter.scale to \"alpha/r\", or train with one rank"
    )]
    PrefixScales {
        /// Ranks.
        ranks: usize,
    },
}

impl RanksError {
    /// Whether the same command may succeed another time: a peer was lost, nothing was wrong with what was asked for.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Call { .. } | Self::Timeout { .. } | Self::Lost { .. } | Self::Absent { .. } | Self::NoMeeting { .. }
        )
    }
}
