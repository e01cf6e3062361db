"""What runs in the Ray pods: with or without vLLM, with or without alibi-detect."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from tests.charts.rendering import Render, pods

PYTHON = "EVERLOOP_ALIBI_PYTHON"


def ray_pods(render: Render, *changes: str) -> dict[str, dict[str, Any]]:
    found = {
        name.rpartition("/")[2]: pod for name, pod in pods(render("ci", *changes)) if name.startswith("RayCluster/")
    }
    assert set(found) == {"head", "cpu"}
    return found


def images(pod: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["image"] for each in [*pod.get("initContainers", []), *pod["containers"]]}


def test_head_reconciler_and_workers_run_the_same_image(render: Render) -> None:
    for change, image in (("ray.image=ray", "everloop/ray:0.1.0"), ("ray.image=ray-vllm", "everloop/ray-vllm:0.1.0")):
        found = ray_pods(render, change)
        assert images(found["head"]) == {"ray-head": image, "reconciler": image}
        assert images(found["cpu"]) == {"ray-worker": image}


def test_an_image_of_ones_own_stands_for_the_one_that_is_chosen(render: Render) -> None:
    own = "images.overrides.ray-vllm=registry.example.org/vllm:1"
    assert images(ray_pods(render, own)["cpu"]) == {"ray-worker": "everloop/ray:0.1.0"}
    assert images(ray_pods(render, own, "ray.image=ray-vllm")["cpu"]) == {"ray-worker": "registry.example.org/vllm:1"}


def test_without_drift_nothing_of_alibi_detect_is_in_the_pods(render: Render) -> None:
    for pod in ray_pods(render).values():
        assert "initContainers" not in pod
        assert "drift" not in {volume["name"] for volume in pod["volumes"]}
        assert all(PYTHON not in {each["name"] for each in one.get("env", [])} for one in pod["containers"])


def test_alibi_detect_is_copied_to_where_every_container_finds_it(render: Render) -> None:
    for pod in ray_pods(render, "drift.enabled=true").values():
        (copies,) = pod["initContainers"]
        assert copies["image"] == "everloop/drift:0.1.0"
        assert copies["volumeMounts"] == [{"name": "drift", "mountPath": "/copy"}]
        assert copies["securityContext"]["readOnlyRootFilesystem"] is True
        assert copies["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(copies["resources"]["requests"])
        assert {"name": "drift", "emptyDir": {"sizeLimit": "1Gi"}} in pod["volumes"]
        for container in pod["containers"]:
            assert {"name": "drift", "mountPath": "/opt/drift", "readOnly": True} in container["volumeMounts"]
            assert {"name": PYTHON, "value": "/opt/drift/bin/python3"} in container["env"]


def test_the_copy_of_alibi_detect_keeps_links_times_and_modes(render: Render, tmp_path: Path) -> None:
    source, copy = tmp_path / "drift", tmp_path / "copy"
    (source / "bin").mkdir(parents=True)
    copy.mkdir()
    program = source / "bin" / "pip"
    program.write_text("x")
    program.chmod(0o755)
    os.utime(program, (1000, 1000))
    (source / "lib64").symlink_to("lib")
    (container,) = ray_pods(render, "drift.enabled=true")["head"]["initContainers"]
    moved = [part.replace("/opt/drift", str(source)).replace("/copy", str(copy)) for part in container["command"]]
    subprocess.run(moved, check=True)
    copied = (copy / "bin" / "pip").stat()
    assert (copied.st_mtime, copied.st_mode & 0o111) == (1000, 0o111)
    assert (copy / "lib64").readlink() == Path("lib")
