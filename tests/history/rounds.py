"""How many rounds of faults a history sees: one in `make test`, many in `make test-slow`."""

import pytest

each_number_of_rounds = pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(1, id="short"),
        pytest.param(6, id="long", marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
    ],
)
