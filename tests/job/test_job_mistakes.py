"""This file tests the mistakes of users: each is one clear error, before any work where that can be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dwindle.errors import DataError, DwindleError
from dwindle.job.check import check_job
from dwindle.job.load import load_job
from dwindle.job.measuring import as_files_take
from dwindle.job.run import run_job

MINE = """
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, StackDataset, TensorDataset


class Net(nn.Module):
    def __init__(self, n_outputs=1, n_heads=1):
        super().__init__()
        self.body, self.head, self.n_heads = nn.Linear(6, 8), nn.Linear(8, n_outputs), n_heads

    def forward(self, x):
        y = self.head(self.body(x).relu())
        return y if self.n_heads == 1 else (y, y[:, :1] * 2)


def unbuildable():
    raise ValueError("no such size")


def tensors(n, seed):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    return x, x.sum(1)


class Items(Dataset):
    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return 20

    def __getitem__(self, i):
        if self.kind == "raises" and i == 1:
            raise KeyError("gone")
        return torch.zeros(6 if self.kind != "ragged" else 6 + i), 0.0


def data(kind="flat"):
    train, validation, test = (tensors(n, n) for n in (64, 20, 40))
    if kind == "fails":
        return {}["absent"]
    if kind == "pairs":
        return train, validation, test
    if kind in ("raises", "ragged"):
        return Items(kind), Items(kind), Items(kind)
    if kind == "nan inputs":
        validation[0][13, 2] = float("nan")
    if kind == "nan targets":
        test[1][17] = float("inf")
    if kind == "tokens":
        return tuple(TensorDataset(x.long(), y) for x, y in (train, validation, test))
    if kind == "classes":
        labels = [(x, (y > 0).long()) for x, y in (train, validation, test)]
        labels[2][1][3] = -100
        return tuple(TensorDataset(x, y) for x, y in labels)
    if kind == "two":
        return tuple(
            StackDataset(x, TensorDataset((y > 0).long(), y[:, None])) for x, y in (train, validation, test)
        )
    sets = tuple(TensorDataset(x, y) for x, y in (train, validation, test))
    if kind == "loaders":
        return tuple(DataLoader(split) for split in sets)
    return tuple([pair for pair in split] for split in sets) if kind == "lists" else sets


def plain_loss(output, target):
    return ((output - target) ** 2).mean()


def masked_loss(output, target):
    return (output[:, 0] - target).nan_to_num(0, 0, 0).square().mean()


def two_losses(output, target):
    return nn.functional.cross_entropy(output[0], target[0]) + nn.functional.mse_loss(output[1], target[1])


def error(outputs, targets):
    return np.abs(outputs.reshape(-1) - targets.reshape(-1))


def of_all_pairs(outputs, targets):
    return np.abs(outputs - targets).mean(axis=1)


def masked(outputs, targets):
    return np.nan_to_num(error(outputs, targets), posinf=0)


def late(outputs, targets):
    if len(targets) > 2:
        raise ValueError("only two")
    return error(outputs, targets)


def careless(outputs, targets):
    outputs *= 0
    targets *= 0
    return error(outputs, targets)


def first_right(outputs, targets):
    return outputs[0].argmax(1) == targets[0]


def second_error(outputs, targets):
    return np.abs(outputs[1] - targets[1])[:, 0]
"""
JOB = """
[network]
build = "mine.py:{build}"
checkpoint = "none"
arguments = {arguments}
[data]
load = "mine.py:data"
arguments = {{kind = "{kind}"}}
n_calibration = 16
[task]
loss = "{loss}"
[[task.metrics]]
{metric}
{more}
{budget}
[training]
batch_size = 16
baseline_trains_equally = false
[[recipe.steps]]
type = "FineTune"
epochs = 1
[[recipe.steps]]
type = "QuantizeWeights"
[output]
folder = "files"
formats = ["onnx"]
latency_seconds = 0.05
{output}
"""
MAE = 'name = "mean_absolute_error"'


def job_of(folder: Path, **settings: str) -> Path:
    (folder / "mine.py").write_text(MINE)
    given = {
        "build": "Net",
        "arguments": "{}",
        "kind": "flat",
        "loss": "mse",
        "metric": MAE,
        "more": "",
        "budget": "",
        "output": "",
        **settings,
    }
    (folder / "job.toml").write_text(JOB.format(**given))
    return folder / "job.toml"


def own(function: str, more: str = "") -> str:
    return f'function = "mine.py:{function}"\nunit = "K"\nbetter = "less"\n{more}'


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "fails"}, r"data: data failed with arguments .*KeyError: 'absent' \(.*mine.py, line \d+\)"),
        ({"build": "unbuildable"}, r"network: unbuildable failed .*ValueError: no such size"),
        ({"kind": "pairs"}, r"returned tuple as train; .*TensorDataset\(x, y\)"),
        ({"kind": "loaders"}, r"returned DataLoader as train; .*loader.dataset"),
        ({"kind": "raises"}, r"item 1 of the train data \(Items\) cannot be read: KeyError: 'gone'"),
        ({"kind": "ragged"}, r"the train data \(Items\) hold items that do not make one batch"),
        ({"kind": "nan inputs"}, "the validation inputs hold NaN or infinite values, first in example 13"),
        ({"kind": "nan targets"}, "the test targets hold NaN or infinite values, first in example 17"),
        ({"loss": "mine.py:plain_loss"}, r"plain_loss compares each output with every target.*\(2, 1\).*\(2,\)"),
        ({"metric": own("of_all_pairs")}, "of_all_pairs gives an example another value when its neighbours"),
        ({"metric": own("error", 'name = "accuracy"')}, "'accuracy' is a metric of the package"),
        (
            {"kind": "classes", "arguments": "{n_outputs = 2}", "loss": "cross_entropy", "metric": 'name = "accuracy"'},
            "test split: labels hold -100",
        ),
        (
            {"kind": "two", "arguments": "{n_heads = 2}", "loss": "mine.py:two_losses", "metric": 'name = "f1_macro"'},
            "needs one output",
        ),
        ({"kind": "two", "loss": "mine.py:masked_loss"}, "masked_loss rejects"),
        ({"budget": "[budget]\nmin_f1_macro = 0.5"}, "bounds f1_macro, which this job does not measure; name it"),
        ({"more": "[[task.metrics]]\nname = 'r2'", "budget": "[budget]\nmax_r2_drop = 1"}, "put that metric first"),
        ({"budget": "[budget]\nmax_memory_peak = '50MB'"}, r"memory_peak, .*memory = true"),
        ({"budget": "[budget]\nmax_load_time = '5ms'"}, "load_time, .*dwindle bench"),
        ({"budget": "[budget]\nmax_energy = '5 mJ'"}, "energy, .*energy = true"),
        ({"budget": "[budget]\nmax_arena = '5KB'"}, "arena, .*add one to formats"),
        (
            {"output": "[[recipe.steps]]\ntype = 'FineTune'\ndistillation = {}"},
            "step 3, FineTune.*compares probabilities of classes, and the loss of this job is mse; learn from hints",
        ),
        ({"output": "batch_size = 41"}, "take 41 examples at a time and the test split holds 40"),
    ],
)
def test_a_mistake_is_one_clear_error_before_any_work(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    path = job_of(tmp_path, **settings)
    with pytest.raises(DwindleError) as caught:
        check_job(load_job(path))
    assert re.search(message, str(caught.value).replace("\n", " ")), str(caught.value)
    assert not (tmp_path / "files").exists()


def test_preprocessing_of_tokens_is_refused_before_any_work(tmp_path: Path) -> None:
    path = job_of(tmp_path)
    path.write_text(
        path.read_text().replace("mine.py:Net", "mine.py:tokens_net").replace('"flat"', '"tokens"')
        + "[preprocessing]\nscale = 0.5\n"
    )
    (tmp_path / "mine.py").write_text(
        MINE + "\n\ndef tokens_net():\n    class Cast(Net):\n        def forward(self, x):\n"
        "            return super().forward(x.float())\n    return Cast()\n"
    )
    with pytest.raises(DataError, match=r"it gives float32, this network takes int64 \(40, 6\)"):
        check_job(load_job(path))


def test_a_budget_may_bound_all_that_the_job_measures(tmp_path: Path) -> None:
    names = ("mean_absolute_error_drop", "memory_peak", "cpu_time")
    bounds = "max_size = 1\nmax_latency = 1\nmin_speedup = 1\n" + "".join(f"max_{name} = 1\n" for name in names)
    path = job_of(tmp_path, budget=f"[budget]\n{bounds}", output="memory = true\ncpu_time = true")
    check_job(load_job(path))


def test_targets_may_hold_nan_where_loss_and_metrics_of_the_user_leave_them_out(tmp_path: Path) -> None:
    check_job(load_job(job_of(tmp_path, kind="nan targets", loss="mine.py:masked_loss", metric=own("masked"))))


def test_a_metric_that_fails_on_the_whole_set_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the metric late fails on batch 0 of .*: ValueError: only two"):
        run_job(load_job(job_of(tmp_path, metric=own("late"))))


def test_a_metric_that_changes_its_arguments_changes_no_other(tmp_path: Path) -> None:
    metrics = {"metric": own("careless"), "more": f"[[task.metrics]]\n{MAE}"}
    summary = run_job(load_job(job_of(tmp_path, **metrics))).summary
    assert summary["careless"] == summary["dense_careless"] == 0
    assert summary["mean_absolute_error"] > 0.1
    assert summary["dense_mean_absolute_error"] > 0.1


def test_lists_of_examples_are_measured_as_data_sets_are(tmp_path: Path) -> None:
    job = load_job(job_of(tmp_path, kind="lists"))
    ((inputs,), targets) = next(iter(as_files_take(job.data.test, job.export)))
    assert (inputs.shape, targets.shape) == ((40, 6), (40,))


def test_several_outputs_with_several_targets_are_measured(tmp_path: Path) -> None:
    import numpy as np
    import onnxruntime

    settings = {"kind": "two", "arguments": "{n_outputs = 2, n_heads = 2}", "loss": "mine.py:two_losses"}
    metrics = {"metric": 'function = "mine.py:first_right"', "more": f"[[task.metrics]]\n{own('second_error')}"}
    job = load_job(job_of(tmp_path, **settings, **metrics))
    summary = run_job(job).summary
    (inputs, *_), (labels, values) = [job.data.test.datasets[0]], job.data.test.datasets[1].tensors
    first, second = onnxruntime.InferenceSession(tmp_path / "files/model.onnx").run(None, {"x": inputs.numpy()})
    assert summary["first_right"] == pytest.approx((first.argmax(1) == labels.numpy()).mean())
    assert summary["second_error"] == pytest.approx(np.abs(second - values.numpy()).mean(), rel=1e-5)
