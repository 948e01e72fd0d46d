"""This file tests jobs of any task: several inputs, regression, own losses and metrics, what a check finds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dwindle.bench.ledger import Entry, Ledger
from dwindle.bench.measurement import Metric
from dwindle.bench.probes.scores import Score
from dwindle.cli.outcome import print_outcome
from dwindle.errors import DataError, DwindleError, SettingError
from dwindle.job.check import check_job
from dwindle.job.load import load_job
from dwindle.job.losses import LOSSES
from dwindle.job.run import run_job
from dwindle.job.task import Task
from dwindle.report.comparison import rows_of
from dwindle.report.facts import gather

MINE = """
import numpy as np
import torch
from torch import nn
from torch.utils.data import StackDataset, TensorDataset


class Two(nn.Module):
    def __init__(self, n_outputs=2):
        super().__init__()
        self.image, self.head = nn.Linear(16, 8), nn.Linear(11, n_outputs)

    def forward(self, image, table):
        return self.head(torch.cat([self.image(image.flatten(1)).relu(), table], dim=1))


def split(n, target):
    generator = torch.Generator().manual_seed(n)
    image, table = torch.randn(n, 1, 4, 4, generator=generator), torch.randn(n, 3, generator=generator)
    first, second = table.sum(1), image.mean((1, 2, 3))
    targets = {
        "two": torch.stack([first, second], 1),
        "one": first,
        "labels": torch.stack([first > 0, second > 0], 1).float(),
        "classes": (first > 0).long(),
        "wrong": (first > 0).long() * 7,
        "nan": first * float("nan"),
    }[target]
    return StackDataset(TensorDataset(image, table), targets)


def data(target="two"):
    return split(64, target), split(32, target), split(40, target)


def constant_input():
    images = torch.randn(8, 1, 4, 4)
    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return 8
        def __getitem__(self, i):
            return {"image": images[i], "table": torch.zeros(3)}, torch.zeros(2)
    return Items(), Items(), Items()


def loss(output, target):
    return (output - target).square().mean()


def within(outputs, targets):
    return (np.abs(outputs - targets) < 1).all(axis=1)


def error_mm(outputs, targets):
    return 100 * np.abs(outputs - targets).mean(axis=1)


def one_number(outputs, targets):
    return np.abs(outputs - targets).mean()


def broken(outputs, targets):
    return outputs.no_such_thing


def never(outputs, targets):
    return np.full(len(targets), np.nan)
"""

JOB = """
name = "two inputs"
[network]
build = "mine.py:Two"
checkpoint = "none"
arguments = {ARGUMENTS}
[data]
load = "mine.py:data"
arguments = {DATA}
n_calibration = 16
{TASK}
[training]
batch_size = 16
learning_rate = 0.001
[[recipe.steps]]
type = "FineTune"
epochs = 1
[[recipe.steps]]
type = "QuantizeWeights"
[output]
folder = "files"
latency_seconds = 0.1
{MORE}
"""
REGRESSION = '[task]\nloss = "mine.py:loss"\n[[task.metrics]]\nfunction = "mine.py:within"'


def job_of(folder: Path, task: str = REGRESSION, *, data: str = "{}", arguments: str = "{}", more: str = "") -> Path:
    (folder / "mine.py").write_text(MINE)
    text = JOB.replace("{TASK}", task).replace("{DATA}", data).replace("{ARGUMENTS}", arguments).replace("{MORE}", more)
    (folder / "job.toml").write_text(text)
    return folder / "job.toml"


def named(name: str, more: str = "") -> str:
    return f'[[task.metrics]]\nname = "{name}"\n{more}'


@pytest.mark.parametrize(
    ("task", "data", "arguments"),
    [
        pytest.param(REGRESSION, "{}", "{}", id="own loss, own metric"),
        pytest.param('[task]\nloss = "mse"\n' + named("mean_absolute_error", 'unit = "mm"'), "{}", "{}", id="named"),
        pytest.param('[task]\nloss = "l1"\n' + named("r2"), '{target = "one"}', "{n_outputs = 1}", id="one output"),
        pytest.param(
            '[task]\nloss = "bce_with_logits"\n[[task.metrics]]\nfunction = "mine.py:within"',
            '{target = "labels"}',
            "{}",
            id="several labels",
        ),
        pytest.param(named("f1_macro") + named("accuracy"), '{target = "classes"}', "{}", id="classes by F1"),
        pytest.param("", '{target = "classes"}', "{}", id="classes"),
    ],
)
def test_any_task_passes_the_check(tmp_path: Path, task: str, data: str, arguments: str) -> None:
    job = load_job(job_of(tmp_path, task, data=data, arguments=arguments))
    check_job(job)
    assert not (tmp_path / "files").exists()


OWN = '[task]\nloss = "mine.py:loss"\n[[task.metrics]]\nfunction = "mine.py:{}"'


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("", {}, r"about classes unless it says otherwise.*\[task\] with loss = \"mse\""),
        ("[task]\nloss = 'msee'\n" + named("r2"), {}, "task.loss = 'msee'.*nearest known one is 'mse'"),
        ("[task]\nlos = 'mse'", {}, "unknown key 'los'; the nearest known one is 'loss'"),
        (named("f1macro"), {}, r"task.metrics\[0\].name = 'f1macro'.*nearest known one is 'f1_macro'"),
        (named("accuracy", 'unit = "mm"'), {}, "the unit of accuracy is 'fraction'; leave unit out"),
        (named("r2", 'better = "less"'), {}, "whether more of r2 is better is known"),
        ("[[task.metrics]]\nunit = 'mm'", {}, "a metric needs a name, or a function"),
        (OWN.format("within") + '\nname = "size"', {}, "cannot be called 'size'"),
        (OWN.format("within") + '\nname = "my metric"', {}, "letters, digits and underscores"),
        (OWN.format("within") + "\n" + named("r2") + named("r2"), {}, "'r2' is named twice"),
        (OWN.format("error_mm"), {}, "its unit is a fraction; name its unit"),
        (OWN.format("one_number"), {}, r"shape \(\) for 2 examples .*one finite value for each example"),
        (OWN.format("broken"), {}, "the metric broken rejects outputs float32 .*AttributeError"),
        (OWN.format("never"), {}, "one finite value for each example"),
        (
            "[task]\nloss = 'mse'\n" + named("r2"),
            {"arguments": "{n_outputs = 3}"},
            "the loss mse needs as many targets",
        ),
        ("[task]\nloss = 'bce_with_logits'\n" + named("r2"), {}, r"needs targets in \[0, 1\]"),
        ("[task]\nloss = 'mse'\n" + named("accuracy"), {}, "accuracy needs a class number"),
        (
            "[task]\nloss = 'mse'\n" + named("r2"),
            {"data": '{target = "nan"}', "arguments": "{n_outputs = 1}"},
            "targets hold NaN",
        ),
        (named("f1_macro"), {"data": '{target = "wrong"}'}, r"labels lie in \[0, 7\]"),
        (named("top5_accuracy"), {"data": '{target = "classes"}'}, "top-5 accuracy of 2 classes is always 1"),
        (REGRESSION, {"more": "opset = 12"}, "opset must be in"),
        (REGRESSION, {"more": "float_type = 'float8'"}, "'float8' is not one of"),
        (REGRESSION, {"more": "batch_size = 4\nthroughput_batch = 8"}, "the files take 4"),
        (REGRESSION, {"more": "[preprocessing]\nscal = 2.0"}, "unknown key 'scal'; the nearest known one is 'scale'"),
        (REGRESSION, {"more": "[preprocessing]\nscale = 2.0"}, "one input"),
        (REGRESSION, {"more": "[budget]\nmin_withn = 0.5"}, "nearest known one is 'min_within'"),
    ],
)
def test_what_cannot_be_is_one_clear_error_before_any_work(
    tmp_path: Path, task: str, settings: dict[str, Any], message: str
) -> None:
    path = job_of(tmp_path, task, **settings)
    with pytest.raises(DwindleError) as caught:
        check_job(load_job(path))
    assert re.search(message, str(caught.value).replace("\n", " ")), str(caught.value)
    assert not (tmp_path / "files").exists()


def test_inputs_in_a_mapping_get_one_clear_error(tmp_path: Path) -> None:
    path = job_of(tmp_path)
    path.write_text(path.read_text().replace("mine.py:data", "mine.py:constant_input"))
    with pytest.raises(DataError, match=r"mapping of image, table.*several inputs are a tuple"):
        check_job(load_job(path))


def test_a_network_without_a_checkpoint_is_an_explicit_choice(tmp_path: Path) -> None:
    path = job_of(tmp_path)
    path.write_text(path.read_text().replace('checkpoint = "none"\n', ""))
    with pytest.raises(SettingError, match=r'checkpoint is missing.*checkpoint = "none"'):
        load_job(path)


def test_a_budget_may_bound_the_metric_of_the_user(tmp_path: Path) -> None:
    job = load_job(job_of(tmp_path, more="[budget]\nmin_within = 0.5\nmax_within_drop = 2"))
    assert job.budget is not None
    assert job.budget.bounds == {"within": 0.5, "within_drop": 2.0}


def test_a_regression_is_summed_up_by_its_own_metric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = REGRESSION + '\n[[task.metrics]]\nfunction = "mine.py:error_mm"\nunit = "mm"\nbetter = "less"'
    job = load_job(job_of(tmp_path, metrics, more="cpu_time = true\n[budget]\nmin_within = 1.0"))
    outcome = run_job(job)
    s = outcome.summary
    assert (s["metric"], s["metric_unit"], s["within_drop_unit"]) == ("within", "fraction", "points")
    assert s["within_drop_low"] <= s["within_drop"] <= s["within_drop_high"]
    assert s["n_test"] == 40
    assert s["error_mm"] > 0
    assert s["dense_error_mm"] > 0
    assert "accuracy" not in s
    assert s["budget"] == "violated"
    assert [(file["file"], file["verdict"]) for file in s["budget_files"]][:1] == [("model.dwn", "violated")]
    assert s["budget_files"][0]["bounds"]["within"].startswith("violated: ")
    measured = {m.metric.name for m in outcome.measured.measurements}
    assert "cpu_time" in measured
    assert "top1_agreement" not in measured
    print_outcome(outcome)
    printed = capsys.readouterr().out
    assert "within drop, paired" in printed
    assert "accuracy" not in printed
    narrow = "".join(printed.split())  # cells are folded
    assert "violatedformodel.dwn" in narrow
    assert re.search(r"besideitmodel\.onnxononnxruntime[\d.]+:violated", narrow)
    page = outcome.report.read_text()
    assert "within drop" in page
    assert "Budget violated for model.dwn" in page
    assert "What is mistaken for what" not in page
    assert "mm</span>" in page
    assert "accuracy drop" not in page.partition("<main>")[0]
    assert "Input shapes" in page
    require_dense_times_of_their_own(Ledger(tmp_path / "files/ledger.jsonl").read())


def require_dense_times_of_their_own(entries: tuple[Entry, ...]) -> None:
    """Dense and compressed are timed in turn, so the dense column holds another figure for the second file."""
    rows = [row for row in rows_of(gather(entries)) if row.label == "Latency, median"]
    assert [row.file for row in rows] == ["model.dwn", "model.onnx"]
    shown = {row.dense.interval for row in rows if row.dense is not None}
    assert len(shown) == 2
    assert not any("beside" in row.conditions for row in rows)


BYTES = """
import torch
from torch import nn
from torch.utils.data import TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 3)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(3).repeat_interleave(4, dim=1))

    def forward(self, x):
        return self.layer(x.flatten(1))


def data():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (43, 3, 2, 2), generator=generator, dtype=torch.uint8)
    inputs = (pixels.float() / 255 - 0.5) / 0.25
    splits = TensorDataset(inputs, pixels.float().sum((2, 3)).argmax(1))
    return splits, splits, splits
"""
WITH_BYTES = """
[network]
build = "bytes.py:Net"
checkpoint = "none"
[data]
load = "bytes.py:data"
[[recipe.steps]]
type = "QuantizeWeights"
[preprocessing]
scale = 0.00392156862745098
mean = [0.5, 0.5, 0.5]
std = [0.25]
is_uint8 = true
channels_last = true
[output]
formats = ["onnx"]
folder = "files"
batch_size = 4
opset = 17
latency_seconds = 0.1
"""


def test_files_that_preprocess_are_measured_on_raw_inputs(tmp_path: Path) -> None:
    import onnx

    (tmp_path / "bytes.py").write_text(BYTES)
    (tmp_path / "job.toml").write_text(WITH_BYTES)
    job = load_job(tmp_path / "job.toml")
    outcome = run_job(job)
    inputs, targets = (tensor[:40] for tensor in job.data.test.tensors)  # the incomplete eleventh batch is left out
    assert outcome.summary["n_test"] == 40
    right = float((job.network(inputs).argmax(1) == targets).float().mean())
    assert right > 0.8
    assert outcome.summary["dense_accuracy"] == pytest.approx(right)
    assert outcome.summary["accuracy"] == pytest.approx(right, abs=0.06)
    graph = onnx.load(tmp_path / "files/model.onnx")
    assert [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim] == [4, 2, 2, 3]
    assert graph.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert graph.opset_import[0].version == 17


def test_preprocessing_that_the_data_did_not_have_is_found(tmp_path: Path) -> None:
    (tmp_path / "bytes.py").write_text(BYTES)
    (tmp_path / "job.toml").write_text(WITH_BYTES.replace("std = [0.25]", "std = [0.5]"))
    with pytest.raises(DataError, match=r"the test inputs lie .* beyond what .*raw inputs"):
        check_job(load_job(tmp_path / "job.toml"))


def test_losses_align_what_the_data_give_with_what_the_network_gives() -> None:
    output, target = torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0], dtype=torch.float64)
    assert float(LOSSES["mse"](output, target)) == pytest.approx(2.0)
    assert float(LOSSES["l1"](output, target)) == pytest.approx(1.0)
    assert float(LOSSES["smooth_l1"](output, target)) == pytest.approx(0.75)
    assert float(LOSSES["bce_with_logits"](output, torch.tensor([1, 0]))) == pytest.approx(1.2201, abs=1e-3)
    with pytest.raises(DataError, match="as many targets as outputs"):
        LOSSES["mse"](torch.zeros(4, 2), torch.zeros(4))
    with pytest.raises(DataError, match="one output and one target"):
        LOSSES["mse"]((output, output), target)


def test_a_task_needs_a_metric() -> None:
    with pytest.raises(SettingError, match="at least one metric"):
        Task(scores=())
    score = Score(Metric("within_drop", "fraction", 1), lambda outputs, targets: np.ones(len(targets), dtype=bool))
    with pytest.raises(SettingError, match="cannot be called 'within_drop'"):
        Task(scores=(score,))
