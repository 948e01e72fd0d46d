"""This file holds small recurrent networks for sensor windows: an LSTM and a GRU that read the readings in order."""

from __future__ import annotations

from torch import Tensor, nn

from dwindle.errors import NetworkError
from dwindle.zoo.arguments import require_positive


class SensorRecurrence(nn.Module):
    """The network behind `sensor_lstm` and `sensor_gru`: recurrent layers, then a linear layer on the last state."""

    def __init__(self, recurrence: nn.LSTM | nn.GRU, *, n_classes: int) -> None:
        super().__init__()
        self.recurrence = recurrence
        self.head = nn.Linear(recurrence.hidden_size, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, time) to logits (batch, n_classes)."""
        if x.ndim != 3 or x.shape[1] != self.recurrence.input_size:
            raise NetworkError(
                f"sensor windows are (batch, {self.recurrence.input_size}, time), got {tuple(x.shape)}; "
                "put the channels before the time"
            )
        states, _ = self.recurrence(x.transpose(1, 2))
        return self.head(states[:, -1])


def sensor_lstm(*, in_channels: int = 9, n_classes: int = 6, n_hidden: int = 64, n_layers: int = 1) -> nn.Module:
    """Return an LSTM (Hochreiter and Schmidhuber, 1997) for windows of sensor readings; 19,590 parameters by default.

    Input (batch, in_channels, time), such as the (batch, 9, 128) of UCI-HAR; output logits (batch, n_classes). Weights
    come from torch's global generator; the forget gates start open, with a bias of 1.

    Raises:
        SettingError: an argument is below 1.
    """
    require_positive("sensor_lstm", in_channels=in_channels, n_classes=n_classes, n_hidden=n_hidden, n_layers=n_layers)
    lstm = nn.LSTM(in_channels, n_hidden, n_layers, batch_first=True)
    for name, parameter in lstm.named_parameters():
        if name.startswith("bias_ih"):  # gates in torch's order: input, forget, cell, output
            nn.init.ones_(parameter.detach()[n_hidden : 2 * n_hidden])
        elif name.startswith("bias_hh"):
            nn.init.zeros_(parameter.detach()[n_hidden : 2 * n_hidden])
    return SensorRecurrence(lstm, n_classes=n_classes)


def sensor_gru(*, in_channels: int = 9, n_classes: int = 6, n_hidden: int = 64, n_layers: int = 1) -> nn.Module:
    """Return a GRU (Cho et al., 2014) for windows of sensor readings; 14,790 parameters by default.

    Input (batch, in_channels, time), such as the (batch, 9, 128) of UCI-HAR; output logits (batch, n_classes). Weights
    come from torch's global generator.

    Raises:
        SettingError: an argument is below 1.
    """
    require_positive("sensor_gru", in_channels=in_channels, n_classes=n_classes, n_hidden=n_hidden, n_layers=n_layers)
    return SensorRecurrence(nn.GRU(in_channels, n_hidden, n_layers, batch_first=True), n_classes=n_classes)
