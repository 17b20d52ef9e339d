"""The model hub: find what an id means, and say in one line why it cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent_finetune.contracts import Settings
from agent_finetune.errors import ModelError


def is_repo_id(name: str) -> bool:
    """Whether a name has the form `owner/name` that the hub allows."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def token(settings: Settings) -> str | None:
    """The token for the hub; None lets huggingface_hub use the one of `hf auth login`, if any."""
    return settings.hub_token.reveal() if settings.hub_token else None


def find_commit(name: str, revision: str | None, settings: Settings) -> str:
    """The commit that a hub id and revision mean now; offline, the one in the local cache.

    Raises:
        ModelError: Not found, gated, no network, unknown revision, or not a Transformers model.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        config = hf_hub_download(
            name,
            "config.json",
            revision=revision,
            token=token(settings),
            local_files_only=settings.offline,
        )
    except (HfHubHTTPError, OSError) as error:
        said = explain(error, name, revision, settings)
        raise ModelError(said or f"model {name!r}: {first_line(error)}") from error
    # The hub's cache is laid out as snapshots/<commit>/<file>.
    return Path(config).parent.name


def explain(
    error: BaseException, name: str, revision: str | None, settings: Settings
) -> str | None:
    """One line for an error that huggingface_hub raised, or that has one of its among its causes.

    None when the hub had no part in it.
    """
    for cause in _causes(error):
        said = _reason(cause, name, revision, settings)
        if said:
            return f"model {name!r}: {said}"
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type's name when it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _reason(
    error: BaseException, name: str, revision: str | None, settings: Settings
) -> str | None:
    """What one of huggingface_hub's own errors means; subclasses come before their bases."""
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            return f"gated. Ask for access at its page on the hub{_token_advice(settings)}"
        case errors.RepositoryNotFoundError():
            return (
                "no such repository on the hub, or a private one. Check owner and name"
                f"{_token_advice(settings)}"
            )
        case errors.RevisionNotFoundError():
            return f"no revision {revision!r}; legal are its branches, tags and commits"
        case errors.RemoteEntryNotFoundError():
            return (
                "not a model for Transformers, it has no config.json; for a GGUF repository "
                "download the .gguf file and give its path"
            )
        case errors.OfflineModeIsEnabled():
            return _OFFLINE
        case errors.LocalEntryNotFoundError():
            return _OFFLINE if settings.offline else _unreachable(error)
        case errors.HfHubHTTPError():
            return f"the hub refused: {first_line(error)}{_token_advice(settings)}"
    return None


_OFFLINE = (
    "HF_HUB_OFFLINE is set and it is not in the local cache; unset it, or give a local folder or "
    "GGUF file"
)


def _unreachable(error: BaseException) -> str:
    """A missing cache entry with no network: the reason lies in the error before it."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    cause = error.__cause__
    if isinstance(cause, OfflineModeIsEnabled):
        return _OFFLINE
    if isinstance(cause, HfHubHTTPError):
        return f"the hub refused and it is not in the local cache: {first_line(cause)}"
    why = f" ({first_line(cause)})" if cause else ""
    return (
        f"the hub cannot be reached{why} and it is not in the local cache; check the network, or "
        "give a local folder, a GGUF file or a shipped model"
    )


def _token_advice(settings: Settings) -> str:
    if settings.hub_token:
        return "; the token in HF_TOKEN does not open it"
    return "; if you have access, set HF_TOKEN in the environment or in .env"
