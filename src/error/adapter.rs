//! Errors of adapters in the files of other programs.

/// Why an adapter of another program cannot be read or written.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// The configuration beside the tensors.
    #[error("is no configuration of an adapter: {reason}")]
    Config {
        /// What is wrong.
        reason: String,
    },
    /// An option that has another value than is allowed.
    #[error("{key} is {found}; {allowed}")]
    Option {
        /// Its name.
        key: String,
        /// Its value.
        found: String,
        /// What is allowed, and what to do next.
        allowed: String,
    },
    /// A pattern of module names.
    #[error("{key}: {pattern:?} {reason}")]
    Pattern {
        /// The option that holds it.
        key: &'static str,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Tensors that should not be there, or should.
    #[error("{count} {problem}: {names}")]
    Tensors {
        /// How many.
        count: usize,
        /// What they are.
        problem: &'static str,
        /// Their names, the first twenty.
        names: String,
    },
    /// No pair of matrices at all.
    #[error("has no pair of matrices")]
    Empty,
    /// A tensor of another shape than the base needs.
    #[error("tensor {tensor} is {found:?}, and {expected} is needed beside the base's matrix of {rows} x {cols}")]
    Shape {
        /// Its name.
        tensor: String,
        /// Its dimensions, the contiguous one last.
        found: Vec<u64>,
        /// The dimensions that fit, with `r` for the rank.
        expected: String,
        /// Outputs of the base's matrix.
        rows: usize,
        /// Its inputs.
        cols: usize,
    },
    /// Halves of different ranks.
    #[error("the halves of {site} differ in rank: A has {a}, B has {b}")]
    Halves {
        /// The matrix.
        site: String,
        /// Rank of A.
        a: u64,
        /// Rank of B.
        b: u64,
    },
    /// A rank that is not the configuration's.
    #[error("{site} has rank {found}, and the configuration says {expected}")]
    Rank {
        /// The matrix.
        site: String,
        /// Rank of its tensors.
        found: u64,
        /// Rank by `r` and `rank_pattern`.
        expected: u64,
    },
    /// A number that an adapter cannot have.
    #[error("tensor {tensor} holds {value} at element {element}; numbers must be finite")]
    NotFinite {
        /// Its name.
        tensor: String,
        /// Position in the file.
        element: usize,
        /// The number.
        value: f32,
    },
    /// An adapter that the other format cannot express.
    #[error("{what} cannot be expressed in {format}; {instead}")]
    Inexpressible {
        /// What it is about the adapter.
        what: String,
        /// The format.
        format: &'static str,
        /// What to do instead.
        instead: &'static str,
    },
}
