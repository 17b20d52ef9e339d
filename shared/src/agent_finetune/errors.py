"""Every error that this project raises on purpose.

A message says where, what was found (with ``{x!r}``) and what is legal, for example
``traces.jsonl:17: no key 'messages'; keys are 'id', 'output'``. Each class is also the standard
library's error of the same meaning, so that callers may catch either. The command line prints
one line and exits with 2; any other exception is our bug and keeps its traceback.
"""


class FinetuneError(Exception):
    """Base of all errors that tell the user what to change."""


class ConfigError(FinetuneError, ValueError):
    """A setting is unknown, missing, of the wrong type or out of range."""


class DataError(FinetuneError, ValueError):
    """A data file or a row in it cannot be used; the message names file and line."""


class ModelError(FinetuneError, RuntimeError):
    """A model or adapter cannot be found, read or held on this device."""


class RenderError(FinetuneError, ValueError):
    """A chat template cannot express an example, or what it renders cannot be trained."""


class TrainError(FinetuneError, RuntimeError):
    """Training stopped: not a number, out of memory, or a checkpoint that does not fit."""


class EngineError(FinetuneError, RuntimeError):
    """A live engine is closed, or an answer could not be generated."""


class ContextError(EngineError, ValueError):
    """A prompt, with the answer that was asked for, is longer than the model's context."""


class BusyError(EngineError):
    """The model is away for an update; the same thing may be asked again."""


class PluginError(FinetuneError, RuntimeError):
    """A plugin does not load, or implements a hook that does not exist."""


class DiskError(FinetuneError, OSError):
    """A file could not be written because there is no room for it: disk, quota or file size."""


class DownloadError(FinetuneError, OSError):
    """A pinned file could not be fetched, or is not the file that was pinned."""
