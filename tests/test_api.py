"""The commands as functions, the notebook that shows them, and what importing the package costs."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bmtas
from bmtas.data.planted import TASKS

NOTEBOOK = Path(__file__).parents[1] / "examples" / "first_steps.ipynb"
SHORT = {
    "search_settings": {"warmup_steps": 1, "weight_steps": 1, "batch_size": 4},
    "train_settings": {"steps": 2, "batch_size": 4},
}


def tiny(runs: Path, seed: int = 0) -> bmtas.Run:
    return bmtas.search("4MMAdds", data="planted", backbone="tiny", runs=runs, seed=seed, **SHORT)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> bmtas.Run:
    return tiny(tmp_path_factory.mktemp("runs"))


def test_what_is_found_is_within_the_budget_and_is_what_is_built(run: bmtas.Run) -> None:
    architecture = run.architecture("found")
    network = bmtas.build(run.architecture_path, TASKS)
    assert sum(p.numel() for p in network.parameters()) == bmtas.show(run)["networks"]["found"]["costs"]["params"]
    assert bmtas.show(run)["networks"]["found"]["costs"]["madds"] <= 4e6
    assert bmtas.build(architecture.to_json(), TASKS).state_dict().keys() == network.state_dict().keys()


def test_what_is_trained_is_loaded_and_measured(run: bmtas.Run, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(bmtas.UsageError, match="not trained yet"):
        bmtas.load(run)
    with caplog.at_level(logging.INFO, logger="bmtas"):
        summary = bmtas.train(run, ["found", "shared"], progress=bmtas.Logged(every_s=0))
    told = [record.getMessage() for record in caplog.records]
    assert "train found: 0/2" in told
    assert any(text.startswith("train shared: 2/2  ") for text in told)
    assert summary == bmtas.show(run) == bmtas.evaluate(run)
    network = bmtas.load(run.path, "shared")
    assert not network.training
    saved = torch.load(run.network("shared") / "weights.pt", weights_only=True)["network"]
    assert all(torch.equal(value, saved[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        predictions = network(torch.zeros(1, 3, 32, 32))
    assert {name: tuple(value.shape) for name, value in predictions.items()} == {
        task.name: (1, 3, 32, 32) for task in TASKS
    }


def test_an_unfinished_or_equal_run_is_the_command_line_s_too(run: bmtas.Run) -> None:
    again = tiny(run.path.parent)  # the first has ended, so this is another one with the same result
    assert (again.name, again.architecture("found")) == ("002-planted-4MMAdds", run.architecture("found"))
    assert again.config() == run.config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "brached"}, "unknown method 'brached'; did you mean 'branched'"),
        ({"preset": "fast"}, "unknown preset 'fast'"),
        ({"settings": {"flow": 3}}, "has no settings of its own"),
        ({"search_settings": {"batch_size": 0}}, "--batch-size 0"),
    ],
)
def test_what_breaks_a_rule_is_refused_as_on_the_command_line(
    arguments: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(bmtas.UsageError, match=message):
        bmtas.search("4MMAdds", data="planted", backbone="tiny", runs=tmp_path, **arguments)  # type: ignore[arg-type]
    with pytest.raises(bmtas.BudgetError):
        bmtas.search("1MMAdds", data="planted", backbone="tiny", runs=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_all_public_names_are_there_and_none_needs_torch_before_it_is_used() -> None:
    code = (
        "import sys, bmtas\n"
        "assert 'torch' not in sys.modules\n"
        "assert set(bmtas.__all__) <= set(dir(bmtas))\n"
        "[getattr(bmtas, name) for name in bmtas.__all__ if not name.startswith('register') and name not in ('Backbone', 'Parts')]\n"
        "assert 'torch' not in sys.modules\n"
        "import bmtas.summary, bmtas.workflow, bmtas.planning\n"
        "assert all(callable(getattr(bmtas, name)) for name in bmtas.__all__)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        bmtas.serach  # noqa: B018


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient").NotebookClient
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "the notebook is kept without outputs"
    done = client(notebook, timeout=250, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(o.get("text", "") for c in done.cells for o in c.get("outputs", ()) if o.output_type == "stream")
    assert "within the budget: True" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed -1"),
        ({"size": "64x64"}, "expected .height, width."),
        ({"size": (64.5, 64)}, "expected .height, width."),
        ({"budget": 9e9}, "expected a text with its unit"),
        ({"method": "permuted"}, "permuted"),
    ],
)
def test_values_of_another_form_are_refused(arguments: dict[str, object], message: str, tmp_path: Path) -> None:
    given = {"budget": "4MMAdds", "data": "planted", "backbone": "tiny", "runs": tmp_path, **arguments}
    with pytest.raises(bmtas.UsageError, match=message):
        bmtas.search(**given)  # type: ignore[arg-type]


def test_no_number_of_images_is_taken_for_another(run: bmtas.Run) -> None:
    bmtas.train(run)
    for images in (0, -1):
        with pytest.raises(bmtas.UsageError, match=f"images {images}: metrics need at least 1"):
            bmtas.evaluate(run, images=images)
    with pytest.raises(bmtas.UsageError, match="one is loaded at a time"):
        bmtas.load(run, ["found", "shared"])  # type: ignore[arg-type]


def test_an_unknown_setting_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(bmtas.UsageError, match="unknown setting 'warm_steps'; did you mean 'warmup_steps'"):
        bmtas.search("4MMAdds", data="planted", backbone="tiny", runs=tmp_path, search_settings={"warm_steps": 3})


def test_one_process_at_a_time_works_on_a_run(run: bmtas.Run, tmp_path: Path) -> None:
    """Another one holds it, really: it waits for a line on its input."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom bmtas.holding import held\nfrom bmtas.runs import Run\n"
        "with held(Run(Path(sys.argv[1]))):\n    print('held', flush=True)\n    sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(bmtas.UsageError, match="another process is at work on"):
            bmtas.train(run, "found")
        other.kill()  # whatever ends it, the system lets go
    assert bmtas.train(run, "found")["networks"]["found"]["metrics"] is not None
