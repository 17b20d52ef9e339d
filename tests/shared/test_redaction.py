"""Secrets below are put together from pieces, so that no scanner takes this file for a leak."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_finetune import plugins
from agent_finetune.recordings.redaction import EMAIL, SECRET, redact_record, redact_text

MIXED = "aB3dE5gH7jK9mN1pQ3sT5vW7xY9zA1cD3eF5"
JWT = "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0In0" + ".dozjgNryP4J3"
TOKENS = [
    "sk-" + MIXED,
    "sk-proj-" + MIXED + "_-" + MIXED,
    "sk_live_" + MIXED,
    "ghp_" + MIXED,
    "github_pat_" + MIXED,
    "glpat-" + MIXED[:20],
    "hf_" + MIXED,
    "AKIA" + "IOSFODNN7EXAMPLE",
    "AIza" + MIXED[:35],
    "xoxb-" + "123456789012-" + MIXED,
    "npm_" + MIXED,
    "gsk_" + MIXED,
    "123456789:AA" + MIXED,
    JWT,
]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize(
    "around", ["{}", "use {}.", r"a:\n{}\n", '{{"x": "{}"}}', "a={},b", "url?q={}&r=1"]
)
def test_a_token_is_taken_out_wherever_it_stands(token, around):
    redacted = redact_text(around.format(token))
    assert token not in redacted
    assert MIXED[:16] not in redacted
    assert SECRET in redacted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abcdefghij.klmnopqrs", f"Authorization: Bearer {SECRET}"),
        ("bearer 12ab34cd", f"bearer {SECRET}"),
        ("Authorization: Basic dXNlcjpwYXNzd29yZA==", f"Authorization: Basic {SECRET}"),
        ("postgres://me:hunter2@db.local/x", f"postgres://me:{SECRET}@db.local/x"),
        ("https://:tok@host.example.org", f"https://:{SECRET}@host.example.org"),
        ("export DB_PASSWORD=correcthorse", f"export DB_PASSWORD={SECRET}"),
        ("GITHUB_TOKEN=abc123def", f"GITHUB_TOKEN={SECRET}"),
        ("AccountKey=Zm9vYmFyMTIz==;Next=1", f"AccountKey={SECRET};Next=1"),
        ("password: hunter22", f"password: {SECRET}"),
        ("api-key : 'two words'", f"api-key : '{SECRET}'"),
        ('{"client_secret": "horse"}', f'{{"client_secret": "{SECRET}"}}'),
        (r'"{\"api_key\": \"horse\"}"', rf'"{{\"api_key\": \"{SECRET}\"}}"'),
        ("write to Jo.Do+x@mail.example.co.uk, please", f"write to {EMAIL}, please"),
        ("--------jo@example.org", f"--------{EMAIL}"),
        ("<jürgen@müller.de>", f"<{EMAIL}>"),
    ],
)
def test_secrets_are_known_by_what_stands_before_them(text, expected):
    assert redact_text(text) == expected


def test_a_private_key_goes_as_a_whole_and_so_does_half_of_one():
    begin, end = ("-----" + word + " RSA PRIVATE KEY-----" for word in ("BEGIN", "END"))
    assert redact_text(f"a {begin}\nMIIE\nabc\n{end} b") == f"a {SECRET} b"
    assert redact_text(f"a {begin}\nMIIE\nab") == f"a {SECRET}"


@pytest.mark.parametrize(
    "text",
    [
        "The bearer of good news has a basic understanding of internationalization.",
        "password: what the user typed, as a string",
        "token: whatever the service handed out",
        "token = tokens",
        '{"token": "string", "password": null}',
        "max_tokens: 4096, prompt_tokens=12345678",
        "token = get_token(name)",
        "password = passwords[0]",
        'api_key = os.environ["API_KEY"]',
        "API_KEY=$API_KEY password=<your-password> token=********",
        "ask-me-anything-about-the-weather, skeleton sk-learn",
        "@property and user@localhost and numpy@1.26.0",
        "sha256:" + "0123456789abcdef" * 4,
        "9b2f3c1e5d7a4f6b8c0d2e4f6a8b0c1d",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
        "https://example.org:8080/a@b",
    ],
)
def test_what_only_looks_like_a_secret_stays(text):
    assert redact_text(text) == text


def test_every_string_at_any_depth_is_searched_names_too():
    record = {
        "text": "mail jo@example.org",
        "calls": [{"arguments": {"to": ["jo@example.org", {"jo@example.org": 1}], "n": 3}}],
        "broken": ("key sk-" + MIXED,),
        "nothing": None,
    }
    assert redact_record(record) == {
        "text": f"mail {EMAIL}",
        "calls": [{"arguments": {"to": [EMAIL, {EMAIL: 1}], "n": 3}}],
        "broken": (f"key {SECRET}",),
        "nothing": None,
    }
    assert record["text"] == "mail jo@example.org"


def test_two_addresses_that_are_names_stay_two():
    cleaned = redact_record({"jo@example.org": 1, "al@example.org": 2})
    assert cleaned == {EMAIL: 1, f"{EMAIL} 2": 2}


def test_a_string_under_the_name_of_a_secret_goes_whole_and_a_schema_stays():
    record = {"password": "a b", "API_KEY": "x y z", "token": 7, "secret": ""}
    expected = {"password": SECRET, "API_KEY": SECRET, "token": 7, "secret": ""}
    assert redact_record(record) == expected
    assert redact_record({"properties": {"password": {"type": "string"}}}) is None


def test_the_kernel_answers_the_hook_and_leaves_a_clean_record_as_it_is():
    clean = {"text": "Paris"}
    assert plugins.redact_record(clean) is clean
    assert plugins.redact_record({"text": "jo@example.org"}) == {"text": EMAIL}


PIECES = st.sampled_from(
    ["password", "token", "=", ": ", '"', "'", "\\", "Bearer ", "jo@example.org", "://", "@", " ",
     "hunter22", "sk-" + MIXED, "[", "(", "\n", "x", "-----BEGIN PRIVATE KEY-----", JWT]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12).map(" ".join))
def test_a_secret_is_taken_out_whatever_stands_around_it(text):
    redacted = redact_text(text)
    assert "jo@example.org" not in redacted
    assert MIXED not in redacted


@pytest.mark.parametrize("text", [*TOKENS, "password='a b c'", "jo@example.org", "a://b:c@d.org"])
def test_what_was_redacted_is_not_redacted_again(text):
    once = redact_text(text)
    assert once != text
    assert redact_text(once) == once


@pytest.mark.parametrize(
    "text",
    ["a" * 200_000, "a." * 100_000, "a@" * 100_000, "token=" * 30_000, "-----BEGIN " * 20_000,
     "://" * 60_000, "password='" * 20_000, "eyJ" * 60_000, "Bearer " * 30_000, "x@a." * 50_000],
    ids=lambda text: text[:10],
)  # fmt: skip
def test_a_long_text_takes_a_time_that_grows_with_its_length(text):
    began = time.process_time()
    redact_text(text)
    assert time.process_time() - began < 5
