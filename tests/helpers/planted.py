"""Secrets that a test plants, and the search for them in whatever form they may have been left."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    import pytest

NAMES = ("HF_TOKEN", "MODELSCOPE_API_TOKEN", "OPENAI_API_KEY", "SOME_SERVICE_TOKEN")
IN_FILE = ("HUGGINGFACE_TOKEN", "ANOTHER_TOKEN")


def plant(monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[str, ...]:
    """Put a secret of its own under each name into the environment, or into `folder/.env`."""
    made = {name: f"planted_{secrets.token_hex(16)}" for name in (*NAMES, *IN_FILE)}
    for name in NAMES:
        monkeypatch.setenv(name, made[name])
    (folder / ".env").write_text("".join(f"{name}={made[name]}\n" for name in IN_FILE))
    monkeypatch.chdir(folder)
    return tuple(made.values())


def traces(planted: Iterable[str], folder: Path, *said: str) -> list[str]:
    """Where one of the secrets lies: names of files below a folder, and `said N` of the texts."""
    forms = [form for secret in planted for form in _forms(secret)]
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".env")
    places = [(str(path.relative_to(folder)), path.read_bytes()) for path in files]
    places += [(f"said {number}", text.encode()) for number, text in enumerate(said)]
    places += [(str(path.relative_to(folder)), str(path).encode()) for path in folder.rglob("*")]
    return sorted({name for name, content in places if any(form in content for form in forms)})


def _forms(secret: str) -> list[bytes]:
    raw = secret.encode()
    # In base64, three bytes are four letters: the middle of it is the same for one of three starts.
    coded = [base64.b64encode(b" " * shift + raw)[4:-8] for shift in range(3)]
    wide = [secret.encode("utf-16-le"), secret.encode("utf-16-be")]
    return [raw, raw[::-1], raw.hex().encode(), quote(secret).encode(), *coded, *wide]
