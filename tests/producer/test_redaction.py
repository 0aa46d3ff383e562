"""No secret leaves in what is captured, and what is no secret stays readable."""

from __future__ import annotations

import string
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire._context.redaction import (
    is_secret_name,
    redact_argv,
    redact_environ,
    redact_params,
    redact_text,
    redact_url,
)

SECRET_NAMES = [
    "--api-key", "api_key", "apikey", "API_KEY", "apiKey", "--key", "hf_token", "HF_TOKEN",
    "--token", "authToken", "client_secret", "password", "--db-password", "PGPASSWORD", "passwd",
    "auth", "--auth", "http_auth", "oauth", "credentials", "--cred", "credential_id",
    "aws_secret_access_key", "aws_access_key", "model/hub/token", "trainer.logger.api_key",
    "+wandb.key", "api_keys", "token2", "api_key_value", "db_pass",
]  # fmt: skip

PLAIN_NAMES = [
    "--max-tokens", "max_tokens", "tokens_per_batch", "tokenizer", "pad_token", "eos_token",
    "sort_key", "key_dim", "num_key_value_heads", "n_tokens", "monkey", "author", "authors", "lr",
    "", "--", "group_key", "passes", "single_pass", "image_token", "keys", "1",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_names_of_secrets_are_known(name: str) -> None:
    """In the spellings of flags, variables and configurations."""
    assert is_secret_name(name)


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_words_of_the_field_are_no_secrets(name: str) -> None:
    """A tokenizer is no token."""
    assert not is_secret_name(name)


ARGV = [
    ("train.py --lr 0.1", "train.py --lr 0.1"),
    ("--api-key abc --lr 1", "--api-key *** --lr 1"),
    ("--api-key=abc", "--api-key=***"),
    ("api_key=abc", "api_key=***"),
    ("+logger.api_key=abc", "+logger.api_key=***"),
    ("-token abc", "-token ***"),
    ("--key -abc", "--key ***"),
    ("--use-auth --lr 1", "--use-auth --lr 1"),
    ("--auth true", "--auth true"),
    ("--token=none", "--token=none"),
    ("--env HF_TOKEN=abc", "--env HF_TOKEN=***"),
    ("--env=HF_TOKEN=abc", "--env=HF_TOKEN=***"),
    ("--opts a=1,token=abc,b=2", "--opts a=1,token=***,b=2"),
    ("--max-tokens 4096 --tokenizer gpt2", "--max-tokens 4096 --tokenizer gpt2"),
    ("--url https://ada:pw@host/x", "--url https://***@host/x"),
    ("--wandb-key 0123456789abcdef0123456789abcdef01234567", "--wandb-key ***"),
    (
        "--commit 0123456789abcdef0123456789abcdef01234567",
        "--commit 0123456789abcdef0123456789abcdef01234567",
    ),
    ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "***"),
    ("--data /data/Xk29fLq0Zp8Rt5Wv1Bn7Ym3C/train", "--data /data/Xk29fLq0Zp8Rt5Wv1Bn7Ym3C/train"),
    ("Xk29fLq0Zp8Rt5Wv1Bn7Ym3C", "***"),
    ("--name ResNet50-ImageNet1k-Adam-bs256-seed42", "--name ResNet50-ImageNet1k-Adam-bs256-seed42"),
    ("lr=0.1 model.depth=50", "lr=0.1 model.depth=50"),
]


@pytest.mark.parametrize(("command", "shown"), ARGV)
def test_command_lines_lose_their_secrets_only(command: str, shown: str) -> None:
    """Each argument is its own; the next one is masked where a flag announces it."""
    assert redact_argv(command.split()) == shown.split()


def test_a_secret_with_spaces_is_masked_whole() -> None:
    """Quoted by the shell, one argument here."""
    assert redact_argv(["--password", "two words", "token=a, b"]) == ["--password", "***", "token=***"]


TEXTS = [
    ('{"api_key": "abc", "lr": 1}', '{"api_key": "***", "lr": 1}'),
    ("{'token': 'abc'}", "{'token': '***'}"),
    ("Authorization: Bearer abc.def-123", "Authorization: ***"),
    ("sent Bearer abcdef-123456", "sent Bearer ***"),
    ("https://host/x?token=abc&step=3", "https://host/x?token=***&step=3"),
    ("postgres://ada:p/w@host/db", "postgres://***@host/db"),
    ("kafka://ada:pw@host:9092/topic", "kafka://***@host:9092/topic"),
    ("https://ghp_abc@github.com/x/y.git", "https://***@github.com/x/y.git"),
    ("https://host:8080/path@v1", "https://host:8080/path@v1"),
    ("git@github.com:x/y.git", "git@github.com:x/y.git"),
    ("pip install git+https://host/x@main", "pip install git+https://host/x@main"),
    ("ada:pw@host", "ada:***@host"),
    ("AKIAIOSFODNN7EXAMPLE", "***"),
    ("key AKIAIOSFODNN7EXAMPLE.", "key ***."),
    ("tG5pXk2/Qb7RzLw9+Vn3Yc6JmHd8fSa1Eu4ToPqR", "***"),
    ("hf_abcdefghijklmnopqrstuvwxyz", "***"),
    ("github_pat_11ABCDEFG0abcdefghij_klm", "***"),
    ("sk-proj-abcdefghijklmnop1234", "***"),
    ("sk-ant-api03-abcdefghijklmnop1234-xyz", "***"),
    ("xoxb-123456789012-abcdefghij", "***"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc_def-ghi", "***"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "***"),
    ("sk-learn", "sk-learn"),
    ("task-classification-baseline-long", "task-classification-baseline-long"),
    ("123e4567-e89b-12d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
    ("MobileNetV3LargeWeights", "MobileNetV3LargeWeights"),
    ("20261123213000000000001", "20261123213000000000001"),
    ("loss is nan at step 300: stopped", "loss is nan at step 300: stopped"),
    ("KeyError: 'train/loss'", "KeyError: 'train/loss'"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "shown"), TEXTS)
def test_texts_lose_their_secrets_only(text: str, shown: str) -> None:
    """URLs, JSON, headers, known forms, randomness."""
    assert redact_text(text) == shown


def test_a_url_is_masked_and_otherwise_left_alone() -> None:
    """A remote's address still says where the code came from."""
    assert redact_url("https://ada:ghp_x@host/ada/repo.git") == "https://***@host/ada/repo.git"
    assert redact_url("ssh://git@host/ada/repo.git") == "ssh://***@host/ada/repo.git"
    assert redact_url("/srv/repo.git") == "/srv/repo.git"


def test_parameters_under_a_secret_name_are_masked() -> None:
    """Switches stay, vocabularies stay, numbers under a secret's name don't."""
    params: dict[str, Any] = {
        "lr": 0.1, "max_tokens": 512, "hub/token": "abc", "password": 1234, "use_auth": True, "api_key": None,
        "pad_token": "<pad>", "token": "[CLS]", "logger": '{"api_key": "abc"}', "url": "https://a:b@host",
    }  # fmt: skip
    assert redact_params(params) == {
        "lr": 0.1, "max_tokens": 512, "hub/token": "***", "password": "***", "use_auth": True, "api_key": None,
        "pad_token": "<pad>", "token": "[CLS]", "logger": '{"api_key": "***"}', "url": "https://***@host",
    }  # fmt: skip


def test_the_environment_is_an_allow_list() -> None:
    """Whatever isn't known to matter stays at home."""
    environ = {"CUDA_VISIBLE_DEVICES": "0,1", "NCCL_DEBUG": "INFO", "HOME": "/root", "WANDB_API_KEY": "abc"}
    assert redact_environ(environ) == {"CUDA_VISIBLE_DEVICES": "0,1", "NCCL_DEBUG": "INFO"}


def test_long_command_lines_are_cut() -> None:
    """A thousand arguments, four thousand characters each."""
    shown = redact_argv(["x" * 10_000, *["y"] * 5_000])
    assert len(shown) == 1_001
    assert shown[0] == "x" * 4_096 + "..."
    assert shown[-1] == "..."


@pytest.mark.parametrize("text", ["a" * 50_000, "a:" * 25_000, "://a@" * 10_000, "sk-" * 15_000, "a=" * 20_000])
def test_no_text_takes_long(text: str) -> None:
    """No pattern backtracks without end."""
    start = time.process_time()
    redact_text(text)
    assert time.process_time() - start < 2


ALPHANUMERIC = string.ascii_letters + string.digits
secrets = st.text(ALPHANUMERIC, min_size=8, max_size=40).map(lambda text: "Zq" + text)
ways = st.sampled_from([
    "--api-key {}", "--api-key={}", "token={}", "HF_TOKEN={}", "--env HF_TOKEN={}", "--env=HF_TOKEN={}",
    "--db.password {}", "+logger.auth={}", "https://ada:{}@host/x", "https://{}@host", "--url=kafka://u:{}@h:1/t",
    "--x=https://host/?api_key={}&y=1", "--credentials={}", "-e SECRET={}", 'cfg={{"api_key":"{}"}}',
])  # fmt: skip
plain = st.sampled_from(
    ["train.py", "--lr", "0.1", "--verbose", "-v", "/data/x", "a=1", "--use-auth", "model.token_dim=3"]
)


@given(st.lists(plain), ways, secrets, st.lists(plain))
def test_no_planted_secret_survives(before: list[str], way: str, secret: str, after: list[str]) -> None:
    """Wherever it stands in a command line; the arguments around it stay as many."""
    arguments = [*before, *way.format(secret).split(), *after]
    shown = redact_argv(arguments)
    assert secret not in " ".join(shown)
    assert len(shown) == len(arguments)


@given(st.text(max_size=200))
def test_any_text_is_taken_and_a_second_pass_changes_nothing(text: str) -> None:
    """Total and idempotent."""
    once = redact_text(text)
    assert redact_text(once) == once


known = st.sampled_from([
    "ghp_", "gho_", "github_pat_", "hf_", "sk-", "sk-proj-", "sk-ant-api03-", "xoxb-1234-", "glpat-", "rwt_", "pypi-",
])  # fmt: skip


@given(known, st.text(ALPHANUMERIC, min_size=30, max_size=40), st.text(" .,;\n", min_size=1))
def test_known_forms_are_masked_in_any_text(prefix: str, body: str, around: str) -> None:
    """The prefix alone gives them away."""
    assert body not in redact_text(f"see{around}{prefix}{body}{around}end")
