"""Prints an OpenAPI document with a breaking change: connections have no `status`."""

import json
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    document = json.load(file)
connection = document["components"]["schemas"]["Connection"]
del connection["properties"]["status"]
connection["required"].remove("status")
json.dump(document, sys.stdout)
