"""Whether what came from the hub is what the hub has: size is checked there, contents are not."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from agent_finetune.contracts import ResolvedModel, Settings
from agent_finetune.errors import ModelError
from agent_finetune.models.digests import sha256_of

_READ = frozenset({".safetensors", ".json", ".jinja", ".model", ".txt", ".py"})
"""Kinds of files that a model is loaded from."""
_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


def check(resolved: ResolvedModel, settings: Settings) -> None:
    """Compare the cached files of a hub model with the checksums that the hub gave for them.

    huggingface_hub lays a file down under its checksum: sha256 for a large one, git's sha1 for a
    small one. What another kind of server names otherwise cannot be compared and is left alone.
    A file is hashed once and remembered. Nothing is done for a model that is not of the hub.

    Raises:
        ModelError: A file has other contents. It is removed, so that it is fetched again.
    """
    if resolved.revision is None:
        return
    for file in _snapshot(resolved):
        blob = file.resolve()
        if file.is_symlink() and blob.is_file() and not _is_what_it_is_called(blob, settings):
            blob.unlink()
            file.unlink()
            raise ModelError(
                f"model {resolved.name!r}: {file.name} is not what the hub announced, its checksum "
                f"is not {blob.name}; it was damaged on the way and has been removed. Run it "
                "again to fetch it anew"
            )


def _snapshot(resolved: ResolvedModel) -> list[Path]:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(resolved.location, "config.json", revision=resolved.revision)
    if not isinstance(config, str):
        return []
    return sorted(path for path in Path(config).parent.rglob("*") if path.suffix in _READ)


def _is_what_it_is_called(blob: Path, settings: Settings) -> bool:
    if _SHA256.fullmatch(blob.name):
        return sha256_of(blob, settings.cache_dir) == blob.name
    if _SHA1.fullmatch(blob.name):
        content = blob.read_bytes()
        # Git hashes a header too; a mirror may give the checksum of the bytes alone.
        forms = (b"blob %d\0" % len(content) + content, content)
        return any(
            hashlib.sha1(form, usedforsecurity=False).hexdigest() == blob.name for form in forms
        )
    return True
