//! From texts to batches.

mod texts;

mod cases;
mod errors;
mod hostile_tokenizer;
mod inputs;
mod prepare;
mod samples;
mod tokenizer;
