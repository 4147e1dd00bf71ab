"""Messages, as their senders and handlers see them, and as the transport reads them from the wire."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_serializer,
    model_validator,
)

from orchestrator import Message
from orchestrator.core.errors import InvalidMessage
from orchestrator.core.message import decode, encode, message_name
from orchestrator.transport.mailbox_entry import MalformedEntry
from orchestrator.transport.mailbox_entry import decode as decode_entry
from tests.support.json_data import json_data, objects

PASSWORD = "hunter2"


class Address(Message):
    street: str
    door_code: SecretStr = SecretStr("")


class Place(Message):
    street: str


class Order(Message):
    order_id: str
    cents: PositiveInt
    notes: tuple[str, ...] = ()
    to: Place | None = None


class Login(Message):
    user: str
    password: SecretStr
    homes: tuple[Address, ...] = ()


class Odd(Message):
    password: str
    n: int

    @model_validator(mode="after")
    def _never(self) -> "Odd":
        if self.n == 13:
            raise ValueError("13 brings bad luck")
        return self


class Own(Message):
    secret: SecretStr
    number: int

    @field_serializer("number", when_used="json")
    def _hex(self, number: int) -> str:
        return hex(number)


def over_the_wire(message: Message) -> Any:
    return json.loads(json.dumps(encode(message)))


def test_a_message_comes_back_as_it_went() -> None:
    order = Order(order_id="o1", cents=5, notes=("a", "b"), to=Place(street="s"))
    assert decode(Order, over_the_wire(order)) == order


def test_a_message_never_changes() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Order(order_id="o1", cents=5).cents = 6  # type: ignore[misc]


def test_a_message_that_does_not_validate_is_an_error_at_the_sender() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        Order(order_id="o1", cents=0)


def test_a_misspelt_field_is_an_error_at_the_sender() -> None:
    with pytest.raises(ValidationError, match="cent"):
        Order(order_id="o1", cents=1, cent=2)  # type: ignore[call-arg]


def test_a_message_is_called_after_its_class() -> None:
    assert message_name(Order) == "Order"


def test_a_secret_reaches_the_handler() -> None:
    login = Login(user="u", password=SecretStr(PASSWORD), homes=(Address(street="s", door_code=SecretStr("1234")),))
    arrived = decode(Login, over_the_wire(login))
    assert arrived.password.get_secret_value() == PASSWORD
    assert arrived.homes[0].door_code.get_secret_value() == "1234"
    assert arrived == login


class Tagged(Message):
    tags: set[str]
    more: dict[str, list[frozenset[int]]]
    any: Any


class Point(BaseModel):
    model_config = ConfigDict(frozen=True)
    x: int


class Points(Message):
    points: frozenset[Point]


class Step(BaseModel):
    model_config = ConfigDict(frozen=True, serialize_by_alias=True)
    name: str = Field(serialization_alias="title")
    token: SecretStr
    tags: frozenset[str] = frozenset()


class Steps(Message):
    """A set of models, which pydantic dumps as JSON only."""

    steps: frozenset[Step]
    first: Step
    also: tuple[frozenset[Step], ...] = ()


def test_equal_sets_are_equal_fields() -> None:
    """Workflow functions compare what they ask for now with what another process has asked for."""
    words = [f"word-{number}" for number in range(50)]
    numbers = [8 * number for number in range(20)]
    message = Tagged(tags=set(words), more={"a": [frozenset(numbers), frozenset()]}, any={"b", "a", "c"})
    assert encode(message)["tags"] == sorted(words)
    assert encode(message)["more"] == {"a": [sorted(numbers, key=str), []]}
    assert encode(message)["any"] == ["a", "b", "c"]
    assert decode(Tagged, encode(message)).tags == set(words)
    assert encode(Points(points=frozenset({Point(x=1)}))) == {"points": [{"x": 1}]}
    assert encode(Points(points=frozenset(Point(x=x) for x in numbers)))["points"] == [
        {"x": x} for x in sorted(numbers, key=lambda x: json.dumps({"x": x}))
    ]


def test_sets_of_models_are_sorted_with_their_secrets() -> None:
    """Regression: a message with a secret and a set of models was a TypeError."""
    steps = [Step(name=f"s{n}", token=SecretStr(f"t{n}"), tags=frozenset({"b", "a"})) for n in range(9)]
    sent = [{"tags": ["a", "b"], "title": f"s{n}", "token": f"t{n}"} for n in range(9)]
    message = Steps(steps=frozenset(steps), first=steps[3], also=(frozenset(steps[:2]),))
    assert encode(message) == {"steps": sent, "first": sent[3], "also": [sent[:2]]}


def test_a_message_with_a_secret_is_serialized_as_its_class_says() -> None:
    assert encode(Own(secret=SecretStr(PASSWORD), number=255)) == {"secret": PASSWORD, "number": "0xff"}


def test_a_message_with_a_secret_is_shown_without_it() -> None:
    login = Login(user="u", password=SecretStr(PASSWORD))
    assert PASSWORD not in f"{login} {login!r} {login.model_dump_json()}"


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        ({"order_id": "o1", "cents": 0}, ["cents=0: Input should be greater than 0"]),
        ({"order_id": "o1"}, ["cents: Field required"]),
        ({"order_id": 5, "cents": 1}, ["order_id=5: Input should be a valid string"]),
        ({"order_id": "o1", "cents": 1, "cent": 2}, ["cent=2: Extra inputs are not permitted"]),
        ({"order_id": "o1", "cents": 1, "to": {"street": None}}, ["to.street=None"]),
        ({"order_id": 5, "cents": -1}, ["order_id=5", "cents=-1"]),
        ([], ["message=[]"]),
        (None, ["message=None"]),
    ],
)
def test_fields_that_do_not_fit_are_named_with_value_and_rule(fields: Any, problems: list[str]) -> None:
    with pytest.raises(InvalidMessage) as refused:
        decode(Order, fields)
    assert refused.value.message == "Order"
    assert len(refused.value.problems) == len(problems)
    for problem, start in zip(refused.value.problems, problems, strict=True):
        assert problem.startswith(start)


@given(json_data | objects("order_id", "cents", "notes", "to"))
def test_any_fields_are_a_message_or_refused(fields: Any) -> None:
    with contextlib.suppress(InvalidMessage):
        assert isinstance(decode(Order, fields), Order)


def test_a_long_value_is_shortened() -> None:
    with pytest.raises(InvalidMessage) as refused:
        decode(Order, {"order_id": ["x" * 10_000], "cents": 1})
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (Login, {"user": "u", "password": [PASSWORD]}),
        (Login, {"user": "u", "password": {"a": PASSWORD}}),
        (Login, {"password": PASSWORD}),
        (Login, {"user": "u", "password": "x", "homes": [{"street": "s", "door_code": [PASSWORD]}]}),
        (Odd, {"password": PASSWORD, "n": 13}),
        (Odd, {"password": [PASSWORD], "n": 1}),
        (Order, {"order_id": "o", "cents": 1, "password": PASSWORD}),
        (Order, {"order_id": "o", "cents": 1, "to": {"street": {"token": PASSWORD}}}),
    ],
)
def test_a_refusal_does_not_show_secrets(model: type[Message], fields: Any) -> None:
    with pytest.raises(InvalidMessage) as refused:
        decode(model, fields, hidden=("password", "token"))
    assert PASSWORD not in str(refused.value)


# -- entries of a mailbox

GOOD = {"body": "e30=", "properties": {"delivery_info": {}, "delivery_tag": "t"}, "headers": {}}
mostly_good = st.fixed_dictionaries(
    {"body": st.text(max_size=5) | json_data, "properties": objects("delivery_info", "body_encoding") | json_data},
    optional={"headers": objects("task", "id", "__type__") | json_data, "content-type": json_data},
)
typed = st.fixed_dictionaries({"__type__": st.sampled_from(["uuid", "datetime", "bytes", "x"]) | json_data}).flatmap(
    lambda t: json_data.map(lambda v: {**t, "__value__": v})
)


@given(
    st.binary(max_size=200)
    | json_data.map(lambda data: json.dumps(data).encode())
    | mostly_good.map(lambda data: json.dumps(data).encode())
    | typed.map(lambda data: json.dumps({**GOOD, "headers": {"h": data}}).encode()),
    st.booleans(),
)
def test_any_bytes_are_an_entry_or_malformed(raw: bytes, redelivered: bool) -> None:
    try:
        payload = decode_entry(raw, tag="t", queue="q", redelivered=redelivered)
    except MalformedEntry:
        pass
    else:
        assert payload["properties"]["delivery_tag"] == "t"
        assert isinstance(payload["headers"], dict)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"headers": {"h": {"__type__": "uuid", "__value__": 5}}, "body": "", "properties": {}}',
        b'{"headers": {"h": {"__type__": "datetime", "__value__": []}}, "body": "", "properties": {}}',
        b'{"headers": {"h": {"__type__": "decimal", "__value__": "x"}}, "body": "", "properties": {}}',
        b'{"headers": {"h": {"__type__": [], "__value__": "x"}}, "body": "", "properties": {}}',
        b'{"headers": {"h": {"__type__": "uuid"}}, "body": "", "properties": {}}',
        b'{"headers": {"h": {"__type__": "bytes", "__value__": null}}, "body": "", "properties": {}}',
    ],
)
def test_kombus_type_marks_with_anything_in_them_are_read_or_malformed(raw: bytes) -> None:
    with contextlib.suppress(MalformedEntry):
        decode_entry(raw, tag="t", queue="q", redelivered=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"body": None}, "no body"),
        ({"body": {}}, "no body"),
        ({"properties": None}, "no properties"),
        ({"properties": []}, "no properties"),
        ({"headers": []}, "headers are not an object"),
    ],
)
def test_what_is_missing_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(MalformedEntry, match=said):
        decode_entry(json.dumps({**GOOD, **change}).encode(), tag="t", queue="q", redelivered=False)


@pytest.mark.parametrize("raw", [b"", b"\xff", b"{", b"[" * 100_000, b"nul"])
def test_what_is_no_json_is_said_to_be_none(raw: bytes) -> None:
    with pytest.raises(MalformedEntry, match="not JSON"):
        decode_entry(raw, tag="t", queue="q", redelivered=False)


def test_a_redelivered_entry_says_so() -> None:
    payload = decode_entry(json.dumps(GOOD).encode(), tag="t", queue="q", redelivered=True)
    assert payload["properties"]["delivery_info"]["redelivered"] is True
