"""Run with the Python that has torch and jax: logs their scalars in every make and prints what arrived, as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import torch

import runwire
from runwire.testing import capture


class Unconvertible(torch.Tensor):  # type: ignore[misc]
    """A scalar that can't be converted: whoever tries waits for a device."""

    def __float__(self) -> float:
        raise AssertionError("a wait for the device")


def in_place() -> None:
    """A tensor that is changed after each call."""
    loss = torch.tensor(0.0)
    for step in range(3):
        loss.fill_(step)
        runwire.log({"in place": loss}, step=step)
        loss.fill_(-1.0)


def busy() -> tuple[Any, bool]:
    """A result, and whether jax was still computing it when `log` returned; False where it was too quick to tell."""
    matrix = jnp.ones((3000, 3000))
    work: Callable[[Any], Any] = jax.jit(lambda x: (x @ x @ x @ x @ x).mean() * 0 + 7)
    work(matrix).block_until_ready()
    result = work(matrix)
    was_busy = not result.is_ready()
    runwire.log({"busy": result}, step=0)
    return result, was_busy and not result.is_ready()


def main(home: Path) -> None:
    """One run."""
    net = torch.nn.Linear(1, 1)
    with capture() as captured:
        with runwire.init(project="frameworks", url=captured.url, home=home):
            in_place()
            computed, was_busy = busy()
            given = torch.tensor(1.5, requires_grad=True)
            runwire.log(
                {
                    "torch": {"grad": given * 2, "bfloat16": torch.tensor(0.5, dtype=torch.bfloat16),
                              "int": torch.tensor(3), "bool": torch.tensor(True), "1x1": torch.ones(1, 1),
                              "parameter": torch.nn.Parameter(torch.tensor(0.25)), "nan": torch.tensor(float("nan"))},
                    "jax": {"float": jnp.float32(0.125), "int": jnp.int32(4), "bfloat16": jnp.bfloat16(2.0)},
                    "unconvertible": torch.tensor(6.0).as_subclass(Unconvertible),
                },
                step=9,
            )  # fmt: skip
            net(torch.ones(1, 1)).sum().backward()
            refused = []
            wrong = {
                "two": torch.ones(2),
                "complex": torch.tensor(1j),
                "none of it": jnp.zeros(0),
                "meta": torch.empty((), device="meta"),
            }
            for name, value in wrong.items():
                try:
                    runwire.log({name: value}, step=0)
                except runwire.UsageTypeError:
                    refused.append(name)
            computed.block_until_ready()  # the end waits ten seconds for delivery, a busy machine computes for longer
        points = [(name, step, repr(value)) for name, step, value in captured.points()]
    print(json.dumps({"points": points, "refused": refused, "was_busy": was_busy}))  # noqa: T201 - the test reads it


if __name__ == "__main__":
    main(Path(sys.argv[1]))
