//! What a GPU does, as Markdown: see `measured`. Started by `benches/gpu.sh`.

mod harness;
mod measured;

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    measured::run(&chosen);
}
