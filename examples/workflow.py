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
75: try again later; 78: an operator has to act, for it would fail again.
"""

import base64
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

USER_ACTS, LATER, OPERATOR_ACTS = 2, 75, 78

# The number of tries, and the longest pause between them, in seconds.
TRIES = 4
LONGEST_PAUSE = 10


class End(Exception):
    """Why the step is not done, and the exit code that says so."""

    def __init__(self, text, code):
        super().__init__(text)
        self.code = code


class Problem(Exception):
    """An answer of Patchbay's that is not a success (RFC 9457)."""

    def __init__(self, status, body):
        super().__init__(body.get("detail"))
        self.code = body.get("code")
        self.body = body
        # A temporary problem, which is not that of the connection or the call.
        self.passes = status in (429, 503, 504) and self.code != "nango_disabled"


def setting(name, default=None):
    value = os.environ.get(name) or default
    if value is None:
        raise End(f"{name} is not set", OPERATOR_ACTS)
    return value


def send(request, whom):
    """The status and the text of an answer, whatever it is."""
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise End(f"{whom} cannot be reached: {getattr(error, 'reason', error)}", LATER) from None


def patchbay(method, path, body=None):
    """Calls Patchbay for the user, and comes again when it asks for patience, after growing pauses."""
    request = urllib.request.Request(setting("PATCHBAY_URL", "http://localhost:8000") + path, method=method)
    request.add_header("Authorization", f"Bearer {setting('PATCHBAY_KEY')}")
    # Percent-encoded UTF-8: a header cannot carry other characters, or white space at its ends.
    request.add_header("Patchbay-User", urllib.parse.quote(setting("PATCHBAY_USER"), safe=""))
    if body is not None:
        request.add_header("Content-Type", "application/json")
        request.data = json.dumps(body).encode()
    for tried in range(1, TRIES + 1):
        status, text = send(request, f"Patchbay at {request.host}")
        try:
            answer = json.loads(text)
        except ValueError:
            raise End(f"{request.host} answers {status}, and not as Patchbay does", LATER) from None
        if status < 300:
            return answer
        problem = Problem(status, answer)
        pause = max(answer.get("retry_after", 1), 2 ** (tried - 1))
        if not problem.passes or tried == TRIES or pause > LONGEST_PAUSE:
            raise problem
        time.sleep(pause)


def pick_account(connector):
    """The connection that is meant: by its label or instance, or the only one."""
    user, account = setting("PATCHBAY_USER"), os.environ.get("ACCOUNT")
    query = urllib.parse.urlencode({"connector_id": connector})
    found = patchbay("GET", f"/api/v1/connectors/connections?{query}")["connections"]
    found = [one for one in found if one["status"] != "disconnected"]
    if account:
        found = [one for one in found if account in (one["label"], one["instance_id"])]
    if not found:
        raise End(f"{user} has not connected {connector}{' as ' + account if account else ''}", USER_ACTS)
    if len(found) > 1:
        names = ", ".join(one["label"] or one["instance_id"] or "(the first)" for one in found)
        raise End(f"{user} has several accounts of {connector}, set ACCOUNT to one of: {names}", USER_ACTS)
    return found[0]


def authorization(token):
    """What the provider is called with, by the token's type."""
    if token["type"] == "oauth2":
        return f"{token['token_type']} {token['access_token']}"
    if token["type"] == "api_key":
        # Many providers accept this; others have their own header for API keys.
        return f"Bearer {token['api_key']}"
    if token["type"] == "basic":
        pair = f"{token['username']}:{token['password']}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"
    raise End(f"this example knows no credentials of the type {token['type']}", OPERATOR_ACTS)


def call_provider(token):
    request = urllib.request.Request(setting("PROVIDER_API"))
    request.add_header("Authorization", authorization(token))
    return send(request, f"the provider at {request.host}")


def step(connection):
    """The step itself. A token that the provider refuses is reported, and asked for once more."""
    path = f"/api/v1/connectors/connections/{connection['id']}/token"
    token = patchbay("POST", path)
    status, text = call_provider(token)
    if status == 401:
        patchbay("POST", f"{path}/invalid", {"token_id": token["token_id"]})
        status, text = call_provider(patchbay("POST", path))
    if status >= 300:
        raise End(f"the provider answers {status}", LATER if status == 429 or status >= 500 else OPERATOR_ACTS)
    return text


def main():
    try:
        user, connector = setting("PATCHBAY_USER"), setting("CONNECTOR", "gmail")
        print(f"{connector} answers {user}: {step(pick_account(connector))}")
        return 0
    except End as end:
        text, code = str(end), end.code
    except Problem as problem:
        text, code = f"{problem} ({problem.code})", OPERATOR_ACTS
        if problem.passes:
            code = LATER
        if problem.code in ("needs_reauthorization", "account_mismatch", "not_connected"):
            begin = problem.body.get("connect")
            text, code = f"{user} has to act: {text}{'; begin at ' + begin if begin else ''}", USER_ACTS
    print(text, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
