"""A kit is what its manifest says, or it is refused."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bmtas.errors import UsageError
from bmtas.progress import Silent
from bmtas.tasks import Task
from costs.table import CostTable
from export.latency.kit import ANCHOR, Kit, RuntimeName, file_of, read_kit
from export.latency.prepare import KitRequest, known_precisions, known_runtime, prepare_kit
from export.latency.setting import Setting, opener
from tests.export.latency.made_up import toy_table


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


class TestPrepared:
    def test_the_manifest_tells_of_all_files_and_of_no_others(self, prepared: tuple[Path, Kit]) -> None:
        folder, kit = prepared
        there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert there == {*kit.files, "manifest.json"}
        for name, wanted in kit.files.items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == wanted
        assert read_kit(folder) == kit

    def test_parts_and_networks_of_two_tasks_and_six_layers(self, prepared: tuple[Path, Kit]) -> None:
        kit = prepared[1]
        assert len(kit.parts) == 1 + 6 * 2 + 2
        assert Counter(n.role for n in kit.networks) == {"anchor": 1, "separate": 1, "fit": 3, "held_out": 3}
        # Two tasks part in one of six layers: six trees, from the cheapest to the dearest. Both ends are fitted to.
        trees = [(n.role, kit.architecture(n).group_counts) for n in kit.networks[2:]]
        assert [counts for _, counts in trees] == [(1,) * (5 - i) + (2,) * (i + 1) for i in range(6)]
        assert [role for role, _ in trees] == ["fit", "held_out", "fit", "held_out", "held_out", "fit"]
        assert kit.items()[:2] == ["stem", "layers.00.x1"]
        assert not kit.architecture(kit.networks[1]).shared_stem

    def test_elements_do_not_depend_on_the_number_of_copies(self, prepared: tuple[Path, Kit]) -> None:
        elements: dict[str, set[int]] = {}
        for part in prepared[1].parts:
            elements.setdefault(part.operation, set()).add(part.elements)
        assert all(len(found) == 1 for found in elements.values())
        assert elements["stem"] == {
            3 * 64 * 64 + 12 * 16 * 16
        }  # the image, and twelve channels at a quarter of its size


class TestRefused:
    def test_no_kit(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"holds no manifest.json.*bmtas profile prepare"):
            read_kit(tmp_path)

    def test_a_changed_file(self, kit_folder: Path) -> None:
        with (kit_folder / "fp32/stem.onnx").open("ab") as file:
            file.write(b"\0")
        with pytest.raises(UsageError, match=r"stem.onnx is not what the kit says.*copy the folder again"):
            read_kit(kit_folder)

    def test_changed_numbers(self, kit_folder: Path) -> None:
        path = kit_folder / "fp32/weights.bin"
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(UsageError, match=r"weights.bin is not what the kit says"):
            read_kit(kit_folder)

    def test_a_missing_file(self, kit_folder: Path) -> None:
        (kit_folder / "int8/net.03.onnx").unlink()
        with pytest.raises(UsageError, match=r"net.03.onnx is missing: the kit was not copied whole"):
            read_kit(kit_folder)

    def test_a_path_that_leads_out(self, kit_folder: Path) -> None:
        foreign = kit_folder.parent / "foreign.onnx"
        foreign.write_bytes(b"not ours")
        found = hashlib.sha256(b"not ours").hexdigest()
        edit(kit_folder, lambda data: data["files"].update({"../foreign.onnx": found}))
        with pytest.raises(UsageError, match=r"'../foreign.onnx' leads out of the kit"):
            read_kit(kit_folder)

    def test_a_link_that_leads_out(self, kit_folder: Path) -> None:
        inside, outside = kit_folder / "fp32/stem.onnx", kit_folder.parent / "stem.onnx"
        inside.rename(outside)
        inside.symlink_to(outside)
        with pytest.raises(UsageError, match="leads out of the kit"):
            read_kit(kit_folder)

    def test_a_missing_part(self, kit_folder: Path) -> None:
        edit(kit_folder, lambda data: data["parts"].pop(2))
        with pytest.raises(
            UsageError, match=r"manifest.json: the kit has no part for \[\('layers.00', 2\)\]; prepare it anew"
        ):
            read_kit(kit_folder)

    def test_a_missing_network(self, kit_folder: Path) -> None:
        edit(kit_folder, lambda data: data["networks"].pop(0))
        with pytest.raises(UsageError, match=f"no network '{ANCHOR}'"):
            read_kit(kit_folder)

    @pytest.mark.parametrize("role", ["fit", "held_out"])
    def test_networks_to_fit_to_and_to_be_held_against(self, role: str, kit_folder: Path) -> None:
        edit(kit_folder, lambda data: data.update(networks=[n for n in data["networks"] if n["role"] != role]))
        with pytest.raises(UsageError, match="no networks to fit to, or none to be held against; prepare it anew"):
            read_kit(kit_folder)

    @pytest.mark.parametrize("name", ["../stem", "a/b", "", "a\\b"])
    def test_a_name_that_leads_elsewhere(self, name: str, kit_folder: Path) -> None:
        edit(kit_folder, lambda data: data["parts"][0].update(name=name))
        with pytest.raises(UsageError, match=r"parts.0.name"):
            read_kit(kit_folder)

    def test_a_file_that_is_not_named(self, kit_folder: Path) -> None:
        edit(kit_folder, lambda data: data["files"].pop("int8/heads.depth.onnx"))
        with pytest.raises(UsageError, match=r"no file of heads.depth in int8"):
            read_kit(kit_folder)

    def test_a_newer_schema(self, kit_folder: Path) -> None:
        edit(kit_folder, lambda data: data.update(schema_version=2))
        with pytest.raises(UsageError, match=r"follows schema 2.*upgrade bmtas"):
            read_kit(kit_folder)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda data: data.update(colour="red"), "colour"),
            (lambda data: data.update(runtime="caffe"), "runtime"),
            (lambda data: data["table"].update(tasks=["semseg", "semseg"]), "more than once"),
            (lambda data: data["parts"][0].update(copies=0), r"parts.0.copies"),
        ],
        ids=["field", "runtime", "tasks", "copies"],
    )
    def test_a_manifest_that_breaks_the_rules(
        self, change: Callable[[dict[str, Any]], None], words: str, kit_folder: Path
    ) -> None:
        edit(kit_folder, change)
        with pytest.raises(UsageError, match=words):
            read_kit(kit_folder)


class TestNotPrepared:
    @pytest.fixture
    def request_(self, tasks: tuple[Task, ...]) -> KitRequest:
        table = toy_table(tuple(task.name for task in tasks))
        return KitRequest(table.model_copy(update={"backbone": "tiny", "input_size": (64, 64)}), tasks)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"held_out": 0}, "12 networks to fit to and 0 held out; at least 2 and 1"),
            ({"fit": 1}, "1 networks to fit to"),
        ],
    )
    def test_what_cannot_be_asked_for(
        self, change: dict[str, Any], words: str, request_: KitRequest, tmp_path: Path
    ) -> None:
        with pytest.raises(UsageError, match=words):
            prepare_kit(tmp_path / "kit", replace(request_, **change), Silent())
        assert not (tmp_path / "kit").exists()

    def test_one_task_shares_nothing(self, request_: KitRequest, tmp_path: Path) -> None:
        alone = replace(request_, tasks=request_.tasks[:1])
        with pytest.raises(UsageError, match="one task: there is nothing to share"):
            prepare_kit(tmp_path / "kit", alone, Silent())

    @pytest.mark.parametrize("name", ["measured-fp32-cpu.jsonl", ".hidden"])
    def test_a_folder_that_is_in_use(self, name: str, request_: KitRequest, tmp_path: Path) -> None:
        (tmp_path / name).write_text("a day's work", encoding="utf-8")
        with pytest.raises(UsageError, match="is not empty, and measurements may stand in it"):
            prepare_kit(tmp_path, request_, Silent())
        with pytest.raises(UsageError, match="is not empty"):
            prepare_kit(tmp_path / name, request_, Silent())
        assert [path.read_text() for path in tmp_path.iterdir()] == ["a day's work"]

    def test_stopped_halfway_nothing_is_left(
        self, tiny_table: CostTable, tasks: tuple[Task, ...], tmp_path: Path
    ) -> None:
        class Stops(Silent):
            written = -1

            def start(self, name: str, total: int, done: int = 0) -> None:
                self.written = 0 if name == "write" else -1

            def advance(self, **values: float) -> None:
                if self.written >= 0:
                    self.written += 1
                if self.written == 5:
                    raise KeyboardInterrupt

        request = KitRequest(tiny_table.subset(["semseg", "depth"]), tasks[:2])
        with pytest.raises(KeyboardInterrupt):
            prepare_kit(tmp_path / "kit", request, Stops())
        assert list(tmp_path.iterdir()) == []

    def test_precisions_are_named(self) -> None:
        assert known_precisions(["fp32", "int8"]) == ("fp32", "int8")
        with pytest.raises(UsageError, match=r"unknown precision 'int4'; did you mean 'int8'"):
            known_precisions(["fp32", "int4"])

    def test_runtimes_are_named(self) -> None:
        assert known_runtime("openvino") == "openvino"
        with pytest.raises(UsageError, match=r"unknown runtime 'onnxruntim'; did you mean 'onnxruntime'"):
            known_runtime("onnxruntim")


class TestSetting:
    @pytest.mark.parametrize(
        ("setting", "label"),
        [
            (Setting(), "fp32-cpu"),
            (Setting("int8", "cuda"), "int8-cuda"),
            (Setting(threads=1), "fp32-cpu-1thread"),
            (Setting(threads=12), "fp32-cpu-12threads"),
            (Setting(threads=2, runtime="openvino"), "fp32-openvino-2threads"),
        ],
    )
    def test_its_name(self, setting: Setting, label: str) -> None:
        assert setting.label == label

    @pytest.mark.parametrize(
        ("setting", "change", "words"),
        [
            (Setting("bf16"), {}, "the kit holds fp32, int8, not bf16"),
            (Setting("fp16"), {"precisions": ["fp16"]}, "does not compute in fp16"),
            (Setting(), {"runtime": "openvino"}, "the kit is for openvino, not onnxruntime; prepare it with --runtime"),
            (
                Setting(provider="cuda", runtime="openvino"),
                {"runtime": "openvino"},
                "--provider cuda is for ONNX Runtime",
            ),
            (Setting(provider="tpu"), {}, "unknown provider 'tpu'"),
        ],
    )
    def test_a_setting_that_does_not_fit_the_kit(
        self, setting: Setting, change: dict[str, Any], words: str, prepared: tuple[Path, Kit]
    ) -> None:
        folder, kit = prepared
        with pytest.raises(UsageError, match=words):
            opener(folder, kit.model_copy(update=change), setting, Silent())

    @pytest.mark.parametrize(("runtime", "provider"), [("onnxruntime", "CPUExecutionProvider"), ("openvino", "CPU")])
    def test_items_are_opened_in_the_kit_s_runtime(
        self, runtime: RuntimeName, provider: str, prepared: tuple[Path, Kit]
    ) -> None:
        folder, kit = prepared
        setting = Setting(threads=1, runtime=runtime)
        session = opener(folder, kit.model_copy(update={"runtime": runtime}), setting, Silent())("stem")
        assert session.runtime.split()[0] == runtime
        assert session.provider == provider
        assert (folder / file_of("fp32", "stem")).is_file()
        (output,) = session.run({name: spec.noise() for name, spec in session.inputs.items()}).values()
        assert output.shape == (1, 12, 16, 16)
