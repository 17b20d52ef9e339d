"""The model hub: find what an id means, and say in one line why it cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from agent_finetune.contracts import Settings
from agent_finetune.errors import ModelError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError


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
    """The commit that a hub id and revision mean now; without network, the one in the local cache.

    Raises:
        ModelError: Not found, gated, no network, unknown revision, or not a Transformers model.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    why = None if settings.offline else _why_not_to_be_had(name, revision, settings)
    if settings.offline or why:
        config = try_to_load_from_cache(name, "config.json", revision=revision)
        if not isinstance(config, str):
            raise ModelError(_not_cached(name, revision, settings, why)) from without_token(
                why, settings
            )
    else:
        # Downloading also writes down what the revision means, so that it is known offline.
        try:
            config = hf_hub_download(name, "config.json", revision=revision, token=token(settings))
        except OSError as error:  # the network went away in between, or the disk is full
            raise ModelError(_not_cached(name, revision, settings, error)) from without_token(
                error, settings
            )
    # The hub's cache is laid out as snapshots/<commit>/<file>.
    return Path(config).parent.name


def _why_not_to_be_had(name: str, revision: str | None, settings: Settings) -> Exception | None:
    """Ask the hub once, without the retries of a download, so that the answer comes at once.

    None when it has the model; an error when it could not be asked.

    Raises:
        ModelError: The hub's answer is no.
    """
    from httpx import HTTPError
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    final = (
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.RemoteEntryNotFoundError,
    )
    try:
        get_hf_file_metadata(
            hf_hub_url(name, "config.json", revision=revision), token=token(settings)
        )
    except final as error:
        raise ModelError(explain(error, name, revision, settings)) from without_token(
            error, settings
        )
    except (HTTPError, OSError) as error:
        return error
    return None


def _not_cached(name: str, revision: str | None, settings: Settings, why: Exception | None) -> str:
    from httpx import TransportError

    told = None
    if why is not None and not isinstance(why, TransportError):  # which has nothing to break off
        told = explain(why, name, revision, settings)
    return told or masked(f"model {name!r}: {_unreachable(why, settings)}", settings)


def explain(
    error: BaseException, name: str, revision: str | None, settings: Settings
) -> str | None:
    """One line for an error that huggingface_hub raised, or that has one of its among its causes.

    None when the hub had no part in it.
    """
    for cause in _causes(error):
        said = _reason(cause, name, revision, settings)
        if said:
            return f"model {name!r}: {masked(said, settings)}"
    return None


def masked(text: str, settings: Settings) -> str:
    """The text without the token, should a server or a library have put it in."""
    secret = token(settings)
    return text.replace(secret, "***") if secret else text


def without_token(error: BaseException | None, settings: Settings) -> BaseException | None:
    """The error, to be named as a cause; None where it or a cause of it holds the token.

    A server may echo what it was sent, and a traceback shows every cause.
    """
    secret = token(settings)
    if error is None or secret is None:
        return error
    return None if any(secret in f"{cause!r}{cause}" for cause in _causes(error)) else error


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
    from httpx import TransportError
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
            return _unreachable(error.__cause__, settings)
        case errors.HfHubHTTPError():
            return _refusal(error, settings)
        case TransportError():
            return (
                f"the connection to the hub broke off ({first_line(error)}); run it again, what "
                "has come whole is kept"
            )
        case OSError() if "Consistency check failed" in str(error):
            return "the hub sent more or less of a file than it announced; run it again"
    return None


def _refusal(error: HfHubHTTPError, settings: Settings) -> str:
    """What a status says that has no class of its own."""
    status = error.response.status_code
    if status == _TOO_MANY:
        wait = error.response.headers.get("Retry-After", "")
        when = f"in {wait} seconds" if wait.isdigit() else "in some minutes"
        advice = "" if settings.hub_token else ", or set HF_TOKEN: with it the hub allows more"
        return f"the hub was asked too often (429); run it again {when}{advice}"
    if status >= _ITS_OWN_TROUBLE:
        return f"the hub has trouble of its own ({status}); run it again later"
    return f"the hub refused: {first_line(error)}{_token_advice(settings)}"


_TOO_MANY, _ITS_OWN_TROUBLE = 429, 500
_OFFLINE = (
    "HF_HUB_OFFLINE is set and it is not in the local cache; unset it, or give a local folder or "
    "GGUF file"
)


def _unreachable(why: BaseException | None, settings: Settings) -> str:
    """It is not in the local cache, and the hub could not be asked, for the reason given."""
    if settings.offline:
        return _OFFLINE
    reason = f" ({first_line(why)})" if why else ""
    return (
        f"the hub cannot be reached{reason} and it is not in the local cache; check the network, "
        "or give a local folder, a GGUF file or a shipped model"
    )


def _token_advice(settings: Settings) -> str:
    if settings.hub_token:
        return "; the token in HF_TOKEN does not open it"
    return "; if you have access, set HF_TOKEN in the environment or in .env"
