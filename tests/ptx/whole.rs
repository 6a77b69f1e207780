//! That nothing was left out.

use crate::harness::gpu::{CHECKS, emulated, emulator};
use crate::harness::interpreted;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tetrad::backend::cuda::{Gpu, SOURCES, Source};

/// How long nothing may have been launched before this is taken for the end of the other tests, where something is missing then.
const QUIET: Duration = Duration::from_secs(600);

/// And where nothing is: what comes later is missing in the report alone.
const SETTLED: Duration = Duration::from_secs(10);

/// Which instructions of a kernel were not come to, by lines, and how many it has.
type Unreached = BTreeMap<String, (Vec<u32>, usize)>;

fn sums(unreached: &Unreached) -> [usize; 2] {
    unreached.values().fold([0, 0], |[a, b], (missed, all)| [a + missed.len(), b + all])
}

/// What is left are rows that no host makes (a tail where pitches are whole eights) and, of the state's many codecs, those
/// that no rule has. The report names all lines.
fn is_enough(unreached: &Unreached) -> bool {
    let [missed, all] = sums(unreached);
    missed * 7 < all
}

/// How much of the kernels' code the tests came to.
fn tell(unreached: &Unreached) -> String {
    let mut report = String::new();
    for (kernel, (missed, all)) in unreached {
        report += &format!("{kernel}: {} of {all} instructions; not lines {missed:?}\n", all - missed.len());
    }
    let [missed, all] = sums(unreached);
    report + &format!("{} of {all} instructions in {} kernels\n", all - missed, unreached.len())
}

/// Every kernel ran to its end in some test of this program. Its name is the last, so it waits for the others; it says
/// nothing where some were chosen by name.
#[test]
fn every_kernel_has_run() {
    let chosen = |word: &String| !word.starts_with('-') && word.parse::<u32>().is_err();
    if std::env::args().skip(1).any(|word| chosen(&word)) {
        eprintln!("SKIPPED: other tests run the kernels, and some were chosen");
        return;
    }
    let Some(device) = interpreted::attach(emulator()) else { return };
    let all: Vec<Source> = SOURCES.iter().copied().chain([CHECKS]).collect();
    Gpu::open_with(0, &emulated(), &all).expect("the emulated device opens");
    let kernels = device.kernels();
    assert!(kernels.len() > 100, "only {} kernels were found", kernels.len());
    let (mut launches, mut since) = (device.launches(), Duration::ZERO);
    let step = Duration::from_millis(200);
    loop {
        let ran = device.ran();
        let missing: Vec<_> = kernels.difference(&ran).collect();
        if missing.is_empty() && since > SETTLED && is_enough(&device.unreached()) {
            break;
        }
        assert!(
            since < QUIET,
            "{} of {} kernels did not run: {missing:?}\n{}",
            missing.len(),
            kernels.len(),
            tell(&device.unreached())
        );
        std::thread::sleep(step);
        since = if device.launches() == launches { since + step } else { Duration::ZERO };
        launches = device.launches();
    }
    let report = tell(&device.unreached());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ptx-reached.txt");
    std::fs::write(path, &report).unwrap();
    println!("{report}");
}
