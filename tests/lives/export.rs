//! Exports on a disk that refuses.

use super::crash::partial;
use super::machine::{Done, Fate, Simulated};
use super::process::{Kind, Process, begin};
use super::shadow::folder;
use std::fs;
use std::path::Path;
use tetrad::checkpoint::{Checkpoint, checkpoint_path};
use tetrad::convert::{FloatType, GgufTypes, export_gguf, export_hugging_face};
use tetrad::error::ConvertError;

/// Exports once for each operation, which is refused; `check` looks at what is left.
fn refused_at_every_operation(
    root: &Path,
    export: &dyn Fn() -> Result<(), ConvertError>,
    check: &dyn Fn(&Done),
) -> usize {
    for operation in 0.. {
        let machine = Simulated::new();
        machine.arm(operation, Fate::Refused(rustix::io::Errno::DQUOT.raw_os_error()));
        let outcome = machine.run(export);
        let Some((_, done)) = machine.restart() else {
            outcome.unwrap();
            return operation;
        };
        let said = outcome.unwrap_err().to_string();
        assert!(said.contains(&*root.to_string_lossy()), "{done:?}: {said}");
        assert_eq!(partial(root), [""; 0], "{done:?}");
        check(&done);
    }
    unreachable!("an export ends")
}

#[test]
fn an_export_that_is_refused_at_any_operation_leaves_what_was_there() {
    let root = folder();
    let config = begin(root.path(), Kind::Plain);
    drop(Process::start(&config, &Simulated::new()).unwrap());
    let checkpoint = Checkpoint::open(&checkpoint_path(&config.run.dir, 0)).unwrap();
    let (file, directory) = (root.path().join("out.gguf"), root.path().join("out"));
    fs::write(&file, "old").unwrap();
    let gguf = || export_gguf(&checkpoint, GgufTypes::default(), &file, &mut |_, _| {}).map(drop);
    let met = refused_at_every_operation(root.path(), &gguf, &|done| {
        // The new file is in its place by then, whole.
        let named = matches!(done, Done::SyncFolder(_));
        assert!(named || fs::read(&file).unwrap() == b"old", "{done:?}");
    });
    assert!(met >= 6, "{met} operations");
    let model = || export_hugging_face(&checkpoint, FloatType::F16, u64::MAX, &directory, &mut |_, _| {}).map(drop);
    let met = refused_at_every_operation(root.path(), &model, &|done| {
        assert!(!directory.exists(), "{done:?}");
    });
    assert!(met >= 18, "{met} operations");
}
