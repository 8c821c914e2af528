import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest

from partonomy.models.key_redaction import KeyRedactor

KEY = 'sk-proj/a+b="c"&<d>\\e f~0123456789'
REST = "It is the wing."


def embedded(before: str, urlsafe: bool = False) -> str:
    """The key in base64 after some other bytes."""
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    return encode(f"{before}{KEY}\u00ff?>".encode("latin-1")).decode()


@pytest.mark.parametrize(
    ("form", "left"),
    [
        (KEY, ""),
        (KEY[:8], ""),
        (KEY[:20], ""),
        (KEY[:7], KEY[:7]),
        (json.dumps(KEY), '""'),
        (json.dumps(json.dumps(KEY)), '"\\"\\""'),
        (json.dumps(KEY).replace("/", "\\/"), '""'),
        (html.escape(KEY), ""),
        (quote(KEY), ""),
        (quote(KEY, safe=""), ""),
        (quote_plus(KEY), ""),
        (quote(KEY[:14], safe="").replace("%2F", "%2f").replace("%2B", "%2b").replace("%3D", "%3d"), ""),
    ],
)
def test_every_form_of_the_key_is_replaced(form: str, left: str) -> None:
    redact = KeyRedactor(KEY)
    kept = left[: len(left) // 2], left[len(left) // 2 :]
    expected = f"{REST} {left}" if form == left else f"{REST} {kept[0]}[key]{kept[1]}"
    assert redact(f"{REST} {form}") == expected


@pytest.mark.parametrize("before", ["", ":", "me", "user:", "me:", "Bearer ", "Basic user:"])
@pytest.mark.parametrize("urlsafe", [False, True])
def test_the_key_inside_base64_is_replaced(before: str, urlsafe: bool) -> None:
    redacted = KeyRedactor(KEY)(f"Authorization: Basic {embedded(before, urlsafe)}")
    code = redacted.removeprefix("Authorization: Basic ")
    assert code.count("[key]") == 1
    assert len(code.replace("[key]", "")) <= len(base64.b64encode(before.encode())) + 8


def test_many_keys_are_replaced_in_linear_time() -> None:
    text = f"{KEY[:9]} {KEY} {KEY[:8]}" * 20_000
    assert KeyRedactor(KEY)(text) == "[key] [key] [key]" * 20_000


@pytest.mark.parametrize("key", [None, "", "EMPTY", "none", "A"])
def test_a_placeholder_is_a_word_of_replies_and_none_of_errors(key: str | None) -> None:
    redact = KeyRedactor(key)
    assert redact("A wing, none EMPTY") == "A wing, none EMPTY"
    assert not redact.occurs_in("A wing, none EMPTY")
    if key:
        assert redact.in_message(f"wrong key {key}") == "wrong key [key]"


def test_only_the_whole_key_counts_as_a_setting_that_holds_it() -> None:
    redact = KeyRedactor(KEY)
    assert redact.occurs_in(f"http://host/{quote(KEY, safe='')}/v1")
    assert not redact.occurs_in(f"http://host/{KEY[:10]}")
