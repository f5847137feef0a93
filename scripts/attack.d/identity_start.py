#!/usr/bin/env python3
"""Insecure configurations: `serve` must reject each, and name its variable.

Starts PATCHBAY_BIN (target/debug/patchbay) with each of them, and without a reachable database. Prints a line for each
check, and exits with 1 if one has failed.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
RANDOM = "pbk_4f1d0c9be27a48d3a6f58e10c2b7d964"
COMPLETE = {
    "HOST": "127.0.0.1",
    "PORT": "0",
    "PUBLIC_URL": "https://connect.example.com",
    "DATABASE_URL": "postgres://patchbay@127.0.0.1:9/patchbay",
    "DATABASE_STARTUP_TIMEOUT_SECONDS": "1",
    "NANGO_SECRET_KEY": "3b1f0c52-8a44-4d2e-9a55-0d8e1c6f7b21",
    "NANGO_WEBHOOK_SIGNING_KEY": "c9a1f6f0-5a0e-4c1c-9f0e-0a2f4b8d7e63",
    "AUTH_JWT_SECRET": "b3c1f1a09d5f4f2f8f3b6f0c7a2e9d41",
    "SERVICE_API_KEYS": f"workflows={RANDOM}",
}
# A name, the changed variables, and the variable that the error must name.
REFUSED = [
    ("sandbox's key of the README", {"SERVICE_API_KEYS": "a=pbk_sandbox_0123456789abcdef0123456789abcdef"}, "SERVICE_API_KEYS"),
    ("key without entropy", {"SERVICE_API_KEYS": "a=pbk_" + "a" * 32}, "SERVICE_API_KEYS"),
    ("one key for two services", {"SERVICE_API_KEYS": f"a={RANDOM},b={RANDOM}"}, "SERVICE_API_KEYS"),
    ("key with a quote", {"SERVICE_API_KEYS": f'a={RANDOM}"'}, "SERVICE_API_KEYS"),
    ("key with a blank", {"SERVICE_API_KEYS": f"a={RANDOM} x"}, "SERVICE_API_KEYS"),
    ("name with a control character", {"SERVICE_API_KEYS": f"a\x1b[2J={RANDOM}"}, "SERVICE_API_KEYS"),
    ("secret key of .env.example", {"NANGO_SECRET_KEY": "00000000-0000-4000-8000-000000000000"}, "NANGO_SECRET_KEY"),
    ("signing key of one character", {"NANGO_WEBHOOK_SIGNING_KEY": "k"}, "NANGO_WEBHOOK_SIGNING_KEY"),
    ("signing key of .env.example", {"NANGO_WEBHOOK_SIGNING_KEY": "change-me"}, "NANGO_WEBHOOK_SIGNING_KEY"),
    ("public address with a password", {"PUBLIC_URL": "https://ada:hunter2@connect.example.com"}, "PUBLIC_URL"),
    ("private address of Nango for browsers", {"NANGO_BASE_URL": "http://nango:3003"}, "NANGO_PUBLIC_URL"),
]
failed = []


def check(name, passed, said):
    last = said.strip().splitlines()[-1:] or ["it says nothing"]
    print(f"{name}: ok" if passed else f"{name}: FAILED {last[0]}")
    if not passed:
        failed.append(name)


def run(arguments, settings):
    """Returns the program's exit code and its output."""
    program = ROOT / os.environ.get("PATCHBAY_BIN", "target/debug/patchbay")
    path = {"PATH": os.environ.get("PATH", "")}
    with tempfile.TemporaryDirectory() as folder:
        ended = subprocess.run(
            [program, *arguments], cwd=folder, env=path | settings, capture_output=True, timeout=60, check=False
        )
    return ended.returncode, (ended.stdout + ended.stderr).decode(errors="replace")


def main():
    code, said = run(["serve"], COMPLETE)
    # It fails only at the database: the configuration is accepted.
    check("complete configuration", code == 1 and "the database of DATABASE_URL" in said, said)
    for name, changes, variable in REFUSED:
        code, said = run(["serve"], COMPLETE | changes)
        lines = said.splitlines()
        named = [line for line in lines if line.strip().startswith(variable)]
        leaked = "hunter2" in said or RANDOM in said or "\x1b" in said
        check(f"{name} is refused", code == 1 and len(named) == 1 and not leaked, said)
    for name in ["pbk_0123456789abcdef0123456789abcdef", "a\x1b[2J", "a\nb"]:
        code, said = run(["keys", "create", name, "--scope", "tokens:read"], COMPLETE)
        check(f"keys create refuses the name {ascii(name)}", code == 1 and "a key's name" in said, said)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
