from __future__ import annotations

import pytest

from depthmask.serve.accept import weights


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", {}),
        ("gzip, deflate, br", {"gzip": 1, "deflate": 1, "br": 1}),
        ("BR;q=0.5 , gzip; q=0", {"br": 0.5, "gzip": 0}),
        ("text/html;level=1;q=0.3", {"text/html": 0.3}),
        ("br;q=much", {"br": 0}),
        (",,", {}),
    ],
)
def test_weights(header, expected):
    assert weights(header) == expected
