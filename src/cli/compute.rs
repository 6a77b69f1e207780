//! The arithmetic of products on the command line.

use super::Failure;
use tetrad::backend::Compute;
use tetrad::checkpoint::{Adapted, Checkpoint};

/// `--compute` of commands that use a finished model.
#[derive(clap::Args, Debug)]
pub(super) struct ComputeArgs {
    /// Arithmetic of products: bf16 rounds both sides to bfloat16; with packed weights int8 rounds what enters them to integers
    /// of eight bits, fp8 to floats of eight bits (beside weights of four) [default: as the model was trained].
    #[arg(long, value_enum, value_name = "ARITHMETIC")]
    compute: Option<Arithmetic>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Arithmetic {
    F32,
    Bf16,
    Int8,
    Fp8,
}

impl ComputeArgs {
    /// The model in the arithmetic that was chosen, if any was.
    ///
    /// # Errors
    /// Integers for a model whose weights are floats, small floats for one without codes of four bits.
    pub fn apply<'a>(&self, base: &Checkpoint, model: Adapted<'a>) -> Result<Adapted<'a>, Failure> {
        let compute = match self.compute {
            None => return Ok(model),
            Some(Arithmetic::F32) => Compute::F32,
            Some(Arithmetic::Bf16) => Compute::Bf16,
            Some(Arithmetic::Int8) => Compute::Int8,
            Some(Arithmetic::Fp8) => Compute::Fp8,
        };
        if !base.meta.storage.has_products_in(compute) {
            match compute {
                Compute::F32 | Compute::Bf16 => {}
                Compute::Int8 => {
                    return Err("--compute int8: multiplies weights that are codes, and this model's are floats".into());
                }
                Compute::Fp8 => {
                    return Err("--compute fp8: multiplies weights of four bits, and this model has none".into());
                }
            }
        }
        Ok(model.with_compute(compute))
    }
}
