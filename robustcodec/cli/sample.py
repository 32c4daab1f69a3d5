"""The command `sample`: a photograph to try things on."""

from robustcodec.cli import options
from robustcodec.cli.batch import note_skipped
from robustcodec.cli.console import Console
from robustcodec.data import SAMPLE
from robustcodec.files import check_streams, clean_name, plan_outputs, write_output


def sample(output: options.Output = None, overwrite: options.Overwrite = False, quiet: options.Quiet = False) -> None:
    """Write the photograph that comes with robustcodec: sample.png in this folder, 768x512.

    \b
      robustcodec sample
      robustcodec sample -o pictures/
    """
    console = Console(quiet=quiet)
    plan = plan_outputs([str(SAMPLE)], output or ".", suffix=SAMPLE.suffix, found=(), overwrite=overwrite)
    check_streams(plan)
    note_skipped(plan, console)
    for job in plan.jobs:
        write_output(job.target, SAMPLE.read_bytes())
        if job.target:
            console.note(f"wrote {clean_name(job.target)}")
