"""A fresh interpreter on the built package, import to first verdict, against an empty one and the official SDKs.

All processes are of one clean virtual environment without packages or .pth hooks, started with -I: neither `pass` nor
ours nor the SDKs' pays for what a developer's environment loads at startup. `-S` would make the empty process emptier
still; that ratio is printed too, without a bound, because SCF does not start Python that way.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

from common import ROOT, SCRATCH, Row, base_python, deployment, median_ratio, options, report, seed, validate_event

from ckeys.build import build
from ckeys.template import load_template

KEYS = 1_000
PASS_BOUND, SDK_BOUND = 7.0, 0.25
OURS = """
import sys
sys.path.insert(0, {package!r})
import index
reply = index.main_handler({event!r}, {{"request_id": "cold"}})
sys.exit(reply["statusCode"] != 200)
"""


def clean_interpreter(folder: Path) -> str:
    """A virtual environment with nothing in it."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder / "venv")
    return str(folder / "venv" / "bin" / "python")


def seconds_of(command: list[str]) -> tuple[float, float]:
    """From the start to the first output, which comes with the verdict, and to the end of the process."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)  # for `pass`, which says nothing, this is the end
        first = time.perf_counter() - started
        _, faults = process.communicate()
        whole = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{command[:3]} ended with {process.returncode}: {faults.decode()}")
    return first, whole


def in_turns(runs: int, commands: dict[str, list[str]]) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each command, one after the other and round again; one round before that is not counted."""
    for command in commands.values():
        seconds_of(command)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            taken[name].append(seconds_of(command))
    return taken


def main() -> None:
    given = options(__doc__)
    template = load_template(ROOT / "template.yaml")
    package = build(ROOT, template, SCRATCH, python=base_python(), here=True, only=["validate_key"])[0]
    with tempfile.TemporaryDirectory(prefix="ckeys-bench-") as folder, deployment() as made:
        python = clean_interpreter(Path(folder))
        value = seed(made, KEYS, 1)[0]
        ours = OURS.format(package=str(package.folder), event=validate_event(value))
        sdk = [str(ROOT / "bench" / "cold_start_sdk.py"), str(package.folder), sysconfig.get_paths()["purelib"]]
        sdk.append(json.dumps(validate_event(value)))
        os.environ["SNAPSHOT_DIR"] = str(Path(folder) / "validator")
        taken = in_turns(
            7 if given.quick else 21,
            {
                "pass": [python, "-I", "-c", "pass"],
                "ours": [python, "-I", "-c", ours],
                "sdk": [python, "-I", *sdk],
                "pass -S": [python, "-I", "-S", "-c", "pass"],
                "ours -S": [python, "-I", "-S", "-c", ours],
            },
        )
    first = {name: [pair[0] for pair in kept] for name, kept in taken.items()}
    whole = {name: [pair[1] for pair in kept] for name, kept in taken.items()}
    milliseconds = {name: statistics.median(kept) * 1000 for name, kept in first.items()}
    rows = [
        Row("python -I -c pass", milliseconds["pass"], "ms"),
        Row(f"validate_key's package, {KEYS:,} keys, first verdict", milliseconds["ours"], "ms"),
        Row("the same work by the official SDKs", milliseconds["sdk"], "ms"),
        Row("ours / pass", median_ratio(first["ours"], first["pass"]), "x", PASS_BOUND),
        Row("ours / SDKs", median_ratio(first["ours"], first["sdk"]), "x", SDK_BOUND),
        Row("ours / pass, to the end of the process", median_ratio(whole["ours"], whole["pass"]), "x"),
        Row("ours / SDKs, to the end of the process", median_ratio(whole["ours"], whole["sdk"]), "x"),
        Row("ours / pass, both with -S", median_ratio(first["ours -S"], first["pass -S"]), "x",
            note=f"{milliseconds['ours -S']:.1f} ms, pass {milliseconds['pass -S']:.1f} ms"),
        Row("package, zipped", package.zip_bytes / 1e6, "MB", note=", ".join(package.distributions)),
    ]  # fmt: skip
    report("cold_start", rows, quick=given.quick)


if __name__ == "__main__":
    main()
