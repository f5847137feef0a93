#!/usr/bin/env python3
"""Attacks on browser binding by cookies that another host of the site sets.

Always starts its own sandbox, PATCHBAY_BIN (target/debug/patchbay) on free ports, because it needs
CONNECT_BINDING=required. Prints a line for each check, and exits with 1 if one has failed.
"""

import http.client
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

from data_store import free_port

ROOT = pathlib.Path(__file__).resolve().parents[2]
API = "/api/v1/connectors"
failed = []


def check(name, expected, found):
    if expected == found:
        print(f"{name}: ok")
    else:
        print(f"{name}: FAILED expected {expected}, found {found}")
        failed.append(name)


def ask(port, method, path, headers=(), body=None):
    """Returns a response and its text. Headers are sent unchanged, even repeated ones."""
    connection = http.client.HTTPConnection("localhost", port, timeout=60)
    connection.putrequest(method, path)
    for name, value in headers:
        connection.putheader(name, value)
    if body is not None:
        body = json.dumps(body).encode()
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def attack(port, nango):
    def bearer(user):
        token = json.loads(ask(nango, "POST", "/sandbox/token", body={"user": user})[1])["token"]
        return ("authorization", f"Bearer {token}")

    def connect(user, *cookies):
        headers = [bearer(user), *(("cookie", cookie) for cookie in cookies)]
        return ask(port, "POST", f"{API}/gmail/connect", headers)

    def back(*cookies):
        """Returns the status and the page of a browser that returns from a provider."""
        headers = [("accept", "text/html"), *(("cookie", cookie) for cookie in cookies)]
        answer, text = ask(port, "GET", f"{API}/callback?state=x&code=y", headers)
        return answer.status, text

    def cookie(user):
        return connect(user)[0].getheader("set-cookie").split(";")[0].encode()

    own, tossed = cookie("ada"), cookie("mallory")
    check("browser that started is sent on", 308, back(own)[0])
    check("browser that did not start is stopped", 403, back(b"a=b")[0])
    for odd in ["x=\u00fc".encode(), b"x=\xff", b"\xfe=1"]:
        check(f"foreign cookie {odd} does not hide ours", 308, back(odd + b"; " + own)[0])
        kept = connect("ada", odd + b"; " + own)[0].getheader("set-cookie").split(";")[0].encode()
        check(f"foreign cookie {odd} does not replace ours", True, kept == own)
    for name, cookies in [
        ("one header", [own + b"; " + tossed]),
        ("two headers", [tossed, own]),
        ("one of odd bytes", [own + b"; " + own.split(b"=")[0] + b"=\xff"]),
    ]:
        status, page = back(*cookies)
        check(f"second cookie of our name, {name}, is stopped as an attack", (403, True), (status, "more than once" in page))
        answer, text = connect("ada", *cookies)
        check(f"second cookie of our name, {name}, starts nothing", (400, True), (answer.status, "more than once" in text))


def main():
    folder = tempfile.mkdtemp(prefix="patchbay-attack-")
    os.chmod(folder, 0o755)
    port, nango = free_port(), free_port()
    program = ROOT / os.environ.get("PATCHBAY_BIN", "target/debug/patchbay")
    settings = dict(os.environ, PORT=str(port), SANDBOX_PORT=str(nango), RUST_LOG="error", CONNECT_BINDING="required")
    with open(f"{folder}/log", "w") as log:
        process = subprocess.Popen([program, "sandbox"], cwd=folder, env=settings, stdout=log, stderr=log)
    try:
        for _ in range(480):
            try:
                urllib.request.urlopen(f"http://localhost:{port}/readyz", timeout=5).close()
                break
            except OSError:
                time.sleep(0.25)
        else:
            sys.exit(f"the sandbox does not start: {pathlib.Path(folder, 'log').read_text()}")
        attack(port, nango)
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
