"""What a hardening was asked to do, as a value that its folder keeps, so that naming the folder is enough to go on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from robustcodec.errors import TrainingError, UsageError
from robustcodec.files import write_output

if TYPE_CHECKING:
    from robustcodec.lab.hardening_recipes import Plan

_NAME = "request.json"

J_LIMIT = 1.04
"""How much of the start's J the result may have by default: what hardening may cost on clean pictures."""

CROPS = 4
"""Held-out crops that are attacked by default: minutes on two cores."""

MOST_CROPS = 1000

_MOST_HOURS, _MOST_J = 10_000, 1000
_KINDS = {
    "data": (str,),
    "validation": (str, type(None)),
    "init": (str,),
    "plan": (dict,),
    "hours": (int, float, type(None)),
    "j_limit": (int, float),
    "crops": (int,),
    "start": (str, type(None)),
}
"""What may stand in the file."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to harden: the weights `init`, by `plan`, on the pictures of `data`, in the folder `run`.

    `hours` replaces the steps of the plan's stages by what fits into equal parts of them. The result is chosen among
    checkpoints whose clean J is at most `j_limit` times the start's, and measured, by attacks on `crops` held-out
    crops; with 0 it is the last checkpoint, and nothing is measured. Raises UsageError for numbers out of range.
    """

    run: Path
    data: Path
    validation: Path | None
    init: Path
    plan: "Plan"
    hours: float | None = None
    j_limit: float = J_LIMIT
    crops: int = CROPS
    start: str | None = None
    """Digest of the weights of `init` when the folder was begun: numbers before and after are of these."""

    def __post_init__(self) -> None:
        if self.hours is not None and not 0 < self.hours < _MOST_HOURS:
            raise UsageError(f"--hours takes a time in hours, not {self.hours:g}")
        if not 0 <= self.j_limit <= _MOST_J:  # nor is infinity any limit
            raise UsageError(f"--j-limit takes a multiple of the start's J, at most {_MOST_J}, not {self.j_limit:g}")
        if not 0 <= self.crops <= MOST_CROPS:
            raise UsageError(f"--measure takes at most {MOST_CROPS} crops, not {self.crops}")

    def save(self) -> None:
        """Write the request into its folder, which is made. Raises OutputError."""
        document = {
            "data": str(self.data.resolve()),
            "validation": None if self.validation is None else str(self.validation.resolve()),
            "init": str(self.init.resolve()),
            "plan": json.loads(self.plan.to_json()),
            "hours": self.hours,
            "j_limit": self.j_limit,
            "crops": self.crops,
            "start": self.start,
        }
        write_output(self.run / _NAME, (json.dumps(document, indent=2) + "\n").encode())

    @classmethod
    def exists(cls, run: Path) -> bool:
        """Whether a folder holds a request."""
        return (run / _NAME).is_file()

    @classmethod
    def load(cls, run: Path) -> "Request":
        """Read the request of a folder. Raises TrainingError."""
        # only here: whoever needs the defaults above for a --help need not load torch
        from robustcodec.lab.hardening_recipes import Plan

        path = run / _NAME
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            for name, kinds in _KINDS.items():
                if type(document[name]) not in kinds:
                    raise TypeError(f"{name} is of another type")
            return cls(
                run=run,
                data=Path(document["data"]),
                validation=None if document["validation"] is None else Path(document["validation"]),
                init=Path(document["init"]),
                plan=Plan.from_json(json.dumps(document["plan"])),
                hours=document["hours"],
                j_limit=document["j_limit"],
                crops=document["crops"],
                start=document["start"],
            )
        except FileNotFoundError as error:
            raise TrainingError(
                f"{run} holds no hardening to go on with; name a folder of training pictures with --data"
            ) from error
        except (
            OSError,
            ValueError,
            TypeError,
            KeyError,
            OverflowError,
            RecursionError,
            TrainingError,
            UsageError,
        ) as error:
            raise TrainingError(f"{path} cannot be read ({error}); give the whole command again") from error
