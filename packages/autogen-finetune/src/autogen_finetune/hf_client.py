"""`HFModelClient`: a local model, as classic AutoGen registers one (`autogen`, 0.2 to 0.14)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from agent_finetune.contracts import Generation, Request, Result, Settings
from agent_finetune.errors import ConfigError
from agent_finetune.readers.chat import as_tools
from autogen_finetune.config import (
    GENERATION_KEYS,
    LIVE_KEYS,
    MODEL_KEYS,
    NESTED,
    ClientConfig,
    read_config,
    read_options,
)
from autogen_finetune.oai import to_messages
from autogen_finetune.responses import Asked, HFResponse, Usage, choice_of
from autogen_finetune.threads import Agent, learn_from

if TYPE_CHECKING:
    from autogen_finetune.live import LiveModel

HOST_KEYS = (
    *("model_client_cls", "api_type", "api_version", "api_key", "base_url", "organization"),
    *("http_client", "default_headers", "extra_headers", "timeout", "max_retries", "tags"),
    *("price", "cache_seed", "cache", "filter_func", "allow_format_str_template", "context"),
    *("check_every_ms", "routing_method", "response_buffer_size", "config_list", "stream"),
    *("tools", "functions", "tool_choice", "function_call", "parallel_tool_calls", "n"),
    *("response_format", "user", "verbosity", "reasoning_effort", "voice", "messages"),
    "hide_tools",
)
"""Keys of a config entry that AutoGen writes or reads itself."""
KNOWN = frozenset({*HOST_KEYS, *MODEL_KEYS, *LIVE_KEYS, *GENERATION_KEYS, *NESTED, "prompt"})
"""Keys that a call may have; those of its entry are among them."""
SPEAKS_AS = "speaks_as"
"""Key by which `registration.attach` marks an agent's entries, so that a client that AutoGen
makes again goes on as the one before."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Speaker:
    """A live model, and how it was registered: what stays when AutoGen makes clients again."""

    live: LiveModel
    options: Mapping[str, Any]
    """Keywords of the registration."""
    place: tuple[Any, ...]
    """What the config says of model and adapter: clients that agree may speak as one."""


SPEAKERS: WeakValueDictionary[str, Speaker] = WeakValueDictionary()
"""By the mark in an agent's config; each is there as long as a client or an agent holds it."""


class HFModelClient:
    """A client to register: `agent.register_model_client(model_client_cls=HFModelClient)`.

    Making one loads nothing. Clients of the same weights share them; what one learns is its own,
    or that of everyone who names the same adapter. Any thread may call.

    Args:
        config: The entry of the config list, `"model_client_cls": "HFModelClient"` in it; other
            keys are those of `config.read_config`, which may also be under `extra_body`.
        live: A live model to speak through, instead of one that is opened from the config.
        settings: Token, cache and offline switch; None reads environment and `.env`.
        before: Who spoke in this client's place; goes on if the config means the same model and
            adapter. None is who has the entry's mark.
        **options: Keys that join the entry, and go before it.

    Raises:
        ConfigError: A key is not known or has no legal value.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        live: LiveModel | None = None,
        settings: Settings | None = None,
        before: Speaker | None = None,
        **options: Any,
    ) -> None:
        self.written = dict(config.items())  # in 0.9 a model of pydantic, which has items
        before = before or SPEAKERS.get(str(_nested(self.written, SPEAKS_AS)))
        options = {**(before.options if before else {}), **options}
        entry = {**self.written, **options}
        self.config: ClientConfig = read_config(
            entry, ignored=(*HOST_KEYS, SPEAKS_AS), what="llm_config"
        )
        self._count = _nested(entry, "n")
        place = (
            self.config.model,
            self.config.adapter,
            self.config.store,
            self.config.record_to,
        )
        if live is None and before is not None and before.place == place:
            live = before.live
        live = live or self.config.open(settings)
        self.speaker = Speaker(live=live, options=options, place=place)
        if before is not None and live is before.live and options == before.options:
            self.speaker = before

    @property
    def live(self) -> LiveModel:
        """What answers, and learns."""
        return self.speaker.live

    def create(self, params: Mapping[str, Any]) -> HFResponse:
        """Answer; the whole answer is waited for.

        Args:
            params: `messages` (or `prompt`), and of OpenAI's others `tools`, `functions`,
                `tool_choice`, `response_format`, `n` and the options of GENERATION_KEYS.

        Raises:
            ConfigError: An option is not known or has no legal value.
            FinetuneError: The model cannot be had, or the conversation not be answered.
        """
        return self._answer(self._asked(params))

    def renew(self, response: HFResponse) -> None:
        """Answer anew what came out of a cache, if this model would not answer so any more."""
        same = self.live.revision == response.revision
        if not same or self._options(response.asked) != response.made_with:
            response.renewed(self._answer(response.asked))

    def message_retrieval(self, response: HFResponse) -> list[str] | list[dict[str, Any]]:
        """The answers, words or messages with calls."""
        return [choice.message.retrieved() for choice in response.choices]  # type: ignore[return-value]

    def cost(self, response: HFResponse) -> float:
        """Nothing."""
        return 0.0

    @staticmethod
    def get_usage(response: HFResponse) -> dict[str, Any]:
        """Tokens of the response under AutoGen's RESPONSE_USAGE_KEYS."""
        return {**vars(response.usage), "cost": response.cost, "model": response.model}

    def update_model(
        self,
        preference_data: Sequence[Any] | None,
        inference_messages: Sequence[Mapping[str, Any]],
        *,
        agent: Agent | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Learn from feedback; with what was learned the next answer is made, if it is any better.

        Args:
            preference_data: Items of every shape that `feedback.read_feedback` takes, in which a
                `turn` is an index of `inference_messages`; None is what was judged so far.
            inference_messages: The conversation.
            agent: Whose side it is told from: its system message and tools belong to it.
            **kwargs: Those of `LiveModel.update`.

        Raises:
            FinetuneError: Nothing can be learned, or training failed; all stands as it was.
        """
        return learn_from(self.live, preference_data, inference_messages, agent, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> HFModelClient:
        return self

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("HFModelClient has a live model behind it and cannot be pickled")

    def _asked(self, params: Mapping[str, Any]) -> Asked:
        for key in sorted(params.keys() - KNOWN - self.written.keys()):
            if params[key] is not None:
                known = ", ".join(sorted(GENERATION_KEYS))
                raise ConfigError(f"create: no option {key!r} is known; legal are {known}")
        tools = as_tools(params.get("tools"))
        functions = () if tools else as_tools(params.get("functions"))
        changed = {
            key: value
            for key, value in params.items()
            if key in GENERATION_KEYS and value is not None and self.written.get(key) != value
        }
        return Asked(
            messages=[dict(message) for message in _messages(params)],
            tools=tools or functions,
            tool_choice=_tool_choice(params) if tools or functions else "auto",
            schema=_schema(params.get("response_format")),
            options=read_options(changed, "create"),
            count=params.get("n"),
            functions=bool(functions),
        )

    def _options(self, asked: Asked) -> dict[str, Any]:
        count = asked.count or self._count or 1
        return {**self.config.generation, **asked.options, "n": count}

    def _answer(self, asked: Asked) -> HFResponse:
        options, revision = self._options(asked), self.live.revision
        results = self._generate(asked, dict(options))
        prompt = results[0].usage.prompt_tokens
        completion = sum(result.usage.completion_tokens for result in results)
        return HFResponse(
            id=results[0].id,
            choices=[choice_of(result, asked, index) for index, result in enumerate(results)],
            model=self.config.model.model,
            created=int(time.time()),
            usage=Usage(
                prompt_tokens=prompt,
                completion_tokens=completion,
                total_tokens=prompt + completion,
            ),
            revision=revision,
            asked=asked,
            made_with=options,
        )

    def _generate(self, asked: Asked, options: dict[str, Any]) -> list[Result]:
        """As many answers as are wanted, made at once; each draws with a seed of its own."""
        count, seed = options.pop("n"), options.pop("seed", None)
        if not isinstance(count, int) or count < 1:
            raise ConfigError(f"n is {count!r}; it must be a whole number, 1 or more")
        messages = to_messages(asked.messages)
        begun: list[Generation] = []
        try:
            for index in range(count):
                request = Request(
                    messages=messages,
                    tools=asked.tools,
                    tool_choice=asked.tool_choice,
                    schema=asked.schema,
                    seed=None if seed is None else seed + index,
                    **options,
                )
                begun.append(self.live.stream(request))
            return [generation.result() for generation in begun]
        except BaseException:
            for generation in begun:
                generation.cancel()
            raise


def _nested(entry: Mapping[str, Any], key: str) -> Any:
    """A key's value, beside the others or in an object that a host lets through."""
    places = [entry, *(entry.get(nest) or {} for nest in NESTED)]
    return next((place[key] for place in places if place.get(key) is not None), None)


def _messages(params: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    if params.get("prompt") is not None:  # completions of before chat: what a user says
        return [{"role": "user", "content": str(params["prompt"])}]
    messages: Sequence[Mapping[str, Any]] = params["messages"]
    return messages


def _tool_choice(params: Mapping[str, Any]) -> str:
    """OpenAI's choice of a tool as the kernel's: auto, none, required, or a name."""
    choice = params.get("tool_choice") or params.get("function_call") or "auto"
    if isinstance(choice, Mapping):
        function = choice.get("function", choice)
        return str(function.get("name") if isinstance(function, Mapping) else function)
    return str(choice)


def _schema(wanted: Any) -> Mapping[str, Any] | None:
    """JSON Schema of OpenAI's `response_format`, or of a class that pydantic knows.

    Raises:
        ConfigError: It is something else.
    """
    if wanted is None or wanted == {"type": "text"}:
        return None
    if wanted == {"type": "json_object"}:
        return {"type": "object"}
    if isinstance(wanted, Mapping):
        named = wanted.get("json_schema")
        schema = named.get("schema") if isinstance(named, Mapping) else None
        if isinstance(schema, Mapping):
            return schema
    elif isinstance(wanted, type):
        from pydantic import TypeAdapter

        return TypeAdapter(wanted).json_schema()
    raise ConfigError(
        f"response_format is {wanted!r}; legal are a class, "
        "{'type': 'text'}, {'type': 'json_object'} and {'type': 'json_schema', 'json_schema': "
        "{'schema': ...}}"
    )
