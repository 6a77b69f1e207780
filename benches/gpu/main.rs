//! What a GPU does: every kernel beside what the device can do, whole steps, memory. Prints Markdown.
//!
//! Started by `benches/gpu.sh`, after its checks. An argument chooses parts: kernels, steps, memory.

mod kernels;
mod operands;
mod report;
mod training;

use tetrad::backend::Backend;
use tetrad::backend::cuda::Cuda;

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |part: &str| chosen.is_empty() || chosen.iter().any(|name| name == part);
    println!("Device: {}\n", Cuda::open(0).expect("a device").describe());
    let ceilings = kernels::ceilings();
    println!("Device copy: {:.0} GB/s (read and written). ", ceilings.copy / 1e9);
    println!("cuBLASLt, bf16, 8192^3: {:.0} TFLOP/s.\n", ceilings.product / 1e12);
    if wanted("kernels") {
        println!("## Kernels\n");
        let mut table = report::Table::default();
        kernels::optimizer(&mut table, &ceilings);
        kernels::products(&mut table, &ceilings);
        kernels::attention(&mut table, &ceilings);
        kernels::rows(&mut table, &ceilings);
        kernels::few_tokens(&mut table, &ceilings);
        table.print();
    }
    if wanted("steps") {
        println!("## Training steps\n");
        training::steps(&ceilings);
    }
    if wanted("memory") {
        println!("## Memory, as the driver reports it\n");
        training::memory();
    }
}
