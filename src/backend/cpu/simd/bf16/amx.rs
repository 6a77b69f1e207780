//! The tile with AMX: four of the eight tile registers hold 32 x 32 sums, two the halves of the left operand's block and two
//! those of the right one's. In assembly, since the compiler's intrinsics are not stable.

use super::{COLS, PANEL, STRIP, WORDS};
use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Rows of a tile register, each of 64 bytes.
const HALF: usize = 16;

/// This thread's tile registers, each 16 rows of 64 bytes, until it is dropped. It stays on its thread, and a thread has one at a
/// time: with another dropped meanwhile the next instruction would be refused.
pub(super) struct Configured(PhantomData<*mut ()>);

/// What `ldtilecfg` reads (Intel's manual, volume 1, 18.2).
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: Config = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut tile = 0;
    while tile < 8 {
        (row_bytes[tile], rows[tile]) = (4 * HALF as u16, HALF as u8);
        tile += 1;
    }
    Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

impl Configured {
    /// The registers, if the processor has them and the system lets this process use them.
    pub fn new() -> Option<Self> {
        if !allowed() {
            return None;
        }
        // SAFETY: the processor has AMX and the system keeps its registers (`allowed`); the configuration is a valid one of
        // palette 1. No compiler-generated code uses tile registers, so none depends on what they held.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly)) };
        Some(Self(PhantomData))
    }

    /// A tile that the output has all of.
    ///
    /// # Safety
    /// `left` and `right` are readable for `blocks` blocks of a strip and of a panel; the output is writable for 32 rows of
    /// [`COLS`], its stride apart.
    pub unsafe fn tile(
        &self,
        left: &[f32],
        right: &[f32],
        blocks: usize,
        (out, stride): (*mut f32, usize),
        goes_on: bool,
    ) {
        // SAFETY: this thread's registers are configured, which `self` proves. Tiles 0 to 3 are loaded from and stored to the
        // output's four quarters; each round reads a block, 32 rows of 64 bytes on the left and 16 of 128 bytes on the
        // right, which the caller promises. Nothing else is accessed, and registers are named.
        unsafe {
            asm!(
                "test {goes_on:e}, {goes_on:e}",
                "jnz 2f",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "jmp 3f",
                "2:",
                "tileloadd tmm0, [{out} + {stride}]",
                "tileloadd tmm1, [{out} + {stride} + 64]",
                "tileloadd tmm2, [{lower_out} + {stride}]",
                "tileloadd tmm3, [{lower_out} + {stride} + 64]",
                "3:",
                "test {blocks}, {blocks}",
                "jz 5f",
                "4:",
                "tileloadd tmm6, [{right} + {right_stride}]",
                "tileloadd tmm7, [{right} + {right_stride} + 64]",
                "tileloadd tmm4, [{left} + {left_stride}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{left} + {left_stride} + {left_half}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {left}, {left_step}",
                "add {right}, {right_step}",
                "dec {blocks}",
                "jnz 4b",
                "5:",
                "tilestored [{out} + {stride}], tmm0",
                "tilestored [{out} + {stride} + 64], tmm1",
                "tilestored [{lower_out} + {stride}], tmm2",
                "tilestored [{lower_out} + {stride} + 64], tmm3",
                goes_on = in(reg) u32::from(goes_on),
                blocks = inout(reg) blocks => _,
                left = inout(reg) left.as_ptr() => _,
                left_stride = in(reg) 4 * WORDS,
                right = inout(reg) right.as_ptr() => _,
                right_stride = in(reg) 4 * COLS,
                out = in(reg) out,
                lower_out = in(reg) out.add(HALF * stride),
                stride = in(reg) 4 * stride,
                left_half = const 4 * WORDS * HALF,
                left_step = const 4 * STRIP,
                right_step = const 4 * PANEL,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Drop for Configured {
    /// Registers that are in use cost every change of threads.
    fn drop(&mut self) {
        // SAFETY: the processor has AMX, as `self` proves.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Whether the processor has tiles of bfloat16 and the system was asked for their registers and gave them, for all threads
/// of this process.
pub(super) fn allowed() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    *ALLOWED.get_or_init(|| has_amx() && request())
}

fn has_amx() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    __cpuid_count(7, 0).edx & (BF16 | TILE) == BF16 | TILE
}

/// Asks Linux for the registers (`arch_prctl(2)`, ARCH_REQ_XCOMP_PERM): a process has to, since they make what is saved of a
/// thread 8 KiB larger.
#[cfg(target_os = "linux")]
fn request() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let result: i64;
    // SAFETY: the call takes two numbers and touches no memory of this process; the kernel changes rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Other systems have other ways, which were not tried.
#[cfg(not(target_os = "linux"))]
fn request() -> bool {
    false
}
