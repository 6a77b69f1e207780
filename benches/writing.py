#!/usr/bin/env python3
"""Writing and reading text beside llama.cpp on the same bits, by turns: tokens a second.

benches/writing.py TETRAD MODEL.gguf [REPEATS]

The GGUF is imported first. Writing is greedy, one token at a time; tetrad's time is that of a run with many tokens less that of
one with a single token, llama.cpp's that of its decoding alone. Reading is a text of 8 x 512 tokens: `eval` with the start of
the program, and decoding in batches of 512. llama.cpp is what the `xllamacpp` wheel carries. Two threads each.
"""
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests/clients"))
import llama

tetrad, gguf, repeats = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 5
PROMPT, TOKENS, READ, SEQUENCE = "The history of Rome begins", 200, 8, 512
folder = pathlib.Path(tempfile.mkdtemp())
model, text = folder / "model.tetrad", pathlib.Path(__file__).resolve().parents[1] / "assets/corpus/austen.txt"


def run(*arguments):
    begun = time.perf_counter()
    subprocess.run([tetrad, *map(str, arguments)], check=True, capture_output=True)
    return time.perf_counter() - begun


def write(compute):
    command = ["sample", model, "--prompt", PROMPT, "--temperature", 0, "--ignore-eos", "--threads", 2, "--compute", compute]
    alone = min(run(*command, "--max-tokens", 1) for _ in range(2))
    return (TOKENS - 1) / (run(*command, "--max-tokens", TOKENS) - alone)


def read(compute):
    seconds = run("eval", model, "--text", text, "--sequence", SEQUENCE, "--sequences", READ, "--threads", 2,
                  "--compute", compute)
    return READ * SEQUENCE / seconds


def peer_writes(peer):
    tokens = peer.tokenize(PROMPT)
    logits = peer.logits(tokens, every=False)
    peer.seconds = 0.0
    for i in range(TOKENS - 1):
        logits = peer.logits([int(logits[-1].argmax())], start=len(tokens) + i, every=False)
    return (TOKENS - 1) / peer.seconds


def peer_reads(peer):
    tokens = peer.tokenize(text.read_text())
    peer.seconds = 0.0
    for i in range(READ):
        peer.logits(tokens[i * SEQUENCE:(i + 1) * SEQUENCE])
    return READ * SEQUENCE / peer.seconds


run("import", gguf, "-o", model)
peer = llama.Llama(gguf, tokens=SEQUENCE, threads=2)
ways = {
    "write": {"tetrad f32": lambda: write("f32"), "tetrad int8": lambda: write("int8"), "llama.cpp": lambda: peer_writes(peer)},
    "read": {"tetrad f32": lambda: read("f32"), "tetrad int8": lambda: read("int8"), "llama.cpp": lambda: peer_reads(peer)},
}
for what, by in ways.items():
    rates = {name: [] for name in by}
    for number in range(repeats):
        for name, measure in by.items():
            rates[name].append(measure())
        print(f"{what} {number + 1}: " + ", ".join(f"{name} {found[-1]:.1f}" for name, found in rates.items()), flush=True)
    for name in list(by)[:-1]:
        ratios = [own / other for own, other in zip(rates[name], rates["llama.cpp"])]
        print(f"{what}: {name} is {statistics.median(ratios):.2f} of llama.cpp's ({min(ratios):.2f} to {max(ratios):.2f})")
