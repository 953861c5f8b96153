"""What the search for a precision looks at, and what the gate judges on: never the same images.

fp16: searched on shipped photographs that no reference is made of; judged on the reference frames, and the
labelled data. int8 with labelled data: searched on their first half, judged on the second. int8 without:
searched on the images of the shipped composites, judged on the reference frames.
"""

from __future__ import annotations

from dataclasses import dataclass

from depthmask.accuracy import AccuracyResult
from depthmask.bundle import Precision, SearchRecord
from depthmask.errors import InputError
from depthmask.export.reference import PHOTO_COUNT, reference_frames, with_hard_cases
from depthmask.export.verify import accuracy_losses
from depthmask.frames import UInt8Array, read_image
from depthmask.presets import Kind
from depthmask.samples import Samples, open_samples, shipped_photos

LEAST_LABELLED = 8
_SEARCHED_COMPOSITES = 8
_FLAT_LEVELS = (8, 247)  # nearly the reference's black and white


@dataclass(frozen=True)
class GateData:
    """The split."""

    search_frames: tuple[UInt8Array, ...]
    """(H,W,3) each; none where nothing is searched."""
    searched: Samples | None
    """Labelled, for the search."""
    judged: Samples | None
    """Labelled, for the gate."""
    record: SearchRecord | None


def split(precision: Precision, data: Samples | None) -> GateData:
    """What to search and what to judge on.

    Args:
        precision: of the export.
        data: labelled samples, if there are any.

    Raises:
        InputError: int8 has too few labelled samples for two halves.
    """
    if precision == "fp16":
        photos = [read_image(path) for path in shipped_photos()[PHOTO_COUNT:]]
        frames = with_hard_cases(photos, seed=1, levels=_FLAT_LEVELS)
        return GateData(frames, None, data, _by_reference("shipped photographs", frames))
    if precision != "int8":
        return GateData((), None, data, None)
    if data is None:
        photos = [sample.image_HW3 for sample in open_samples().spread(_SEARCHED_COMPOSITES)]
        frames = with_hard_cases(photos, seed=1, levels=_FLAT_LEVELS)
        return GateData(frames, None, None, _by_reference("shipped composites", frames))
    if len(data) < LEAST_LABELLED:
        raise InputError(
            f"the labelled data must hold {LEAST_LABELLED} images or more, since int8 is searched on one"
            f" half and judged on the other, but {data.name} holds {len(data)}. Try --data with more, or"
            " leave it out to judge on the shipped ones"
        )
    searched, judged = data.halves()
    record = SearchRecord(
        searched=searched.name,
        searched_images=len(searched),
        judged=judged.name,
        judged_images=len(judged),
    )
    photos = [sample.image_HW3 for sample in searched.spread(_SEARCHED_COMPOSITES)]
    return GateData(tuple(photos), searched, judged, record)


def _by_reference(searched: str, frames: tuple[UInt8Array, ...]) -> SearchRecord:
    return SearchRecord(
        searched=f"{searched}, noise and flat frames",
        searched_images=len(frames),
        judged="reference frames",
        judged_images=len(reference_frames()),
    )


def check_labels(found: AccuracyResult, kind: Kind) -> None:
    """An int8 budget is points of IoU and delta1: without labels for either it would judge nothing.

    Raises:
        InputError: there are none.
    """
    if not accuracy_losses(found, found, kind):
        raise InputError(
            f"each half of the labelled data must have masks, or depths that the chain is judged on, but"
            f" {found.data} has neither. Try --data with labels throughout"
        )
