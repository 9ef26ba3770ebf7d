"""What a benchmark says: one strict model, one JSON form. Nothing here measures.

The file is a list of results, one for each setting. Times are medians over the repeats, stage by stage; the critical
path is the median of the repeats' own totals, so it can differ a little from the sum of the stages.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from secure_fedhelp.errors import InvalidConfiguration, StorageError
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.plan import explain
from secure_fedhelp.study.reading import RESULTS, read_bounded
from secure_fedhelp.study.sections import Strict
from secure_fedhelp.study.threshold import Masks

Transport = Literal["none", "grpc"]
#: Who does the work, and what: one hospital before the sum (``upload``), the coordinator for all, one hospital after.
Stage = Annotated[str, Field(pattern=r"^(upload|coordinator|download)\.[a-z][a-z_]*$")]
Seconds = Annotated[float, Field(ge=0)]

OURS: Final = "secure-fedhelp"
PLAINTEXT: Final = "plaintext float32"


class Result(Strict):
    """One setting: a system, its options, a size, and what it cost."""

    format: Literal[1] = 1
    system: Annotated[str, Field(min_length=1, max_length=64)]
    #: Parameters of the encryption and kind of masks where the system is ours; None where it is another.
    profile: str | None
    masks: Masks | None
    transport: Transport
    values: Annotated[int, Field(ge=1)]
    hospitals: Annotated[int, Field(ge=2)]
    #: ``extrapolated``: not run, but drawn as a line through the two largest measured sizes.
    figures: Literal["measured", "extrapolated"]
    #: Median seconds by stage. Those of a hospital are one hospital's, those of the coordinator are for all hospitals.
    seconds: dict[Stage, Seconds]
    #: One hospital's upload work, all of the coordinator's, one hospital's download work: median, least and most.
    critical_path_s: Seconds
    critical_path_min_s: Seconds
    critical_path_max_s: Seconds
    #: With masks: critical path over that of the same setting without, pair by pair of one repeat: their median.
    over_no_masks: Annotated[float, Field(gt=0)] | None = None
    #: Of one hospital: everything it sends in a round, and everything it fetches (without TLS and HTTP/2).
    up_bytes_per_value: Annotated[float, Field(gt=0)]
    down_bytes_per_value: Annotated[float, Field(gt=0)]
    #: Peak resident memory of a process that does the coordinator's part alone, at this number of hospitals ...
    coordinator_peak_mib: Annotated[float, Field(gt=0)] | None
    #: ... and at others, by their number.
    coordinator_peaks_mib: dict[Annotated[int, Field(ge=2)], Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict
    )
    #: Largest absolute error of one value of the decrypted sum, over all repeats; None if extrapolated.
    max_error: Annotated[float, Field(ge=0)] | None
    #: The same after the sanitised release; None where nothing is sanitised.
    sanitised_error: Annotated[float, Field(ge=0)] | None = None
    repeats: Annotated[int, Field(ge=0)]
    #: Contributions that were encrypted for themselves; in a larger cohort hospitals share them.
    contributions: Annotated[int, Field(ge=1)]
    cores: Annotated[int, Field(ge=1)]
    versions: dict[str, str]

    @model_validator(mode="after")
    def _fits(self) -> Result:
        if not self.critical_path_min_s <= self.critical_path_s <= self.critical_path_max_s:
            raise ValueError("the critical path's median is not between its least and its most")
        if (self.figures == "measured") != (self.repeats > 0) or (self.figures == "measured") != (
            self.max_error is not None
        ):
            raise ValueError("what was measured has repeats and an error, what was extrapolated has neither")
        return self

    @property
    def label(self) -> str:
        """System and options in a few words."""
        if self.profile is None:
            return self.system
        return f"{self.system} {self.profile}, {'no masks' if self.masks == 'none' else f'masks ({self.masks})'}"

    @property
    def bytes_moved(self) -> float:
        """Bytes that one hospital sends and receives in a round."""
        return (self.up_bytes_per_value + self.down_bytes_per_value) * self.values

    def of(self, side: str) -> float:
        """Seconds of one side: ``upload``, ``coordinator`` or ``download``."""
        return sum(seconds for stage, seconds in self.seconds.items() if stage.startswith(f"{side}."))


_RESULTS: Final = TypeAdapter(list[Result])


def results_json(results: Sequence[Result]) -> bytes:
    """The file's bytes: indented, keys in the model's order, stages in the order they happen."""
    return (json.dumps(_RESULTS.dump_python(list(results), mode="json"), indent=1) + "\n").encode()


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write the JSON file; StorageError if that fails."""
    write_atomic(path, results_json(results))


def require_place(path: Path) -> None:
    """StorageError now if ``path`` could not be written after a long measurement."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot create {path.parent}: {error.strerror or error}") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise StorageError(f"cannot write {path}", "Choose a file in a folder that you may write.")


def read_results(path: Path) -> list[Result]:
    """The results in a file; InvalidConfiguration names what does not fit the format, StorageError if unreadable."""
    try:
        return _RESULTS.validate_json(read_bounded(path, RESULTS), strict=True)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except ValidationError as error:
        raise InvalidConfiguration(f"{path} is no file of results: {explain(error)}") from error
