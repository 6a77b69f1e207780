//! What a GPU does: every kernel beside what the device can do, whole steps, memory. Prints Markdown.
//!
//! Started by `benches/gpu.sh`, after its checks. Arguments choose parts: kernels, steps, memory; `small` makes every shape
//! small, to see that the program works.

#[path = "../../tests/harness/operands.rs"]
mod harness;
mod kernels;
mod operands;
mod report;
mod training;

use tetrad::backend::Backend;
use tetrad::backend::cuda::Cuda;

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let small = chosen.iter().any(|name| name == "small");
    let parts: Vec<_> = chosen.iter().filter(|name| *name != "small").collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|name| *name == part);
    let sizes = if small { kernels::Sizes::SMALL } else { kernels::Sizes::FULL };
    println!("Device: {}\n", Cuda::open(0).expect("a device").describe());
    let ceilings = kernels::ceilings(&sizes);
    println!("Device copy: {:.0} GB/s (read and written). ", ceilings.copy / 1e9);
    println!("cuBLASLt, bf16, {}^3: {:.0} TFLOP/s.\n", sizes.edge, ceilings.product / 1e12);
    if wanted("kernels") {
        println!("## Kernels\n");
        let mut table = report::Table::default();
        kernels::optimizer(&mut table, &ceilings, &sizes);
        kernels::products(&mut table, &ceilings, &sizes);
        kernels::attention(&mut table, &ceilings, &sizes);
        kernels::rows(&mut table, &ceilings, &sizes);
        kernels::small_batch(&mut table, &ceilings, &sizes);
        table.print();
    }
    if wanted("steps") {
        println!("## Training steps\n");
        training::steps(&ceilings, small);
    }
    if wanted("memory") {
        println!("## Memory, as the driver reports it\n");
        training::memory(small);
    }
}
