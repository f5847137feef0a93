"""Helpers of all groups of attacks: raw requests, a connected user, and the outcome."""

import http.client
import json
import os
import socket
import sys
import threading
import urllib.parse
import urllib.request

API = os.environ["API"]
NANGO = os.environ["NANGO"]
KEY = "pbk_sandbox_0123456789abcdef0123456789abcdef"

_holes = 0


def outcome(attack, held, detail=""):
    """Prints the outcome of an attack."""
    global _holes
    _holes += not held
    detail = f" ({detail})" if detail else ""
    print(f"  {'held' if held else 'HOLE'}  {attack}{detail}", flush=True)


def end():
    """Exits with status 1 if an attack of the group succeeded."""
    sys.exit(1 if _holes else 0)


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self):
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def send(method, path, headers=None, body=None, base=API, timeout=90):
    """Sends a request without normalising its target."""
    connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=timeout)
    # The library rejects paths that no client should send; an attacker does.
    connection._validate_path = lambda url: None
    if isinstance(body, (dict, list)):
        body = json.dumps(body).encode()
        headers = {"content-type": "application/json", **(headers or {})}
    connection.request(method, path, body=body, headers=headers or {})
    try:
        return Answer(connection.getresponse())
    finally:
        connection.close()


def control(action, body=None, method="POST"):
    """Calls the fake Nango's controls."""
    return send(method, f"/sandbox/{action}", body=body, base=NANGO).json


def user(name):
    """Returns the headers of a user of the product."""
    return {"authorization": f"Bearer {control('token', {'user': name})['token']}"}


def service(name):
    """Returns the headers of a service that acts for a user."""
    return {"authorization": f"Bearer {KEY}", "patchbay-user": name}


def connect(name, connector="gmail"):
    """Connects an account of a user, and returns the connection."""
    control("faults", {"consent": "allow"}, "PUT")
    headers = user(name)
    started = send("POST", f"/api/v1/connectors/{connector}/connect", headers).json
    cookies = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    cookies.open(started["oauth_url"]).read()
    path = f"/api/v1/connectors/connections/{started['connection_id']}?wait=25"
    for _ in range(5):
        found = send("GET", path, headers).json
        if found["status"] == "connected":
            return found
    raise SystemExit(f"the connection did not become connected: {found}")


class Listener:
    """The attacker's server, which records its requests."""

    def __init__(self):
        self.received = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._socket.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            connection, _ = self._socket.accept()
            self.received.append(connection.recv(65536).decode("latin-1"))
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nevil\n")
            connection.close()


def normalised(path):
    """Returns a path as a careless reverse proxy forwards it: repeatedly decoded, and resolved."""
    while (decoded := urllib.parse.unquote(path, errors="replace")) != path:
        path = decoded
    segments = []
    for segment in path.replace("\\", "/").split("/"):
        if segment.split(";")[0] == "..":
            segments[-1:] = []
        elif segment not in ("", "."):
            segments.append(segment)
    return "/" + "/".join(segments)
