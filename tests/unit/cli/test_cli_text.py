"""What the command line prints: harmless for a terminal, and without secrets."""

import pytest

from orchestrator.cli.output.printable import lines, one_line
from orchestrator.core.checks.text import printable
from orchestrator.core.secrets.masking import mask

HIDDEN = ("password", "card_number")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode ✓", "plain ünïcode ✓"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\nb", "a\\nb"),
        ("\udcff\u202e", "\\udcff\\u202e"),
    ],
)
def test_what_a_terminal_would_act_on_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_one_line_is_one_line() -> None:
    assert one_line("  a\n\tb\r\nc ") == "a b c"


def test_lines_keeps_lines_and_nothing_else() -> None:
    assert lines("a\n\tb\x1b") == "a\n    b\\x1b"


@pytest.mark.parametrize(
    "text",
    [
        "card_number='S3CRET'",
        "card_number=S3CRET: not a number",
        "order={'id': 1, 'card_number': 'S3CRET'}: no",
        '{"password": "S3C\\"RET S3CRET"}',
        '"{\\"password\\": \\"S3CRET\\"}"',
        "PASSWORD = S3CRET",
        "password: Bearer S3CRET",
        'password="S3CRET that is cut o',
        "password=['S3CRET', 'S3CRET']",
        "password={'a': 'S3CRET'}",
        "cannot connect to postgresql://shop:S3CRET@db/orders",
        "amqps://:S3CRET@h:5671//; redis://u:S3CRET%40@h",
    ],
)
def test_the_value_of_a_hidden_field_is_hidden_in_text(text: str) -> None:
    shown = mask(text, HIDDEN)
    assert "S3CRET" not in shown
    assert "**redacted**" in shown


def test_other_text_stays_as_it_is() -> None:
    text = "order_id='o1': no such order; card_numbers=4 are known, passwords: none"
    assert mask(text, HIDDEN) == text
    assert mask("password=x redis://u:p@h/0", ()) == "password=x redis://u:p@h/0"
    assert mask("redis://u:p@h:1/0", HIDDEN) == "redis://u:**redacted**@h:1/0"
    for url in ("redis://u@h:1/0", "http://h:80/a@b", "http://h:80?to=a@b", "see http://h:80, a@b"):
        assert mask(url, HIDDEN) == url
    assert mask("card_number=77: Input", HIDDEN) == "card_number=**redacted**: Input"


def test_text_is_masked_at_any_depth() -> None:
    assert mask({"a": ["password=x", 1, None]}, HIDDEN) == {"a": ["password=**redacted**", 1, None]}


def test_what_is_nested_too_deep_to_be_searched_is_hidden() -> None:
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert mask(deep, HIDDEN) == "**redacted**"
