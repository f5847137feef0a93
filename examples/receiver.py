#!/usr/bin/env python3
"""An endpoint that takes Patchbay's webhooks, verifies them, and prints one line each.

    WEBHOOK_SECRET   what `patchbay webhooks add` has shown; two with a space between while it is rotated
    PORT             8002

Only Python's own library is used. The form is that of the Standard Webhooks specification.
"""

import base64
import hashlib
import hmac
import json
import os
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

SECRETS = [base64.b64decode(one.removeprefix("whsec_")) for one in os.environ["WEBHOOK_SECRET"].split()]

# The maximum age of a message in seconds, including clock skew. An older message is rejected as a replay.
TOLERANCE = 5 * 60

# The maximum size of a message, in bytes.
LONGEST = 256 * 1024

# Use your own database for this: a message may arrive twice with the same id.
seen = set()


def is_genuine(headers, body):
    """Whether the sender knows one of the secrets, and sent this just now."""
    message, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isdigit() or abs(time.time() - int(timestamp)) > TOLERANCE:
        return False
    signed = f"{message}.{timestamp}.".encode() + body
    expected = [b"v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)) for secret in SECRETS]
    given = headers.get("webhook-signature", "").encode().split()
    return any(hmac.compare_digest(one, other) for one in expected for other in given)


class Endpoint(BaseHTTPRequestHandler):
    def do_POST(self):
        length = int(self.headers.get("content-length", 0))
        if length > LONGEST:
            return self.answer(413)
        body = self.rfile.read(length)
        if not is_genuine(self.headers, body):
            return self.answer(401)
        message = json.loads(body)
        if self.headers["webhook-id"] not in seen:
            seen.add(self.headers["webhook-id"])
            data = message["data"]
            print(message["type"], data.get("user_id"), data.get("connector_slug"), data.get("reason"), flush=True)
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8002"))), Endpoint).serve_forever()
