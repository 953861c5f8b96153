from __future__ import annotations

import pytest

from depthmask.errors import InputError
from depthmask.video.clip import Clip


def test_a_clip_gives_its_first_frames_again_and_again(write_video, tmp_path):
    clip = Clip(write_video(tmp_path / "clip.mp4", 20), limit=12)
    for _ in range(2):
        images = list(clip.images())
        assert len(images) == 12
        assert int(images[11][40, 20, 0]) - int(images[0][40, 20, 0]) > 50
    assert (clip.name, clip.labelled) == ("clip.mp4", False)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_frames_are_spread_over_the_clip(write_video, tmp_path, count):
    clip = Clip(write_video(tmp_path / "clip.mp4", 20))
    names = [sample.name for sample in clip.spread(count)]
    assert len(names) == count
    assert names[0] == "frame 0"
    if count > 1:
        assert int(names[-1].split()[1]) >= 12
    assert len(clip.spread(100)) == 20


def test_a_clip_that_is_cut_short_says_how_much_of_it_can_be_used(write_video, tmp_path):
    whole = write_video(tmp_path / "clip.mkv", 20)
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole.read_bytes()[: round(0.6 * whole.stat().st_size)])
    clip = Clip(path)
    with pytest.raises(
        InputError, match=r"cut short or damaged after (\d+) frames. Try --limit \1"
    ):
        list(clip.images())
    assert len(list(Clip(path, limit=3).images())) == 3


def test_what_is_no_video_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a video", encoding="utf-8")
    with pytest.raises(InputError, match="neither"):
        Clip(path)
