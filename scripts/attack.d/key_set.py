"""Forged tokens while the identity provider's key set cannot be fetched: the address limit counts them, and other users
are answered.

Starts PATCHBAY_BIN (target/debug/patchbay) with a PostgreSQL and a key set server of its own. Attackers and users have
addresses of their own on the loopback network.
"""

import base64
import hashlib
import hmac
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter

from common import end, outcome
from data_store import PROGRAM, Postgres, free_port, ready

ATTACKER, USER = "127.0.0.66", "127.0.0.2"
SECRET = "4be1a09d5f4f2f8f3b6f0c7a2e9d41c7d2"
WAITERS = 600
FORGED = 1_500


def encoded(part):
    return base64.urlsafe_b64encode(part if isinstance(part, bytes) else json.dumps(part).encode()).rstrip(b"=").decode()


def claims(user):
    return encoded({"sub": user, "exp": int(time.time()) + 3600})


def valid(user):
    signed = f"{encoded({'alg': 'HS256', 'typ': 'JWT'})}.{claims(user)}"
    return f"{signed}.{encoded(hmac.digest(SECRET.encode(), signed.encode(), hashlib.sha256))}"


def forged(number):
    header = encoded({"alg": "RS256", "typ": "JWT", "kid": f"key-{number}"})
    return f"{header}.{claims('mallory')}.{encoded(bytes(256))}"


def listed(port, source, token, timeout=60):
    """Returns the status and the latency of a list, in seconds; no status without a response."""
    started = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout, source_address=(source, 0))
    try:
        connection.request("GET", "/api/v1/connectors/connections", headers={"authorization": f"Bearer {token}"})
        status = connection.getresponse().status
    except OSError:
        status = None
    finally:
        connection.close()
    return status, time.monotonic() - started


class KeySet:
    """A key set server that accepts connections and either never responds or closes them."""

    def __init__(self):
        self.hangs = True
        self._open = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = "http://127.0.0.1:%d/jwks" % self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            connection, _ = self._socket.accept()
            if self.hangs:
                self._open.append(connection)
            else:
                connection.close()


def users(port, seconds):
    """Returns the statuses of a user's requests during that time, and the highest latency in milliseconds."""
    statuses, slowest = Counter(), 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        status, took = listed(port, USER, valid("ada"))
        statuses[status] += 1
        slowest = max(slowest, took)
        time.sleep(0.05)
    return statuses, 1000 * slowest


def attack(port, keys):
    # Each client occupies one of the slots of requests that wait for the key set.
    waiting = [threading.Thread(target=listed, args=(port, ATTACKER, forged(number)), daemon=True) for number in range(WAITERS)]
    for one in waiting:
        one.start()
    statuses, slowest = users(port, 5)
    held = set(statuses) == {200} and slowest < 1_000
    outcome(f"{WAITERS} forged tokens while the key set's fetch hangs", held, f"users: {dict(statuses)}, slowest {slowest:.0f} ms")
    for one in waiting:
        one.join()

    keys.hangs = False
    attackers = Counter(listed(port, ATTACKER, forged(number))[0] for number in range(FORGED))
    statuses, _ = users(port, 1)
    held = attackers[429] > 0 and set(attackers) <= {401, 429, 503} and set(statuses) == {200}
    detail = f"attacker: {dict(attackers)}, users: {dict(statuses)}"
    outcome(f"{FORGED} forged tokens while the key set cannot be fetched escape the address limit", held, detail)


def main():
    data, folder = tempfile.mkdtemp(), tempfile.mkdtemp()
    database, keys, port = Postgres(data), KeySet(), free_port()
    settings = {
        "PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PORT": str(port), "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "DATABASE_URL": database.url, "NANGO_SECRET_KEY": "3b1f0c52-8a44-4d2e-9a55-0d8e1c6f7b21",
        "NANGO_WEBHOOK_SIGNING_KEY": "c9a1f6f0-5a0e-4c1c-9f0e-0a2f4b8d7e63", "NANGO_ENABLED": "false",
        "AUTH_JWT_SECRET": SECRET, "AUTH_JWKS_URL": keys.url, "AUTH_JWKS_ALLOWED_NETWORKS": "127.0.0.0/8", "RUST_LOG": "error",
    }
    log = open(f"{folder}/log", "w+")
    process = subprocess.Popen([PROGRAM, "serve"], cwd=folder, env=settings, stdout=log, stderr=log)
    try:
        ready(process, f"http://127.0.0.1:{port}")
        attack(port, keys)
    finally:
        process.kill()
        process.wait()
        database.stop()
        shutil.rmtree(folder)
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    main()
    end()
