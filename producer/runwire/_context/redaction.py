"""Keeps secrets out of what is captured: command lines, URLs, parameters, environment, texts of errors.

What is masked, wherever it stands in a text:

1. the value after a name that ends in key, token, secret, password, passwd, auth, or begins with cred, as
   `--name value`, `--name=value`, `name=value`, `"name": "value"`;
2. user and password in a URL; `Bearer ...`; private key blocks;
3. what has a known form: AKIA, ghp_, github_pat_, hf_, sk-, xox, glpat-, JSON web tokens and the like;
4. long runs of letters and digits that change kind as often as chance does, unless a path begins the text.

What stays: hexadecimal of 32, 40 or 64 digits, which is a commit or a checksum far more often than a secret
(such a secret is caught by its name), and names from the field such as `max_tokens`, `pad_token`, `sort_key`.
Masking is by best effort on top of one rule: the environment is an allow-list.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Value = TypeVar("Value")

MASK = "***"
ARGUMENTS_MAX = 1_000
ARGUMENT_CHARACTERS_MAX = 4_096
_HARMLESS = frozenset({"", "true", "false", "none", "null", "yes", "no", "0", "1"})

_SECRET_WORDS = frozenset(
    "auth authorization bearer passphrase passwd password passwords pwd secret secrets".split()  # noqa: SIM905
)
_SECRET_ENDS = ("key", "token", "secret", "password", "passwd", "auth", "passphrase")
_PLURALS = frozenset({"keys", "tokens"})
_OWNERS = frozenset({"access", "api", "auth", "private", "secret", "signing"})  # of plural keys and tokens
_TAILS = frozenset({"value", "string", "str", "text", "b64", "base64", "hex", "json", "default"})
# Before `key` and `token` these make a word of the field, not a secret.
_FIELD = frozenset(
    """
    batch bos cache class cls column data dict end eos feature field foreign group image index input join label
    loss mask max metric min mon monitor n new num output pad pos primary query sep sequence sort special start
    stop target tgt src text unk video audio per
    """.split()  # noqa: SIM905 - forty strings in a list would be forty lines
)
_ORDINARY = frozenset({"monkey", "turkey", "hockey", "hotkey", "donkey", "whiskey"})

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_NAME = re.compile(r"""(?<![\w.+\-])([A-Za-z_+\-][\w.\-]{0,127})["']?\s{0,3}[=:]\s{0,3}""")
_VALUE = re.compile(r"""(?i:(?:bearer|basic|token)\s+)?(?:"[^"]*"|'[^']*'|[^\s,;&"'{}\[\]()]+)""")
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]{0,31}://)[^\s/@\"'<>]*@")
_ODD_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]{0,31}://)[^\s/@:\"'<>]+:(?![0-9]*/)[^\s@\"'<>]+@")
_BARE_USER = re.compile(r"(?<![\w/.:@])([\w.+\-]{1,64}):([^\s/@:]{1,256})@(?=[\w\-])")
_BEARER = re.compile(r"(?i)\b(bearer|basic|token)(\s+)(?=\S*[0-9=])[A-Za-z0-9._~+/\-]{8,}=*")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_KNOWN = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        (?:AKIA|ASIA|AGPA|AIDA|AROA)[0-9A-Z]{12,}
      | gh[pousr]_[A-Za-z0-9]{16,} | github_pat_\w{16,} | glpat-[\w\-]{16,} | rwt_[\w\-]{16,}
      | hf_[A-Za-z0-9]{16,} | api_org_[A-Za-z0-9]{16,}
      | (?:sk|pk|rk)[-_](?:[A-Za-z0-9]{1,16}[-_]){0,8}[A-Za-z0-9]{16,}[\w\-]*
      | xox[a-z](?:\.xox[a-z])?-[\w\-]{8,} | xapp-[\w\-]{8,}
      | AIza[\w\-]{30,} | ya29\.[\w\-]{16,} | GOCSPX-[\w\-]{16,}
      | npm_[A-Za-z0-9]{30,} | pypi-[\w\-]{16,} | dop_v1_[0-9a-f]{32,} | SG\.[\w\-]{16,}\.[\w\-]{16,}
      | eyJ[\w\-]{6,8192}\.[\w\-]{6,}(?:\.[\w\-]*)?
    )""",
    re.VERBOSE,
)
_RUN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9]{20,}(?![A-Za-z0-9])")
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/=])[A-Za-z0-9+/]{40,}={0,2}(?![A-Za-z0-9+/=])")
_HEX_SIZES = frozenset({32, 40, 64})
_RANDOM_DIGITS_MIN, _RANDOM_CHARACTERS_MIN = 2, 10
_CHANGES_MIN, _CHANGES_ONE_CASE_MIN = 0.4, 0.28
_PATH_START = re.compile(r"^(?:~|\.{0,2}/|[A-Za-z]:\\)")

_ENVIRONMENT = re.compile(
    r"(?:CUDA_VISIBLE_DEVICES|CUDA_DEVICE_ORDER|CUBLAS_WORKSPACE_CONFIG|OMP_NUM_THREADS|MKL_NUM_THREADS"
    r"|PYTHONHASHSEED|CONDA_DEFAULT_ENV|VIRTUAL_ENV|NCCL_[A-Z_0-9]+|TORCH_[A-Z_0-9]+|PYTORCH_[A-Z_0-9]+"
    r"|XLA_FLAGS|JAX_PLATFORMS|SLURM_(?:JOB_ID|JOB_NAME|JOB_PARTITION|JOB_NUM_NODES|NTASKS|STEP_ID|ARRAY_[A-Z_]+"
    r"|RESTART_COUNT|NODELIST|CLUSTER_NAME)|WORLD_SIZE|RANK|LOCAL_RANK)"
)


def is_secret_name(name: str) -> bool:
    """Whether a flag, variable or parameter of this name holds a secret."""
    words = [word.lower() for word in _WORD.findall(name.rpartition("/")[2])]
    while len(words) > 1 and (words[-1] in _TAILS or words[-1].isdecimal()):
        words.pop()
    if not words:
        return False
    if any(word in _SECRET_WORDS or word.startswith("cred") for word in words):
        return True
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last in _PLURALS:
        return before in _OWNERS
    if last == "pass":
        return before in {"", "db", "user", "smtp", "pg", "root", "admin", "mysql"}
    return last.endswith(_SECRET_ENDS) and last not in _ORDINARY and before not in _FIELD


def redact_argv(arguments: Iterable[str]) -> list[str]:
    """A command line, argument by argument; at most ARGUMENTS_MAX of them, each cut at its own limit."""
    shown: list[str] = []
    expects_secret = False
    for position, argument in enumerate(arguments):
        if position == ARGUMENTS_MAX:
            shown.append("...")
            break
        is_flag = argument.startswith("--") or (len(argument) == 2 and argument[0] == "-")  # noqa: PLR2004 - `-x`
        if expects_secret and not is_flag:
            shown.append(argument if argument.lower() in _HARMLESS else MASK)
            expects_secret = False
            continue
        name, equals, value = argument.partition("=")
        secret = _is_plain_name(name) and is_secret_name(name)
        expects_secret = secret and not equals and argument.startswith("-")
        if secret and equals:
            shown.append(argument if value.lower() in _HARMLESS else f"{name}={MASK}")
        else:
            shown.append(redact_text(_cut(argument)))
    return shown


def redact_text(text: str) -> str:
    """A text without the secrets that can be recognised in it."""
    text = _PEM.sub(MASK, text)
    text = redact_url(text)
    text = _BARE_USER.sub(rf"\1:{MASK}@", text)
    text = _BEARER.sub(rf"\1\2{MASK}", text)
    text = _KNOWN.sub(MASK, text)
    text = _without_named(text)
    if _PATH_START.match(text):
        return text
    text = _BASE64.sub(lambda match: MASK if _is_random(match[0]) else match[0], text)
    return _RUN.sub(lambda match: MASK if _is_random(match[0]) else match[0], text)


def redact_url(url: str) -> str:
    """A URL without user and password; anything else as it is."""
    return _USER.sub(rf"\1{MASK}@", _ODD_USER.sub(rf"\1{MASK}@", url))


def redact_params(params: Mapping[str, Value]) -> dict[str, Value | str]:
    """Flat parameters: texts and numbers under a secret's name are masked, other texts searched."""
    shown: dict[str, Value | str] = {}
    for key, value in params.items():
        if value is None or isinstance(value, bool):
            shown[key] = value
        elif is_secret_name(key):
            shown[key] = value if str(value).lower() in _HARMLESS or _is_marker(str(value)) else MASK
        else:
            shown[key] = redact_text(value) if isinstance(value, str) else value
    return shown


def redact_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The few variables known to matter and to hold no secret, their values searched all the same."""
    return {name: redact_text(_cut(environ[name])) for name in sorted(environ) if _ENVIRONMENT.fullmatch(name)}


def _without_named(text: str) -> str:
    """Masks what stands behind a secret's name; a value may itself be a pair, as in `env=TOKEN=...`."""
    kept: list[str] = []
    position = 0
    while name := _NAME.search(text, position):
        kept.append(text[position : name.end()])
        position = name.end()
        value = _VALUE.match(text, position) if is_secret_name(name[1]) else None
        if value is None:
            continue
        bare = value[0].strip("\"'")
        quote = value[0][0] if value[0][0] in "\"'" else ""
        kept.append(value[0] if bare.lower() in _HARMLESS or _is_marker(bare) else f"{quote}{MASK}{quote}")
        position = value.end()
    return "".join([*kept, text[position:]])


def _is_plain_name(text: str) -> bool:
    return len(text) <= ARGUMENT_CHARACTERS_MAX and not any(character in text for character in " \t\n:;,{}[]()\"'")


def _is_marker(text: str) -> bool:
    """Whether this is a word of a vocabulary: `<pad>`, `[CLS]`, or already masked."""
    return text[:1] + text[-1:] in {"<>", "[]"} or text == MASK


def _is_random(text: str) -> bool:
    """Whether letters and digits change kind as often as chance would have it."""
    if len(text) in _HEX_SIZES and re.fullmatch(r"[0-9a-f]+|[0-9A-F]+", text):
        return False
    kinds = ["d" if c.isdecimal() else "u" if c.isupper() else "l" if c.islower() else "p" for c in text]
    letters = {kind for kind in kinds if kind in "ul"}
    if kinds.count("d") < _RANDOM_DIGITS_MIN or not letters or len(set(text)) < _RANDOM_CHARACTERS_MIN:
        return False
    changes = sum(one != other for one, other in pairwise(kinds)) / (len(kinds) - 1)
    # Chance gives 0.62 with upper, lower and digits, 0.40 with one case and digits; words with numbers 0.2.
    return changes >= (_CHANGES_MIN if len(letters) > 1 else _CHANGES_ONE_CASE_MIN)


def _cut(text: str) -> str:
    return text if len(text) <= ARGUMENT_CHARACTERS_MAX else f"{text[:ARGUMENT_CHARACTERS_MAX]}..."
