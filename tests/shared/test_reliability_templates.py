"""Chat templates that mean harm: they stay in the sandbox, and end soon with our own error."""

import json
import multiprocessing
import resource
import threading
import time

import pytest
from chat_templates import NAMES, tokenizer
from jinja2.exceptions import SecurityError

from agent_finetune.errors import RenderError
from agent_finetune.render import Renderer, probe, sandbox
from agent_finetune.render.messages import as_dicts
from agent_finetune.render.sandbox import CutOffError
from agent_finetune.render.template import Template
from agent_finetune.testing import tiny_tokenizer

USED = (
    [probe.USER],
    [probe.SYSTEM, probe.USER, probe.TEXT, probe.USER_2],
    [probe.USER, probe.FULL_CALL, probe.RESULT, probe.THOUGHT],
)
LONG = "{% set x = 'x' * 4000000 %}"
NESTED = "{% set ns = namespace(a=['']) %}{% for i in range(60) %}"
ENDLESS = {
    "nested ranges": "{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "nested texts": "{% set x = 'x' * 99999 %}{% for a in x %}{% for b in x %}{% for c in x %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "loops that let nothing through": "{% set x = 'x' * 99999 %}{% for a in x %}"
    "{% for b in x if b == 'y' %}{% endfor %}{% endfor %}",
    "a macro that calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n-1) }}"
    "{{ f(n-1) }}{% endif %}"
    "{% endmacro %}{{ f(60) }}",
    "a recursive loop": "{% for a in 'ab' recursive %}{{ loop('ab') }}{% endfor %}",
    "a text that is doubled": "{% set ns = namespace(x='x') %}{% for i in range(60) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "a text that is added": "{% set ns = namespace(x='x') %}{% for i in range(60) %}"
    "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "a long concatenation": LONG + "{{ " + " ~ ".join(["x"] * 2000) + " }}",
    "a text times a number": "{{ 'x' * 10000000000 }}",
    "a list times a number": "{{ [1] * 10000000000 }}",
    "a number times a text": "{{ 10000000000 * 'x' }}",
    "powers": "{{ 10 ** (10 ** 10) }}",
    "products": "{% set ns = namespace(x=10) %}{% for i in range(60) %}"
    "{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "a wide text": "{{ 'x' | center(10000000000) }}",
    "a padded text": "{{ 'x'.ljust(10000000000) }}",
    "a padded number": "{{ '1'.zfill(10000000000) }}",
    "wide tabs": "{{ '\t'.expandtabs(2000000000) }}",
    "a wide format": "{{ '%10000000000d' % 1 }}",
    "a wide format by a filter": "{{ '%10000000000d' | format(1) }}",
    "a wide format by a value": "{{ '%*d' % (1000000000, 1) }}",
    "a wide format by a method": "{{ '{:10000000000}'.format(1) }}",
    "a wide format in a format": "{{ '{:{}}'.format(1, 1000000000) }}",
    "one value many times": LONG + "{{ ('%(x)s' * 99999) % {'x': x} }}",
    "many bytes": "{{ (1).to_bytes(10000000000, 'big') }}",
    "a wide indent": "{{ ('\n' * 99999) | indent(99999) }}",
    "a wide indent of JSON": "{{ ([1] * 9999) | tojson(indent=99999) }}",
    "long separators": LONG + "{{ [1, 2] | tojson(separators=(x, x)) | length }}"
    "{{ (([1] * 9999) | tojson(separators=(x, x))) | length }}",
    "replacing by much": LONG + "{{ x | replace('x', x) }}",
    "replacing by much in a method": LONG + "{{ x.replace('x', x) }}",
    "joining by much": LONG + "{{ x | join(x) }}",
    "joining by much in a method": LONG + "{{ x.join(x) }}",
    "joining what is made on the way": LONG + "{{ x | map('upper') | join(x) }}",
    "translating to much": LONG + "{{ x.translate({120: x}) }}",
    "batches": "{{ 'x' | batch(10000000000, 'x') | list }}",
    "slices": "{{ 'x' | slice(10000000000) | list }}",
    "rounding": "{{ 1.5 | round(10000000000, 'floor') }}",
    "adding up lists": "{{ ([[1]] * 999999) | sum(start=[]) | length }}",
    "much output": LONG + "{% for i in range(99999) %}{{ x }}{% endfor %}",
    "much output of a macro": LONG + "{% macro f() %}{% for i in range(99999) %}{{ x }}{% endfor %}"
    "{% endmacro %}{{ f() }}",
    "much output in a set": LONG + "{% set y %}{% for i in range(99999) %}{{ x }}{% endfor %}"
    "{% endset %}",
    "much literal text": "{% for i in range(99999) %}" + "x" * 99999 + "{% endfor %}",
    "many values kept": "{% set ns = namespace(a=[]) %}{% for i in range(9999) %}"
    "{% set ns.a = ns.a + ['x' * (9999999 + i)] %}{% endfor %}",
    "a list that holds itself twice": NESTED + "{% set ns.a = [ns.a, ns.a] %}{% endfor %}"
    "{{ ns.a }}",
    "a list of lists as JSON": NESTED + "{% set ns.a = [ns.a, ns.a] %}{% endfor %}"
    "{{ ns.a | tojson }}",
    "a dict that holds itself twice": NESTED
    + "{% set ns.a = {'a': ns.a, 'b': ns.a} %}{% endfor %}{{ ns.a }}",
    "a dict that is called": NESTED + "{% set ns.a = dict(a=ns.a, b=ns.a) %}{% endfor %}{{ ns.a }}",
    "tuples that are compared": NESTED + "{% set ns.a = (ns.a, ns.a) %}{% endfor %}{{ ns.a == 1 }}",
    "arguments of a macro": "{% macro f(ns) %}{% set ns.a = varargs %}{% endmacro %}" + NESTED
    + "{% set y = f(ns, ns.a, ns.a) %}{% endfor %}{{ ns.a }}",
    "a namespace that holds itself": "{% set ns = namespace() %}{% set ns.a = [ns, ns] %}{{ ns }}",
    "a chain of namespaces": "{% set o = namespace(n='') %}{% for i in range(60) %}"
    "{% set o.n = namespace(a=o.n, b=o.n) %}{% endfor %}{{ o }}",
    "comparing long lists": "{% set x = 'x' * 999999 %}{% set a = [x ~ 'y'] * 99999 %}"
    "{{ (x ~ 'z') in a }}",
    "sorting long texts": "{% set x = 'x' * 999999 %}"
    "{{ ([x ~ 'y', x ~ 'z'] * 99999) | sort | length }}",
    "filters on many items": "{% set x = ['x' * 9999] * 999999 %}"
    "{{ x | map('center', 99999) | list }}",
    "tests on many items": "{% set x = ('x' * 99999) | list %}{% for i in x %}"
    "{{ x | select('in', x) | list | length }}{% endfor %}",
    "many words": "{{ lipsum(1000000000) }}",
    "a source that is too long": "x" * 600_000,
}  # fmt: skip
"""Programs that would run for hours, or fill the memory."""
ESCAPES = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "classes by a filter": "{{ '' | attr('__class__') }}",
    "classes by a format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "classes by a format of a map": "{{ '{a.__class__}'.format_map({'a': ''}) }}",
    "classes through map": "{{ ['{0.__class__}'] | map('format', '') | list }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "globals of a macro": "{% macro f() %}{% endmacro %}{{ f.__init__.__globals__ }}",
    "the module of a helper": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "the environment": "{{ self._TemplateReference__context.environment }}",
    "changing the messages": "{{ messages.append(1) }}",
    "changing a message": "{{ messages[0].update(role='system') }}",
    "another file": "{% include '/etc/passwd' %}",
    "another template": "{% import 'os' as os %}{{ os }}",
    "a parent": "{% extends 'base' %}",
    "what is not there": "{{ open('/etc/passwd').read() }}",
}


def told(source, **options):
    """What becomes of a conversation with this template."""
    template = Template(tiny_tokenizer(), source, **options)
    return template.text(as_dicts([probe.USER, probe.TEXT]))


@pytest.fixture
def short(monkeypatch):
    """A fraction of the time and memory, for the same limits met sooner."""
    monkeypatch.setattr(sandbox, "SECONDS", 0.2)
    monkeypatch.setattr(sandbox, "LARGEST", 2**24)
    monkeypatch.setattr(sandbox, "TOGETHER", 2**28)


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_without_end_is_cut_off(name, short):
    begun = time.thread_time()
    with pytest.raises(RenderError) as refused:
        told(ENDLESS[name])
    assert time.thread_time() - begun < 10
    assert "\n" not in str(refused.value)


def test_a_template_that_is_cut_off_is_named_with_the_limit_it_met(short):
    tokenizer = tiny_tokenizer()
    tokenizer.name_or_path = "someone/model"
    with pytest.raises(CutOffError, match="template of 'someone/model' is cut off: it makes a val"):
        Template(tokenizer, ENDLESS["a text that is doubled"]).text(as_dicts([probe.USER]))
    with pytest.raises(CutOffError, match=r"'someone/model' is cut off: it computes for more than"):
        Template(tokenizer, ENDLESS["nested ranges"]).text(as_dicts([probe.USER]))
    with pytest.raises(CutOffError, match="'someone/model' is cut off: it calls itself"):
        Template(tokenizer, ENDLESS["a macro that calls itself"]).text(as_dicts([probe.USER]))


def test_it_is_cut_off_in_any_thread_and_while_others_render(short):
    found = {}

    def run(name, source):
        try:
            found[name] = told(source)
        except RenderError as error:
            found[name] = error

    sources = {"endless": ENDLESS["nested ranges"], "growing": ENDLESS["a text that is doubled"],
               "plain": "{{ messages[0].content }}"}  # fmt: skip
    threads = [threading.Thread(target=run, args=item) for item in sources.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert isinstance(found["endless"], CutOffError)
    assert isinstance(found["growing"], CutOffError)
    assert found["plain"] == probe.USER.text


def test_opening_a_model_with_an_endless_template_tries_no_rewrite_of_it(short):
    begun = time.thread_time()
    with pytest.raises(CutOffError):
        Renderer(tiny_tokenizer(template=ENDLESS["nested ranges"]))
    assert time.thread_time() - begun < 5


@pytest.mark.parametrize("name", ESCAPES)
def test_a_template_does_not_leave_the_sandbox(name):
    try:
        text = told(ESCAPES[name])
    except RenderError as error:
        assert "\n" not in str(error)  # noqa: PT017 - nothing is as right as an error
    else:
        assert "class" not in text
        assert "function" not in text
        assert "environment" not in text.lower()


def test_an_attribute_of_pythons_insides_is_refused_by_the_sandbox():
    with pytest.raises(RenderError) as refused:
        told(ESCAPES["classes"])
    assert isinstance(refused.value.__cause__, SecurityError)


@pytest.mark.parametrize("name", NAMES)
def test_the_templates_of_trl_print_what_transformers_prints(name):
    made = tokenizer(name)
    template = Template(made, made.chat_template)
    for messages in USED:
        for tools in (None, [probe.TOOL]):
            for prompt in (False, True):
                dicts = as_dicts(messages)
                try:
                    expected = made.apply_chat_template(
                        dicts, tools=tools, add_generation_prompt=prompt, tokenize=False
                    )
                except Exception as error:
                    with pytest.raises(RenderError, match=type(error).__name__):
                        template.text(dicts, tools, prompt=prompt)
                else:
                    assert template.text(dicts, tools, prompt=prompt) == expected


def test_a_long_conversation_is_far_from_every_limit():
    made = tokenizer("qwen3")
    turn = {"role": "user", "content": "Words of a long conversation. " * 200}
    dicts = [turn, {"role": "assistant", "content": "yes"}] * 500
    template = Template(made, made.chat_template)
    begun = time.thread_time()
    assert template.text(dicts) == made.apply_chat_template(dicts, tokenize=False)
    assert time.thread_time() - begun < sandbox.SECONDS / 2
    assert sandbox.sandbox()._budget.held < sandbox.TOGETHER / 10


def test_options_and_special_tokens_reach_the_template():
    text = told("{{ eos_token }} {{ enable_thinking }} {{ nothing is defined }}", thinking=False)
    assert text == f"{tiny_tokenizer().eos_token} False False"


def _in_little_memory(source, answer):
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    try:
        told(source)
    except RenderError as error:
        answer.put(str(error))
    answer.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDLESS)
def test_no_template_fills_the_memory_at_the_full_limits(name):
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    child = context.Process(target=_in_little_memory, args=(ENDLESS[name], answer))
    child.start()
    assert isinstance(answer.get(timeout=120), str)
    kilobytes = answer.get(timeout=10)
    child.join(10)
    assert kilobytes < 3 * 2**20, json.dumps([name, kilobytes])
