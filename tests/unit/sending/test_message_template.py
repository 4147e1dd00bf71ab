"""Templates of messages keep a percent sign that Celery wrote, however often placeholders are filled in."""

from __future__ import annotations

from orchestrator.sending.messages.message_template import MessageTemplate

VALUES = {"id": '"first"', "own": '"orc": "50 %"'}


def _template() -> MessageTemplate:
    text = '{"id": %(id)s, "origin": "gen1@a%%b", %(own)s}'
    return MessageTemplate(text, VALUES, b"{}", True, "6", "publish", [], [])


def test_a_percent_sign_in_the_text_is_kept() -> None:
    assert _template().render(id='"second"') == '{"id": "second", "origin": "gen1@a%b", "orc": "50 %"}'


def test_a_percent_sign_in_the_text_is_kept_when_some_placeholders_are_filled_in_first() -> None:
    assert _template().bind("id").render(id='"second"') == '{"id": "second", "origin": "gen1@a%b", "orc": "50 %"}'


def test_a_template_of_which_each_message_fills_in_all_is_a_format_too() -> None:
    bound = _template().bind("id", "own").bind("id", "own")
    assert bound.text % {"id": "1", "own": "2"} == '{"id": 1, "origin": "gen1@a%b", 2}'
