"""What logging a GPU's scalar costs the training thread, beside `.item()`: microseconds a step, median.

python bench/device_sync.py [--steps N] [--json]

A step gives the GPU some milliseconds of matrix products to do and logs their mean. `item` reads it first, as most
training scripts do, and so waits for the products; `runwire` hands the tensor over. Needs torch and a GPU in the Python
that runs it (Runwire's source is found beside this file; numpy, fastavro, aiokafka and cramjam have to be there too).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "producer"))  # started as a script
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "schemas"))

import runwire

WARM_UP_STEPS = 20
PRODUCTS = 8
SIZE = 4_096


def main() -> None:
    """Measure both ways and print them; exits with a sentence where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="measured steps each way")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    try:
        import torch  # noqa: PLC0415 - an error with a sentence where it is missing
    except ImportError:
        sys.exit("device_sync.py needs torch: install it into the Python that runs this script.")
    if not torch.cuda.is_available():
        sys.exit("device_sync.py needs a GPU: torch finds none here.")
    figures = {
        "runwire_us": measure(torch, options.steps, lambda mean: mean),
        "item_us": measure(torch, options.steps, lambda mean: mean.item()),
    }
    if options.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:12}{figure:10,}" for name, figure in figures.items()))


def measure(torch: Any, steps: int, read: Callable[[Any], Any]) -> float:
    """The median time of reading and logging, in microseconds."""
    matrix = torch.rand(SIZE, SIZE, device="cuda") / SIZE
    with tempfile.TemporaryDirectory() as home, runwire.init(project="bench", home=home, auto_metrics=False) as run:
        taken = []
        for step in range(WARM_UP_STEPS + steps):
            product = matrix
            for _ in range(PRODUCTS):
                product = product @ matrix
            mean = product.mean() + step
            began = time.perf_counter_ns()
            run.log({"mean": read(mean)}, step=step)
            taken.append(time.perf_counter_ns() - began)
        torch.cuda.synchronize()
    return round(statistics.median(taken[WARM_UP_STEPS:]) / 1e3, 2)


if __name__ == "__main__":
    main()
