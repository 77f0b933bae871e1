"""Results that a row of runs keeps."""

from __future__ import annotations

import pytest

from benchmarks.harness.results import KeptResults, OtherProtocolError


def test_a_finished_run_is_read_back_and_no_other(tmp_path):
    kept = KeptResults(tmp_path / "out")
    kept.save("one/split-00", {"dice": [0.5]})
    assert kept.load("one/split-00") == {"dice": [0.5]}
    assert kept.load("one/split-01") is None


def test_the_same_protocol_goes_on(tmp_path):
    facts = {"sizes": (5, 2, 3), "settings": {"epochs": 1}}
    KeptResults(tmp_path).begin(facts)
    KeptResults(tmp_path).save("one", {"dice": 1})
    KeptResults(tmp_path).begin(facts)
    assert KeptResults(tmp_path).load("one") == {"dice": 1}


@pytest.mark.parametrize(
    ("later", "message"),
    [
        pytest.param({"sizes": "5/2/3", "epochs": 2}, "epochs: 1 there, now 2", id="changed"),
        pytest.param({"sizes": "5/2/3"}, "epochs: 1 there, now None", id="left out"),
        pytest.param(
            {"sizes": "5/2/3", "epochs": 1, "scale": 2}, "scale: None there, now 2", id="added"
        ),
    ],
)
def test_another_protocol_is_refused(tmp_path, later, message):
    KeptResults(tmp_path).begin({"sizes": "5/2/3", "epochs": 1})
    with pytest.raises(OtherProtocolError, match=message):
        KeptResults(tmp_path).begin(later)
