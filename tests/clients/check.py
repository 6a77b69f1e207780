"""Holds tetrad against llama.cpp and transformers on a real model. Run by run.sh, which makes the environment.

usage: check.py TETRAD MODEL.gguf TEXT FOLDER
"""

import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
from tokenizers import Tokenizer

from llama import Llama, losses

SEQUENCE, SEQUENCES, NEW, NEAR = 512, int(os.environ.get("SEQUENCES", 8)), 64, 0.1
PROMPTS = ["The capital of France is", "Once upon a time, there was a", "def fibonacci(n):\n"]

tetrad, gguf, text, folder = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
failures = []


def check(truth, what):
    print(("ok      " if truth else "FAILED  ") + what, flush=True)
    if not truth:
        failures.append(what)


def run(*arguments):
    begun = time.perf_counter()
    command = [str(argument) for argument in (tetrad, *arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout, time.perf_counter() - begun


def tokens_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def windows(ids):
    for first in range(0, SEQUENCE * SEQUENCES, SEQUENCE):
        part = ids[first:first + SEQUENCE + 1]
        yield part[:-1], part[1:]


def main():
    _, seconds = run("import", gguf, "-o", "model.tetrad", "--threads", 2)
    check(seconds < 5, f"import takes {seconds:.2f} s (below 5)")
    _, seconds = run("export", "model.tetrad", "-o", "exported.gguf", "--threads", 2)
    check(seconds < 5, f"export takes {seconds:.2f} s (below 5)")
    run("import", "exported.gguf", "-o", "again.tetrad")
    same = (folder / "model.tetrad").read_bytes() == (folder / "again.tetrad").read_bytes()
    check(same, "import, export, import: the same file byte for byte")
    run("export", "model.tetrad", "-o", "directory", "--type", "f32")

    tokenizer = Tokenizer.from_file(str(folder / "directory/tokenizer.json"))
    words = text.read_text()
    ids = tokens_of(tokenizer, words)
    client = Llama(folder / "exported.gguf", SEQUENCE)
    check(client.tokenize(words) == ids, f"llama.cpp and the rebuilt tokenizer give the same {len(ids)} tokens")

    out, seconds = run("eval", "model.tetrad", "--text", text, "--sequence", SEQUENCE, "--sequences", SEQUENCES,
                       "--threads", 2, "--json", "--cache", "cache")
    ours = json.loads(out)["loss"]
    theirs = np.mean(np.concatenate([losses(client.logits(x), y) for x, y in windows(ids)]))
    off = np.exp(ours - theirs) - 1
    check(abs(off) < 0.005, f"perplexity {np.exp(ours):.4f}, llama.cpp {np.exp(theirs):.4f} ({off:+.3%})")
    count = SEQUENCE * SEQUENCES
    rates = count / seconds, count / client.seconds
    print(f"        eval {rates[0]:.0f} tokens/s (program start included), llama.cpp {rates[1]:.0f} tokens/s at "
          f"batch {SEQUENCE}, 2 threads each: ratio {rates[0] / rates[1]:.2f}", flush=True)

    for prompt in PROMPTS:
        written, _ = run("sample", "model.tetrad", "--temperature", 0, "--max-tokens", NEW, "--prompt", prompt)
        greedy(client, tokenizer, prompt, written)
    transformers(words, ids, ours)


def greedy(client, tokenizer, prompt, written):
    """The same text up to the first place where llama.cpp's two best tokens are nearly equal."""
    ids = tokens_of(tokenizer, prompt)
    start, said, tie = len(ids), [], None
    row = client.logits(ids, every=False)[0]
    for step in range(NEW):
        best = np.sort(row)[-2:]
        if tie is None and best[1] - best[0] < NEAR:
            tie = step
        said.append(int(row.argmax()))
        row = client.logits(said[-1:], start + step, every=False)[0]
    full = tokenizer.decode(ids + said, skip_special_tokens=False)
    sure = tokenizer.decode(ids + said[:tie], skip_special_tokens=False)
    written = written[:-1]
    # A model that ends its text stops there, so what it wrote may be a part of what llama.cpp went on with.
    good = full.startswith(written) or written.startswith(sure)
    place = "no near tie" if tie is None else f"the first near tie is at {tie}"
    shown = "all" if full.startswith(written) else "up to the tie"
    check(good, f"greedy {NEW} tokens after {prompt!r}: the same, {shown} ({place})")
    if not good:
        print(f"        ours   {written!r}\n        theirs {full!r}")


def transformers(words, ids, ours):
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        print(f"SKIPPED transformers: {error}")
        return
    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(folder / "directory", dtype=torch.float32)
    auto = AutoTokenizer.from_pretrained(folder / "directory")
    check(auto.encode(words, add_special_tokens=False) == ids, "transformers gives the same tokens")
    with torch.no_grad():
        rows = [losses(model(torch.tensor([x])).logits[0].numpy(), y) for x, y in windows(ids)]
    theirs = np.mean(np.concatenate(rows))
    off = np.exp(ours - theirs) - 1
    check(abs(off) < 0.005, f"perplexity {np.exp(ours):.4f}, transformers {np.exp(theirs):.4f} ({off:+.4%})")


main()
raise SystemExit(f"{len(failures)} of the checks failed" if failures else 0)
