"""Attacks on codecs: a method searches, within a budget, what a threat model wants; a referee trusts none of them.

threat      what is wanted, what is bounded, and an attack as one value
budget      noise that keeps its energy, and pictures of whole levels that still do
victim      the codec as an attacker sees it
problem     one batch to attack, and the best found so far
shipped     models as victims
switching   the paper's attacks and Ma2023's; projected: FGSM, I-FGSM, PGD; queries: SimBA; controls: noise and offset
strong      the strongest: adaptive steps (adaptive), then crossing of rounding's thresholds (crossing)
methods     all of them by name; craft: the referee
"""

from robustcodec.lab.attacks.craft import Crafted, GradientStats, craft
from robustcodec.lab.attacks.methods import METHODS, steps_taken
from robustcodec.lab.attacks.threat import Attack, Target, Threat
from robustcodec.lab.precision import Precision

__all__ = ["METHODS", "Attack", "Crafted", "GradientStats", "Precision", "Target", "Threat", "craft", "steps_taken"]
