"""`python -m fuzz`: searches inputs that make a target fail, and keeps those with new coverage.

Guided by coverage if atheris is installed, random otherwise. A finding is printed, added to the corpus and
makes the exit code 1. `--keep` adds other new inputs to the corpus.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from fuzz import corpus
from fuzz.mutate import mutated
from fuzz.seeds import seeds
from fuzz.targets import TARGETS

GUIDED = importlib.util.find_spec("atheris") is not None
SLOW = 5.0
"""Most seconds of CPU time for one input."""

HUNG = 60.0
"""As seconds of the clock, after which atheris ends with SIGALRM: other processes may hold the fuzzer up."""

PAGE = resource.getpagesize()


def resident() -> int:
    """Bytes of this process, without garbage."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def guided(name: str, inputs: list[bytes], seconds: float) -> tuple[list[bytes], list[bytes]]:
    """Returns findings and interesting inputs."""
    with tempfile.TemporaryDirectory() as folder:
        known, crashes = Path(folder, "known"), Path(folder, "crashes")
        known.mkdir()
        crashes.mkdir()
        for number, data in enumerate(inputs):
            (known / str(number)).write_bytes(data)
        command = [sys.executable, "-m", "fuzz.guided", name, str(known), f"-artifact_prefix={crashes}/",
                   f"-max_total_time={seconds:.0f}", f"-timeout={HUNG:.0f}", f"-max_len={corpus.LONGEST}",
                   "-rss_limit_mb=1024", "-print_final_stats=1", "-verbosity=1"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        lines = done.stderr.splitlines()
        print("\n".join(line for line in lines if line.startswith("stat:") or "DONE" in line))
        found = [file.read_bytes() for file in sorted(crashes.iterdir())]
        if done.returncode and not found:
            print("\n".join(lines[-30:]))
            raise SystemExit(f"{name}: the fuzzer itself has failed, with {done.returncode}")
        return found, [file.read_bytes() for file in known.iterdir()]


def at_random(name: str, inputs: list[bytes], seconds: float, seed: int) -> tuple[list[bytes], list[bytes]]:
    """As `guided`, with random inputs; prints the growth of memory."""
    dice = random.Random(seed)
    found: list[bytes] = []
    count = 0
    begun = time.monotonic()
    early = 0
    while (spent := time.monotonic() - begun) < seconds and not found:
        if not early and spent > seconds / 4:
            early = resident()
        data = mutated(dice, inputs)
        started = time.process_time()
        if not passes(name, data):
            found.append(data)
        elif time.process_time() - started > SLOW:
            print(f"{name}: {len(data)} bytes take {time.process_time() - started:.1f} s")
            found.append(data)
        count += 1
    grown = (resident() - early) / 1024 if early else 0
    print(f"{name}: {count} inputs in {seconds:.0f} s, memory {grown:+.0f} KiB over the last three quarters")
    return found, []


def passes(name: str, data: bytes) -> bool:
    """Run the target on one input; print a failure. True if it passed."""
    try:
        TARGETS[name](data)
    except Exception:  # noqa: BLE001 - whatever it is, it is a finding
        print(f"{name}: {data!r}")
        traceback.print_exc(limit=-8)
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (60)")
    parser.add_argument("--random", action="store_true", help="without atheris, to see what memory does")
    parser.add_argument("--seed", type=int, default=0, help="of --random")
    parser.add_argument("--keep", action="store_true", help="write new interesting inputs into the corpus")
    given = parser.parse_args()
    unknown = set(given.targets) - set(TARGETS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(TARGETS)}")
    failed = []
    for name in given.targets or TARGETS:
        defects, known = corpus.read(name)
        inputs = [*defects, *known, *seeds(name)]
        print(f"== {name}: {len(inputs)} inputs known", flush=True)
        broken = [data for data in inputs if not passes(name, data)]
        if not broken:
            if GUIDED and not given.random:
                broken, inputs = guided(name, inputs, given.seconds)
                for data in broken:
                    passes(name, data)
            else:
                broken, _ = at_random(name, inputs, given.seconds, given.seed)
        if broken:
            failed.append(name)
            corpus.write(name, dict.fromkeys([*defects, *broken]), known)
        elif given.keep:
            kept = list(corpus.minimised(TARGETS[name], inputs))
            corpus.write(name, defects, [data for data in kept if data not in defects])
            print(f"{name}: {len(kept)} inputs kept, {sum(map(len, kept))} bytes", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}; the inputs stand in {corpus.FOLDER} behind a !")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
