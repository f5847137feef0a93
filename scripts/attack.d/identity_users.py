#!/usr/bin/env python3
"""Attacks on the identity of users: ids that an encoding changes, repeated headers, and the callback page without a token.

Uses a running sandbox with PATCHBAY_URL, SANDBOX_URL and its service key PATCHBAY_KEY. Without these variables, starts
PATCHBAY_BIN (target/debug/patchbay) on free ports. Prints a line for each check, and exits with 1 if one has failed.
"""

import http.client
import http.cookiejar
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

from data_store import free_port

ROOT = pathlib.Path(__file__).resolve().parents[2]
KEY = os.environ.get("PATCHBAY_KEY", "pbk_sandbox_0123456789abcdef0123456789abcdef")
API = "/api/v1/connectors"
failed = []


def check(name, expected, found):
    if expected == found:
        print(f"{name}: ok")
    else:
        print(f"{name}: FAILED expected {expected}, found {found}")
        failed.append(name)


def start():
    """Starts a sandbox. Returns its folder, its process, its address and that of its Nango."""
    folder = tempfile.mkdtemp(prefix="patchbay-attack-")
    os.chmod(folder, 0o755)
    ports = free_port(), free_port()
    program = ROOT / os.environ.get("PATCHBAY_BIN", "target/debug/patchbay")
    settings = dict(os.environ, PORT=str(ports[0]), SANDBOX_PORT=str(ports[1]), RUST_LOG="warn")
    with open(f"{folder}/log", "w") as log:
        process = subprocess.Popen([program, "sandbox"], cwd=folder, env=settings, stdout=log, stderr=log)
    own, nango = (f"http://localhost:{port}" for port in ports)
    for _ in range(480):
        try:
            urllib.request.urlopen(f"{own}/readyz", timeout=5).close()
            return folder, process, own, nango
        except OSError:
            time.sleep(0.25)
    process.kill()
    sys.exit(f"the sandbox does not start: {pathlib.Path(folder, 'log').read_text()}")


def ask(base, method, path, headers, body=None):
    """Returns the status and the JSON of a response. Headers are sent unchanged, even repeated ones."""
    address = urllib.parse.urlsplit(base)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    connection.putrequest(method, path)
    for name, value in headers:
        connection.putheader(name, value)
    if body is not None:
        body = json.dumps(body).encode()
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    try:
        return answer.status, json.loads(text)
    except ValueError:
        return answer.status, None


def token(nango, user):
    return ask(nango, "POST", "/sandbox/token", [], {"user": user})[1]["token"]


def connect(own, nango, user):
    """Connects an account of the user like a browser. Returns the connection."""
    bearer = [("authorization", f"Bearer {token(nango, user)}")]
    ask(nango, "PUT", "/sandbox/faults", [], {"consent": "allow"})
    started = ask(own, "POST", f"{API}/gmail/connect", bearer)[1]
    cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    urllib.request.build_opener(cookies).open(started["oauth_url"], timeout=60).close()
    path = f"{API}/connections/{started['connection_id']}?wait=25"
    return ask(own, "GET", path, bearer)[1]


def as_service(own, *headers):
    """Returns the status of a service's request for a token of the user in the headers."""
    key = [("authorization", f"Bearer {KEY}")]
    return ask(own, "POST", f"{API}/gmail/token", key + [("patchbay-user", value) for value in headers])[0]


def attack(own, nango):
    connection = connect(own, nango, "adèle")
    connect(own, nango, "ada")
    # Another user's id from a client that encodes Latin-1: the bytes are those of `adèle` in UTF-8.
    check("service that sends Latin-1 gets no token of another user", 400, as_service(own, "adÃ¨le".encode("latin-1")))
    check("header with bare UTF-8 is refused", 400, as_service(own, "adèle".encode()))
    check("header with bare Latin-1 is refused", 400, as_service(own, "adèle".encode("latin-1")))
    check("percent-encoded header is accepted", 200, as_service(own, urllib.parse.quote("adèle", safe="")))
    for odd in ["ada ", " ada", "ada\u00a0", "ada\u3000", "\ufeffada", "a\tda", "ada\r\n", "ada\0", ".", ".."]:
        name = ascii(odd)
        check(f"header with the id {name} is refused", 400, as_service(own, urllib.parse.quote(odd, safe="")))
        bearer = [("authorization", f"Bearer {token(nango, odd)}")]
        check(f"token with the id {name} is refused", 401, ask(own, "GET", f"{API}/connections", bearer)[0])
    for path in ["ada%20", "%C2%A0ada", "a%09da"]:
        key = [("authorization", f"Bearer {KEY}")]
        found = ask(own, "DELETE", f"/api/v1/users/{path}/connections", key)[0]
        check(f"path with the id {path} is refused", 400, found)

    check("two Patchbay-User headers are refused", 400, as_service(own, "ada", "eve"))
    check("two users in one header are refused", 400, as_service(own, "ada, eve"))
    ada, eve = (("authorization", f"Bearer {token(nango, user)}") for user in ("ada", "eve"))
    check("two Authorization headers are refused", 400, ask(own, "GET", f"{API}/connections", [ada, eve])[0])
    keys = [("idempotency-key", "one"), ("idempotency-key", "two")]
    check("two Idempotency-Key headers are refused", 400, ask(own, "POST", f"{API}/gmail/connect", [eve, *keys])[0])

    page = [("accept", "text/html")]
    for name, field, expected in [("Nango's id", "nango_connection_id", 404), ("our own id", "id", 200)]:
        found = ask(own, "GET", f"{API}/callback?connection_id={connection[field]}", page)[0]
        check(f"page of a return by {name}, without a token", expected, found)


def main():
    given = os.environ.get("PATCHBAY_URL"), os.environ.get("SANDBOX_URL")
    if all(given):
        attack(*given)
    else:
        folder, process, own, nango = start()
        try:
            attack(own, nango)
        finally:
            process.terminate()
            process.wait(60)
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
