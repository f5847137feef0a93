#!/usr/bin/env python3
"""A workflow's step on a user's behalf: pick an account, call the provider's
API with a live token, and say precisely why not where there is none.

    PATCHBAY_URL   http://localhost:8000
    PATCHBAY_KEY   a service key with tokens:read and connections:read
    PATCHBAY_USER  the user to act for
    CONNECTOR      gmail
    ACCOUNT        the label or instance of the account, where there are several
    PROVIDER_API   the provider's address to call with the token

Only Python's own library is used. Exit code 0: done; 2: the user has to act;
75: try again later.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

URL = os.environ.get("PATCHBAY_URL", "http://localhost:8000")
KEY = os.environ["PATCHBAY_KEY"]
USER = os.environ["PATCHBAY_USER"]
CONNECTOR = os.environ.get("CONNECTOR", "gmail")
ACCOUNT = os.environ.get("ACCOUNT")
PROVIDER_API = os.environ["PROVIDER_API"]


class Problem(Exception):
    """An answer of Patchbay's that is not a success (RFC 9457)."""

    def __init__(self, body):
        super().__init__(body.get("detail"))
        self.code = body.get("code")
        self.body = body


def patchbay(method, path, body=None):
    """Calls Patchbay for the user, and comes again when it asks for patience."""
    for _ in range(3):
        request = urllib.request.Request(URL + path, method=method)
        request.add_header("Authorization", f"Bearer {KEY}")
        request.add_header("Patchbay-User", USER)
        data = None
        if body is not None:
            request.add_header("Content-Type", "application/json")
            data = json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, data) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            problem = Problem(json.load(error))
            if error.code != 503:
                raise problem from None
            time.sleep(min(int(error.headers.get("Retry-After", "1")), 5))
    raise problem


def pick_account():
    """The connection that is meant: by its label or instance, or the only one."""
    query = urllib.parse.urlencode({"connector_id": CONNECTOR})
    found = patchbay("GET", f"/api/v1/connectors/connections?{query}")["connections"]
    found = [one for one in found if one["status"] != "disconnected"]
    if ACCOUNT:
        found = [one for one in found if ACCOUNT in (one["label"], one["instance_id"])]
    if not found:
        sys.exit(say(f"{USER} has not connected {CONNECTOR}{' as ' + ACCOUNT if ACCOUNT else ''}", 2))
    if len(found) > 1:
        names = ", ".join(one["label"] or one["instance_id"] or "(the first)" for one in found)
        sys.exit(say(f"{USER} has several accounts of {CONNECTOR}, set ACCOUNT to one of: {names}", 2))
    return found[0]


def call_provider(token):
    request = urllib.request.Request(PROVIDER_API)
    request.add_header("Authorization", f"{token['token_type']} {token['access_token']}")
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def step(connection):
    """The step itself. A token that the provider refuses is reported, and asked for once more."""
    path = f"/api/v1/connectors/connections/{connection['id']}/token"
    token = patchbay("POST", path)
    try:
        return call_provider(token)
    except urllib.error.HTTPError as error:
        if error.code != 401:
            raise
    patchbay("POST", f"{path}/invalid", {"token_id": token["token_id"]})
    return call_provider(patchbay("POST", path))


def say(text, code):
    print(text, file=sys.stderr)
    return code


def main():
    try:
        connection = pick_account()
        print(f"{CONNECTOR} answers {USER}: {json.dumps(step(connection))}")
        return 0
    except Problem as problem:
        if problem.code in ("needs_reauthorization", "account_mismatch", "not_connected"):
            where = problem.body.get("connect", "the product's settings")
            return say(f"{USER} has to act: {problem} ({problem.code}; begin at {where})", 2)
        return say(f"not now: {problem} ({problem.code})", 75)


if __name__ == "__main__":
    sys.exit(main())
