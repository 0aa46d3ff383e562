"""The words that runs are named with: 64 adjectives and 64 nouns, friendly, short, easy to spell."""

from __future__ import annotations

ADJECTIVES = (
    "amber", "ample", "apt", "autumn", "bold", "brave", "bright", "brisk", "calm", "clear",
    "clever", "cobalt", "cosy", "crisp", "curious", "dapper", "deft", "early", "eager", "fair",
    "fleet", "fluent", "fond", "fresh", "gentle", "glad", "golden", "grand", "happy", "hardy",
    "honest", "humble", "jolly", "keen", "kind", "lively", "lucid", "lucky", "mellow", "merry",
    "mild", "mossy", "nimble", "noble", "patient", "placid", "plucky", "polite", "proud", "quick",
    "quiet", "rapid", "ready", "serene", "silver", "sleek", "snug", "spry", "steady", "sunny",
    "swift", "tidy", "vivid", "warm",
)  # fmt: skip

NOUNS = (
    "acorn", "aspen", "badger", "basin", "beacon", "birch", "bison", "breeze", "brook", "canyon",
    "cedar", "clover", "comet", "coral", "crane", "creek", "delta", "dune", "falcon", "fern",
    "finch", "fjord", "forest", "gecko", "glacier", "grove", "harbor", "hawk", "hazel", "heron",
    "ibis", "island", "juniper", "kestrel", "lagoon", "lake", "lark", "lichen", "lotus", "lynx",
    "maple", "marten", "meadow", "meteor", "oasis", "orchid", "osprey", "otter", "owl", "panda",
    "pebble", "pine", "plover", "prairie", "puffin", "quartz", "raven", "reef", "river", "robin",
    "spruce", "summit", "thicket", "willow",
)  # fmt: skip
