#!/usr/bin/env python3
"""Prints the summaries and descriptions of an OpenAPI document as Markdown, each once, for a linter."""
import json
import sys


def texts(value):
    if isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in ("summary", "description") and isinstance(item, str):
                yield item
            elif key not in ("example", "examples", "enum"):
                yield from texts(item)


with open(sys.argv[1], encoding="utf-8") as document:
    print("\n\n".join(dict.fromkeys(texts(json.load(document)))))
