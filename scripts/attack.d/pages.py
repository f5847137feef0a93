"""Attacks on pages: the window of a provider, a token of another user, and text that reverses the text around it.

The attacks in a browser are tests of frontend/browser. They need Node, npm and Chromium.
"""

import os
import subprocess
from pathlib import Path

from common import connect, end, outcome, send, user

ROOT = Path(__file__).resolve().parents[2]
FRONTEND = ROOT / "frontend"
PROGRAM = ROOT / os.environ.get("PATCHBAY_BIN", "target/debug/patchbay")
BIDI_CONTROLS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
# An attack, its test file, and the pattern of its test names.
IN_BROWSER = [
    ("a provider's page navigates the page that opened it", "windows", "provider_page_cannot_navigate"),
    ("the console shows one user and acts for another", "products", "token_of_another_user_restarts_the_console"),
    ("a name reverses a warning, or breaks the page", "names", "."),
]


def text_reverses_its_surroundings():
    headers = user("ada")
    connection = connect("ada")["id"]
    for text, expected in [("a" + BIDI_CONTROLS + "b", "ab"), ("e" + "\u0301" * 60, "e" + "\u0301" * 4)]:
        body = {"label": text}
        answer = send("PATCH", f"/api/v1/connectors/connections/{connection}", headers, body).json
        label = answer["label"]
        outcome(f"a label of {len(text)} characters is stored as it was sent", label == expected, f"{len(label)} stored")


def in_browser(attack, file, pattern):
    command = ["node", "--test", f"--test-name-pattern={pattern}", f"tests/{file}.test.mjs"]
    done = subprocess.run(
        command, cwd=FRONTEND / "browser", env={**os.environ, "PATCHBAY_BIN": str(PROGRAM)},
        capture_output=True, text=True, timeout=600,
    )
    counts = dict(line.split()[1:] for line in done.stdout.splitlines() if line.startswith(("# pass", "# fail", "ℹ pass", "ℹ fail")))
    held = done.returncode == 0 and int(counts.get("pass", 0)) > 0
    outcome(attack, held, ", ".join(f"{value} {name}" for name, value in counts.items()))
    if not held:
        print(done.stdout, done.stderr)


def main():
    text_reverses_its_surroundings()
    if not (FRONTEND / "node_modules").exists():
        subprocess.run(["npm", "ci"], cwd=FRONTEND, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["npm", "run", "build", "-w", "react"], cwd=FRONTEND, check=True, stdout=subprocess.DEVNULL)
    for attack in IN_BROWSER:
        in_browser(*attack)


main()
end()
