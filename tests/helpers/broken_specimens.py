"""The kinds of inputs that `broken_inputs` breaks, by name."""

from broken_data import Data, Leaderboard, Parquet, Recorded
from broken_models import Adapter, Gguf, Model
from broken_runs import Config, Runs

KINDS = {
    "data": Data,
    "parquet": Parquet,
    "leaderboard": Leaderboard,
    "recordings": Recorded,
    "config": Config,
    "run": Runs,
    "model": Model,
    "gguf": Gguf,
    "adapter": Adapter,
}
