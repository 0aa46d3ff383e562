"""Our model of the Grafana that was tried: how it fills variables in, asks, and transforms what comes back.

It knows no more than what was seen to work there: a target, variable or transformation of another kind is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grafana.queries import SQL

Row = dict[str, Any]
Ask = Callable[[str], Sequence[Row]]

ALL = ".*"
_TARGET_KEYS = {
    "refId", "datasource", "type", "source", "format", "parser", "root_selector", "filters", "columns", "url",
    "url_options",
}  # fmt: skip
_VARIABLE = re.compile(r"\$\{(?P<braced>\w+)(?::(?P<format>\w+))?\}|\$(?P<plain>[a-zA-Z_]\w*)")
_GLOBALS = {"__from", "__to", "__rate_interval", "__range", "__url_time_range", "__data"}
_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "number": (int, float), "timestamp": (str,)}
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@dataclass(frozen=True, slots=True)
class Picked:
    """What the pickers and the time range stand at.

    Attributes:
        values: By variable: one value, several, or None for All.
        from_ms: Where the time range begins, milliseconds since the epoch.
        to_ms: Where it ends.
    """

    values: Mapping[str, str | Sequence[str] | None]
    from_ms: int = 0
    to_ms: int = 4_102_444_800_000

    def in_sql(self, text: str) -> str:
        """Fill variables into the body of an Infinity request."""
        return _VARIABLE.sub(lambda found: self._value(found, _plain), text)

    def in_promql(self, text: str) -> str:
        """Fill variables into a PromQL expression, as the Prometheus datasource does."""
        return _VARIABLE.sub(lambda found: self._value(found, _prometheus), text)

    def _value(self, found: re.Match[str], plainly: Callable[[Sequence[str]], str]) -> str:
        name = found["braced"] or found["plain"]
        match name:
            case "__from":
                return str(self.from_ms)
            case "__to":
                return str(self.to_ms)
            case "__rate_interval":
                return "10s"
            case "__range":
                return "15m"
        value = self.values[name]  # a variable that no picker has is an error
        if value is None:
            return ALL
        several = [value] if isinstance(value, str) else list(value)
        match found["format"]:
            case "regex":
                return _regex(several)
            case "raw":
                (alone,) = several
                return alone
            case None:
                return plainly(several)
            case other:
                raise ValueError(f"nobody has seen the format {other} work")


def variables_in(text: str) -> set[str]:
    """Names of the pickers that a text needs."""
    return {found["braced"] or found["plain"] for found in _VARIABLE.finditer(text)} - _GLOBALS


def check_target(target: Mapping[str, Any]) -> None:
    """Pass a SQL target of the shape that was seen to work; the assertion says what is off."""
    assert set(target) == _TARGET_KEYS
    assert target["datasource"] == {"type": SQL.type_val, "uid": SQL.uid}
    assert (target["type"], target["source"], target["parser"]) == ("json", "url", "backend")
    assert target["format"] in {"table", "timeseries"}
    assert (target["root_selector"], target["filters"]) == ("", [])
    assert target["url"] == "/api/sql?format=json"
    assert {**target["url_options"], "data": ""} == {
        "method": "POST",
        "body_type": "raw",
        "body_content_type": "text/plain",
        "data": "",
        "params": [],
        "headers": [],
    }
    assert target["columns"]
    for column in target["columns"]:
        assert set(column) == {"selector", "text", "type"}
        assert column["selector"] == column["text"]
        assert column["type"] in _TYPES
    assert re.fullmatch(r"\w+", target["refId"])


def frame(target: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The columns that Infinity makes of the answer's rows, in alphabetical order; each value fits its type."""
    columns = {column["text"]: column["type"] for column in target["columns"]}
    for row in rows:
        assert set(row) == set(columns)
        for name, kind in columns.items():
            value = row[name]
            assert value is None or (isinstance(value, _TYPES[kind]) and not isinstance(value, bool)), (name, value)
            assert kind != "timestamp" or value is None or _TIMESTAMP.fullmatch(str(value)), (name, value)
    return {name: [row[name] for row in rows] for name in sorted(columns)}


def transformed(panel: Mapping[str, Any], table: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """What a panel shows of a frame."""
    for step in panel.get("transformations", []):
        table = _TRANSFORMATIONS[step["id"]](table, step["options"])
    return table


def asked_targets(dashboard: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(what for, target) of everything a dashboard asks: panels, pickers, annotations."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target
    for variable in dashboard["templating"].get("list", []):
        if variable["type"] == "query":
            yield f"picker {variable['name']}", variable["query"]["infinityQuery"]
    for annotation in dashboard["annotations"].get("list", []):
        if "target" in annotation:
            yield f"marks {annotation['name']}", annotation["target"]


def _organize(table: dict[str, list[Any]], options: Mapping[str, Any]) -> dict[str, list[Any]]:
    order = options["indexByName"]
    assert set(order) == set(table)
    return {name: table[name] for name in sorted(table, key=order.__getitem__)}


def _grouping_to_matrix(table: dict[str, list[Any]], options: Mapping[str, Any]) -> dict[str, list[Any]]:
    assert options["emptyValue"] == "null"
    row_names = list(dict.fromkeys(map(_text, table[options["rowField"]])))
    column_names = list(dict.fromkeys(map(_text, table[options["columnField"]])))
    cells = dict(
        zip(
            zip(map(_text, table[options["columnField"]]), map(_text, table[options["rowField"]]), strict=True),
            table[options["valueField"]],
            strict=True,
        )
    )
    corner = f"{options['rowField']}\\{options['columnField']}"
    return {corner: row_names} | {column: [cells.get((column, row)) for row in row_names] for column in column_names}


def _convert(table: dict[str, list[Any]], options: Mapping[str, Any]) -> dict[str, list[Any]]:
    for one in options["conversions"]:
        assert one["destinationType"] == "number"
        table = table | {one["targetField"]: [float(value) for value in table[one["targetField"]]]}
    return table


_TRANSFORMATIONS = {
    "organize": _organize,
    "groupingToMatrix": _grouping_to_matrix,
    "convertFieldType": _convert,
}


def _text(value: Any) -> str:
    return str(value)


def _regex(values: Sequence[str]) -> str:
    escaped = [re.sub(r"([-/\\^$*+?.()|\[\]{}])", r"\\\1", value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def _plain(values: Sequence[str]) -> str:
    """Infinity fills one value in as it is; several nobody has seen work."""
    (alone,) = values
    return alone


def _prometheus(values: Sequence[str]) -> str:
    escaped = [re.sub(r"[$^*{}\[\]\'+?.()|\\]", lambda found: "\\\\" + found[0], value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"
