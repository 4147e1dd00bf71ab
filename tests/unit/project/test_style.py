"""The checks of words, links and prose that ``make lint`` runs find what they look for."""

from __future__ import annotations

from pathlib import Path

from tests.style.calls import positional_calls
from tests.style.links import anchors, dead_links
from tests.style.prose import household_verbs
from tests.style.words import retired_in_shown_texts, retired_words


def test_the_glossarys_table_is_read_as_patterns() -> None:
    ((pattern, instead),) = retired_words("## Retired words\n\n| `\\b(Door\\|Gate)\\b` | Backend |\n")
    assert pattern.search("the Gate")
    assert instead == "Backend"


def test_a_word_retired_in_shown_texts_may_be_used_elsewhere() -> None:
    assert retired_words("## Retired words\n\n### In texts that are shown\n\n| `tells?` | log |\n") == []


def test_anchors_are_made_as_github_makes_them() -> None:
    page = "# Is Redis fit for it?\n## `orc:x`, and\n## `orc:x`, and\n```\n# a comment\n```\n"
    assert anchors(page) == {"is-redis-fit-for-it", "orcx-and", "orcx-and-1"}


def test_a_dead_link_is_named_with_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One\n[a](#one) [b](other.md)\n`[c](gone.md)`\n[d](#two) [e](https://example.org/x.md)\n")
    assert [problem.removeprefix(str(page)) for problem in dead_links(page)] == [
        ":2: dead link 'other.md': there is no other.md",
        ":4: dead link '#two': page.md has no heading #two",
    ]


def test_a_household_verb_is_found_in_what_is_logged_or_raised_alone(tmp_path: Path) -> None:
    words = retired_in_shown_texts("## Retired words\n\n### In texts that are shown\n\n| `tells?\\|heard` | log |\n")
    source = tmp_path / "source.py"
    source.write_text(
        'logger.info("could not tell %s", 1)\nraise ValueError(f"never {x} heard of")\nprint("I tell you")\n'
    )
    assert [problem.removeprefix(str(source)).split(" in ")[0] for problem in household_verbs(source, words)] == [
        ":1: 'tell'", ":2: 'heard'",
    ]  # fmt: skip


def test_a_script_that_gets_its_arguments_by_position_is_found(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text(
        'store.run("claim", keys, args)\nstore.run(*commands.claim(keys))\ncall = ("claim", [a], [b])\n'
        'client.evalsha(sha("claim"), 0, a)\nlose(2, sha("claim"))\nsender.do("claim", [a], b)\nrun("claim")\n'
    )
    found = [problem.removeprefix(str(source)) for problem in positional_calls(source, {"claim"})]
    assert [problem.split(" ")[0] for problem in found] == [":1:", ":3:", ":4:"]
