"""The tools that `log_overhead.py` compares: how each is set up to be fast, and where its data lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Tool:
    """One experiment tracker.

    Attributes:
        name: Key in the output.
        setup: How it is used here, in a few words.
        environment: What its own documentation says to set; `{data}` is its data folder.
        default: Whether it is measured without `--all`.
        trouble: What it is measured in, where that isn't the best of worlds; see troubles.py.
    """

    name: str
    setup: str
    environment: Mapping[str, str] = field(default_factory=dict)
    default: bool = True
    trouble: str = ""

    @property
    def package(self) -> str:
        """Name of its requirement file and of its environment."""
        return self.name.removesuffix(f"_{self.trouble}")


TOOLS = (
    Tool("runwire", "journal, sender thread"),
    Tool("runwire_relay", "journal, no thread; a relay process beside it is counted with it", trouble="relay"),
    Tool("runwire_broker_down", "Kafka, and nobody listens there", trouble="broker_down"),
    Tool("runwire_broker_slow", "Kafka, each request takes 2 s", trouble="broker_slow"),
    Tool("runwire_disk_full", "the home's disk is full, and nobody listens at the broker's port", trouble="disk_full"),
    Tool(
        "wandb",
        "offline; console capture, system metrics and code saving off",
        {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"},
    ),
    Tool("tensorboardX", "SummaryWriter with its defaults, one add_scalar a value"),
    Tool(
        "trackio",
        "local SQLite; hardware metrics off",
        {"TRACKIO_DIR": "{data}/trackio", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
    ),
    Tool(
        "mlflow",
        "SQLite, asynchronous, batches of one second; system metrics off",
        {
            "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
            "MLFLOW_ASYNC_LOGGING_BUFFERING_SECONDS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        },
    ),
    Tool(
        "aim",
        "local repository; system tracking and console capture off",
        {"AIM_UI_TELEMETRY_ENABLED": "0"},
        default=False,
    ),
    Tool(
        "clearml",
        "offline; repository detection, console and resource monitoring off",
        {"CLEARML_OFFLINE_MODE": "1", "CLEARML_CACHE_DIR": "{data}/clearml"},
        default=False,
    ),
)
