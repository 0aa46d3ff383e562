"""SQL in notebooks: `%load_ext runwire`, then `%runwire_sql SELECT ...` on a line or `%%runwire` over a cell."""

from __future__ import annotations

import re
from typing import Any

from runwire._query import Query

_PARAM = re.compile(r"\$([A-Za-z_]\w*)")
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)


def load_ipython_extension(ipython: Any) -> None:
    """Give a notebook the magics `%runwire_sql` and `%%runwire`; `%load_ext runwire` calls this.

    Args:
        ipython: The shell.

    Raises:
        ImportError: It isn't IPython's.
    """
    from IPython.core.magic import no_var_expand  # noqa: PLC0415 - who calls this has it

    def ask(sql: str) -> Query:
        made = Query(sql, params_in(sql, ipython.user_ns))
        made.arrow()  # here, not when it is shown: what is kept is a result
        return made

    @no_var_expand  # $name is the query's, not IPython's
    def of_a_line(line: str) -> Query:
        """%runwire_sql SELECT ...: the query's result; $name is the notebook's variable of that name."""
        return ask(line)

    def of_a_cell(line: str, cell: str) -> Query:
        """%%runwire [NAME]: the result of the cell's SELECT, also kept in the variable NAME."""
        made = ask(cell)
        if line.strip():
            ipython.user_ns[line.strip()] = made
        return made

    ipython.register_magic_function(of_a_line, "line", "runwire_sql")
    ipython.register_magic_function(of_a_cell, "cell", "runwire")


def params_in(sql: str, names: dict[str, Any]) -> dict[str, Any] | None:
    """The variables that a text names with $, outside of its quotes and comments."""
    wanted = {name for name in _PARAM.findall(_QUOTED.sub(" ", sql)) if name in names}
    return {name: names[name] for name in wanted} or None
