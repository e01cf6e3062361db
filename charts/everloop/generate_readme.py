"""Writes the values table of README.md from values.yaml and values.schema.json.

`--check` writes nothing and ends with 1 if the table is not the one of now.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parent
BEGIN, END = "<!-- values: generated -->", "<!-- end of values -->"


def rows(schema: dict[str, Any], values: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, default and description of every value, in the order of the schema."""
    for key, described in schema.get("properties", {}).items():
        at, default = f"{path}{key}", values.get(key) if isinstance(values, dict) else None
        if described.get("properties"):
            yield from rows(described, default, f"{at}.")
        else:
            yield at, json.dumps(default), described["description"]


def table() -> str:
    """The table as Markdown."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    lines += [f"| `{key}` | `{default}` | {meaning} |" for key, default, meaning in rows(schema, values)]
    return "\n".join(lines)


def with_table(text: str) -> str:
    """README.md with the table of now."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


def main() -> int:
    readme = CHART / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = with_table(old)
    if "--check" in sys.argv[1:]:
        return int(old != new)
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
