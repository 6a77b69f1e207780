#!/usr/bin/env python3
"""Times `tetrad prepare` and Hugging Face's tokenizers on one text, in seconds of processor and by the clock.

    benches/prepare.py target/release/tetrad tokenizer.json TEXT.txt [--threads 2]

TEXT may be packed (TEXT.txt.zst; the other side needs the program zstd). `pip install tokenizers` brings what is compared with:
its parallel encoder, without offsets, on pieces of a quarter of a MiB, as tetrad cuts them. Unpacking and writing are in tetrad's
time and not in the other's. The ids of a text are those of its pieces nearly everywhere; their numbers are printed.
"""
import argparse
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

PIECE = 256 << 10


def text(path):
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dc", path], stdout=subprocess.PIPE, check=True).stdout.decode()
    return path.read_text()


def pieces(whole):
    """Cut where a line begins with a letter."""
    found, at = [], 0
    while at < len(whole):
        end = at + PIECE
        while end < len(whole) and not (whole[end - 1] == "\n" and whole[end].isalpha()):
            end += 1
        found.append(whole[at:end])
        at = end
    return found


def encode(tokenizer, path):
    """In a process of its own, whose time is that of the encoder alone."""
    import tokenizers
    encoder, parts = tokenizers.Tokenizer.from_file(str(tokenizer)), pieces(text(path))
    encoder.encode("the first call builds tables")
    begun, processor = time.perf_counter(), time.process_time()
    ids = sum(len(one.ids) for one in encoder.encode_batch_fast(parts, add_special_tokens=False))
    print(ids, time.process_time() - processor, time.perf_counter() - begun)


def measured(command, environment):
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tetrad", type=pathlib.Path)
    parser.add_argument("tokenizer", type=pathlib.Path)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    threads = str(options.threads)
    environment = os.environ | {"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
    with tempfile.TemporaryDirectory() as folder:
        command = [options.tetrad.resolve(), "prepare", "--tokenizer", options.tokenizer, "--data", options.text]
        sets = [f"data.cache={folder}", "data.validation_fraction=0", f"run.threads={threads}"]
        said, processor, wall = measured(command + [word for one in sets for word in ("--set", one)], environment)
        print(f"tetrad      {processor:7.1f} CPU-s {wall:7.1f} s  {said.strip()}")
    said, _, _ = measured([sys.executable, __file__, "--encode", options.tokenizer, options.text], environment)
    ids, other, other_wall = (float(number) for number in said.split())
    print(f"tokenizers  {other:7.1f} CPU-s {other_wall:7.1f} s  {int(ids)} tokens")
    print(f"tetrad takes {processor / other:.2f} of the processor time, {wall / other_wall:.2f} by the clock")


if sys.argv[1:2] == ["--encode"]:
    encode(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
else:
    main()
