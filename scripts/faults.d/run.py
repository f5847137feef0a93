"""Runs scenarios concurrently, and prints the table."""

import concurrent.futures
import os
import subprocess
import sys
import time
import traceback

import bounds
import proof
from world import Cluster, Failed, problems

PARTS = {"proof": proof.SCENARIOS, "bounds": bounds.SCENARIOS}
COLUMNS = ("grants", "lost", "broken", "recovered", "recovery_s", "tokens", "gaps", "strays", "webhooks", "disorder", "slowest_s")


def run(name, scenario, cluster):
    """Runs a scenario. Returns its row of the table, and the violations."""
    start = time.monotonic()
    try:
        row = scenario(cluster)
        found = problems(row)
    except (Failed, OSError, subprocess.SubprocessError, AssertionError, LookupError, TypeError, SystemExit) as error:
        row, found = {}, [f"{type(error).__name__}: {error}"[:400]]
        if os.environ.get("TRACE"):
            traceback.print_exc()
    row["seconds"] = round(time.monotonic() - start)
    return name, row, found


def main():
    every = {name: scenario for part in PARTS.values() for name, scenario in part.items()}
    wanted = sys.argv[1:] or list(PARTS)
    if wanted == ["list"]:
        for name, scenario in every.items():
            print(f"{name:32} {scenario.__doc__}")
        return 0
    chosen = {}
    for name in wanted:
        if name not in PARTS and name not in every:
            sys.exit(f"there is no scenario {name!r}: see `scripts/faults list`")
        chosen.update(PARTS.get(name) or {name: every[name]})
    cluster, failed, start = Cluster(), 0, time.monotonic()
    print(f"| scenario | {' | '.join(COLUMNS)} | more | seconds | |")
    print(f"|---|{'--:|' * len(COLUMNS)}---|--:|---|", flush=True)
    try:
        with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("JOBS", "4"))) as pool:
            running = [pool.submit(run, name, scenario, cluster) for name, scenario in chosen.items()]
            for one in concurrent.futures.as_completed(running):
                name, row, found = one.result()
                failed += bool(found)
                cells = [str(row.get(column, "")) for column in COLUMNS]
                more = ", ".join(f"{key} {value}" for key, value in row.items() if key not in (*COLUMNS, "seconds"))
                outcome = f"FAILED: {'; '.join(found)}" if found else "ok"
                print(f"| {name} | {' | '.join(cells)} | {more} | {row['seconds']} | {outcome} |", flush=True)
    finally:
        cluster.end()
    print(f"\n{len(chosen) - failed} of {len(chosen)} scenarios passed, {time.monotonic() - start:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
