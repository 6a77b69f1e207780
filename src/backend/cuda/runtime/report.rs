//! What the assembler says about each kernel: `--ptxas-options=-v` in the compiler's log.

/// What one kernel uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The kernel.
    pub kernel: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a thread's stack.
    pub stack: u32,
    /// Bytes of registers written to memory for want of registers, and read back.
    pub spilled: u32,
    /// Bytes of static shared memory of a block.
    pub shared: u32,
}

/// The kernels of a log, in its order.
pub fn usages(log: &str) -> Vec<Usage> {
    let mut usages: Vec<Usage> = Vec::new();
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            usages.push(Usage { kernel, registers: 0, stack: 0, spilled: 0, shared: 0 });
        }
        let Some(last) = usages.last_mut() else { continue };
        if line.contains("bytes stack frame") {
            last.stack = before(line, "bytes stack frame");
            last.spilled = before(line, "bytes spill stores") + before(line, "bytes spill loads");
        }
        if line.contains(" registers") {
            last.registers = before(line, "registers");
            last.shared = before(line, "bytes smem");
        }
    }
    usages
}

/// The number that stands before `words`; zero if they are not there.
fn before(line: &str, words: &str) -> u32 {
    let number = line.split(words).next().filter(|start| start.len() < line.len());
    number.and_then(|start| start.split_whitespace().last()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'spills' for 'sm_90a'
ptxas info    : Function properties for spills
    24 bytes stack frame, 20 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 24 bytes cumulative stack size, 4096 bytes smem
ptxas info    : Compile time = 40.071 ms
ptxas info    : Compiling entry function 'small' for 'sm_90a'
ptxas info    : Function properties for small
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
";

    #[test]
    fn each_kernel_has_its_own_numbers() {
        let usage = |kernel: &str, registers, stack, spilled, shared| Usage {
            kernel: kernel.into(),
            registers,
            stack,
            spilled,
            shared,
        };
        assert_eq!(usages(LOG), [usage("spills", 32, 24, 36, 4096), usage("small", 8, 0, 0, 0)]);
        assert_eq!(usages("nothing of the kind\n"), []);
    }
}
