//! What the operations are built from: instruction sets, sums, the exponential, small products, and tasks for threads.

/// The statement for each row of a block, whose number is a constant in it: loops over arrays of registers are unrolled by
/// compilers at high levels of optimisation only.
#[cfg(target_arch = "x86_64")]
macro_rules! each_row {
    ($row:ident in $($number:literal)* => $do:expr) => {
        $({
            const $row: usize = $number;
            $do;
        })*
    };
}

pub(crate) mod adam;
pub(crate) mod bf16;
pub(crate) mod exp;
pub(crate) mod gemm;
pub(crate) mod int8;
pub(crate) mod isa;
pub(crate) mod nibbles;
pub(crate) mod reduce;
pub(crate) mod scores;
pub(crate) mod tasks;
pub(crate) mod tile;
pub(crate) mod uniform;
