"""Holds tetrad against llama.cpp and transformers on a real model. Run by run.sh, which makes the environment.

usage: check.py TETRAD MODEL.gguf TEXT FOLDER

Greedy texts are compared token by token: after every beginning of tetrad's text another program must hold tetrad's
next token for the likeliest, unless it holds it for likelier than that by less than its own arithmetic is off: a near
tie, which every program breaks its own way.

- transformers in float32: 0.001.
- llama.cpp on the same values in F32: 0.001. Its margins are measured against transformers' on 4096 tokens that were
  not generated, and must be as near.
- llama.cpp on the exported file: four times the root mean square by which its margins are off there. The weights have
  the same values, but it rounds activations to eight bits in its products: that alone makes the difference.
"""

import os
import pathlib
import shutil
import sys

import numpy as np
from tokenizers import Tokenizer

from greedy import compare, wide_copy
from llama import Llama, losses
from program import Program
from speed import speed

SEQUENCE, SEQUENCES = 512, int(os.environ.get("SEQUENCES", 8))
STEPS = int(os.environ.get("STEPS", 200))
# What sums in another order make of a margin between two logits of about 20, with room.
SUMS = 1e-3
# The root mean square where transformers is not there to measure it: SmolLM2-135M-Instruct's, rounded up.
NOISE = 0.15

tetrad, gguf, text, folder = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
program = Program(tetrad, folder)
check, run = program.check, program.run


def tokens_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def windows(ids):
    for first in range(0, SEQUENCE * SEQUENCES, SEQUENCE):
        part = ids[first:first + SEQUENCE + 1]
        yield part[:-1], part[1:]


def mean_loss(logits, ids):
    return np.mean(np.concatenate([losses(logits(x), y) for x, y in windows(ids)]))


def eval_loss(file, text):
    return program.json("eval", file, "--text", text, "--sequence", SEQUENCE, "--sequences", SEQUENCES, "--threads", 2,
                        "--cache", "cache")["loss"]


def same_perplexity(ours, theirs, name):
    off = np.exp(ours - theirs) - 1
    check(abs(off) < 0.005, f"perplexity {np.exp(ours):.4f}, {name} {np.exp(theirs):.4f} ({off:+.4%})")


def main():
    _, seconds = run("import", "--overwrite", gguf, "-o", "model.tetrad", "--threads", 2)
    check(seconds < 5, f"import takes {seconds:.2f} s (below 5)")
    _, seconds = run("export", "--overwrite", "model.tetrad", "-o", "exported.gguf", "--threads", 2)
    check(seconds < 5, f"export takes {seconds:.2f} s (below 5)")
    run("import", "--overwrite", "exported.gguf", "-o", "again.tetrad")
    same = (folder / "model.tetrad").read_bytes() == (folder / "again.tetrad").read_bytes()
    check(same, "import, export, import: the same file byte for byte")
    run("export", "--overwrite", "model.tetrad", "-o", "directory", "--type", "f32")

    tokenizer = Tokenizer.from_file(str(folder / "directory/tokenizer.json"))
    words = text.read_text()
    ids = tokens_of(tokenizer, words)
    client = Llama(folder / "exported.gguf", SEQUENCE)
    check(client.tokenize(words) == ids, f"llama.cpp and the rebuilt tokenizer give the same {len(ids)} tokens")
    ours = eval_loss("model.tetrad", text)
    exact = transformers("directory", words, ids)
    truth, best = measured(exact, ids) if exact else (None, [])
    if exact:
        same_perplexity(ours, truth, "transformers")
    noise = agreement(best, client, ids, ours, "llama.cpp")
    others = [("llama.cpp", client.after, 4 * (noise or NOISE))]
    if exact:
        wide_copy(folder / "exported.gguf", folder / "wide.gguf")
        wide = Llama(folder / "wide.gguf", SEQUENCE, exact=True)
        off = agreement(best, wide, ids, ours, "llama.cpp on the same values in F32")
        check(off < SUMS / 4, f"so llama.cpp computes the same model: {off:.5f} is below {SUMS / 4}")
        others = [("transformers", lambda ids, start: exact(ids)[start:], SUMS),
                  ("llama.cpp on the same values in F32", wide.after, SUMS), *others]
    compare(program, others)
    speed(program, client, windows(ids), text, SEQUENCE)
    (folder / "wide.gguf").unlink(missing_ok=True)
    if STEPS > 0:
        tune(words, tokenizer)


def transformers(directory, words=None, ids=None):
    """All logits of a text by transformers in float32; nothing where it is not installed."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        print(f"SKIPPED transformers: {error}")
        return None
    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(folder / directory, dtype=torch.float32)
    if ids is not None:
        auto = AutoTokenizer.from_pretrained(folder / directory)
        check(auto.encode(words, add_special_tokens=False) == ids, "transformers gives the same tokens")

    def logits(tokens):
        with torch.no_grad():
            return model(torch.tensor([tokens])).logits[0].numpy()

    return logits


def margins(rows, best):
    at = np.arange(len(rows))
    return rows[at, best[:, 1]] - rows[at, best[:, 0]]


def measured(exact, ids):
    """Of each window, transformers' two best tokens everywhere and the margin between them; the perplexity of all."""
    truth, best = [], []
    for inputs, targets in windows(ids):
        rows = exact(inputs)
        truth.append(losses(rows, targets))
        two = np.argpartition(rows, -2, axis=1)[:, -2:]
        best.append((two, margins(rows, two)))
    return np.mean(truth), best


def agreement(best, client, ids, ours, name):
    """Perplexities; the root mean square by which the client's margin between the two best tokens is off."""
    theirs, off = [], []
    for i, (inputs, targets) in enumerate(windows(ids)):
        rows = client.logits(inputs)
        theirs.append(losses(rows, targets))
        off += [np.abs(margins(rows, two) - margin) for two, margin in best[i:i + 1]]
    same_perplexity(ours, np.mean(theirs), name)
    if not off:
        return None
    off = np.concatenate(off)
    noise = float(np.sqrt(np.mean(off ** 2)))
    print(f"        margins of {name} between two tokens are off by {noise:.5f} (root mean square), by "
          f"{np.quantile(off, 0.99):.5f} at one place in a hundred, by {off.max():.5f} at most", flush=True)
    return noise


def tune(words, tokenizer):
    """Fine-tuning lowers the held-out loss, and other programs see that very loss in what is exported."""
    cut = len(words) * 9 // 10
    (folder / "train.txt").write_text(words[:cut])
    (folder / "held.txt").write_text(words[cut:])
    held = tokens_of(tokenizer, words[cut:])
    sets = [f"train.steps={STEPS}", "train.batch=2", "train.sequence=128", "optimizer.lr=1e-4", "run.dir=tuned",
            "data.train=['train.txt']", "data.validation=['held.txt']", "train.eval_sequences=1", "train.eval_every=0",
            "train.checkpoint_every=0", "train.sample_tokens=0", "data.cache=cache", "run.threads=2"]
    arguments = [part for pair in sets for part in ("--set", pair)]
    _, seconds = run("train", "--from", "model.tetrad", "--overwrite", *arguments)
    before, after = eval_loss("model.tetrad", "held.txt"), eval_loss("tuned/model.tetrad", "held.txt")
    # Steps that do nothing would leave the loss where it was, and steps that are wrong raise it.
    check(after < before - 0.05, f"{STEPS} steps of 2 x 128 tokens in {seconds:.0f} s: loss of {SEQUENCES * SEQUENCE} "
                                 f"held-out tokens {before:.4f}, then {after:.4f}")
    run("export", "--overwrite", "tuned/model.tetrad", "-o", "tuned.gguf")
    client = Llama(folder / "tuned.gguf", SEQUENCE)
    same_perplexity(after, mean_loss(client.logits, held), "llama.cpp, after tuning,")
    shutil.rmtree(folder / "tuned-directory", ignore_errors=True)
    run("export", "--overwrite", "tuned/model.tetrad", "-o", "tuned-directory")
    exact = transformers("tuned-directory")
    if exact:
        same_perplexity(after, mean_loss(exact, held), "transformers, after tuning,")


main()
program.end()
