"""Holds adapters against llama.cpp and peft on a real model. Run by run.sh after check.py.

usage: adapters.py TETRAD MODEL.gguf TEXT FOLDER

An adapter of random numbers, large enough to change the loss, in PEFT's form: imported, exported both ways, merged. What
tetrad measures with it must be what llama.cpp measures with `--lora` and transformers with peft, as near as the base alone
is to theirs.
"""

import ctypes as c
import json
import os
import pathlib
import struct
import sys

import numpy as np
from tokenizers import Tokenizer

from llama import Llama, losses
from program import Program

SEQUENCE, SEQUENCES = 512, int(os.environ.get("SEQUENCES", 2))
RANK, ALPHA = 8, 12.0

tetrad, gguf, text, folder = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
program = Program(tetrad, folder)
check, run = program.check, program.run


def blocks_adapter(config, target):
    """A folder as peft writes it: queries, values and down projections of every second block."""
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    width = config.get("head_dim", hidden // heads)
    sizes = {"self_attn.q_proj": (heads * width, hidden), "self_attn.v_proj": (kv * width, hidden), "mlp.down_proj": (hidden, inner)}
    random, tensors = np.random.default_rng(1), {}
    blocks = list(range(0, config["num_hidden_layers"], 2))
    for block in blocks:
        for name, (rows, cols) in sizes.items():
            key = f"base_model.model.model.layers.{block}.{name}.lora_"
            tensors[key + "A.weight"] = (random.standard_normal((RANK, cols)) / np.sqrt(cols)).astype(np.float32)
            tensors[key + "B.weight"] = (random.standard_normal((rows, RANK)) * 0.15).astype(np.float32)
    write_adapter(target, tensors, ["q_proj", "v_proj", "down_proj"], blocks)


def tables_adapter(config, target):
    """The same of embedding and head, whose halves peft calls the other way round for the embedding."""
    vocab, hidden = config["vocab_size"], config["hidden_size"]
    random = np.random.default_rng(2)
    normal = lambda *shape: random.standard_normal(shape)
    front = "base_model.model."
    write_adapter(target, {
        front + "model.embed_tokens.lora_embedding_A": normal(RANK, vocab) * 0.01,
        front + "model.embed_tokens.lora_embedding_B": normal(hidden, RANK),
        front + "lm_head.lora_A.weight": normal(RANK, hidden) / np.sqrt(hidden),
        front + "lm_head.lora_B.weight": normal(vocab, RANK) * 0.05,
    }, ["embed_tokens", "lm_head"], None)


def write_adapter(target, tensors, modules, blocks):
    tensors = {key: values.astype(np.float32) for key, values in tensors.items()}
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for key, values in tensors.items():
        header[key] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    target.mkdir(exist_ok=True)
    data = b"".join(values.tobytes() for values in tensors.values())
    (target / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + data)
    options = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "bias": "none",
               "target_modules": modules, "layers_to_transform": blocks}
    (target / "adapter_config.json").write_text(json.dumps(options))


def windows(ids):
    for first in range(0, SEQUENCE * SEQUENCES, SEQUENCE):
        part = ids[first:first + SEQUENCE + 1]
        yield part[:-1], part[1:]


def mean_loss(logits, ids):
    return float(np.mean(np.concatenate([losses(logits(x), y) for x, y in windows(ids)])))


def eval_loss(file, *more, sequences=SEQUENCES):
    return program.json("eval", file, "--text", text, "--sequence", SEQUENCE, "--sequences", sequences, "--threads", 2,
                        "--cache", "cache", *more)["loss"]


def load(client, path):
    """Puts an adapter beside the client's model, by either name that the function has had."""
    lib = client.lib
    lib.llama_adapter_lora_init.restype = c.c_void_p
    lib.llama_adapter_lora_init.argtypes = [c.c_void_p, c.c_char_p]
    found = lib.llama_adapter_lora_init(client.model, str(path).encode())
    if not found:
        raise SystemExit(f"{path}: llama.cpp does not load it")
    if hasattr(lib, "llama_set_adapters_lora"):
        lib.llama_set_adapters_lora.restype = c.c_int32
        lib.llama_set_adapters_lora.argtypes = [c.c_void_p, c.POINTER(c.c_void_p), c.c_size_t, c.POINTER(c.c_float)]
        done = lib.llama_set_adapters_lora(client.context, (c.c_void_p * 1)(found), 1, (c.c_float * 1)(1.0))
    else:
        lib.llama_set_adapter_lora.restype = c.c_int32
        lib.llama_set_adapter_lora.argtypes = [c.c_void_p, c.c_void_p, c.c_float]
        done = lib.llama_set_adapter_lora(client.context, found, 1.0)
    assert done == 0, done


def peft(directory, adapter):
    """Logits by transformers and peft in float32; nothing where they are not installed."""
    try:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        print(f"SKIPPED peft: {error}")
        return None
    torch.set_num_threads(2)
    base = AutoModelForCausalLM.from_pretrained(folder / directory, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder / adapter)

    def logits(tokens):
        with torch.no_grad():
            return model(torch.tensor([tokens])).logits[0].numpy()

    return logits


def near(ours, theirs, bound, name):
    off = np.exp(ours - theirs) - 1
    check(abs(off) < bound, f"perplexity {np.exp(ours):.4f}, {name} {np.exp(theirs):.4f} ({off:+.4%}, below {bound:.2%})")
    return off


def main():
    run("import", "--overwrite", gguf, "-o", "model.tetrad", "--threads", 2)
    run("export", "--overwrite", "model.tetrad", "-o", "exported.gguf", "--threads", 2)
    run("export", "--overwrite", "model.tetrad", "-o", "directory", "--type", "f32")
    config = json.loads((folder / "directory/config.json").read_text())
    blocks_adapter(config, folder / "peft-in")
    run("import", "--overwrite", "peft-in", "--base", "model.tetrad", "-o", "adapter.tetrad")
    run("export", "--overwrite", "adapter.tetrad", "-o", "peft-out")
    run("export", "--overwrite", "adapter.tetrad", "-o", "adapter.gguf")
    run("import", "--overwrite", "peft-out", "--base", "model.tetrad", "-o", "again.tetrad")
    same = (folder / "adapter.tetrad").read_bytes() == (folder / "again.tetrad").read_bytes()
    check(same, "export to a PEFT folder and import again: the same file byte for byte")
    run("merge", "--overwrite", "model.tetrad", "--adapter", "adapter.tetrad", "--into", "f32", "-o", "whole.tetrad")
    ids = Tokenizer.from_file(str(folder / "directory/tokenizer.json")).encode(text.read_text(), add_special_tokens=False).ids
    plain, whole = eval_loss("model.tetrad"), eval_loss("whole.tetrad")
    check(abs(whole - plain) > 0.05, f"the adapter changes the loss: {plain:.4f}, with it {whole:.4f}")
    client = Llama(folder / "exported.gguf", SEQUENCE)
    # Its activations are rounded to eight bits in packed products, with the adapter as without.
    off = near(plain, mean_loss(client.logits, ids), 0.01, "llama.cpp on the base alone")
    load(client, folder / "adapter.gguf")
    with_it = near(whole, mean_loss(client.logits, ids), 0.01, "llama.cpp with --lora")
    check(abs(with_it - off) < 0.004, f"so the adapter is the same there: {with_it - off:+.4%} of the difference are its own")
    logits = peft("directory", "peft-out")
    if logits:
        near(whole, mean_loss(logits, ids), 1e-4, "transformers with peft")
    # A quarter of it, with which few groups leave the range of their scales. Rounding changes single losses either way, so more of
    # them are compared.
    quarter, more = "adapter.tetrad=0.25", 4 * SEQUENCES
    added = eval_loss("model.tetrad", "--adapter", quarter, sequences=more)
    for into, bound in [("int8", 0.002), ("int4", 0.05)]:
        said = json.loads(run("merge", "--overwrite", "model.tetrad", "--adapter", quarter, "--into", into, "-o",
                              f"{into}.tetrad", "--json")[0])
        merged = eval_loss(f"{into}.tetrad", sequences=more)
        near(merged, added, bound, f"merged into {into} ({said['refitted']} groups refitted), against the adapter beside it")
    run("export", "--overwrite", "int8.tetrad", "-o", "int8.gguf")
    near(eval_loss("int8.tetrad"), mean_loss(Llama(folder / "int8.gguf", SEQUENCE).logits, ids), 0.005,
         "llama.cpp on the exported Q8_0")
    (folder / "whole.tetrad").unlink()
    tables(config, ids, plain)


def tables(config, ids, plain):
    """A pair beside the embedding and one beside the head, of the base whose head is tied and of one whose head is not."""
    tables_adapter(config, folder / "tables-in")
    run("import", "--overwrite", "tables-in", "--base", "model.tetrad", "-o", "tables.tetrad")
    run("export", "--overwrite", "tables.tetrad", "-o", "tables-out")
    beside = eval_loss("model.tetrad", "--adapter", "tables.tetrad")
    check(abs(beside - plain) > 0.02, f"pairs of embedding and head change the loss: {plain:.4f}, with them {beside:.4f}")
    logits = peft("directory", "tables-out")
    if logits:
        near(beside, mean_loss(logits, ids), 1e-4, "transformers with peft, embedding and head")
    run("merge", "--overwrite", "model.tetrad", "--adapter", "tables.tetrad", "--into", "f32", "-o", "untied.tetrad")
    near(eval_loss("untied.tetrad"), beside, 0.002, "merged into the eight bits of its tables, with a head of its own")
    # llama.cpp has one name for both where they are tied.
    run("import", "--overwrite", "tables-in", "--base", "untied.tetrad", "-o", "untied-adapter.tetrad")
    run("export", "--overwrite", "untied.tetrad", "-o", "untied.gguf")
    run("export", "--overwrite", "untied-adapter.tetrad", "-o", "untied-adapter.gguf")
    client = Llama(folder / "untied.gguf", SEQUENCE)
    load(client, folder / "untied-adapter.gguf")
    twice = eval_loss("untied.tetrad", "--adapter", "untied-adapter.tetrad")
    check(abs(twice - beside) > 0.02, f"once more beside the merged model: {twice:.4f}")
    near(twice, mean_loss(client.logits, ids), 0.001, "llama.cpp with --lora of embedding and head")
    (folder / "untied.gguf").unlink()
    (folder / "untied.tetrad").unlink()


main()
program.end()
