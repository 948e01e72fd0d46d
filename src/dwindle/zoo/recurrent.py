"""This file holds small recurrent networks for sensor windows: an LSTM and a GRU that read the readings in order."""

from __future__ import annotations

from torch import Tensor, nn

from dwindle.errors import NetworkError
from dwindle.zoo.arguments import require_positive


class SensorRecurrence(nn.Module):
    """The network behind `sensor_lstm` and `sensor_gru`: recurrent layers, then a linear layer on the last state."""

    def __init__(self, recurrence: nn.LSTM | nn.GRU, *, n_classes: int, readings_per_step: int) -> None:
        super().__init__()
        self.recurrence, self.readings_per_step = recurrence, readings_per_step
        self.head = nn.Linear(recurrence.hidden_size, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, time) to logits (batch, n_classes)."""
        channels, per_step = self.recurrence.input_size // self.readings_per_step, self.readings_per_step
        if x.ndim != 3 or x.shape[1] != channels or x.shape[2] % per_step != 0:
            multiple = f", time a multiple of {per_step}" if per_step > 1 else ""
            raise NetworkError(
                f"sensor windows are (batch, {channels}, time){multiple}, got {tuple(x.shape)}; "
                "put the channels before the time"
            )
        steps = x.transpose(1, 2).reshape(x.shape[0], x.shape[2] // per_step, self.recurrence.input_size)
        states, _ = self.recurrence(steps)
        return self.head(states[:, -1])


def sensor_lstm(
    *, in_channels: int = 9, n_classes: int = 6, n_hidden: int = 64, n_layers: int = 1, readings_per_step: int = 1
) -> nn.Module:
    """Return an LSTM (Hochreiter and Schmidhuber, 1997) for windows of sensor readings; 19,590 parameters by default.

    Input (batch, in_channels, time), such as the (batch, 9, 128) of UCI-HAR; output logits (batch, n_classes). Weights
    come from torch's global generator; the forget gates start open, with a bias of 1. It takes `readings_per_step`
    readings at a time, which divides the number of steps, and with them the time it takes.

    Raises:
        SettingError: an argument is below 1.
    """
    counts = {"n_classes": n_classes, "n_hidden": n_hidden, "n_layers": n_layers}
    require_positive("sensor_lstm", in_channels=in_channels, readings_per_step=readings_per_step, **counts)
    lstm = nn.LSTM(in_channels * readings_per_step, n_hidden, n_layers, batch_first=True)
    for name, parameter in lstm.named_parameters():
        if name.startswith("bias_ih"):  # gates in torch's order: input, forget, cell, output
            nn.init.ones_(parameter.detach()[n_hidden : 2 * n_hidden])
        elif name.startswith("bias_hh"):
            nn.init.zeros_(parameter.detach()[n_hidden : 2 * n_hidden])
    return SensorRecurrence(lstm, n_classes=n_classes, readings_per_step=readings_per_step)


def sensor_gru(
    *, in_channels: int = 9, n_classes: int = 6, n_hidden: int = 64, n_layers: int = 1, readings_per_step: int = 1
) -> nn.Module:
    """Return a GRU (Cho et al., 2014) for windows of sensor readings; 14,790 parameters by default.

    Input (batch, in_channels, time), such as the (batch, 9, 128) of UCI-HAR; output logits (batch, n_classes). Weights
    come from torch's global generator. It takes `readings_per_step` readings at a time.

    Raises:
        SettingError: an argument is below 1.
    """
    counts = {"n_classes": n_classes, "n_hidden": n_hidden, "n_layers": n_layers}
    require_positive("sensor_gru", in_channels=in_channels, readings_per_step=readings_per_step, **counts)
    gru = nn.GRU(in_channels * readings_per_step, n_hidden, n_layers, batch_first=True)
    return SensorRecurrence(gru, n_classes=n_classes, readings_per_step=readings_per_step)
