//! Lists the tensors of a `.tetrad` file with their storage, size and range of values.
//!
//! ```sh
//! cargo run --release --example inspect -- runs/quickstart/model.tetrad
//! ```

use std::error::Error;
use tetrad::format::{Decoder, File, Role};
use tetrad::store::Map;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: inspect FILE.tetrad")?;
    // The file is mapped, and parsing reads its head alone; nothing is copied.
    let map = Map::open(path)?;
    let file = File::parse(&map)?;
    for (index, tensor) in file.tensors().iter().enumerate() {
        let spec = &tensor.spec;
        let bytes: u64 = tensor.planes.iter().map(|plane| plane.len).sum();
        let bits = bytes as f64 * 8.0 / spec.elements() as f64;
        // The deployed value of every weight, decoded row by row.
        let (mut least, mut most) = (f32::INFINITY, f32::NEG_INFINITY);
        if let Some(decoder) = Decoder::new(&file, index, Role::Weight) {
            let mut row = vec![0.0; decoder.cols()];
            for i in 0..decoder.rows() {
                decoder.row(i, &mut row);
                least = row.iter().copied().fold(least, f32::min);
                most = row.iter().copied().fold(most, f32::max);
            }
        }
        println!(
            "{:<48} {:<8} {:>12} {bits:6.2} bits  {least:9.5} to {most:8.5}",
            spec.name,
            spec.storage.name(),
            spec.shape()
        );
    }
    // Every byte against its checksum and the rules of the format.
    let broken = file.verify();
    broken.iter().for_each(|finding| println!("{finding}"));
    if broken.is_empty() { Ok(()) } else { Err("the file is damaged".into()) }
}
