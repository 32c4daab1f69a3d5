"""Times attack iterations: against a plain loop over CompressAI's forward, over batch sizes, and for whole Kodak.

    python benchmarks/attack.py --bundle weights/hyper-base
    python benchmarks/attack.py --bundle weights/hyper-base --device cuda

The plain loop is what a user of CompressAI writes: the published network as it is loaded, with trainable parameters,
`forward`, the paper's loss, `backward`, and the same steps and weights as ours, so that both spend about as many of
them outside the budget, where an iteration needs other parts of the codec. Both sides run on the same threads, picture
and dtype (float32, then bfloat16 under autocast), in turn, so that other work on the machine slows both: read the
ratios, not the seconds.
Needs robustcodec[lab].
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from codec import Comparison, compare, machine
from torch import Tensor

from robustcodec.bundle import Bundle, open_bundle
from robustcodec.data import SAMPLE
from robustcodec.images import read_picture
from robustcodec.lab.attacks.problem import Problem
from robustcodec.lab.attacks.shipped import victim_of
from robustcodec.lab.attacks.switching import Paper
from robustcodec.lab.attacks.threat import DEFAULT_EPSILON, Target, Threat
from robustcodec.lab.attacks.victim import Rough, code
from robustcodec.lab.checkpoints import weights_of_bundle
from robustcodec.lab.interop import compressai_model
from robustcodec.lab.precision import Precision
from robustcodec.rate import STEP_UNIT

QUALITY = 4.0
KODAK, KODAK_STEPS = 24, 1000
MAX_PIXELS = 1 << 24
BATCH_STEPS = 4


@dataclass(frozen=True)
class Batch:
    """Seconds of an iteration on a batch of square crops, its pixels per second, and that in units of the best."""

    size: int
    seconds: float
    pixels_per_second: float


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    bundle = open_bundle(options.bundle)
    print(f"{bundle.id}, {options.threads} threads, {device}, {machine()}\n")

    crop = crops(1, options.crop, device)
    for target, precision in itertools.product(Target, options.precisions):
        compared = against_compressai(bundle, crop, target, precision, options.steps, options.repeats)
        ours, theirs = (statistics.median(side) / options.steps for side in (compared.ours, compared.theirs))
        print(
            f"{compared.what}: ours {ours:.4f} s, plain loop {theirs:.4f} s an iteration, "
            f"{1 / compared.ratio:.2f} times as fast (bar {compared.bar})"
        )

    batches = list(over_batches(bundle, options.crop, options.batches, device, options.repeats))
    best = max(batch.pixels_per_second for batch in batches)
    print(f"\n| crops of {options.crop} | s an iteration | pixels a second | of the best |\n|---|---|---|---|")
    for batch in batches:
        share = batch.pixels_per_second / best
        print(f"| {batch.size} | {batch.seconds:.4f} | {batch.pixels_per_second:,.0f} | {share:.3f} |")

    if device.type == "cuda" or options.kodak:
        for size in (1, KODAK):
            pictures = crops(size, None, device)
            seconds = _seconds_of_an_iteration(bundle, pictures, options.steps, options.repeats)
            hours = seconds * KODAK_STEPS * KODAK / size / 3600
            print(
                f"\n768x512, {size} at once: {1 / seconds:.2f} iterations a second; {KODAK} pictures at {KODAK_STEPS} "
                f"steps take {60 * hours:.1f} minutes"
            )


def against_compressai(
    bundle: Bundle, x: Tensor, target: Target, precision: Precision, steps: int, repeats: int
) -> Comparison:
    """Time the paper's attack on one picture, ours and as a plain loop, both in one precision."""
    problem = make_problem(bundle, x, target, precision)
    model = compressai_model(weights_of_bundle(bundle), bundle.manifest.step(QUALITY) / STEP_UNIT).to(x.device)
    model.requires_grad_(True).train()  # in evaluation mode rounding would leave no gradient
    ours = _synchronised(x, lambda: Paper(steps=steps).search(problem, lambda step, score: None))
    rough = precision is Precision.BFLOAT16

    def plain() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=rough):
            plain_loop(model, x, target, steps)

    what = f"{target}, {x.shape[3]}x{x.shape[2]}, {precision}"
    return compare(what, ">= 1.8", ours, _synchronised(x, plain), repeats)


def plain_loop(model: torch.nn.Module, x: Tensor, target: Target, steps: int) -> Tensor:
    """Run the paper's equations 6 and 7 on CompressAI's forward, without a thought about speed."""
    ours = Paper(steps=steps)
    choices = ours.psnr if target is Target.PSNR else ours.bpp
    rate = choices.rate * DEFAULT_EPSILON**0.5
    noise = torch.zeros_like(x).requires_grad_()
    optimiser = torch.optim.SGD([noise], lr=rate)
    with torch.no_grad():
        clean_bpp, clean_mse = _plain_figures(model, x, x)
    for _ in range(steps):
        optimiser.zero_grad()
        bpp, mse = _plain_figures(model, (x + noise).clamp(0, 1), x)
        energy = noise.square().mean()
        if energy < DEFAULT_EPSILON:
            loss = 1 - mse if target is Target.PSNR else -bpp
        else:
            error = bpp - clean_bpp if target is Target.PSNR else mse - clean_mse
            loss = energy.sqrt() + choices.weight * error.abs()
        loss.backward()
        assert noise.grad is not None
        noise.grad /= noise.grad.square().mean().sqrt()
        optimiser.step()
    return noise


def _plain_figures(model: torch.nn.Module, shown: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    out = model(shown)
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    bpp = sum(-likelihoods.log2().sum() for likelihoods in out["likelihoods"].values()) / pixels
    return bpp, (out["x_hat"] - x).square().mean()


def over_batches(
    bundle: Bundle, crop: int, sizes: Sequence[int], device: torch.device, repeats: int
) -> Iterator[Batch]:
    """Time an iteration on batches of several sizes."""
    for size in sizes:
        seconds = _seconds_of_an_iteration(bundle, crops(size, crop, device), BATCH_STEPS, repeats)
        yield Batch(size, seconds, size * crop**2 / seconds)


def _seconds_of_an_iteration(bundle: Bundle, x: Tensor, steps: int, repeats: int) -> float:
    problem = make_problem(bundle, x, Target.PSNR, Precision.FLOAT32)
    run = _synchronised(x, lambda: Paper(steps=steps).search(problem, lambda step, score: None))
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds) / steps


def make_problem(bundle: Bundle, x: Tensor, target: Target, precision: Precision) -> Problem:
    """Set up an attack on pictures (B, 3, H, W)."""
    victim = victim_of(bundle, QUALITY, x.device)
    with torch.no_grad():
        clean = code(victim, x, x)
    guide = Rough(victim) if precision is Precision.BFLOAT16 else victim
    return Problem(victim, guide, x, Threat(target), DEFAULT_EPSILON, clean, torch.Generator().manual_seed(0))


def crops(count: int, size: int | None, device: torch.device) -> Tensor:
    """Cut squares out of the sample photograph at different places; whole copies of it without a size."""
    picture = torch.from_numpy(read_picture(SAMPLE.read_bytes(), MAX_PIXELS).pixels).permute(2, 0, 1) / 255
    if size is None:
        return picture.repeat(count, 1, 1, 1).to(device)
    height, width = (side - size + 1 for side in picture.shape[1:])
    places = [(37 * index % height, 101 * index % width) for index in range(count)]
    return torch.stack([picture[:, top : top + size, left : left + size] for top, left in places]).to(device)


def _synchronised(x: Tensor, run: Callable[[], object]) -> Callable[[], None]:
    """Wait for a GPU to finish before the clock is read."""

    def call() -> None:
        run()
        if x.is_cuda:
            torch.cuda.synchronize()

    return call


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 24])
    parser.add_argument(
        "--precisions",
        type=Precision,
        choices=(Precision.FLOAT32, Precision.BFLOAT16),
        nargs="+",
        default=[Precision.FLOAT32, Precision.BFLOAT16],
        help="bfloat16 takes half a minute an iteration where the processor has none",
    )
    parser.add_argument("--steps", type=int, default=20, help="iterations of each timed call")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kodak", action="store_true", help="time whole pictures on the CPU, too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
