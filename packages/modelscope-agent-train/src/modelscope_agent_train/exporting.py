"""`export`: base and adapter as one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent_finetune.errors import ConfigError
from modelscope_agent_train import outputs
from modelscope_agent_train.arguments import DTYPES
from modelscope_agent_train.flags import flag, parse
from modelscope_agent_train.plan import DTYPES as DTYPE_NAMES


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write base and adapter as one model, which Transformers and ModelScope load alone."""

    ckpt_dir: str | None = flag(None, "run folder, or the adapter's", aliases=["adapter"])
    output_dir: str | None = flag(
        None, "new folder of the model; unset, `merged` beside the adapter"
    )
    dtype: str = flag("auto", "number format of the weights; auto is the base's", choices=DTYPES)


def main(argv: Sequence[str]) -> int:
    """Read flags and merge; answer the exit code."""
    from agent_finetune.settings import read_settings

    arguments = parse(ExportArguments, argv, prog="modelscope-agent-train export").arguments
    if arguments.ckpt_dir is None:
        raise ConfigError("--ckpt_dir is missing; give a run's folder, or an adapter's")
    adapter = adapter_of(Path(arguments.ckpt_dir).expanduser())
    out = Path(arguments.output_dir or adapter.parent / "merged").expanduser()

    from agent_finetune import adapters

    adapters.merge(adapter, out, read_settings(), dtype=DTYPE_NAMES[arguments.dtype])
    outputs.write_card_and_configuration(out)
    print(out)
    return 0


def adapter_of(folder: Path) -> Path:
    """The adapter that a folder is, or that the run in it left.

    Raises:
        ConfigError: It is neither.
    """
    for path in (folder, folder / "adapter"):
        if (path / "adapter_config.json").is_file():
            return path
    raise ConfigError(
        f"--ckpt_dir {folder}: no adapter in it; give a run's folder (vN-...)"
        ", or an adapter's. A full run needs no export: its `model` folder loads alone"
    )
