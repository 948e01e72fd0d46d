"""This file holds QuantNet (Abishek): two strided convolutions and three linear layers, padded as in TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from dwindle.errors import SettingError

_STRIDE = 2


class SamePadding(nn.Module):
    """Zeros around (batch, channels, size, size) as TensorFlow's "same" puts them for a kernel of stride 2.

    Of 3 x 3, an even size gets none before and one after, an odd size one on either side; torch's `padding=1` samples
    an even image one pixel off that grid, so weights trained in TensorFlow would see shifted images.
    """

    def __init__(self, size: int, *, kernel_size: int = 3) -> None:
        super().__init__()
        n_total = max((-(-size // _STRIDE) - 1) * _STRIDE + kernel_size - size, 0)
        before = n_total // 2
        self.pad = nn.ZeroPad2d((before, n_total - before, before, n_total - before))

    def forward(self, x: Tensor) -> Tensor:
        """Pad the two last axes."""
        return self.pad(x)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """What of QuantNet the thesis searched for: filters of the two convolutions, their kernel, and the dropout."""

    filters: tuple[int, int] = (32, 64)
    kernel_size: int = 3
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if min(*self.filters, self.kernel_size) < 1 or not 0 <= self.dropout < 1:
            raise SettingError(
                f"quantnet: filters={self.filters} and kernel_size={self.kernel_size} must be at least 1, and "
                f"dropout={self.dropout} in [0, 1)"
            )


class QuantNet(nn.Module):
    """The network behind `quantnet`."""

    def __init__(self, *, in_channels: int, n_classes: int, image_size: int, hidden: Hidden) -> None:
        super().__init__()
        first, second, kernel_size = *hidden.filters, hidden.kernel_size
        half = -(-image_size // _STRIDE)
        quarter = -(-half // _STRIDE)
        self.features = nn.Sequential(
            SamePadding(image_size, kernel_size=kernel_size),
            nn.Conv2d(in_channels, first, kernel_size, stride=_STRIDE),
            nn.ReLU(),
            SamePadding(half, kernel_size=kernel_size),
            nn.Conv2d(first, second, kernel_size, stride=_STRIDE),
            nn.ReLU(),
            nn.Dropout(hidden.dropout),
            nn.Flatten(),
        )
        self.classifier = nn.Sequential(
            nn.Linear(second * quarter * quarter, 128),
            nn.ReLU(),
            nn.Linear(128, 16),
            nn.ReLU(),
        )
        self.head = nn.Linear(16, n_classes)
        self.output = nn.Sigmoid() if n_classes == 1 else nn.Identity()
        for module in (*self.features, *self.classifier):
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType] (bias=True)
        nn.init.xavier_normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, size, size) to (batch, n_classes)."""
        return self.output(self.head(self.classifier(self.features(x))))


def quantnet(
    *,
    in_channels: int = 3,
    n_classes: int = 1,
    image_size: int = 32,
    filters: Sequence[int] = (32, 64),
    kernel_size: int = 3,
    dropout: float = 0.1,
) -> nn.Module:
    """Return QuantNet; 545,889 parameters with 3 x 32 x 32 inputs and one output.

    Input (batch, in_channels, image_size, image_size); output (batch, n_classes): logits, or for `n_classes=1` the
    probability of the second of two classes. Weights are drawn from torch's global generator: He normal, the last layer
    Glorot normal.

    Raises:
        SettingError: an argument is below 1, there are not two numbers of filters, or dropout is outside [0, 1).
    """
    if min(in_channels, n_classes, image_size) < 1:
        raise SettingError(
            f"quantnet: in_channels={in_channels}, n_classes={n_classes} and image_size={image_size} must be at least 1"
        )
    if len(filters) != 2:
        raise SettingError(f"quantnet: filters are those of two convolutions, got {list(filters)}")
    hidden = Hidden(filters=(filters[0], filters[1]), kernel_size=kernel_size, dropout=dropout)
    return QuantNet(in_channels=in_channels, n_classes=n_classes, image_size=image_size, hidden=hidden)
