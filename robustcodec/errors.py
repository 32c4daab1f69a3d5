"""Every exception that robustcodec raises on purpose.

RobustcodecError
 ├─ UsageError           the arguments contradict each other or are out of range
 ├─ InputError           what was named to be read is missing, cannot be read, or is of another kind
 ├─ ImageError           a picture that cannot be read, or of a kind that is not supported
 ├─ FileFormatError      a compressed file that cannot be read
 │   ├─ NotRobustcodec       it does not begin with the magic bytes
 │   ├─ UnsupportedVersion   a newer release wrote it
 │   └─ CorruptFile          damaged: truncated, extended, altered, or inconsistent
 ├─ LimitExceeded        a picture or file larger than the caller allows
 ├─ ModelError
 │   ├─ ModelNotFound        no bundle of that id, path or fingerprint
 │   └─ ModelDamaged         a bundle that fails its checks
 ├─ OutputError          the output cannot be written, or its name is refused
 ├─ TargetError          a rate or quality target that the model cannot reach
 ├─ ContractViolation    a result that does not keep its contract, and was not to be written
 ├─ TrainingError        data, recipe or run folder unfit for training
 └─ MissingExtra         a lab command without robustcodec[lab]

Each message is one sentence (or two) without a final line break that says what was found and what to do.
"""


class RobustcodecError(Exception):
    """Base of all errors that robustcodec raises on purpose."""


class UsageError(RobustcodecError):
    """The arguments contradict each other or are out of range."""


class InputError(RobustcodecError):
    """A file or folder that was named to be read is missing, cannot be read, or is of another kind."""


class ImageError(RobustcodecError):
    """A picture cannot be read, or is of a kind that is not supported."""


class FileFormatError(RobustcodecError):
    """A compressed file cannot be read."""


class NotRobustcodec(FileFormatError):
    """The data does not begin with the magic bytes."""


class UnsupportedVersion(FileFormatError):
    """The file was made by a newer release."""


class CorruptFile(FileFormatError):
    """The file is truncated, extended, altered or inconsistent."""


class LimitExceeded(RobustcodecError):
    """The picture or file is larger than the caller allows."""


class ModelError(RobustcodecError):
    """Base of what can be wrong with a model."""


class ModelNotFound(ModelError):
    """No bundle has that id, path or fingerprint."""


class ModelDamaged(ModelError):
    """A bundle failed one of its checks."""


class OutputError(RobustcodecError):
    """The output cannot be written, or its name is refused."""


class TargetError(RobustcodecError):
    """The model cannot reach the wanted rate or quality."""


class ContractViolation(RobustcodecError):
    """A result does not keep its contract, and was not to be written."""


class TrainingError(RobustcodecError):
    """Data, recipe or run folder are unfit for training."""


class MissingExtra(RobustcodecError):
    """A lab command was called without robustcodec[lab]."""
