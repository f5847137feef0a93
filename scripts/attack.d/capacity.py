"""Attacks on shared resources: permits, memory, connections. One caller occupies its maximum, and the latency of the others
is measured.

Each attack runs against a sandbox of its own, which this script starts, for 12 seconds. Attackers and victims have
addresses of their own on the loopback network. Without arguments all attacks run; arguments name some of them. The times
need a release build (`PATCHBAY_BIN=target/release/patchbay`) and an otherwise idle machine.
"""

import asyncio
import hashlib
import hmac
import http.client
import json
import multiprocessing
import os
import pathlib
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter

from data_store import free_port

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / os.environ.get("PATCHBAY_BIN", "target/debug/patchbay")
KEY = "pbk_sandbox_0123456789abcdef0123456789abcdef"
SIGNING_KEY = "the-signing-key-of-the-capacity-attacks"
VICTIM, NANGO_ADDRESS, ATTACKER = "127.0.0.2", "127.0.0.3", "127.0.0.66"
SECONDS = 12
QUIET_SECONDS = 6
#: The most that the requests of other callers may take at p99, in milliseconds.
MAX_P99 = 200
#: The most memory that the program may have while its responses are not read, in MiB.
MAX_RSS = 120

holes = 0


def outcome(attack, held, detail):
    global holes
    holes += not held
    print(f"  {'held' if held else 'HOLE'}  {attack} ({detail})", flush=True)


class Sandbox:
    """`patchbay sandbox` in a separate folder, with the default limits except that of connects."""

    def __enter__(self):
        parent = ROOT / "target/attack"
        parent.mkdir(parents=True, exist_ok=True)
        self.folder = tempfile.TemporaryDirectory(dir=parent, prefix="capacity-")
        self.port, self.nango_port = free_port(), free_port()
        environment = {
            **os.environ,
            "PORT": str(self.port),
            "SANDBOX_PORT": str(self.nango_port),
            "NANGO_WEBHOOK_SIGNING_KEY": SIGNING_KEY,
            "RATE_LIMIT_CONNECT_PER_MINUTE": "0",
            "LOG_FORMAT": "json",
            "RUST_LOG": "error",
        }
        self.log = open(pathlib.Path(self.folder.name) / "log", "w+")
        self.process = subprocess.Popen(
            [PROGRAM, "sandbox"], cwd=self.folder.name, env=environment, stdout=self.log, stderr=self.log
        )
        for _ in range(240):
            if self.process.poll() is not None:
                break
            try:
                if self.ask("GET", "/readyz")[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.25)
        self.log.seek(0)
        sys.exit(f"the sandbox did not start:\n{self.log.read()}")

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.folder.cleanup()

    def ask(self, method, path, token=None, body=None, port=None):
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=60)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        if body is not None:
            headers["content-type"] = "application/json"
            body = json.dumps(body)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def token(self, user):
        _, answer = self.ask("POST", "/sandbox/token", body={"user": user}, port=self.nango_port)
        return json.loads(answer)["token"]

    def rss(self):
        """The program's resident memory, in MiB."""
        try:
            status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return float("inf")
        lines = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(lines[0].split()[1]) / 1024 if lines else float("inf")


# Victims: other users, and Nango.


class Victims:
    """Callers that repeat a request and measure its latency."""

    def __init__(self, sandbox):
        self.sandbox = sandbox
        self.tokens = [sandbox.token(f"victim-{n}") for n in range(4)]
        for token in self.tokens:
            sandbox.ask("POST", "/api/v1/connectors/gmail/connect", token)
        self.times, self.failures = {}, {}

    def list(self, token):
        return "GET", "/api/v1/connectors/connections", {"authorization": f"Bearer {token}"}, None

    def webhook(self):
        body = json.dumps({"from": "nango", "type": "sync"})
        signature = hmac.new(SIGNING_KEY.encode(), body.encode(), hashlib.sha256).hexdigest()
        return "POST", "/api/v1/webhooks/nango", {"x-nango-hmac-sha256": signature}, body

    def run(self, seconds):
        """Sends for this time. Returns `{kind: (p50, p99, answered, failures)}`, with times in milliseconds."""
        self.times = {"users": [], "webhooks": []}
        self.failures = {"users": [], "webhooks": []}
        end = time.monotonic() + seconds
        threads = [self.thread("users", VICTIM, self.list(token), end) for token in self.tokens]
        threads.append(self.thread("webhooks", NANGO_ADDRESS, self.webhook(), end))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {kind: self.summary(kind) for kind in self.times}

    def summary(self, kind):
        times = sorted(self.times[kind]) or [float("inf")]
        at = lambda share: times[min(len(times) - 1, int(len(times) * share))]
        return at(0.5), at(0.99), len(self.times[kind]), self.failures[kind]

    def thread(self, kind, address, request, end):
        def send():
            method, path, headers, body = request
            connection = None
            while time.monotonic() < end:
                start = time.monotonic()
                try:
                    if connection is None:
                        connection = http.client.HTTPConnection(
                            "127.0.0.1", self.sandbox.port, timeout=20, source_address=(address, 0)
                        )
                    connection.request(method, path, body, headers)
                    response = connection.getresponse()
                    response.read()
                    if response.status >= 300:
                        raise OSError(response.status)
                    self.times[kind].append((time.monotonic() - start) * 1000)
                except (OSError, http.client.HTTPException) as error:
                    self.failures[kind].append(f"{type(error).__name__} {error}")
                    connection = None
                time.sleep(max(0, 0.07 - (time.monotonic() - start)))

        return threading.Thread(target=send, daemon=True)


def shown(summary):
    texts = []
    for kind, (p50, p99, answered, failed) in summary.items():
        texts.append(f"{kind}: {answered} answered, p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        for reason, count in sorted(Counter(failed).items()):
            texts.append(f"{kind}: {count} failed with {reason}")
    return "; ".join(texts)


def withstood(summary):
    return all(p99 < MAX_P99 and not failed and answered for _, p99, answered, failed in summary.values())


# Attackers. Each runs in a separate process until it is stopped.


async def connect(port, receive_buffer=None):
    attacker = socket.socket()
    attacker.setblocking(False)
    if receive_buffer:
        attacker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    attacker.bind((ATTACKER, 0))
    await asyncio.get_running_loop().sock_connect(attacker, ("127.0.0.1", port))
    return attacker


async def again(work, pause=5):
    """Repeats an attacker's request, also after a rejection."""
    while True:
        try:
            await work()
        except OSError:
            pass
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))


async def drip(attacker, head):
    """Sends a head, and then a byte every five seconds until the connection is closed."""
    loop = asyncio.get_running_loop()
    with attacker:
        await loop.sock_sendall(attacker, head)
        answer = asyncio.ensure_future(loop.sock_recv(attacker, 4096))
        while True:
            done, _ = await asyncio.wait({answer}, timeout=5)
            if done:
                return answer.result()
            await loop.sock_sendall(attacker, b" ")


async def slow_bodies(port, head, count=1000):
    async def one():
        await drip(await connect(port), head)

    await asyncio.gather(*(again(one) for _ in range(count)))


def slow_http1(port, token):
    head = (
        "POST /api/v1/connectors/gmail/connect HTTP/1.1\r\nhost: x\r\n"
        f"authorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: 8000\r\n\r\n"
    )
    asyncio.run(slow_bodies(port, head.encode()))


def slow_webhooks(port, _token):
    head = "POST /api/v1/webhooks/nango HTTP/1.1\r\nhost: x\r\ncontent-length: 8000\r\n\r\n"
    asyncio.run(slow_bodies(port, head.encode()))


DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def packed(fields):
    """HPACK's literals, neither indexed nor compressed."""

    def text(value):
        value = value.encode()
        if len(value) < 127:
            return bytes([len(value)]) + value
        length, rest = bytearray([127]), len(value) - 127
        while rest >= 128:
            length.append(rest % 128 + 128)
            rest //= 128
        length.append(rest)
        return bytes(length) + value

    return b"".join(b"\0" + text(name) + text(value) for name, value in fields)


async def slow_streams(port, token, streams=64):
    """Opens an HTTP/2 connection with the maximum of requests, whose bodies do not end."""
    head = packed([
        (":method", "POST"), (":scheme", "http"), (":path", "/api/v1/connectors/gmail/connect"),
        (":authority", "x"), ("authorization", f"Bearer {token}"), ("content-type", "application/json"),
    ])
    loop = asyncio.get_running_loop()
    attacker = await connect(port)
    reader, writer = await asyncio.open_connection(sock=attacker)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
    open_streams, next_stream = set(), 1

    def fill():
        nonlocal next_stream
        while len(open_streams) < streams:
            writer.write(frame(HEADERS, 4, next_stream, head))
            open_streams.add(next_stream)
            next_stream += 2

    async def feed():
        while True:
            fill()
            for stream in open_streams:
                writer.write(frame(DATA, 0, stream, b" "))
            await writer.drain()
            await asyncio.sleep(2)

    feeding = loop.create_task(feed())
    try:
        while True:
            header = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(header[:3], "big"))
            kind, flags, stream = header[3], header[4], int.from_bytes(header[5:], "big")
            if kind == SETTINGS and not flags & 1:
                writer.write(frame(SETTINGS, 1, 0))
            elif kind == PING and not flags & 1:
                writer.write(frame(PING, 1, 0, payload))
            elif kind == GOAWAY:
                return
            elif kind == RST_STREAM or (kind in (HEADERS, DATA) and flags & 1):
                open_streams.discard(stream)
    except asyncio.IncompleteReadError:
        return
    finally:
        feeding.cancel()
        writer.close()


def slow_http2(port, token):
    async def all_connections():
        await asyncio.gather(*(again(lambda: slow_streams(port, token)) for _ in range(16)))

    asyncio.run(all_connections())


def idle_connections(port, _token):
    async def one():
        with await connect(port) as attacker:
            await asyncio.get_running_loop().sock_recv(attacker, 1)

    async def all_connections():
        await asyncio.gather(*(again(one, 0.2) for _ in range(11_000)))

    asyncio.run(all_connections())


def unread_lists(port, token):
    """Requests the longest list over 60 connections without reading the responses, and sends ten other reads a second."""
    request = (
        "GET /api/v1/connectors/connections?limit=500 HTTP/1.1\r\nhost: x\r\n"
        f"authorization: Bearer {token}\r\n\r\n"
    ).encode()
    loop_of = asyncio.get_running_loop

    async def unread():
        with await connect(port, receive_buffer=4096) as attacker:
            await loop_of().sock_sendall(attacker, request)
            await asyncio.sleep(5)

    async def read():
        with await connect(port) as attacker:
            await loop_of().sock_sendall(attacker, request)
            while len(await loop_of().sock_recv(attacker, 1 << 20)) == 1 << 20:
                pass

    async def all_connections():
        await asyncio.gather(*(again(unread, 0) for _ in range(60)), again(read, 0.1))

    asyncio.run(all_connections())


def waiting(port, users):
    """Ten requests of each user wait for an attempt that does not end."""

    async def one(token, connection):
        request = (
            f"GET /api/v1/connectors/connections/{connection}?wait=25 HTTP/1.1\r\nhost: x\r\n"
            f"authorization: Bearer {token}\r\n\r\n"
        )
        with await connect(port) as attacker:
            await asyncio.get_running_loop().sock_sendall(attacker, request.encode())
            await asyncio.get_running_loop().sock_recv(attacker, 4096)

    async def all_requests():
        waits = [again(lambda user=user: one(*user), 1) for user in users for _ in range(10)]
        await asyncio.gather(*waits)

    asyncio.run(all_requests())


# Attacks.


def raised_file_limit():
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Attack:
    """An attacker's process."""

    def __init__(self, attacker, *arguments):
        self.process = multiprocessing.get_context("fork").Process(target=attacker, args=arguments, daemon=True)

    def __enter__(self):
        self.process.start()
        # Until it occupies its maximum.
        time.sleep(3)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.join()


def holding(name, attacker):
    with Sandbox() as sandbox:
        victims, token = Victims(sandbox), sandbox.token("mallory")
        quiet = victims.run(QUIET_SECONDS)
        with Attack(attacker, sandbox.port, token):
            attacked = victims.run(SECONDS)
        print(f"        quiet: {shown(quiet)}")
        outcome(name, withstood(attacked), shown(attacked))


def waits(name):
    with Sandbox() as sandbox:
        victims, users = Victims(sandbox), []
        for number in range(100):
            token = sandbox.token(f"waiting-{number}")
            _, started = sandbox.ask("POST", "/api/v1/connectors/gmail/connect", token)
            users.append((token, json.loads(started)["connection_id"]))
        quiet = victims.run(QUIET_SECONDS)
        with Attack(waiting, sandbox.port, users):
            attacked = victims.run(SECONDS)
        print(f"        quiet: {shown(quiet)}")
        outcome(name, withstood(attacked), shown(attacked))


def large_connections(sandbox, token):
    """Gives a user the maximum number of connections, with configs of the maximum size. Returns that size."""
    for size in (15_000, 4_000):
        body = {"config": {"k": "x" * size}}
        status, _ = sandbox.ask("POST", "/api/v1/connectors/gmail/connect", token, body)
        if status == 200:
            break
    slots = threading.Semaphore(8)

    def connect_one(number):
        with slots:
            sandbox.ask("POST", f"/api/v1/connectors/gmail/connect?instance_id={number}", token, body)

    threads = [threading.Thread(target=connect_one, args=(number,)) for number in range(499)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return size


def bytes_unread(name):
    with Sandbox() as sandbox:
        victims, token = Victims(sandbox), sandbox.token("mallory")
        size = large_connections(sandbox, token)
        _, answer = sandbox.ask("GET", "/api/v1/connectors/connections?limit=500", token)
        count = len(json.loads(answer)["connections"])
        # The connects count towards the limit, too.
        time.sleep(25)
        quiet, before = victims.run(QUIET_SECONDS), sandbox.rss()
        most, watching = [before], threading.Event()

        def watch():
            while not watching.wait(0.05):
                most.append(sandbox.rss())

        threading.Thread(target=watch, daemon=True).start()
        with Attack(unread_lists, sandbox.port, token):
            attacked = victims.run(SECONDS)
        watching.set()
        rss, alive = max(most), sandbox.process.poll() is None
        print(f"        a page has {count} of 500 connections of {size} bytes, {len(answer)} bytes in all")
        print(f"        quiet: RSS {before:.0f} MiB; {shown(quiet)}")
        ratio = attacked["users"][1] / quiet["users"][1]
        detail = f"RSS {rss:.0f} MiB; users' p99 is {ratio:.1f} times the quiet one; {shown(attacked)}"
        outcome(name, alive and rss < MAX_RSS and withstood(attacked), detail)


ATTACKS = {
    "http1": lambda: holding("1,000 slow bodies of one user over HTTP/1", slow_http1),
    "http2": lambda: holding("1,024 slow bodies of one user over HTTP/2", slow_http2),
    "webhooks": lambda: holding("1,000 unsigned webhooks with slow bodies", slow_webhooks),
    "connections": lambda: holding("11,000 idle connections from one address", idle_connections),
    "waits": lambda: waits("1,000 waiting requests of 100 users"),
    "lists": lambda: bytes_unread("lists of 500 large connections that are not read"),
}

if __name__ == "__main__":
    raised_file_limit()
    for chosen in sys.argv[1:] or ATTACKS:
        ATTACKS[chosen]()
    sys.exit(1 if holes else 0)
