"""One backbone speaking as planner, caller and summarizer, or as the single model, turn by turn.

The live engine switches adapters from request to request, with no reload: a role is a name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from agent_finetune import plugins
from agent_finetune.config import ModelConfig, check_at_least
from agent_finetune.contracts import Engine, EngineConfig, Request, Result, Settings
from agent_finetune.errors import ConfigError, ContextError
from agent_finetune.roles.prompts import ROLES, Next, Part, Plan, read_plan, see
from agent_finetune.roles.turns import Asked, Turn, of_roles, of_single

__all__ = ["Asked", "Team", "Turn", "open_team"]

MAX_NEW_TOKENS = 256
_EXECUTOR = {Next.CALL: Part.CALLER, Next.CONCLUDE: Part.SUMMARIZER}


class Team:
    """Three roles, or the single model, on a live engine; always the likeliest token.

    Args:
        engine: The model. By part where each has weights of its own, as after full fine-tuning.
        adapters: By part the attached adapter that speaks, None being the engine's own voice.
            Either `backbone` alone, the single model, or the three roles; these may share one
            adapter, which is the single model taught several tasks.
        max_new_tokens: Most tokens of one part's words.
        force_call: Hold the caller to a call that parses and names a tool offered, while it is
            generated. Off, it is free to say what it likes, as it was measured in the paper.

    Raises:
        ConfigError: The parts are neither, or one has no engine.
    """

    def __init__(
        self,
        engine: Engine | Mapping[Part, Engine],
        adapters: Mapping[Part, str | None],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        force_call: bool = False,
    ) -> None:
        check_at_least("max_new_tokens", max_new_tokens, 1)
        if set(adapters) not in ({Part.BACKBONE}, set(ROLES)):
            found = ", ".join(adapters) or "none"
            raise ConfigError(f"a team of {found}; legal are backbone alone, or {', '.join(ROLES)}")
        engines = engine if isinstance(engine, Mapping) else dict.fromkeys(adapters, engine)
        if missing := [part.value for part in adapters if part not in engines]:
            raise ConfigError(f"no engine for {', '.join(missing)}")
        self.adapters: Mapping[Part, str | None] = MappingProxyType(dict(adapters))
        """By part, the name that it speaks by."""
        self.engines: Mapping[Part, Engine] = MappingProxyType(
            {part: engines[part] for part in adapters}
        )
        self._max_new_tokens = max_new_tokens
        self._force_call = force_call

    @classmethod
    def of(
        cls,
        folder: Path,
        engine: Engine,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        force_call: bool = False,
    ) -> Team:
        """Attach the adapters that `train_roles` left in a folder; names are its path's own.

        Args:
            folder: With roles.json in it, or the path of that file.
            engine: The model that they were trained on.
            max_new_tokens: See `Team`.
            force_call: See `Team`.

        Raises:
            ConfigError: There is no roles.json, or what was trained are whole models.
            ModelError: An adapter does not fit the model.
        """
        from agent_finetune.roles.recipe import read_manifest

        folder = _folder(folder)
        found = read_manifest(folder)
        if found["method"] == "full":
            raise ConfigError(f"{folder}: holds whole models, not adapters; use open_team")
        names: dict[Path, str] = {}
        adapters: dict[Part, str | None] = {}
        for part, path in found["parts"].items():
            if path not in names:
                names[path] = _name(path)
                engine.attach(names[path], path)
            adapters[Part(part)] = names[path]
        return cls(engine, adapters, max_new_tokens=max_new_tokens, force_call=force_call)

    @property
    def single(self) -> bool:
        """Whether one model does all in one turn."""
        return Part.BACKBONE in self.adapters

    def turns(
        self,
        asked: Sequence[Asked],
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[Turn]:
        """Make turns, all at once as far as the engine batches: planners first, then the others.

        Args:
            asked: What to answer.
            on_progress: Called with the number of turns done and of all; a turn whose plan alone
                is there counts half.

        Raises:
            EngineError: The engine failed. A prompt that is too long is not raised: see `Turn`.
        """
        first = Part.BACKBONE if self.single else ROLES[0]
        told = _Progress(len(asked), 1 if self.single else 2, on_progress)
        begun = self._ask([(first, one, None) for one in asked], told.tick)
        if self.single:
            return [of_single(said) for said in begun]
        plans = [
            Plan(thought="", next=None) if isinstance(said, str) else read_plan(said.message.text)
            for said in begun
        ]
        parts = [None if plan.next is None else _EXECUTOR.get(plan.next) for plan in plans]
        todo = [
            (part, one, plan)
            for part, one, plan in zip(parts, asked, plans, strict=True)
            if part is not None
        ]
        told.tick(len(asked) - len(todo))
        answers = iter(self._ask(todo, told.tick))
        return [
            of_roles(plan, {first: said} | ({part: next(answers)} if part else {}))
            for plan, said, part in zip(plans, begun, parts, strict=True)
        ]

    def close(self) -> None:
        """Close the engines; what others hold on the same weights stays."""
        for engine in self.engines.values():
            engine.close()

    def request(self, part: Part, asked: Asked, plan: Plan | None = None) -> Request:
        """What a part is asked, for those who send it themselves.

        Args:
            part: Of this team.
            asked: The conversation so far.
            plan: What the planner just said, for caller and summarizer.
        """
        seen = see(part, asked.messages, asked.tools, plan)
        forced = self._force_call and part is Part.CALLER and seen.tools
        return Request(
            messages=seen.messages,
            tools=seen.tools,
            tool_choice="required" if forced else "auto",
            adapter=self.adapters[part],
            max_new_tokens=self._max_new_tokens,
        )

    def _ask(
        self, todo: Sequence[tuple[Part, Asked, Plan | None]], tick: Callable[[int], None]
    ) -> list[Result | str]:
        """Results in order; a text is why there is none, the prompt being too long."""
        under_way = [
            self.engines[part].stream(self.request(part, asked, plan)) for part, asked, plan in todo
        ]
        results: list[Result | str] = []
        try:
            for generation in under_way:
                try:
                    results.append(generation.result())
                except ContextError as error:
                    results.append(str(error))
                tick(1)
        finally:
            for generation in under_way[len(results) :]:
                generation.cancel()
        return results


def open_team(
    folder: Path,
    settings: Settings,
    *,
    config: EngineConfig | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    force_call: bool = False,
) -> Team:
    """Open what `train_roles` left in a folder: one engine, or one for each model of its own.

    Args:
        folder: With roles.json in it, or the path of that file.
        settings: Cache, token and offline switch.
        config: How to serve; its model should be the one that was trained. None takes that one,
            held as it was in training.
        max_new_tokens: See `Team`.
        force_call: See `Team`.

    Returns:
        A team whose engines are its own: close it.

    Raises:
        ConfigError: There is no roles.json, or it is not ours.
        ModelError: A model or adapter cannot be had, or the two do not fit.
    """
    from agent_finetune.roles.recipe import read_manifest

    folder = _folder(folder)
    found = read_manifest(folder)
    if config is None:
        config = EngineConfig(model=replace(ModelConfig(**found["model"]), adapter=None))
    if found["method"] != "full":
        engine = plugins.open_engine(config, settings)
        try:
            return Team.of(folder, engine, max_new_tokens=max_new_tokens, force_call=force_call)
        except BaseException:
            engine.close()
            raise
    engines = {
        Part(part): plugins.open_engine(
            replace(config, model=replace(config.model, model=str(path))), settings
        )
        for part, path in found["parts"].items()
    }
    voices = dict.fromkeys(engines)
    return Team(engines, voices, max_new_tokens=max_new_tokens, force_call=force_call)


class _Progress:
    """Turns done, counted in equal parts of a turn."""

    def __init__(
        self, turns: int, parts: int, on_progress: Callable[[int, int], None] | None
    ) -> None:
        self._turns, self._parts, self._tell = turns, parts, on_progress
        self._done = 0

    def tick(self, count: int) -> None:
        if count and self._tell is not None:
            self._done += count
            self._tell(self._done // self._parts, self._turns)


def _folder(path: Path) -> Path:
    path = Path(path)
    return path.parent if path.name == "roles.json" else path


def _name(adapter: Path) -> str:
    """A name that no other folder's adapter has: names belong to weights, which many share."""
    at = adapter.resolve()
    return f"{at.parent.name}-{hashlib.sha256(str(at).encode()).hexdigest()[:12]}"
