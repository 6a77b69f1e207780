"""Greedy texts of `tetrad sample` against the most likely tokens of other programs."""

import numpy as np

NEW = 64
QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = ["The capital of France is", "Once upon a time, there was a", "def fibonacci(n):\n",
           "Dear Sir or Madam,\n", "1, 2, 3, 4,", QUESTION]


def compare(program, others):
    """`others`: names, logits after the tokens from a position on, and what a near tie is."""
    for prompt in PROMPTS:
        said = sample(program, prompt, "--ignore-eos")
        ours, start = said["tokens"], len(said["prompt_tokens"]) - 1
        ids = said["prompt_tokens"] + ours
        program.check(len(ours) == NEW, f"{NEW} tokens after {prompt!r}")
        for name, logits, near in others:
            judge(program, logits(ids[:-1], start), ours, near, f"{name} after {prompt!r}")
    said = sample(program, QUESTION)
    answer = said["text"] == "The capital of France is Paris." and said["ended"]
    program.check(answer, f"the model ends its answer: {said['text']!r}")


def sample(program, prompt, *more):
    return program.json("sample", "model.tetrad", "--temperature", 0, "--max-tokens", NEW, "--prompt", prompt, *more)


def judge(program, rows, ours, near, name):
    """Each of our tokens is the most likely of its row, or nearly so."""
    behind = rows.max(axis=1) - rows[np.arange(len(ours)), ours]
    two = np.partition(rows, -2, axis=1)[:, -2:]
    ties = int((two[:, 1] - two[:, 0] < near).sum())
    parted = np.flatnonzero(behind > 0)
    same = parted[0] if len(parted) else len(ours)
    worst = f", at most {behind.max():.4f} behind" if len(parted) else ""
    said = f"{name}: the same for {same} tokens, {len(parted)} of {len(ours)} differ{worst}"
    program.check((behind < near).all(), f"{said} (a near tie is below {near:.5f}; there are {ties})")


def wide_copy(path, out):
    """The same model with every tensor in F32."""
    import gguf
    from gguf.quants import dequantize

    reader = gguf.GGUFReader(path)
    text = lambda key: reader.fields[key].contents()
    writer = gguf.GGUFWriter(out, text("general.architecture"))
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind, inner = field.types[0], field.types[-1]
        value = field.contents()
        if kind == gguf.GGUFValueType.ARRAY:
            writer.add_key_value(field.name, value, kind, sub_type=inner)
        else:
            writer.add_key_value(field.name, value, kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
