#!/usr/bin/env python3
"""Which rate, which storage: one fine-tune of SmolLM2-135M-Instruct as packed integers, as bytes and by an adapter.

    benches/quality/which_rate.py prepare target/release/tetrad SmolLM2-135M-Instruct.Q4_1.gguf TEXTS
    target/release/tetrad sweep benches/quality/which-rate.toml
    benches/quality/which_rate.py table target/release/tetrad

All three run in the root of the repository. TEXTS is a folder with world_english_bible.txt, of which the model is taught, and
jane_austen.txt, which stands for what it knew. The sweep goes on where it was stopped, and appends each run to
benches/quality/records/which-rate.jsonl; `table` writes the tables of docs/which-rate.md from these records and from the plans of
the runs.
"""
import argparse
import json
import pathlib
import subprocess
import tomllib

SWEEP = pathlib.Path("benches/quality/which-rate.toml")
PAGE = pathlib.Path("docs/which-rate.md")
BEGIN, END = "<!-- measured: by which_rate.py -->", "<!-- end of what is measured -->"
TAUGHT, KNOWN = "world_english_bible", "jane_austen"
TRAINED, HELD = 2_000_000, 16_000


def prepare(tetrad, model, texts):
    sweep = tomllib.loads(SWEEP.read_text())
    folder = pathlib.Path(sweep["set"]["data"]["train"][0]).parent
    folder.mkdir(parents=True, exist_ok=True)
    taught = (texts / f"{TAUGHT}.txt").read_text()
    cut = len(taught) * 9 // 10
    (folder / "train.txt").write_text(taught[:TRAINED])
    (folder / "held.txt").write_text(taught[cut:cut + HELD])
    # From the middle of the books: their beginnings are known by heart.
    known = (texts / f"{KNOWN}.txt").read_text()
    (folder / "other.txt").write_text(known[len(known) // 2:][:HELD])
    if not pathlib.Path(sweep["from"]).exists():
        subprocess.run([tetrad, "import", model, "-o", sweep["from"]], check=True)
    print(f"now: {tetrad} sweep {SWEEP}")


def settings(table, place=""):
    """The keys of a table of tables, as --set takes them."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from settings(value, f"{place}{key}.")
        else:
            yield f"{place}{key}={json.dumps(value)}"


def plan(tetrad, sweep, arm):
    sets = [*settings(sweep["set"]), *settings(sweep["arm"][arm].get("set", {}))]
    command = [tetrad, "plan", "--json", "--device", "cpu", "--from", sweep["from"]]
    said = subprocess.run(command + [word for one in sets for word in ("--set", one)], stdout=subprocess.PIPE, check=True)
    return json.loads(said.stdout)["categories"]


def mib(count):
    return f"{count / 2**20:.0f} MiB"


def losses(records):
    start = next(record for record in records if record["arm"] == "untouched")
    task, other = start["validation"][-1][1], start["scores"]["other"]["loss"]
    yield "| storage | rate | taught text | | other text | | codes that changed |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    yield f"| as it came | | {task:.4f} | | {other:.4f} | | |"
    for record in records:
        if record["arm"] == "untouched":
            continue
        rate = f"{record['settings']['optimizer.lr']:.0e}".replace("e-0", "e-")
        if record.get("failed"):
            yield f"| {record['arm']} | {rate} | stopped: {record['failed']} | | | | |"
            continue
        taught, kept = record["validation"][-1][1], record["scores"]["other"]["loss"]
        changed = record.get("audit", {}).get("changed_codes") if record["arm"] != "lora" else None
        share = "" if changed is None else f"{100 * changed:.3f} %"
        yield (f"| {record['arm']} | {rate} | {taught:.4f} | {taught - task:+.4f} | {kept:.4f} | {kept - other:+.4f} | {share} |")


def bytes_of(tetrad, sweep):
    base = plan(tetrad, sweep, "int4")["weights"]
    yield "| storage | weights as deployed | planned while training |"
    yield "| --- | --- | --- |"
    for arm in ["int4", "int8", "lora"]:
        found = plan(tetrad, sweep, arm)
        # An adapter's base is mapped from its file, and not planned.
        beside = base if arm == "lora" else 0
        yield f"| {arm} | {mib(found['weights'] + beside)} | {mib(sum(found.values()) + beside)} |"


def table(tetrad):
    sweep = tomllib.loads(SWEEP.read_text())
    path = pathlib.Path(sweep["records"])
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        record = json.loads(line)
        found[record["arm"], record["settings"]["optimizer.lr"]] = record
    arms = list(sweep["arm"])
    records = [found[key] for key in sorted(found, key=lambda key: (arms.index(key[0]), key[1]))]
    rows = list(losses(records)) + [""] + list(bytes_of(tetrad, sweep))
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    PAGE.write_text("\n".join([before + BEGIN, "", *rows, "", END + rest.split(END)[1]]))
    runs = sum(len(arm["vary"]["optimizer"]["lr"]) for arm in sweep["arm"].values())
    print(f"{PAGE}: {len(records)} of {runs} runs")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    begins = commands.add_parser("prepare", help="make the model and the texts")
    begins.add_argument("tetrad", type=pathlib.Path)
    begins.add_argument("model", type=pathlib.Path)
    begins.add_argument("texts", type=pathlib.Path)
    ends = commands.add_parser("table", help="write what was measured into the page")
    ends.add_argument("tetrad", type=pathlib.Path)
    options = parser.parse_args()
    if options.command == "prepare":
        prepare(options.tetrad.resolve(), options.model, options.texts)
    else:
        table(options.tetrad.resolve())


main()
