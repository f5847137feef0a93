"""Proxies between the service, its database and Nango, which can hang, switch, and return false responses."""

import http.client
import http.server
import json
import select
import socket
import threading


class Forwarder:
    """Forwards TCP connections to a port of this machine, to another one after `switch`, and to none while it hangs."""

    def __init__(self, port):
        self.target = port
        self.hangs = False
        self._open = []
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def switch(self, port, close=True):
        """New connections go to another server. Those that are open are closed, or stay with the old one."""
        self.target = port
        if close:
            self.close()

    def silence(self):
        """Packets vanish: those of open connections forever, of new ones until `hangs` is false."""
        self.hangs = True
        for pair in self._open:
            pair.silent = True

    def close(self):
        for pair in self._open:
            pair.close()
        self._open = []

    def _listen(self):
        while True:
            client, _ = self._socket.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        pair = Pair(client)
        pair.silent = self.hangs
        self._open.append(pair)
        if not pair.silent:
            try:
                pair.server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                pair.close()
                return
            pair.forward()


class Pair:
    """A client's connection and the server's."""

    def __init__(self, client):
        self.client, self.server, self.silent = client, None, False

    def forward(self):
        ends = {self.client: self.server, self.server: self.client}
        try:
            while True:
                for end in select.select(list(ends), [], [], 1)[0]:
                    data = end.recv(65536)
                    if self.silent:
                        # Neither end is notified.
                        return
                    if not data:
                        raise OSError
                    ends[end].sendall(data)
        except (OSError, ValueError):
            self.close()

    def close(self):
        for end in (self.client, self.server):
            if end:
                end.close()


class Gate(http.server.ThreadingHTTPServer):
    """Nango as the service reaches it. `rule(method, path, forward)` may answer in the place of the fake Nango: it returns a
    status, headers and a body. `forward()` returns the fake Nango's."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, nango_port):
        super().__init__(("127.0.0.1", 0), GateHandler)
        self.nango_port = nango_port
        self.rule = None
        self.calls = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        pass


class GateHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _handle(self):
        self.server.calls += 1
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        rule = self.server.rule
        status, headers, text = rule(self.command, self.path, lambda: self._forward(body)) if rule else self._forward(body)
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _handle

    def _forward(self, body):
        nango = http.client.HTTPConnection("127.0.0.1", self.server.nango_port, timeout=60)
        nango.request(self.command, self.path, body, dict(self.headers.items()))
        answer = nango.getresponse()
        text = answer.read()
        nango.close()
        return answer.status, answer.getheaders(), text

    def log_message(self, *_):
        pass


def answer(status, body, *headers):
    """Returns the response of a rule, as JSON."""
    return status, [("content-type", "application/json"), *headers], json.dumps(body).encode()


class Product(http.server.ThreadingHTTPServer):
    """The product's webhook endpoint, which records each message."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self):
        super().__init__(("127.0.0.1", 0), ProductHandler)
        self.messages = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class ProductHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.messages.append((self.headers["webhook-id"], body["data"]["id"], body["data"]["version"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass
