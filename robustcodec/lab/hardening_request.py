"""What a hardening was asked to do, as a value that its folder keeps, so that naming the folder is enough to go on."""

import json
from dataclasses import dataclass
from pathlib import Path

from robustcodec.errors import TrainingError
from robustcodec.files import write_output
from robustcodec.lab.hardening_recipes import Plan

_NAME = "request.json"

J_LIMIT = 1.04
"""How much of the start's J the result may have by default: what hardening may cost on clean pictures."""

CROPS = 4
"""Held-out crops that are attacked by default: minutes on two cores."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to harden: the weights `init`, by `plan`, on the pictures of `data`, in the folder `run`.

    `hours` replaces the steps of the plan's stages by what fits into equal parts of them. The result is chosen among
    checkpoints whose clean J is at most `j_limit` times the start's, and measured, by attacks on `crops` held-out
    crops; with 0 it is the last checkpoint, and nothing is measured.
    """

    run: Path
    data: Path
    validation: Path | None
    init: Path
    plan: Plan
    hours: float | None = None
    j_limit: float = J_LIMIT
    crops: int = CROPS
    start: str | None = None
    """Digest of the weights of `init` when the folder was begun: numbers before and after are of these."""

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
        path = run / _NAME
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
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
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise TrainingError(f"{path} cannot be read ({error}); give the whole command again") from error
