#!/usr/bin/env python3
"""Measures learning tasks one after the other: five texts, in three orders, by every method of `tetrad continual`.

    benches/quality/continual.py target/release/tetrad SmolLM2-135M-Instruct.Q4_1.gguf TEXTS FOLDER [--steps 100] [--records FILE]

TEXTS is a folder with sotu.txt, milton.txt, world_english_bible.txt, shakespeare_modern.txt, docs.txt.zst (or docs.txt) and
jane_austen.txt, of which the last stands for what the model knew before. Of each text the first 2 MB are used: nine tenths to
train on, the last to score on. Joint training, in which tasks have no order, is run with the first order alone. Every order is a
sequence in a folder of its own; a second call goes on where the first was
stopped, and passes over the orders that are in FILE with the same options already, to which each is added as it ends.
FOLDER/results.json has all matrices, and the table that is printed has the means over the orders.
"""
import argparse
import datetime
import json
import pathlib
import shutil
import subprocess

TASKS = ["sotu", "milton", "world_english_bible", "shakespeare_modern", "docs"]
ORDERS = [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 1, 0, 3]]
KNOWN = "jane_austen"
METHODS = ["ema", "mean", "replay", "joint", "o-lora", "full"]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("tetrad", type=pathlib.Path)
parser.add_argument("model", type=pathlib.Path, help="a .gguf file, or a .tetrad file")
parser.add_argument("texts", type=pathlib.Path)
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--steps", type=int, default=100, help="of each task")
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--sequence", type=int, default=128)
parser.add_argument("--windows", type=int, default=24, help="scored of each text")
parser.add_argument("--bytes", type=int, default=2_000_000, help="of each text")
parser.add_argument("--rate", type=float, default=1e-3)
parser.add_argument("--full-rate", type=float, default=1e-4, help="of training the packed model itself")
parser.add_argument("--rank", type=int, default=8)
parser.add_argument("--orders", type=int, default=len(ORDERS))
parser.add_argument("--methods", nargs="+", default=METHODS)
parser.add_argument("--records", type=pathlib.Path, help="results of orders, a line each")
options = parser.parse_args()


def run(*arguments):
    command = [str(options.tetrad.resolve()), *map(str, arguments)]
    done = subprocess.run(command, cwd=options.folder, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stdout[-2000:]}")
    return done.stdout


def text(name):
    """The beginning of a text, in whole characters."""
    plain = options.texts / f"{name}.txt"
    if plain.exists():
        raw = plain.open("rb").read(options.bytes)
    else:
        unpack = subprocess.Popen(["zstd", "-dc", f"{plain}.zst"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        raw = unpack.stdout.read(options.bytes)
        unpack.kill()
        if not raw:
            raise SystemExit(f"{plain}.zst: cannot be read by the program zstd")
    return raw.decode("utf-8", "ignore")


def prepare():
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in [*TASKS, KNOWN]:
        words = text(name)
        cut = len(words) * 9 // 10
        (options.folder / f"{name}.txt").write_text(words[:cut])
        (options.folder / f"{name}-held.txt").write_text(words[cut:])
    base = options.folder / "base.tetrad"
    if not base.exists():
        if options.model.suffix == ".tetrad":
            shutil.copy(options.model, base)
        else:
            run("import", options.model.resolve(), "-o", "base.tetrad")


def sequence(number, order):
    """The results of one order."""
    tasks = "".join(f'\n[[continual.task]]\nname = "{name}"\ntrain = ["{name}.txt"]\nvalidation = ["{name}-held.txt"]\n'
                    for name in (TASKS[i] for i in order))
    settings = f"""
[adapter]
base = "base.tetrad"
kind = "lora"
rank = {options.rank}
alpha = {2 * options.rank}

[optimizer]
name = "adam"
lr = {options.rate}
weight_decay = 0.0

[train]
steps = {options.steps}
batch = {options.batch}
sequence = {options.sequence}
warmup = {min(10, options.steps)}
schedule = "constant"
eval_every = 0
eval_sequences = {options.windows}
checkpoint_every = 0
keep = 1
sample_tokens = 0

[run]
seed = {number + 1}

[continual]
base = ["{KNOWN}-held.txt"]
"""
    found = None
    for method in options.methods:
        name = f"order-{number + 1}"
        # The packed model has a rule and a rate of its own.
        full = 'name = "stable-spam"' if method == "full" else 'name = "adam"'
        own = settings.replace('name = "adam"', full)
        if method == "full":
            own = own.replace(f"lr = {options.rate}", f"lr = {options.full_rate}")
            name += "-full"
        others = [other for other in options.methods if other != "full" and (other != "joint" or number == 0)]
        methods = ["full"] if method == "full" else others
        if method != "full" and method != next(iter(others), None):
            continue
        (options.folder / f"{name}.toml").write_text(own + f"methods = {json.dumps(methods)}\n" + tasks)
        run("continual", f"{name}.toml", "--resume", "--set", f"run.dir={name}")
        results = json.loads((options.folder / name / "continual.json").read_text())
        if found is None:
            found = results
        else:
            found["results"] += results["results"]
    return found


def conditions():
    """What results depend on besides their order."""
    of = vars(options).items()
    return {key: value for key, value in of if not isinstance(value, pathlib.Path) and key not in ("orders", "records")}


def recorded(number, order):
    """The results of one order, which are kept in the file of records."""
    known = {"order": [TASKS[i] for i in order], "options": conditions()}
    lines = options.records.read_text().splitlines() if options.records and options.records.exists() else []
    for line in map(json.loads, lines):
        if {key: line[key] for key in known} == known:
            return line["found"]
    prepare()
    found = sequence(number, order)
    if options.records:
        with options.records.open("a") as out:
            out.write(json.dumps({**known, "date": datetime.date.today().isoformat(), "found": found}) + "\n")
    return found


def ends(order):
    return {(one["method"], one["by"]): one["last"] for one in order["results"]}


def share(orders, number, last):
    """Of the way from sequential to joint training, for what was run in the order of this number."""
    sequential, joint = ends(orders[number]).get(("ema", "online")), ends(orders[0]).get(("joint", ""))
    return None if sequential is None or joint is None else (sequential - last) / (sequential - joint)


def table(orders):
    columns = ["last", "average", "forgetting", "backward", "newest"]
    print("| method | by | " + " | ".join(columns) + " | base's text | of joint |")
    print("| --- | --- |" + " --- |" * (len(columns) + 2))
    mean = lambda values: sum(values) / len(values) if values and None not in values else None
    show = lambda value, form: "" if value is None else format(value, form)
    for one in orders[0]["results"]:
        is_it = lambda other: (other["method"], other["by"]) == (one["method"], one["by"])
        same = [(number, other) for number, order in enumerate(orders) for other in order["results"] if is_it(other)]
        cells = [show(mean([other.get(column) for _, other in same]), ".4f") for column in columns]
        lost = mean([(other.get("base_text_lost") or [None])[-1] for _, other in same])
        way = mean([share(orders, number, other["last"]) for number, other in same])
        print(f"| {one['method']} | {one['by']} | {' | '.join(cells)} | {show(lost, '+.4f')} | {show(way, '.0%')} |")
    for name, found, bar in bars(orders):
        print(f"\n{name}: {found}, {bar} is asked for", end="")
    print()


def bars(orders):
    """What issue and design ask for, where the methods were run."""
    def mean(method, by, what):
        values = [one[what] for order in orders for one in order["results"] if (one["method"], one["by"]) == (method, by)]
        return sum(values) / len(values) if values else None
    for method in ("ema", "mean"):
        posterior, largest = (mean(method, by, "last") for by in ("posterior", "max"))
        if posterior is not None and len(TASKS) > 1:
            yield f"{method}: posterior less max", f"{posterior - largest:+.4f}", "below 0"
            newest = mean(method, "posterior", "newest") - mean(method, "online", "newest")
            yield f"{method}: newest task, posterior less online", f"{newest:+.4f}", "at most 0.01"
            ways = [share(orders, number, one["last"]) for number, order in enumerate(orders) for one in order["results"]
                    if (one["method"], one["by"]) == (method, "posterior")]
            if None not in ways:
                yield f"{method}: posterior's share of the way to joint", f"{sum(ways) / len(ways):.0%}", "at least 40 %"


def main():
    options.folder.mkdir(parents=True, exist_ok=True)
    orders = [recorded(number, order) for number, order in enumerate(ORDERS[:options.orders])]
    results = {"options": conditions(), "orders": orders}
    (options.folder / "results.json").write_text(json.dumps(results, indent=1))
    table(orders)


main()
