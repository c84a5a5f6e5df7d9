"""The likelihood of a mixture of models, such as the runs of one config from several seeds: reported apart from one model's."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgen.core.descriptions import Better, Description, Descriptions
from jaxgen.data.store import Store
from jaxgen.evaluation.scoring import Scorer

DESCRIPTIONS: Descriptions = {
    "mixture_loss": Description(
        "Loss of the mixture",
        "Of a step; its probability is the mean of those that the members give it.",
        "nats",
        Better.LOWER,
        importance=2,
    ),
    "mixture_loss_after_first": Description(
        "Loss of the mixture behind the first step",
        "The same without the first step of each clip.",
        "nats",
        Better.LOWER,
    ),
    "mixture_member_loss": Description("Loss of its members", "Of each by itself, their mean.", "nats", Better.LOWER),
    "mixture_members": Description("Members of the mixture", "Runs, the one that is evaluated included."),
}


def score_mixture(scorer: Scorer, members: Sequence[Any], store: Store, clips: Sequence[int]) -> dict[str, float]:
    """Figures of the mixture of models whose parameters these are, over all steps of the clips.

    p(x_t | x_<t) = mean over members m of p_m(x_t | x_<t), each with its own memory of the past: a log-mean-exp of log
    probabilities at every step. It is at most the mean of the members' losses (Jensen's inequality).
    """
    each = [scorer(params, store, clips, predict=clips).losses for params in members]
    by_clip = [np.stack([losses[clip] for losses in each]).astype(np.float64) for clip in clips]
    mixed = [np.log(len(members)) - np.logaddexp.reduce(-losses, axis=0) for losses in by_clip]
    figures = {
        "mixture_loss": float(np.concatenate(mixed).mean()),
        "mixture_member_loss": float(np.concatenate(by_clip, axis=1).mean()),
        "mixture_members": float(len(members)),
    }
    if len(rest := np.concatenate([losses[1:] for losses in mixed])):
        figures["mixture_loss_after_first"] = float(rest.mean())
    return figures
