"""What the kernel tells of a process, whatever it is called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from workflows.engine.proc_stat import all_stats, stat_of


@pytest.mark.parametrize("name", ["sleep", "a b", ") S 1 2 (", "\xe4)"])
def test_a_process_is_read_right_whatever_its_name_is(name: str, tmp_path: Path) -> None:
    program = shutil.which("sleep")
    assert program is not None
    (tmp_path / name).write_bytes(Path(program).read_bytes())
    (tmp_path / name).chmod(0o755)
    process = subprocess.Popen([tmp_path / name, "300"], start_new_session=True)
    try:
        found = stat_of(process.pid)
        assert found is not None
        own = stat_of(os.getpid())
        assert own is not None
        assert (found.pid, found.parent, found.session) == (process.pid, os.getpid(), process.pid)
        assert found.started >= own.started
        assert found in list(all_stats())
    finally:
        process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert stat_of(process.pid) is None, "a zombie is gone"
    process.wait()
    assert stat_of(process.pid) is None
