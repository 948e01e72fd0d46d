"""This file holds every error that dwindle raises on purpose, as one tree.

```
DwindleError
├── SettingError(ValueError)        a value you passed cannot work
│   └── SelectionError              a pattern matched nothing; the nearest names are listed
├── RecipeError                     steps that cannot follow each other, or needs not met (all listed)
├── EncodingError                   no floats left to re-encode, or an encoding that contradicts itself
├── NetworkError                    the network cannot be used: NaN weights, a failed capture, a wrong input shape
├── CheckpointError                 a checkpoint that is not safetensors, or does not fit the network
├── DataError                       a data set that is empty, absent, or out of range
├── ContainerError                  the `.dwn` file
│   ├── HeaderError                 a header that is malformed or promises more than the limits allow
│   ├── ChecksumError               bytes that are not the bytes written
│   ├── TruncatedError              a file that ends too early
│   └── VersionError                a format version this reader does not know
├── ExportError                     the target cannot express this model (reasons listed)
├── RuntimeUnavailableError         a missing package, with the command that installs it
├── MeasurementError                the bench refused to give a number
├── LedgerError                     a ledger or record that cannot be read or written
└── StudyError                      outcomes of a study that could not be made, or a folder that cannot be used
```
"""

from __future__ import annotations


class DwindleError(Exception):
    """Every error this package raises on purpose: fact, value, remedy in one message."""


class SettingError(DwindleError, ValueError):
    """A value you passed cannot work."""


class SelectionError(SettingError):
    """A pattern matched no weight."""


class RecipeError(DwindleError):
    """Steps that cannot follow each other, or needs that the context does not meet."""


class EncodingError(DwindleError):
    """An encoding that contradicts itself, or has no floats left to re-encode."""


class NetworkError(DwindleError):
    """A network that cannot be used."""


class CheckpointError(DwindleError):
    """A checkpoint that cannot be read safely or does not fit the network."""


class DataError(DwindleError):
    """A data set that is empty, absent, or out of range."""


class ContainerError(DwindleError):
    """A `.dwn` file that cannot be read or written."""


class HeaderError(ContainerError):
    """A header that is malformed or promises more than the limits allow."""


class ChecksumError(ContainerError):
    """Bytes that are not the bytes that were written."""


class TruncatedError(ContainerError):
    """A file that ends too early."""


class VersionError(ContainerError):
    """A format version that this reader does not know."""


class ExportError(DwindleError):
    """The target cannot express this model."""


class RuntimeUnavailableError(DwindleError):
    """A runtime whose package is not installed."""


class MeasurementError(DwindleError):
    """The bench refused to give a number."""


class LedgerError(DwindleError):
    """A ledger or record that cannot be read or written."""


class StudyError(DwindleError):
    """Outcomes of a study that could not be made, or a folder that cannot be used for one."""
