"""Rows of MSAgent-Bench, made up, and tokenizers of the kinds that the 2023 form meets."""

import json

from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from agent_finetune.records import Row
from agent_finetune.testing.tiny import tiny_tokenizer
from modelscope_agent_train import legacy

SYSTEM = (
    "You are ModelScopeGPT. Plugins:\n\n"
    '1. {"name": "get_weather", "description": "tells it", "parameters": '
    '[{"name": "city", "description": "where", "required": "True"}]}'
)


def think(name="get_weather", **arguments):
    call = json.dumps({"api_name": name, "parameters": arguments}, ensure_ascii=False)
    return f"<|startofthink|>```JSON\n{call}\n```<|endofthink|>"


def executed(result):
    return f"<|startofexec|>```JSON\n{result}\n```<|endofexec|>"


ANSWER = f"{think(city='Rome')}\n\n{executed({'t': 9})}\n9 degrees."
NEXT = f"Once more.\n{think(city='北京')}\n\n{executed('7')}\n7 度。"


def row(*turns, system=SYSTEM):
    """A row of turns, each a question and an answer."""
    said = [{"from": "system", "value": system}]
    for user, assistant in turns:
        said += [{"from": "user", "value": user}, {"from": "assistant", "value": assistant}]
    return {"id": "MS_1", "conversations": said}


def read(data):
    return legacy.read(Row(source="rows.jsonl:1", data=data))


def conversation(*turns, **options):
    return read(row(*turns, **options))


TWO_TURNS = (("Weather in Rome?", ANSWER), ("And 北京?", NEXT))

_SIGNS = ["Rome", " is", "?", "\n", "\n\n", " ", "天气", "é", "😀", "<", "|", ":", "9"]
_MARKUP = ["</s>", "<|user|>:", "<|startofthink|>", "<|endofthink|>", '{"api_name": "w"}', "```"]
_WORDS = st.sampled_from([*_SIGNS, *_MARKUP])
_TEXT = st.lists(_WORDS, max_size=8).map("".join)
_EXEC = _TEXT.map(lambda text: f"<|startofexec|>{text}<|endofexec|>")
_ANSWER = st.lists(_TEXT | _EXEC, max_size=6).map("".join)

well_formed_rows = st.builds(
    lambda system, turns: row(*turns, system=system),
    _TEXT,
    st.lists(st.tuples(_TEXT, _ANSWER), max_size=3),
)
"""Rows that the 2023 script takes without a fault, those that it leaves out among them."""

_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama-3's cutting of words: line breaks stick to the signs before them."""


def with_bos(tokenizer, bos):
    """The same, putting a token before every text, as Llama's do."""
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.convert_tokens_to_ids(bos))]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        bos_token=bos,
        eos_token=tokenizer.eos_token,
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    return made


def llama_2():
    """Metaspace, `<s>` before every text, and `</s>` is the end of sequence itself."""
    return with_bos(tiny_tokenizer(special=("<s>",), eos="</s>", metaspace=True), "<s>")


def llama_3():
    """Bytes, a BOS, and tokens that reach from one part of the text into the next."""
    names = ["<unk>", "<pad>", "<|begin_of_text|>", "<|eot_id|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA_3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = ["Rome?\n\n<|user|>:<|startofthink|><|endofthink|><|startofexec|>1<|endofexec|>"]
    backend.train_from_iterator(corpus * 8, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<|eot_id|>",
        clean_up_tokenization_spaces=False,
    )
    return with_bos(made, "<|begin_of_text|>")


TOKENIZERS = {"tiny": tiny_tokenizer, "llama-2": llama_2, "llama-3": llama_3}
"""The kinds of tokenizer, made anew by each call."""
BOS = {"tiny": "", "llama-2": "<s>", "llama-3": "<|begin_of_text|>"}
