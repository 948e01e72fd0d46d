"""This file tests the reference trainer: exact resume above all."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dwindle.errors import CheckpointError, DataError, NetworkError, SettingError
from dwindle.network.fabric_trainer import FabricTrainer, has_fast_bfloat16


def data(n: int = 48, *, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 3, 6, 6, generator=generator)
    return TensorDataset(inputs, (inputs.mean((1, 2, 3)) > 0).long())


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(64, 2)
        )


def noise(inputs: Tensor, generator: torch.Generator) -> Tensor:
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def trainer(**settings) -> FabricTrainer:
    defaults = {"train": data(), "validation": data(20, seed=1), "batch_size": 16, "accelerator": "cpu"}
    return FabricTrainer(**{**defaults, **settings})


class Killed(BaseException):
    pass


def killer(at_step: int):
    def report(_: str, done: int, __: int) -> None:
        if done == at_step:
            raise Killed

    return report


@pytest.mark.parametrize("killed_at", [1, 4, 8, 9])
@pytest.mark.parametrize("patience", [None, 2])
def test_a_killed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, killed_at, patience):
    straight = network()
    settings = {"augment": noise, "patience": patience}
    expected = trainer(**settings)(straight, steps=10, seed=3, stage="s")
    killed = network()
    with pytest.raises(Killed):
        trainer(**settings, workdir=tmp_path, report_progress=killer(killed_at))(killed, steps=10, seed=3, stage="s")
    assert killed.training
    resumed = network()
    torch.manual_seed(99)  # the global generator must not matter
    curve = trainer(**settings, workdir=tmp_path)(resumed, steps=10, seed=3, stage="s")
    assert same(state(straight), state(resumed))
    assert [{**f, "seconds": 0} for f in curve] == [{**f, "seconds": 0} for f in expected]
    assert not list(tmp_path.glob("*.part"))


def test_a_resumed_run_does_not_train_finished_epochs_again(tmp_path):
    steps: list[int] = []
    with pytest.raises(Killed):
        trainer(workdir=tmp_path, report_progress=killer(8))(network(), steps=9, seed=0, stage="s")
    trainer(workdir=tmp_path)(network(), steps=9, seed=0, stage="s", after_step=steps.append)
    assert steps == [7, 8, 9]


def test_a_finished_run_is_not_run_again_and_its_file_is_small(tmp_path):
    first, second = network(), network()
    curve = trainer(workdir=tmp_path)(first, steps=6, seed=0, stage="s")
    assert trainer(workdir=tmp_path, report_progress=None)(second, steps=6, seed=0, stage="s") == curve
    assert same(state(first), state(second))


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 7}, {"learning_rate": 0.01}])
def test_other_arguments_do_not_meet_the_checkpoint(tmp_path, change):
    arguments = {"steps": 6, "seed": 0, "stage": "s"}
    trainer(workdir=tmp_path)(network(), **arguments)
    trainer(workdir=tmp_path)(network(), **{**arguments, **change})
    trainer(workdir=tmp_path)(network(seed=1), **arguments)
    trainer(workdir=tmp_path, train=data(seed=5))(network(), **arguments)
    assert len(list(tmp_path.glob("s-*.ckpt"))) == 4


def test_the_seed_decides_everything():
    nets = [network() for _ in range(3)]
    for net, seed, noise_seed in zip(nets, (0, 0, 1), (5, 6, 5), strict=True):
        torch.manual_seed(noise_seed)
        trainer(augment=noise)(net, steps=5, seed=seed, stage="s")
    assert same(state(nets[0]), state(nets[1]))
    assert not same(state(nets[0]), state(nets[2]))


def test_the_world_is_left_as_found():
    net = network()
    net.eval()
    net[1].train()
    torch.manual_seed(1)
    before, n_threads = torch.get_rng_state(), torch.get_num_threads()
    trainer()(net, steps=3, seed=0, stage="s")
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == n_threads
    assert [m.training for m in net] == [False, True, False, False, False, False]
    assert net[0].weight.is_contiguous()
    assert all(p.grad is None for p in net.parameters())


def test_training_learns_and_reports():
    net = network()
    seen: list[tuple[str, int, int]] = []
    curve = trainer(report_progress=lambda *a: seen.append(a))(net, steps=31, seed=0, stage="learn")
    assert [f["epoch"] for f in curve] == [float(i + 1) for i in range(11)]
    assert curve[-1]["loss"] < curve[0]["loss"] / 2
    assert curve[-1]["validation_accuracy"] > curve[0]["validation_accuracy"] - 1e-9
    assert curve[-1]["learning_rate"] < 0.01
    assert seen[-1] == ("learn", 31, 31)
    assert set(curve[0]) == {
        "epoch", "step", "loss", "accuracy", "learning_rate", "seconds", "validation_loss", "validation_accuracy"
    }  # fmt: skip


def test_patience_stops_and_restores_the_best():
    net = network()
    validation = data(20, seed=1)
    curve = trainer(validation=validation, patience=2, learning_rate=1.0)(net, steps=120, seed=0, stage="s")
    assert len(curve) < 40
    best = max((f["validation_accuracy"], -f["validation_loss"]) for f in curve)
    assert best == (curve[-3]["validation_accuracy"], -curve[-3]["validation_loss"])
    net.eval()
    inputs, targets = validation.tensors
    assert float((net(inputs).argmax(1) == targets).double().mean()) == best[0]


def test_a_mask_schedule_is_never_stopped_early():
    steps: list[int] = []
    trainer(patience=1, learning_rate=1.0)(network(), steps=30, seed=0, stage="s", after_step=steps.append)
    assert steps == list(range(1, 31))


def test_no_weight_decay_on_parameters_of_one_axis():
    net = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    groups: list[dict] = []

    def factory(given, rate):
        groups.extend(given)
        return torch.optim.SGD(given, lr=rate, weight_decay=0.1)

    trainer(optimizer=factory)(net, steps=1, seed=0, stage="s")
    assert [(len(g["params"]), g.get("weight_decay")) for g in groups] == [(1, 0.1), (1, 0.0)]


def test_a_loss_can_replace_the_base_loss():
    net = network()
    before = state(net)
    curve = trainer(optimizer=lambda g, r: torch.optim.SGD(g, lr=r))(
        net, steps=3, seed=0, stage="s", loss=lambda output, batch, base: 0.0 * base + 0.0 * output.sum() + 7.0
    )
    assert curve[0]["loss"] == pytest.approx(7.0)
    assert torch.equal(before["5.weight"], net[5].weight)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_loss_may_ask_for_gradients_of_its_own(precision):
    net, norms = network(), []

    def loss(output, batch, base_loss):
        assert output.dtype == torch.float32
        norms.append(float(torch.autograd.grad(base_loss, net[0].weight, retain_graph=True)[0].norm()))
        return base_loss

    trainer(precision=precision)(net, steps=2, seed=0, stage="s", loss=loss)
    assert len(norms) == 2
    assert min(norms) > 0


def test_zero_steps_change_nothing():
    net = network()
    before = state(net)
    assert trainer()(net, steps=0, seed=0, stage="s") == ()
    assert same(before, state(net))


class Items(Dataset):
    def __init__(self, n=20):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i >= self.n:
            raise IndexError(i)
        return torch.full((3, 6, 6), float(i)), i % 2


def test_any_map_style_data_set_trains():
    t = trainer(train=Items(), validation=Items(3))
    assert t.steps_per_epoch == 1
    assert len(t(network(), steps=2, seed=0, stage="s")) == 2


def test_a_loader_is_resumed_exactly(tmp_path):
    def loader(own: bool) -> DataLoader:
        return DataLoader(data(), batch_size=12, shuffle=True, generator=torch.Generator() if own else None)

    for own in (False, True):
        folder = tmp_path / str(own)
        straight, resumed = network(), network()
        assert trainer(train=loader(own)).steps_per_epoch == 4
        trainer(train=loader(own))(straight, steps=12, seed=0, stage="s")
        with pytest.raises(Killed):
            trainer(train=loader(own), workdir=folder, report_progress=killer(6))(
                network(), steps=12, seed=0, stage="s"
            )
        trainer(train=loader(own), workdir=folder)(resumed, steps=12, seed=0, stage="s")
        assert same(state(straight), state(resumed))


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (TensorDataset(torch.zeros(0, 3, 6, 6), torch.zeros(0).long()), "training data set is empty"),
        (TensorDataset(torch.zeros(9, 3, 5, 6), torch.zeros(9).long()), r"rejects training inputs.*2, 3, 5, 6"),
        (TensorDataset(torch.zeros(9, 3, 6, 6), torch.arange(9)), r"labels lie in \[0, 8\], the network has 2 outputs"),
        (TensorDataset(torch.zeros(9, 3, 6, 6), -torch.arange(9)), r"labels lie in \[-8, 0\]"),
        (TensorDataset(torch.full((9, 3, 6, 6), float("nan")), torch.zeros(9).long()), "NaN"),
        (TensorDataset(torch.zeros(9, 3, 6, 6)), r"yield tuple of Tensor"),
    ],
)  # fmt: skip
def test_data_that_cannot_work_are_refused_before_any_step(train, words):
    net = network()
    before = state(net)
    with pytest.raises(DataError, match=words):
        trainer(train=train, validation=None)(net, steps=3, seed=0, stage="s")
    assert same(before, state(net))


def test_a_late_bad_label_is_still_a_data_error():
    class Bad(Items):
        def __getitem__(self, i):
            return torch.zeros(3, 6, 6), 7 if i == 15 else 0

    with pytest.raises(DataError, match=r"labels lie in \[0, 7\]"):
        trainer(train=Bad(), validation=None)(network(), steps=9, seed=0, stage="s")


def test_nan_in_the_validation_data_names_them():
    class Late(Items):
        def __getitem__(self, i):
            return torch.full((3, 6, 6), float("nan") if i == 15 else 1.0), 0

    with pytest.raises(
        NetworkError, match=r"the validation loss became nan in epoch 1; look for NaN in the validation"
    ):
        trainer(validation=Late())(network(), steps=9, seed=0, stage="s")


def test_a_diverging_loss_names_epoch_and_rate():
    with pytest.raises(NetworkError, match=r"loss became .* in epoch .* at learning rate .*lower"):
        trainer(learning_rate=1e30, validation=None)(network(), steps=9, seed=0, stage="s")


def test_a_frozen_network_is_refused():
    net = network()
    net.requires_grad_(False)
    with pytest.raises(NetworkError, match="no parameter"):
        trainer()(net, steps=1, seed=0, stage="s")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"patience": 1, "validation": None}, "patience"),
        ({"patience": 0}, "patience"),
    ],
)
def test_settings_that_cannot_work(settings, words):
    with pytest.raises(SettingError, match=words):
        trainer(**settings)


def test_a_damaged_checkpoint_says_what_to_do(tmp_path):
    trainer(workdir=tmp_path)(network(), steps=3, seed=0, stage="s")
    (path,) = tmp_path.glob("*.ckpt")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="delete it to train"):
        trainer(workdir=tmp_path)(network(), steps=3, seed=0, stage="s")


def test_a_full_disk_is_told_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    def report(_, done, __):
        if done == 4:
            monkeypatch.setattr("os.fsync", full)

    straight = network()
    trainer()(straight, steps=9, seed=0, stage="s")
    with pytest.raises(CheckpointError, match=r"No space left.*free some space"):
        trainer(workdir=tmp_path, report_progress=report)(network(), steps=9, seed=0, stage="s")
    monkeypatch.undo()
    assert [p.suffix for p in tmp_path.iterdir()] == [".ckpt"]
    resumed = network()
    trainer(workdir=tmp_path)(resumed, steps=9, seed=0, stage="s")
    assert same(state(straight), state(resumed))


def test_bfloat16_runs_where_it_is_asked_for():
    net = copy.deepcopy(network())
    curve = trainer(precision="bf16", validation=None)(net, steps=1, seed=0, stage="s")
    assert curve[0]["loss"] < 5
    assert net[0].weight.dtype == torch.float32
    assert isinstance(has_fast_bfloat16(torch.device("cpu")), bool)


def test_a_batch_norm_with_one_value_is_one_clear_error():
    norm = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    lone = FabricTrainer(train=TensorDataset(torch.randn(6, 4), torch.zeros(6, dtype=torch.long)), batch_size=1)
    with pytest.raises(DataError, match="'lone': batches of 1 give a batch norm one value; raise batch_size"):
        lone(norm, steps=1, seed=0, stage="lone")
