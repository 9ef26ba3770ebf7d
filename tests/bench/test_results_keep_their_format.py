"""The file of results is read by others: its form is fixed, and what contradicts itself is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benches import a_result

from secure_fedhelp.errors import InvalidConfiguration, StorageError
from secure_fedhelp.research.bench.results import read_results, require_place, results_json, write_results

GOLDEN = Path(__file__).parent / "golden_results.json"
RIVAL = a_result(
    system="nvflare-he",
    profile=None,
    masks=None,
    coordinator_peaks_mib={},
    sanitised_error=None,
    figures="extrapolated",
    max_error=None,
    repeats=0,
)


def test_the_file_is_byte_for_byte_the_golden_one() -> None:
    assert results_json([a_result(), RIVAL]) == GOLDEN.read_bytes()


def test_another_program_finds_every_promised_field() -> None:
    for result in json.loads(GOLDEN.read_bytes()):
        assert {"system", "profile", "masks", "transport", "values", "hospitals", "seconds", "critical_path_s"} < set(
            result
        )
        assert {"up_bytes_per_value", "down_bytes_per_value", "coordinator_peak_mib", "max_error"} < set(result)
        assert {"versions", "repeats", "cores", "figures"} < set(result)
        # By side, so that nobody has to know the stages to add up one party's work.
        assert all(stage.split(".")[0] in ("upload", "coordinator", "download") for stage in result["seconds"])


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_results(tmp_path / "new" / "bench.json", [a_result(), RIVAL])
    assert read_results(tmp_path / "new" / "bench.json") == [a_result(), RIVAL]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"speed": 1}, "speed"),
        ({"values": "1000"}, "values"),
        ({"seconds": {"encrypt": 1.0}}, "seconds"),
        ({"transport": "carrier pigeon"}, "transport"),
        ({"critical_path_s": 2.0}, "median"),
        ({"repeats": 0}, "repeats"),
        ({"figures": "extrapolated"}, "repeats"),
        ({"max_error": None}, "error"),
        ({"up_bytes_per_value": 0.0}, "up_bytes_per_value"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_place(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    values = json.loads(results_json([a_result()]))
    values[0] |= change
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(InvalidConfiguration, match=named):
        read_results(path)


def test_a_file_that_is_not_there_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        read_results(tmp_path / "nothing.json")


def test_a_place_that_cannot_be_written_is_found_before_measuring(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError):
        require_place(tmp_path / "file" / "bench.json")
    with pytest.raises(StorageError):
        require_place(tmp_path)
    require_place(tmp_path / "new" / "bench.json")
    assert (tmp_path / "new").is_dir()


def test_sums_and_words_of_a_result() -> None:
    result = a_result()
    assert [result.of(side) for side in ("upload", "coordinator", "download")] == [0.5, 0.25, 0.25]
    assert result.bytes_moved == pytest.approx(14.03e6)
    assert result.label == "secure-fedhelp standard, masks (repairing)"
    assert a_result(masks="none").label == "secure-fedhelp standard, no masks"
    assert RIVAL.label == "nvflare-he"
