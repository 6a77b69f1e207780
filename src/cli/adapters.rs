//! `--adapter FILE[=SCALE]`.

use super::Failure;
use std::path::Path;
use tetrad::checkpoint::Checkpoint;

/// Opens the adapters that were named, each with its scale, and checks their contents.
///
/// # Errors
/// A scale that is no number, a file that cannot be used.
pub(super) fn open(arguments: &[String]) -> Result<Vec<(Checkpoint, f32)>, Failure> {
    arguments.iter().map(|argument| open_one(argument)).collect()
}

fn open_one(argument: &str) -> Result<(Checkpoint, f32), Failure> {
    let (file, scale) = split(argument, Path::new(argument).exists())?;
    Ok((Checkpoint::open_sound(Path::new(file))?, scale))
}

/// File and scale; the name of a file that exists has no scale in it.
fn split(argument: &str, exists: bool) -> Result<(&str, f32), String> {
    let Some((file, scale)) = argument.rsplit_once('=').filter(|_| !exists) else { return Ok((argument, 1.0)) };
    match scale.parse::<f32>() {
        Ok(number) if number.is_finite() && number.abs() <= 1e6 => Ok((file, number)),
        _ => Err(format!("--adapter {argument}: {scale:?} after = must be a number of at most 1e6, such as 0.5")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_follows_the_file() {
        assert_eq!(split("a.tetrad", false), Ok(("a.tetrad", 1.0)));
        assert_eq!(split("a=b.tetrad=-0.5", false), Ok(("a=b.tetrad", -0.5)));
        assert_eq!(split("a=1", true), Ok(("a=1", 1.0)));
        for wrong in ["a.tetrad=x", "a.tetrad=", "a.tetrad=inf", "a.tetrad=nan"] {
            assert!(split(wrong, false).is_err(), "{wrong}");
        }
    }
}
