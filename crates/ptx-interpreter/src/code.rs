//! Instructions as they are run: types are resolved, operands are places in a warp's registers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An index into the registers of one width; which width, the operation says.
pub(crate) type Slot = u32;

/// The width of registers: halves and bytes lie in those of 32 bits, the rest of which is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Width {
    W32,
    W64,
    Predicate,
}

/// The type of a value; `b` types are those of the unsigned integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Type {
    U8,
    S8,
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    F16,
    F32,
    F64,
    Predicate,
}

impl Type {
    pub(crate) fn bytes(self) -> u32 {
        match self {
            Type::U8 | Type::S8 | Type::Predicate => 1,
            Type::U16 | Type::S16 | Type::F16 => 2,
            Type::U32 | Type::S32 | Type::F32 => 4,
            Type::U64 | Type::S64 | Type::F64 => 8,
        }
    }

    pub(crate) fn width(self) -> Width {
        match self {
            Type::Predicate => Width::Predicate,
            _ if self.bytes() == 8 => Width::W64,
            _ => Width::W32,
        }
    }

    pub(crate) fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Type::F16 | Type::F32 | Type::F64)
    }
}

/// Of integers of 16, 32 and 64 bits. Shifts take their distance from registers of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Integer {
    Add,
    Sub,
    MulLow,
    MulHigh,
    Div,
    Rem,
    Min,
    Max,
    And,
    Or,
    Xor,
    Not,
    Neg,
    Abs,
    ShiftLeft,
    ShiftRight,
    /// a b + c
    MadLow,
}

/// Of float32 and float64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Float {
    Add,
    Sub,
    Mul,
    Div,
    Fma,
    AddDown,
    FmaDown,
    Min,
    Max,
    Neg,
    Abs,
    CopySign,
    Sqrt,
    Reciprocal,
}

/// Approximations that the hardware computes to a few units in the last place, subnormal numbers being zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approximation {
    Reciprocal,
    ReciprocalRoot,
    Exp2,
    Log2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    /// Both are numbers.
    Numbers,
    /// One is not a number.
    NotNumbers,
}

/// How a conversion rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    Even,
    Zero,
    Down,
    Up,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Shared,
    Local,
    Constant,
    Param,
    /// Parameters by an address that is computed: where they begin among all of them.
    ParamAt,
}

/// What an `mma` multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Elements {
    Bf16,
    S8,
    E4m3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Indexed,
    Xor,
    Up,
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Atomic {
    Add,
    Max,
    Min,
    And,
    Or,
    Exchange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
    Not,
    Copy,
}

/// What an instruction does with its operands `d`, `a`, `b`, `c`. "List" is the index of its first operand in
/// [`Kernel::lists`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Op {
    Move(Width),
    /// d (64) = a (32) below b (32)
    Join64,
    /// d (32) below c (32) = a (64)
    Split64,
    /// d (32) = a (16) below b (16)
    Join32,
    Split32,
    Integer(Integer, Type),
    /// d = a b, twice as wide; and the same plus c
    MulWide(Type),
    MadWide(Type),
    /// d = b with bits of a, at position `offset & 0xff`, as many as `offset >> 8`.
    BitInsert(Width),
    CountOnes,
    LeadingZeros,
    Permute,
    Float32(Float),
    Float64(Float),
    Approximate(Approximation),
    Compare(Comparison, /** also true if one is not a number */ bool, Type),
    Select(Width),
    Logic(Logic),
    /// To, from.
    Convert(Type, Type, Round, /** saturate */ bool),
    /// To an integral float of the same type.
    RoundFloat(Type, Round),
    /// d = bf16 of a above that of b
    PackBf16,
    /// cvt.pack.sat.u8.s32.b32
    PackBytes,
    /// d (list), address a
    Load(Space, Type, /** wide register */ Width, /** registers */ u8),
    /// address a, values b (list)
    Store(Space, Type, Width, u8),
    /// d = before, address a, b
    Atomic(Atomic, Type),
    /// destination a (shared), source b, size c
    CopyAsync,
    CommitAsync,
    WaitAsync,
    Branch,
    Exit,
    Barrier,
    WarpBarrier,
    Fence,
    /// d, predicate at list `offset` or none, a, b, c (clamp), mask at the list too
    Shuffle(Shuffle),
    Ballot,
    /// d (list), address a
    LoadMatrix {
        count: u8,
        transposed: bool,
    },
    /// d (list): four of d, four of a, two of b, four of c
    Mma(Elements),
    /// From an address of a space to a generic one, and back.
    ToGeneric(Space),
    FromGeneric(Space),
}

/// No operand, and no guard.
pub(crate) const NONE: Slot = u32::MAX;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Instruction {
    pub op: Op,
    /// The predicate that it is under, or [`NONE`].
    pub guard: Slot,
    pub negated: bool,
    pub d: Slot,
    pub a: Slot,
    pub b: Slot,
    pub c: Slot,
    /// Added to an address; the target of a branch; how many groups may be under way.
    pub offset: i64,
    /// In the text of the module, from 1.
    pub line: u32,
}

/// A parameter of a kernel: where it begins among all of them, and its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parameter {
    pub name: String,
    pub offset: u32,
    pub bytes: u32,
}

/// Values that registers have when a warp starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Thread(u8),
    Threads(u8),
    Block(u8),
    Grid(u8),
    Lane,
    Warp,
}

/// One entry point.
pub(crate) struct Kernel {
    pub name: String,
    pub text: Arc<str>,
    pub code: Vec<Instruction>,
    /// Which instructions any thread has come to.
    pub reached: Vec<AtomicBool>,
    pub lists: Vec<Slot>,
    pub parameters: Vec<Parameter>,
    pub parameter_bytes: u32,
    pub max_threads: u32,
    pub static_shared: u32,
    /// Where the dynamic array begins.
    pub dynamic_offset: u32,
    /// Bytes of each thread's own memory.
    pub local: u32,
    /// Registers of 32 and 64 bits and predicates; the last ones hold constants.
    pub registers: [usize; 3],
    pub constants32: Vec<(Slot, u32)>,
    pub constants64: Vec<(Slot, u64)>,
    pub constants_predicate: Vec<(Slot, bool)>,
    pub specials: Vec<(Slot, Special)>,
    /// Arrays of the module, of which addresses are constants.
    pub data: Arc<Data>,
}

impl Kernel {
    /// Lines of instructions that no thread has come to, and how many instructions there are. The last is not the text's.
    pub(crate) fn unreached(&self) -> (Vec<u32>, usize) {
        let count = self.code.len() - 1;
        let missed =
            self.code[..count].iter().zip(&self.reached).filter(|(_, reached)| !reached.load(Ordering::Relaxed));
        (missed.map(|(instruction, _)| instruction.line).collect(), count)
    }

    /// The text of a line.
    pub(crate) fn line(&self, line: u32) -> &str {
        self.text.lines().nth(line as usize - 1).unwrap_or_default().trim()
    }
}

/// Constant and global arrays of a module, in one piece, which does not move.
pub(crate) struct Data {
    words: Box<[u64]>,
}

impl Data {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let word = |chunk: &[u8]| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        };
        Self { words: bytes.chunks(8).map(word).collect() }
    }

    pub(crate) fn address(&self) -> u64 {
        self.words.as_ptr() as u64
    }

    /// Eight bytes at most, if all lie inside.
    pub(crate) fn read(&self, address: u64, bytes: u32) -> Option<u64> {
        let offset = address.checked_sub(self.address())?;
        // Most addresses are those of device memory, far away.
        if offset + u64::from(bytes) > 8 * self.words.len() as u64 {
            return None;
        }
        let offset = offset as usize;
        let byte = |i: usize| (self.words[(offset + i) / 8] >> ((offset + i) % 8 * 8)) & 0xff;
        Some((0..bytes as usize).fold(0, |word, i| word | byte(i) << (8 * i)))
    }
}
