"""Holds tetrad against llama.cpp and transformers on a real model. Run by run.sh, which makes the environment.

usage: check.py TETRAD MODEL.gguf TEXT FOLDER

llama.cpp rounds activations to eight bits in its products and keys and values to 16, so its logits are off those of
exact arithmetic on the same weights by a noise that is measured here against transformers; two tokens whose logits
are nearer to each other than four times that noise are a near tie, after which greedy texts may part.
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

SEQUENCE, SEQUENCES, NEW = 512, int(os.environ.get("SEQUENCES", 8)), 64
STEPS = int(os.environ.get("STEPS", 200))
# The noise where transformers is not there to measure it: SmolLM2-135M-Instruct's, rounded up.
NOISE = 0.15
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
    rows = [client.logits(x) for x, _ in windows(ids)]
    theirs = np.mean(np.concatenate([losses(row, y) for row, (_, y) in zip(rows, windows(ids))]))
    off = np.exp(ours - theirs) - 1
    check(abs(off) < 0.005, f"perplexity {np.exp(ours):.4f}, llama.cpp {np.exp(theirs):.4f} ({off:+.3%})")
    count = SEQUENCE * SEQUENCES
    rates = count / seconds, count / client.seconds
    print(f"        eval {rates[0]:.0f} tokens/s (program start included), llama.cpp {rates[1]:.0f} tokens/s at "
          f"batch {SEQUENCE}, 2 threads each: ratio {rates[0] / rates[1]:.2f}", flush=True)

    noise, exact = transformers(words, ids, ours, rows[0])
    for prompt in PROMPTS:
        written, _ = run("sample", "model.tetrad", "--temperature", 0, "--max-tokens", NEW, "--prompt", prompt)
        if exact:
            greedy("transformers", exact, 1e-3, tokenizer, prompt, written)
        greedy("llama.cpp", lambda ids: client.logits(ids, every=False)[0], 4 * noise, tokenizer, prompt, written)
    if STEPS > 0:
        tune(text, words, tokenizer)


def greedy(name, logits, near, tokenizer, prompt, written):
    """The same text up to the first place where the two best tokens of `logits` are nearly equal."""
    ids = tokens_of(tokenizer, prompt)
    said, tie = [], None
    for step in range(NEW):
        row = logits(ids + said)
        best = np.sort(row)[-2:]
        if tie is None and best[1] - best[0] < near:
            tie = step
        said.append(int(row.argmax()))
    full = tokenizer.decode(ids + said, skip_special_tokens=False)
    sure = tokenizer.decode(ids + said[:tie], skip_special_tokens=False)
    written = written[:-1]
    # A model that ends its text stops there, so what it wrote may be a part of what the other went on with.
    good = full.startswith(written) or written.startswith(sure)
    place = f"no near tie below {near:.3f}" if tie is None else f"the first near tie, below {near:.3f}, is at {tie}"
    shown = "all" if full.startswith(written) else "up to the tie"
    check(good, f"greedy {NEW} tokens after {prompt!r} as {name}'s: the same, {shown} ({place})")
    if not good:
        print(f"        ours   {written!r}\n        theirs {full!r}")


def transformers(words, ids, ours, rows):
    """Perplexity; then the noise of llama.cpp's margins between the two best tokens, and exact logits."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        print(f"SKIPPED transformers: {error}")
        return NOISE, None
    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(folder / "directory", dtype=torch.float32)
    auto = AutoTokenizer.from_pretrained(folder / "directory")
    check(auto.encode(words, add_special_tokens=False) == ids, "transformers gives the same tokens")

    def logits(tokens):
        with torch.no_grad():
            return model(torch.tensor([tokens])).logits[0].numpy()

    exact = [logits(x) for x, _ in windows(ids)]
    theirs = np.mean(np.concatenate([losses(row, y) for row, (_, y) in zip(exact, windows(ids))]))
    off = np.exp(ours - theirs) - 1
    check(abs(off) < 0.005, f"perplexity {np.exp(ours):.4f}, transformers {np.exp(theirs):.4f} ({off:+.4%})")
    at, best = np.arange(len(rows)), np.argsort(exact[0], axis=1)[:, -2:]
    margin = lambda row: row[at, best[:, 1]] - row[at, best[:, 0]]
    noise = float(np.sqrt(np.mean((margin(rows) - margin(exact[0])) ** 2)))
    print(f"        llama.cpp's margins between two tokens are off by {noise:.3f} (root mean square)", flush=True)
    return noise, lambda tokens: logits(tokens)[-1]


def tune(text, words, tokenizer):
    """Fine-tuning lowers the held-out loss, and llama.cpp sees that very loss in what is exported."""
    cut = len(words) * 9 // 10
    (folder / "train.txt").write_text(words[:cut])
    (folder / "held.txt").write_text(words[cut:])
    held = tokens_of(tokenizer, words[cut:])

    def loss(file):
        out, _ = run("eval", file, "--text", "held.txt", "--sequence", SEQUENCE, "--sequences", SEQUENCES,
                     "--threads", 2, "--json", "--cache", "cache")
        return json.loads(out)["loss"]

    sets = [f"train.steps={STEPS}", "train.batch=1", "train.sequence=128", "optimizer.lr=1e-4", "run.dir=tuned",
            "data.train=['train.txt']", "data.validation=['held.txt']", "train.eval_sequences=1", "train.eval_every=0",
            "train.checkpoint_every=0", "train.sample_tokens=0", "data.cache=cache", "run.threads=2"]
    arguments = [part for pair in sets for part in ("--set", pair)]
    _, seconds = run("train", "--from", "model.tetrad", "--overwrite", *arguments)
    before, after = loss("model.tetrad"), loss("tuned/model.tetrad")
    check(after < before, f"{STEPS} steps of 128 tokens in {seconds:.0f} s: held-out loss {before:.4f}, then {after:.4f}")
    run("export", "tuned/model.tetrad", "-o", "tuned.gguf")
    client = Llama(folder / "tuned.gguf", SEQUENCE)
    theirs = np.mean(np.concatenate([losses(client.logits(x), y) for x, y in windows(held)]))
    off = np.exp(after - theirs) - 1
    check(abs(off) < 0.005, f"perplexity {np.exp(after):.4f} after tuning, llama.cpp {np.exp(theirs):.4f} ({off:+.3%})")


main()
raise SystemExit(f"{len(failures)} of the checks failed" if failures else 0)
