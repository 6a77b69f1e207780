#!/usr/bin/env python3
"""Sends a run's metrics to Weights & Biases: python3 examples/wandb_upload.py RUN_DIR [--project NAME] [--follow]

Needs `pip install wandb` and `wandb login`; with WANDB_MODE=offline nothing is sent, and `wandb sync` does it later.
Configuration, steps and their values are those of the run directory; the step is tetrad's. A run that is sent again goes
on where it ended there, so the same command may be repeated while a run is under way; --follow does that by itself until
the run has left its finished weights, or until Ctrl-C.
"""
import argparse
import hashlib
import json
import pathlib
import sys
import time
import tomllib

SECONDS = 5.0


def flat(table, prefix=""):
    """The keys of a TOML table as tetrad writes them with --set."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def whole_lines(path, offset):
    """The complete lines behind `offset`, and where they end: the last one may be half written."""
    with open(path, "rb") as file:
        file.seek(offset)
        text = file.read()
    end = text.rfind(b"\n") + 1
    return text[:end].splitlines(), offset + end


def send(run, line, sent):
    """Logs one line of metrics.jsonl; of a step that was resumed the first values count, since a step cannot be replaced."""
    record = json.loads(line)
    step = record.pop("step", None)
    if step is None or step < sent:
        return sent
    # A value that was not finite is null or left out; texts are not curves.
    values = {name: float("nan") if value is None else value for name, value in record.items() if not isinstance(value, str)}
    run.log(values, step=step)
    return step


def is_finished(run, metrics):
    """Whether finished weights are there, and not those of before the run went on."""
    weights = [run / name for name in ("model.tetrad", "adapter.tetrad")]
    return any(path.is_file() and path.stat().st_mtime >= metrics.stat().st_mtime for path in weights)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--project", default="tetrad")
    parser.add_argument("--follow", action="store_true")
    arguments = parser.parse_args()
    config, metrics = arguments.run / "config.toml", arguments.run / "metrics.jsonl"
    for path in (config, metrics):
        if not path.is_file():
            sys.exit(f"{path}: not there; name the folder of a run (run.dir)")
    import wandb

    settings = dict(flat(tomllib.loads(config.read_text(encoding="utf-8"))))
    # The same run directory is the same run there.
    name = arguments.run.resolve().name
    identity = hashlib.sha256(str(arguments.run.resolve()).encode()).hexdigest()[:12]
    run = wandb.init(project=arguments.project, name=name, id=identity, config=settings, resume="allow")
    sent, offset = run.step or 0, 0
    try:
        while True:
            # Looked at first: whatever was written before the weights, the last validation too, is read below.
            finished = is_finished(arguments.run, metrics)
            lines, offset = whole_lines(metrics, offset)
            for line in lines:
                sent = send(run, line, sent)
            if not arguments.follow or finished:
                break
            time.sleep(SECONDS)
    except KeyboardInterrupt:
        pass
    run.finish()


if __name__ == "__main__":
    main()
