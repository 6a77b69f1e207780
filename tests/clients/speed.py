"""Tokens per second of `tetrad eval` and of llama.cpp on the same text and bits, in alternating runs."""

import os
import statistics
import time

RUNS = int(os.environ.get("RUNS", 3))


def speed(program, client, windows, text, sequence):
    """Both compute the logits of every token; tetrad's time has the start of the program and all else that it does."""
    windows = list(windows)
    count = sequence * len(windows)
    arguments = ["eval", "model.tetrad", "--text", text, "--sequence", sequence, "--sequences", len(windows),
                 "--threads", 2, "--cache", "cache"]
    ours, theirs = [], []
    for _ in range(RUNS):
        _, seconds = program.run(*arguments)
        ours.append(count / seconds)
        begun = client.seconds
        for inputs, _ in windows:
            client.logits(inputs)
        theirs.append(count / (client.seconds - begun))
        time.sleep(1)
    if RUNS > 0:
        ratio = statistics.median(a / b for a, b in zip(ours, theirs))
        shown = lambda rates: ", ".join(f"{rate:.0f}" for rate in rates)
        print(f"        tokens/s, 2 threads each: eval {shown(ours)}; llama.cpp at batch {sequence} {shown(theirs)}; "
              f"median ratio {ratio:.2f}; load of the last minutes {os.getloadavg()[0]:.1f}", flush=True)
