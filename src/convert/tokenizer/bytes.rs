//! A vocabulary of bytes in the words of byte-level tokenizers: 256 characters without merges.

use serde_json::{Map, Value, json};

/// The character that byte-level tokenizers write for each byte (GPT-2's `bytes_to_unicode`): its own where that is
/// printable, the next from U+0100 on where it is not.
pub fn alphabet() -> Vec<String> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    let of = |byte: u8| {
        let code = if printable(byte) {
            byte.into()
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).expect("below the surrogates").into()
    };
    (0..=255).map(of).collect()
}

/// The `tokenizer.json` that gives every byte its own value as its id. It has no special tokens, since none is spelled out in
/// bytes. Text is cut as by GPT-2, which changes no id without merges, and which GGUF has a name for.
pub fn byte_tokenizer() -> Vec<u8> {
    let vocab: Map<String, Value> = alphabet().into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": [],
        },
    });
    serde_json::to_vec_pretty(&json).expect("a JSON value is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Tokenizer;

    #[test]
    fn the_written_tokenizer_gives_and_takes_the_ids_of_bytes() {
        let (written, bytes) = (Tokenizer::from_json(&byte_tokenizer()).unwrap(), Tokenizer::bytes());
        // Every character below U+0800 and one of each longer form: all bytes that UTF-8 has.
        let mut every: String = (0..0x800).filter_map(char::from_u32).collect();
        every.extend((0x800..0x11_0000).step_by(0x3f1).filter_map(char::from_u32));
        for text in [every.as_str(), "", " ", "  it's  12\r\n\t<|im_end|></s> caf\u{e9}", "\u{feff}\0"] {
            let ids = bytes.encode(text).unwrap();
            assert_eq!(written.encode(text).unwrap(), ids, "{text:?}");
            assert_eq!(written.decode(&ids), text);
        }
        // Bytes that no text has are decoded alike too, and ids beyond the bytes are nothing.
        for id in 0..300 {
            assert_eq!(written.decode(&[id]), bytes.decode(&[id]), "{id}");
        }
        assert_eq!((written.vocab_size(), written.bos(), written.eos()), (256, None, None));
        assert!(written.beginning().is_empty() && written.ending().is_empty());
    }
}
