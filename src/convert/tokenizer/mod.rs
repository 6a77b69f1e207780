//! Tokenizers: conversion between the arrays of a GGUF file and `tokenizer.json`.

mod bytes;
mod from_gguf;
mod pre;
mod to_gguf;

pub use bytes::byte_tokenizer;
pub use from_gguf::{config_of_gguf, ends_of_gguf, from_gguf};
pub use to_gguf::{left_out, to_gguf};

/// Types of tokens in a GGUF file.
mod token_type {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const USER_DEFINED: i32 = 4;
    pub const UNUSED: i32 = 5;
    pub const BYTE: i32 = 6;
}

/// SentencePiece's character for a space.
const SPACE: &str = "\u{2581}";
