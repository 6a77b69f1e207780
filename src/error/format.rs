//! Errors of a `.tetrad` file. Every message ends with the rule of `format-spec/SPEC.md` that is broken.

mod contents;
mod state;
mod write;

pub use contents::ContentsError;
pub use state::StateError;
pub use write::WriteError;

/// A broken rule of the head: header, directory, names, metadata, attachments, layout (R1 to R32).
///
/// Text from a file is escaped before it enters a message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Shorter than the fixed header.
    #[error("the file has {len} bytes, its header alone takes {header}: it is cut short or no .tetrad file (R1)")]
    TooShort {
        /// Bytes there are.
        len: u64,
        /// Bytes of a header.
        header: u64,
    },
    /// Other first bytes.
    #[error(
        "the file begins with {found}, a .tetrad file with 89 54 45 54 52 41 44 0a: it is {} (R2)",
        other_kind(found)
    )]
    Magic {
        /// The first eight bytes in hexadecimal.
        found: String,
    },
    /// A major version this reader does not know.
    #[error("the file has format version {major}.{minor}, this program reads {known}.x: {} (R3)", remedy(*major))]
    Version {
        /// Major version found.
        major: u16,
        /// Minor version found.
        minor: u16,
        /// The major version that is read.
        known: u16,
    },
    /// A required feature this reader does not know.
    #[error("the file requires features {found:#010x}, this program knows {known:#010x}: use a newer tetrad (R4)")]
    Feature {
        /// Bits set in the file.
        found: u32,
        /// Bits understood.
        known: u32,
    },
    /// A reserved byte that is not zero.
    #[error("byte {at} is reserved and must be 0, it is {found} (R5)")]
    Reserved {
        /// Offset in the file.
        at: u64,
        /// Its value.
        found: u8,
    },
    /// Fewer bytes than the header states.
    #[error("the file has {len} of the {stated} bytes its header states: it is cut short, copy it again (R6)")]
    CutShort {
        /// Bytes there are.
        len: u64,
        /// Bytes stated.
        stated: u64,
    },
    /// More bytes than the header states.
    #[error("the file has {len} bytes, its header states {stated}: {} byte(s) follow its end (R6)", len - stated)]
    Trailing {
        /// Bytes there are.
        len: u64,
        /// Bytes stated.
        stated: u64,
    },
    /// A count of the header outside its cap.
    #[error("the header counts {found} {what}, allowed are {min} to {max} (R7)")]
    Count {
        /// What is counted.
        what: &'static str,
        /// The count.
        found: u64,
        /// Least allowed.
        min: u64,
        /// Most allowed.
        max: u64,
    },
    /// A section's length outside its cap.
    #[error("the {what} take {found} bytes, allowed are {min} to {max} (R8)")]
    SectionLen {
        /// The section.
        what: &'static str,
        /// Its length.
        found: u64,
        /// Least allowed.
        min: u64,
        /// Most allowed.
        max: u64,
    },
    /// A head length that is not the sum of its parts.
    #[error("the header states {found} bytes of head, its sections sum to {sum} (R8)")]
    HeadLen {
        /// The length stated.
        found: u64,
        /// The sum of the sections.
        sum: u64,
    },
    /// A head that is longer than the file.
    #[error("the head takes {found} bytes of a file of {len} (R8)")]
    HeadOutside {
        /// The length stated.
        found: u64,
        /// Bytes of the file.
        len: u64,
    },
    /// The head's checksum differs.
    #[error(
        "the head's checksum is {found:016x}, {stated:016x} is stated: header, directory or metadata is damaged (R9)"
    )]
    HeadChecksum {
        /// Computed.
        found: u64,
        /// Stated.
        stated: u64,
    },
    /// The weight region starts elsewhere.
    #[error("the weight region starts at {found}, after a head of {head} bytes it starts at {expected} (R10)")]
    WeightsOffset {
        /// The offset stated.
        found: u64,
        /// Bytes of the head.
        head: u64,
        /// The offset that is right.
        expected: u64,
    },
    /// A storage tag that is unknown.
    #[error("tensor {tensor} has the unknown storage {found}, known are 1 to {max} (R11)")]
    Storage {
        /// Index of the tensor.
        tensor: usize,
        /// The tag.
        found: u8,
        /// The greatest known tag.
        max: u8,
    },
    /// A number of dimensions that is not allowed.
    #[error("tensor {tensor} has {found} dimensions, {storage} storage takes {} (R12)", span(*min, *max))]
    DimCount {
        /// Index of the tensor.
        tensor: usize,
        /// Dimensions stated.
        found: usize,
        /// Its storage.
        storage: &'static str,
        /// Least allowed.
        min: usize,
        /// Most allowed.
        max: usize,
    },
    /// A zero dimension.
    #[error("dimension {axis} of tensor {tensor} is 0, the least is 1 (R12)")]
    DimZero {
        /// Index of the tensor.
        tensor: usize,
        /// The dimension.
        axis: usize,
    },
    /// An unused dimension that is not zero.
    #[error("dimension {axis} of tensor {tensor} is {found}, but only {used} are in use: the others are 0 (R12)")]
    DimUnused {
        /// Index of the tensor.
        tensor: usize,
        /// The dimension.
        axis: usize,
        /// Its value.
        found: u64,
        /// Dimensions in use.
        used: usize,
    },
    /// Too many elements.
    #[error("tensor {tensor} of shape {shape} has more than {max} elements, padding included (R13)")]
    Elements {
        /// Index of the tensor.
        tensor: usize,
        /// Its dimensions.
        shape: String,
        /// The cap.
        max: u64,
    },
    /// A group size that is not allowed.
    #[error("tensor {tensor} has groups of {found}, {storage} storage takes {allowed} (R14)")]
    Group {
        /// Index of the tensor.
        tensor: usize,
        /// The group size.
        found: u32,
        /// Its storage.
        storage: &'static str,
        /// The allowed sizes.
        allowed: &'static str,
    },
    /// The list of names ends inside a name.
    #[error("the names end inside {what} {index}: {needed} bytes are needed, {left} are left (R15)")]
    NamesShort {
        /// Tensor or attachment.
        what: &'static str,
        /// Its index.
        index: usize,
        /// Bytes it needs.
        needed: u64,
        /// Bytes that are left.
        left: u64,
    },
    /// The list of names has bytes left over.
    #[error("{left} byte(s) follow the last name (R15)")]
    NamesLeft {
        /// Bytes left over.
        left: u64,
    },
    /// A name of no or too many bytes.
    #[error("the name of {what} {index} has {found} bytes, allowed are 1 to {max} (R16)")]
    NameLen {
        /// Tensor or attachment.
        what: &'static str,
        /// Its index.
        index: usize,
        /// Its bytes.
        found: usize,
        /// The cap.
        max: usize,
    },
    /// A byte that a name may not hold.
    #[error("byte {at} of the name of {what} {index} is 0x{byte:02x}, allowed are A-Z a-z 0-9 _ - and . (R16)")]
    NameByte {
        /// Tensor or attachment.
        what: &'static str,
        /// Its index.
        index: usize,
        /// Position in the name.
        at: usize,
        /// The byte.
        byte: u8,
    },
    /// A name with an empty part.
    #[error("the name of {what} {index} begins or ends with a dot or holds two in a row (R16)")]
    NameDots {
        /// Tensor or attachment.
        what: &'static str,
        /// Its index.
        index: usize,
    },
    /// Two tensors or attachments of one name.
    #[error("{what}s {first} and {second} are both named {name} (R17)")]
    NameTwice {
        /// Tensor or attachment.
        what: &'static str,
        /// The first index.
        first: usize,
        /// The second index.
        second: usize,
        /// The name (already checked, so free of control characters).
        name: String,
    },
    /// A plane of a tensor that is not there.
    #[error("plane {plane} belongs to tensor {found}, there are {tensors} (R18)")]
    PlaneTensor {
        /// Index of the record.
        plane: usize,
        /// The tensor stated.
        found: u32,
        /// How many there are.
        tensors: u32,
    },
    /// Flags that are not allowed.
    #[error("plane {plane} has flags {found:#04x}, {allowed} allowed for its kind (R19)")]
    PlaneFlags {
        /// Index of the record.
        plane: usize,
        /// The flags.
        found: u8,
        /// What is allowed.
        allowed: &'static str,
    },
    /// An unknown kind that may not be skipped.
    #[error("plane {plane} has the unknown kind 0x{found:02x} and is not optional: use a newer tetrad (R20)")]
    PlaneKind {
        /// Index of the record.
        plane: usize,
        /// The kind.
        found: u8,
    },
    /// Records out of order, or twice the same.
    #[error("plane {plane} (tensor {tensor}, kind 0x{kind:02x}) is out of order or repeated (R21)")]
    PlaneOrder {
        /// Index of the record.
        plane: usize,
        /// Its tensor.
        tensor: u32,
        /// Its kind.
        kind: u8,
    },
    /// An element type that the kind of plane does not take.
    #[error(
        "tensor {tensor} ({storage}, shape {shape}, groups of {group}) cannot have a plane {kind} of {element} (R22)"
    )]
    PlaneElement {
        /// The tensor's name.
        tensor: String,
        /// Its storage.
        storage: &'static str,
        /// Its dimensions.
        shape: String,
        /// Its group size, 0 if it has none.
        group: u32,
        /// The kind of plane.
        kind: String,
        /// The element type.
        element: String,
    },
    /// A length that disagrees with shape and type.
    #[error("the {kind} plane of {tensor} has {found} bytes, its shape and type make {expected} (R23)")]
    PlaneLen {
        /// The tensor's name.
        tensor: String,
        /// The kind of plane.
        kind: String,
        /// The length stated.
        found: u64,
        /// The length that is right.
        expected: u64,
    },
    /// A plane of unknown kind without a byte.
    #[error("the {kind} plane of {tensor} has 0 bytes, the least is 1 (R23)")]
    PlaneEmpty {
        /// The tensor's name.
        tensor: String,
        /// The kind of plane.
        kind: String,
    },
    /// An offset that is no multiple of the alignment.
    #[error("plane {plane} starts at {found}, no multiple of {align} (R24)")]
    PlaneAlign {
        /// Index of the record.
        plane: usize,
        /// The offset.
        found: u64,
        /// The alignment.
        align: u64,
    },
    /// An offset before the end of what precedes it.
    #[error("plane {plane} starts at {found}, inside what ends at {end} before it (R24)")]
    PlaneOverlap {
        /// Index of the record.
        plane: usize,
        /// The offset.
        found: u64,
        /// End of the preceding plane or of the head.
        end: u64,
    },
    /// An offset that leaves a hole.
    #[error("plane {plane} starts at {found}, it should follow at {expected} (R24)")]
    PlaneHole {
        /// Index of the record.
        plane: usize,
        /// The offset.
        found: u64,
        /// The offset that is right.
        expected: u64,
    },
    /// A plane that ends after the file.
    #[error("plane {plane} takes {len} bytes from {offset}, the file ends at {end} (R24)")]
    PlaneOutside {
        /// Index of the record.
        plane: usize,
        /// Its offset.
        offset: u64,
        /// Its length.
        len: u64,
        /// End of the file.
        end: u64,
    },
    /// A plane is missing.
    #[error("{tensor} lacks its {kind} plane (R25)")]
    PlaneMissing {
        /// The tensor's name.
        tensor: String,
        /// The kind that is missing.
        kind: String,
    },
    /// Two planes that exclude each other.
    #[error("{tensor} has {kind}, which do not go with {other} (R25)")]
    PlaneConflict {
        /// The tensor's name.
        tensor: String,
        /// One kind.
        kind: &'static str,
        /// What it conflicts with.
        other: &'static str,
    },
    /// The optimizer region starts elsewhere.
    #[error("the header puts the optimizer region at {found}, it starts at {expected} (0: there is none) (R26)")]
    OptimizerOffset {
        /// The offset stated.
        found: u64,
        /// The offset that is right.
        expected: u64,
    },
    /// The last plane does not end where the file ends.
    #[error("the last plane ends at {end}, the file at {len} (R26)")]
    End {
        /// End of the last plane.
        end: u64,
        /// Length of the file.
        len: u64,
    },
    /// Metadata that is no JSON object.
    #[error("the metadata is not one JSON object: {reason} (R27)")]
    Json {
        /// What the parser says, escaped.
        reason: String,
    },
    /// Nested too deep.
    #[error("the metadata is nested deeper than {max} levels (R28)")]
    JsonDepth {
        /// The cap.
        max: usize,
    },
    /// A member that occurs twice.
    #[error("the metadata has two members named {name} in one object (R29)")]
    JsonTwice {
        /// The name, quoted and escaped.
        name: String,
    },
    /// A number that does not survive.
    #[error("the metadata holds the number {found}, allowed are -2^63 up to (not including) 2^64 (R30)")]
    JsonNumber {
        /// The number.
        found: String,
    },
    /// A step that is no step.
    #[error("the metadata's step is {found}, it must be a whole number from 0 to {max} (R31)")]
    Step {
        /// The value, escaped.
        found: String,
        /// The cap.
        max: u64,
    },
    /// The attachments end inside one.
    #[error("the attachments end inside attachment {index}: {needed} bytes are needed, {left} are left (R32)")]
    AttachmentShort {
        /// Its index.
        index: usize,
        /// Bytes it needs.
        needed: u64,
        /// Bytes that are left.
        left: u64,
    },
    /// Bytes after the last attachment.
    #[error("{left} byte(s) follow the last attachment (R32)")]
    AttachmentsLeft {
        /// Bytes left over.
        left: u64,
    },
    /// State that the metadata describes wrongly.
    #[error(transparent)]
    State(#[from] StateError),
    /// More bytes than an offset can count.
    #[error("the planes of this file would end beyond 2^64 bytes (R24)")]
    FileLen,
    /// Padding behind the head that is not zero.
    #[error(transparent)]
    Contents(#[from] ContentsError),
}

/// What a file is by its first bytes.
fn other_kind(found: &str) -> &'static str {
    if found.starts_with("47 47 55 46") { "a GGUF file" } else { "another kind of file" }
}

fn remedy(major: u16) -> &'static str {
    if major == 0 { "there never was such a version, the file is damaged" } else { "use a newer tetrad" }
}

fn span(min: usize, max: usize) -> String {
    if min == max { format!("exactly {min}") } else { format!("{min} to {max}") }
}
