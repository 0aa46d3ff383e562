"""The version, said once: pyproject.toml and every `RunStarted` take it from here."""

__version__ = "0.1.0.dev0"
