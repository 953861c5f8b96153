from __future__ import annotations

import pytest

from depthmask.errors import OutputError, UsageError
from depthmask.output_files import check_output, write_output


def test_outputs_are_checked_before_the_work(tmp_path):
    path = tmp_path / "bench.json"
    check_output(path, overwrite=False)
    path.write_text("old", encoding="utf-8")
    check_output(path, overwrite=True)
    with pytest.raises(UsageError, match="--overwrite"):
        check_output(path, overwrite=False)
    with pytest.raises(UsageError, match="it is a folder"):
        check_output(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="not a writable folder"):
        check_output(tmp_path / "absent" / "bench.json", overwrite=False)


def test_what_cannot_be_written_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_output(tmp_path / "absent" / "file", b"x")
