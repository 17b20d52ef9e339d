"""Downloads from ModelScope's hub: asked once, answered in seconds, whole or not at all.

The bytes are fetched by ModelScope's own client, which resumes and checks them. What it leaves to
its callers is done here: it retries for a quarter of a minute before it says that there is no hub,
puts a file wherever its name says, fetches pickle files and code, and leaves half a download where
its cache looks for a whole one.
"""

from __future__ import annotations

import hashlib
import io
import logging
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from agent_finetune.errors import ModelError
from modelscope_agent_train import hub_cache
from modelscope_agent_train.hub_cache import DEFAULT_REVISION, PICKLES, Repo
from modelscope_agent_train.hub_settings import HubSettings

if TYPE_CHECKING:
    from modelscope_hub import HubApi
    from modelscope_hub.config import HubConfig

Say = Callable[[str], None]

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 20.0
RETRIES, RECOVERY_SECONDS = 5, 60.0
WORKERS = 4

_MODEL_FILES = (".json", ".jinja", ".safetensors", ".txt", ".model", ".tiktoken", ".vocab", ".md")
_DATA_FILES = (".json", ".jsonl", ".csv", ".parquet", ".md")
_NAMES = ("LICENSE", "NOTICE")


class HubError(Exception):
    """The hub cannot or will not give a repository; the message says why in one line.

    `why` is `absent` (it says that there is none), `unreachable` (it did not answer) or `refused`
    (it has it, and something forbids to take it).
    """

    def __init__(self, why: Literal["absent", "unreachable", "refused"], message: str) -> None:
        super().__init__(message)
        self.why = why


def fetch(repo: Repo, settings: HubSettings, say: Say) -> Path:
    """Download a repository into ModelScope's cache; processes that want the same wait in turn.

    Returns:
        The folder, whole.

    Raises:
        HubError: It cannot be had. What was fetched so far is kept, and the next call goes on.
    """
    if repo.revision is not None and not hub_cache.is_safe_path(repo.revision):
        raise HubError("refused", f"{repo.revision!r} is no revision")
    site = _find_site(repo, settings)
    with _alone(repo, settings):
        # Another process may have fetched it while this one waited.
        return hub_cache.find(repo, settings.cache_dir) or _fetch(repo, site, settings, say)


def client(settings: HubSettings, site: str) -> HubApi:
    """ModelScope's own client for one site."""
    from modelscope_hub import HubApi

    return HubApi(_config(settings, site))


def _config(settings: HubSettings, site: str) -> HubConfig:
    """What its client is told; without a token of ours it takes that of `modelscope login`."""
    from modelscope_hub.config import HubConfig

    return HubConfig(
        endpoint=site,
        cache_dir=settings.cache_dir,
        config_dir=settings.home,
        token=settings.token.reveal() if settings.token else None,
    )


def cleaned(text: object, settings: HubSettings) -> str:
    """The first line of what a client said, without the token."""
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    line = lines[0] if lines else type(text).__name__
    return line.replace(settings.token.reveal(), "***") if settings.token else line


def _find_site(repo: Repo, settings: HubSettings) -> str:
    """The first site that has the repository, in the revision that is asked for."""
    errors = []
    for site in settings.sites:
        try:
            _check_revision(repo, revisions(repo, site, settings), site)
        except HubError as error:
            if error.why == "refused":
                raise
            errors.append(error)
        else:
            return site
    unreachable = [error for error in errors if error.why == "unreachable"]
    raise (unreachable or errors)[0]


def has_token(settings: HubSettings) -> bool:
    """Whether there is one, in the settings or of `modelscope login`."""
    return bool(_config(settings, settings.sites[0]).token)


@contextmanager
def told(settings: HubSettings, what: str) -> Iterator[None]:
    """Tell what ModelScope's client raises in one line, without the token.

    Raises:
        ModelError: It raised something.
    """
    from modelscope_hub.errors import HubError as ClientError

    try:
        yield
    except (ClientError, OSError) as error:
        # Its text may be what the hub said, and that the token; hence no cause is shown.
        raise ModelError(f"{what}: {cleaned(error, settings)}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """ModelScope's client logs warnings only, and draws its bars only on a terminal."""
    import modelscope_hub  # noqa: F401  # sets its logger's level when it is first imported

    log = logging.getLogger("modelscope_hub")
    level = log.level
    with ExitStack() as stack:
        stack.callback(log.setLevel, level)
        log.setLevel(max(level, logging.WARNING))
        if sys.stderr is None or not sys.stderr.isatty():
            stack.enter_context(redirect_stderr(io.StringIO()))
        yield


def revisions(repo: Repo, site: str, settings: HubSettings) -> frozenset[str]:
    """Branches and tags, by one request without retries, so that a bad name is told at once.

    Raises:
        HubError: The hub does not have it, does not answer, or refuses.
    """
    import requests

    token = _config(settings, site).token
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"{site}/api/v1/{repo.kind}s/{repo.id}/revisions"
    try:
        answer = requests.get(
            url,
            headers=headers,
            cookies={"m_session_id": token} if token else None,
            timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
        )
    except requests.RequestException as error:
        reason = type(error).__name__
        raise HubError("unreachable", f"{site} cannot be reached ({reason})") from error
    if answer.status_code >= 400:
        raise _refusal(answer.status_code, repo, site, settings)
    try:
        listed = answer.json()["Data"]["RevisionMap"]
        entries = [*(listed.get("Branches") or []), *(listed.get("Tags") or [])]
        return frozenset(entry["Revision"] for entry in entries)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HubError("unreachable", f"{site} answers, but not as a hub does") from error


def _check_revision(repo: Repo, known: frozenset[str], site: str) -> None:
    wanted = repo.revision or DEFAULT_REVISION
    is_commit = len(wanted) == 40 and all(digit in "0123456789abcdef" for digit in wanted)
    if known and wanted not in known and not is_commit:
        raise HubError(
            "refused", f"no revision {wanted!r} on {site}; it has {', '.join(sorted(known))}"
        )


def _refusal(status: int, repo: Repo, site: str, settings: HubSettings) -> HubError:
    advice = (
        "the token in MODELSCOPE_API_TOKEN does not open it"
        if settings.token
        else "if you have access, set MODELSCOPE_API_TOKEN in the environment or in .env"
    )
    if status == 404:
        return HubError("absent", f"{site} has no {repo.kind} {repo.id!r}, or a private one")
    if status in (401, 403):
        return HubError("refused", f"private or gated on {site} (HTTP {status}); {advice}")
    return HubError("unreachable", f"{site} answers with HTTP {status}")


@contextmanager
def _alone(repo: Repo, settings: HubSettings) -> Iterator[None]:
    from filelock import FileLock

    key = f"{repo.kind}\0{repo.id}\0{repo.revision or DEFAULT_REVISION}"
    name = f"agent-train_{hashlib.sha256(key.encode()).hexdigest()}.lock"
    lock = settings.cache_dir / ".lock" / name
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            yield
    except OSError as error:
        if isinstance(error, HubError):
            raise
        raise HubError("refused", f"cannot be written to {settings.cache_dir}: {error}") from error


def _fetch(repo: Repo, site: str, settings: HubSettings, say: Say) -> Path:
    target = repo.snapshot(settings.cache_dir)
    # Half a download must not lie where ModelScope looks for a whole one.
    work = target if target.is_dir() else _unfinished(repo, settings.cache_dir)
    api = client(settings, site)
    with quiet():
        files = _choose(repo, _list(repo, api, site, settings))
    size = sum(file["Size"] or 0 for file in files)
    say(f"{repo.kind} {repo.id}: {len(files)} files, {size / 1e6:.1f} MB, from {site}")
    with quiet():
        _download(repo, api, files, work, settings)
    if work != target:
        _remove_others(work, {file["Path"] for file in files})
        target.parent.mkdir(parents=True, exist_ok=True)
        work.replace(target)
    if (defect := hub_cache.defect(target, repo)) is not None:
        raise HubError("refused", f"what {site} has of it is not whole: {defect}")
    return target


def _remove_others(folder: Path, wanted: Collection[str]) -> None:
    """Remove what an earlier try fetched and the hub has no more: weights, for one, are globbed."""
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in wanted:
            path.unlink()


def _unfinished(repo: Repo, cache_dir: Path) -> Path:
    revision = (repo.revision or DEFAULT_REVISION).replace("/", "--")
    return repo.folder(cache_dir) / ".unfinished" / revision


def _list(repo: Repo, api: HubApi, site: str, settings: HubSettings) -> Sequence[Any]:
    from modelscope_hub.errors import APIError
    from modelscope_hub.errors import HubError as ClientError

    try:
        return api.list_repo_files(repo.id, repo.kind, revision=repo.revision or DEFAULT_REVISION)
    except APIError as error:
        if error.status_code in (401, 403):
            # Its text is what the hub said, which may be the token.
            raise _refusal(error.status_code, repo, site, settings) from None
        raise HubError("unreachable", f"its files: {cleaned(error, settings)}") from None
    except ClientError as error:
        raise HubError("unreachable", f"its files: {cleaned(error, settings)}") from error


def _choose(repo: Repo, listed: Sequence[Any]) -> list[dict[str, Any]]:
    """The files to fetch, of which none lands outside, is a pickle or is code nobody asked for.

    Raises:
        HubError: A name leads outside of the folder, or nothing is left to fetch.
    """
    paths = [file.path for file in listed if file.type != "tree"]
    for path in paths:
        if not is_inside(path):
            raise HubError("refused", f"it has a file called {path!r}, which lies outside of it")
    wanted = _wanted(repo, paths)
    if repo.kind == "model" and not any(path.endswith(".safetensors") for path in wanted):
        raise HubError("refused", _no_weights(paths))
    if not any(PurePosixPath(path).suffix in (".json", *_DATA_FILES[1:-1]) for path in wanted):
        raise HubError("refused", f"it has no files of {', '.join(_DATA_FILES[:-1])}: {paths[:9]}")
    return [
        # A size of 0 may mean that the hub does not know it.
        {"Path": file.path, "Size": file.size or (None if file.sha256 else 0), **_checksum(file)}
        for file in listed
        if file.path in wanted
    ]


def _checksum(file: Any) -> dict[str, str]:
    return {"Sha256": file.sha256} if file.sha256 else {}


def is_inside(path: object) -> bool:
    """Whether a listed name is one that stays inside the folder."""
    return isinstance(path, str) and hub_cache.is_safe_path(path)


def _wanted(repo: Repo, paths: Sequence[str]) -> frozenset[str]:
    suffixes = _MODEL_FILES if repo.kind == "model" else _DATA_FILES
    suffixes = (*suffixes, ".py") if repo.code else suffixes
    found = {
        path
        for path in paths
        if PurePosixPath(path).suffix in suffixes or PurePosixPath(path).name in _NAMES
    }
    if repo.kind == "dataset":
        return frozenset(found)
    top = {path for path in found if "/" not in path and path.endswith(".safetensors")}
    # Weights in other folders, and those of the maker's own format, are the same ones again.
    same = {path for path in top if path.startswith("consolidated")}
    keep = top - same or top
    return frozenset(path for path in found if not path.endswith(".safetensors") or path in keep)


def _no_weights(paths: Sequence[str]) -> str:
    ggufs = [path for path in paths if path.endswith(".gguf")]
    if ggufs:
        return f"it holds GGUF files; download one of them and give its path: {', '.join(ggufs)}"
    pickled = any(PurePosixPath(path).suffix in PICKLES for path in paths)
    if pickled:
        return (
            "it has no safetensors weights; pickle files (*.bin, *.pt) can run code and are not "
            "fetched. Take a revision with safetensors, or convert it with save_pretrained"
        )
    return f"it has no safetensors weights, only {', '.join(paths[:9])}"


def _download(
    repo: Repo, api: HubApi, files: list[dict[str, Any]], folder: Path, settings: HubSettings
) -> None:
    from modelscope_hub.types import DownloadRetryPolicy

    report = api.download_repo_report(
        repo.id,
        repo.kind,
        revision=repo.revision or DEFAULT_REVISION,
        cache_dir=settings.cache_dir,
        local_dir=folder,
        file_list=files,
        max_workers=WORKERS,
        retry_failed=True,
        retry_policy=DownloadRetryPolicy(max_retries=RETRIES, recovery_timeout=RECOVERY_SECONDS),
    )
    try:
        if report.complete:
            return
        failed = [file for file in report.iter_files() if file.status != "VERIFIED"]
    finally:
        report.close()
    why = report.global_error or next((file.error for file in failed if file.error), report.status)
    names = ", ".join(file.path for file in failed[:3])
    raise HubError(
        "refused",
        f"the download broke off, {len(failed)} of {len(files)} files are missing ({names}): "
        f"{cleaned(why, settings)}; run it again to go on",
    )
