//! From texts to batches.

#[path = "../harness/mod.rs"]
mod harness;
mod texts;

mod cases;
mod errors;
mod hostile_tokenizer;
mod inputs;
mod prepare;
mod samples;
mod sentence_piece;
mod tokenizer;
