"""A generator against a critic (Goodfellow et al. 2014): both learn in one update, each with its own optimiser.

The critic learns first, `critic_steps` times, each on a part of the batch that is new to it; then the generator, against
the critic as it is now, on what it made for the last of these parts. Where there is a `critic_start`, the generator first
learns alone.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxgen.core.errors import UserError
from jaxgen.core.numerics import random_key, wrap_key
from jaxgen.core.sharding import replicate
from jaxgen.data.excerpts import Excerpts
from jaxgen.data.spec import DataSpec
from jaxgen.data.store import Store
from jaxgen.models.config import ModelConfig
from jaxgen.models.critics import WaveCritic
from jaxgen.models.latent import LatentGeneratorConfig
from jaxgen.models.non_autoregressive import (
    Critic,
    DiscriminatorOutput,
    NonAutoregressiveConfig,
    NonAutoregressiveGenerator,
)
from jaxgen.nn.label_embedding import Labels
from jaxgen.objectives.adversarial_loss import AdversarialLoss, LeastSquares, Penalty
from jaxgen.objectives.diversity import diversity, diversity_within_labels
from jaxgen.objectives.guard import Guard
from jaxgen.objectives.objective import Batch, Metrics, ModuleTemplate, Objective, TrainTask, split_rows
from jaxgen.objectives.optimizer import AdamW, Optimizer, current_learning_rate, moving_average
from jaxgen.objectives.state import TrainState
from jaxgen.objectives.terms import FeatureMatching, LossInputs, MelDistance, StftDistance, Term

_COLLAPSED = 0.3  # of the diversity of real sound
_WON = 0.99  # of the pairs of which a critic tells the real one

_ADAM = AdamW(learning_rate=5e-4, warmup_steps=0, b1=0.8, b2=0.99, clip_norm=10.0)


@dataclasses.dataclass(frozen=True)
class Adversarial(Objective):
    """Config of the objective."""

    loss: AdversarialLoss = LeastSquares()
    """The adversarial loss: LeastSquares, Hinge, Logistic or Wasserstein."""
    weight: float = 1.0
    """Weight of the adversarial loss in the generator's; more sounds more real, and copies less exactly."""
    terms: tuple[Term, ...] = (FeatureMatching(weight=2.0), MelDistance(weight=15.0), StftDistance(weight=2.0))
    """Further terms of the generator's loss."""
    critic: Critic = WaveCritic()
    """The discriminator."""
    penalties: tuple[Penalty, ...] = ()
    """What keeps the critic smooth: GradientPenalty, which Wasserstein needs, or R1."""
    critic_steps: int = 1
    """Updates of the critic for each of the generator; a batch is divided among them."""
    critic_start: int = 0
    """Updates of the generator by the terms that need no critic alone, several times as fast, before the critic joins."""
    generator_optimizer: Optimizer = _ADAM
    """How the generator's gradient becomes updates."""
    critic_optimizer: Optimizer = _ADAM
    """How the critic's does."""
    ema_decay: float = 0.999
    """Decay of the moving average of the generator that evaluation and generation use; 0 uses the last weights."""
    spike: float = 0.0
    """An update whose loss (the generator's and the critic's) is more than this many standard deviations above the moving
    mean is skipped, as one that is not finite always is; 0 lets every finite loss pass."""

    def __post_init__(self) -> None:
        if self.critic_steps < 1 or min(self.weight, self.spike, self.critic_start) < 0 or not 0 <= self.ema_decay < 1:
            raise UserError(
                "an adversarial objective needs critic_steps >= 1, weight >= 0, spike >= 0, critic_start >= 0 and "
                f"0 <= ema_decay < 1, got {self}."
            )
        if self.critic_start and all(term.uses_critic for term in self.terms):
            raise UserError(
                f"--objective.critic-start is {self.critic_start}, but no term of the objective does without the critic; "
                "set it to 0, or add MelDistance() or StftDistance() to objective.terms in the config file."
            )
        names = [term.name for term in self.terms]
        if len(set(names)) < len(names):
            raise UserError(f"each kind of term may stand once in objective.terms, got {', '.join(names)}.")
        if self.loss.needs_penalty and not self.penalties:
            raise UserError(
                f"{type(self.loss).__name__} needs a gradient penalty on the critic; add GradientPenalty() to "
                "objective.penalties in the config file, or use --objective.loss LeastSquares."
            )

    @property
    def num_microbatches(self) -> int:
        return self.critic_steps

    @property
    def extensible(self) -> bool:
        return self.generator_optimizer.schedule.extensible and self.critic_optimizer.schedule.extensible

    def build(self, model: ModelConfig, data: DataSpec, *, steps: int, batch_size: int) -> "AdversarialTask":
        """The objective for one model, data spec, run length and batch size.

        Raises UserError where the batch does not divide into `critic_steps` parts, the critic would never join, or the model
        is of another kind.
        """
        if not isinstance(model, NonAutoregressiveConfig):
            raise UserError(
                f"Adversarial trains models that make sound as a whole, but --model is {type(model).__name__}; use --model "
                "Vocoder or WaveGAN, or --objective Likelihood."
            )
        if self.terms and isinstance(model, LatentGeneratorConfig):
            raise UserError(
                f"a {type(model).__name__} makes sound of noise, which no recording is the model of; take the terms out of the "
                "objective (terms=() in the config file)."
            )
        if batch_size % self.critic_steps:
            raise UserError(
                f"a batch of {batch_size} rows does not divide into {self.critic_steps} parts; "
                "change --train.batch-size or --objective.critic-steps."
            )
        if steps <= self.critic_start:
            raise UserError(
                f"the critic joins after {self.critic_start} updates, but training has {steps}; lower "
                "--objective.critic-start, or raise --train.steps."
            )
        return AdversarialTask(self, model, data, steps)

    def batches(
        self,
        model: ModelConfig,
        store: Store,
        data: DataSpec,
        *,
        batch_size: int,
        seq_len: int,
        seed: int,
        rows: Sequence[int] | None = None,
    ) -> Excerpts:
        """Excerpts as long as `seq_len` steps (`jaxgen.data.excerpts`): for models of noise whole clips, else random ones."""
        whole = isinstance(model, LatentGeneratorConfig)
        if isinstance(model, LatentGeneratorConfig) and seq_len != model.num_steps:
            raise UserError(
                f"--train.seq-len is {seq_len}, but the model makes clips of {model.num_steps} steps; make the two equal."
            )
        length = seq_len * data.features.samples_per_step
        return Excerpts(
            store, data, model.labels, batch_size=batch_size, length=length, seed=seed, whole=whole, rows=rows
        )


class AdversarialTask(TrainTask):
    """Pure functions over `TrainState`, to be jitted by the caller. Parameters and optimisers are pairs, by `generator` and
    `critic`; the average is the generator's alone.
    """

    learning_rate_options = (
        "--objective.generator-optimizer.learning-rate and --objective.critic-optimizer.learning-rate, "
        "or their clip-norm,"
    )

    def __init__(self, config: Adversarial, model: NonAutoregressiveConfig, data: DataSpec, steps: int):
        self.config = config
        plans = {"generator": config.generator_optimizer, "critic": config.critic_optimizer}
        lengths = {"generator": steps, "critic": (steps - config.critic_start) * config.critic_steps}
        self._optimizers = {name: plan.make(lengths[name]) for name, plan in plans.items()}
        self._schedules = {name: plan.learning_rate_by_step(lengths[name]) for name, plan in plans.items()}
        self._generator = ModuleTemplate(lambda rngs: model.make(data, dtype=jnp.float32, rngs=rngs))
        size = model.sound_size(data)
        self._critic = ModuleTemplate(lambda rngs: config.critic.make(data, model.labels, size, rngs=rngs))
        self._terms = [(term, term.build(data)) for term in config.terms]
        by_critic = [term.name for term in config.terms if term.uses_critic]
        self._of_critic = (
            "critic_loss",
            "critic_accuracy",
            "critic_penalty",
            "critic_gradient_norm",
            "adversarial_loss",
            *by_critic,
        )

    def module(self, params: Any) -> NonAutoregressiveGenerator:
        """The generator with these parameters."""
        return self._generator(params)

    def init(self, key: jax.Array) -> TrainState:
        """The state before the first step."""
        generator_key, critic_key, train_key = jax.random.split(key, 3)
        params = {"generator": self._generator.init(generator_key), "critic": self._critic.init(critic_key)}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            average=jax.tree.map(jnp.copy, params["generator"]),
            opt_state={name: optimizer.init(params[name]) for name, optimizer in self._optimizers.items()},
            carry=(),
            key=jax.random.key_data(train_key),
            guard=Guard.new(),
        )

    def start_from(self, state: TrainState, average: Any) -> TrainState:
        params = {**state.params, "generator": average}
        return state._replace(params=params, average=jax.tree.map(jnp.copy, average))

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One update of both, or none where it would spoil the parameters (`Guard`). batch: see `jaxgen.data.excerpts`."""
        key = jax.random.fold_in(wrap_key(state.key), state.step)
        count = self.config.critic_steps
        keys = jax.random.split(key, count + 1)
        parts = jax.tree.map(lambda array: split_rows(array, count), dict(batch))
        generator = replicate(state.params["generator"])

        last = jax.tree.map(lambda array: array[-1], parts)
        draw_key, critic_key = jax.random.split(keys[-1])
        generated, back = jax.vjp(lambda params: self.module(params).generate_like(last, draw_key), generator)

        plays = state.step >= self.config.critic_start
        learn = functools.partial(self._learn_critic, state, generator, parts, generated, keys[:-1])
        (critic, critic_opt), metrics = jax.lax.cond(plays, learn, functools.partial(_unchanged, state, learn))

        real = self.module(generator).real(last)
        slope, figures = jax.lax.cond(
            plays,
            jax.grad(self._generator_loss, has_aux=True),
            jax.grad(self._loss_alone, has_aux=True),
            generated,
            replicate(critic),
            real,
            last["labels"],
            critic_key,
        )
        (gradient,) = back(slope)
        updates, generator_opt = self._optimizers["generator"].update(
            gradient, state.opt_state["generator"], state.params["generator"]
        )
        updated = optax.apply_updates(state.params["generator"], updates)
        metrics |= figures | {"generator_gradient_norm": optax.tree.norm(gradient)}
        metrics["gradient_norm"] = jnp.hypot(metrics["generator_gradient_norm"], metrics["critic_gradient_norm"])
        metrics["diversity"] = diversity(generated) / diversity(real)
        if labels := last["labels"]:
            metrics["diversity_within_labels"] = diversity_within_labels(generated, real, labels)
        metrics["learning_rate"] = current_learning_rate(state.opt_state["generator"], self._schedules["generator"])
        metrics["critic_learning_rate"] = current_learning_rate(state.opt_state["critic"], self._schedules["critic"])
        # A penalty is not of every update: with it, those that have it would stand out.
        penalised, guarded = metrics.pop("critic_loss_penalised"), metrics["generator_loss"] + metrics["critic_loss"]
        guarded = jnp.where(jnp.isfinite(penalised), guarded, penalised)
        anew = state.step == self.config.critic_start  # what was usual without the critic is not with it
        known = state.guard._replace(good=jnp.where(anew, 0, state.guard.good))
        good, guard = known.update(guarded, metrics["gradient_norm"], self.config.spike)
        metrics |= {"skipped": guard.skipped, "skipped_in_row": guard.in_row}
        for name in self._of_critic:
            if name in metrics:
                metrics[name] = jnp.where(plays, metrics[name], jnp.nan)
        new = state._replace(
            params={"generator": updated, "critic": critic},
            average=moving_average(state.average, updated, self.config.ema_decay, state.step),
            opt_state={"generator": generator_opt, "critic": critic_opt},
        )
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), new, state)
        return kept._replace(step=state.step + 1, guard=guard), metrics

    def _learn_critic(
        self, state: TrainState, generator: Any, parts: Batch, last: jax.Array, keys: jax.Array
    ) -> tuple[tuple[Any, Any], Metrics]:
        """The critic and its optimiser's state after an update on each part, and the means of what is reported of them.

        last: what the generator made for the last part, of which it then learns itself.
        """
        model, (draw_keys, critic_keys) = self.module(generator), jax.vmap(jax.random.split, out_axes=1)(keys)
        before_last = jax.tree.map(lambda array: array[:-1], (dict(parts), draw_keys))
        generated = jax.lax.map(lambda part: model.generate_like(*part), before_last)

        def learn(critic: tuple[Any, Any], part: tuple[Any, ...]) -> tuple[tuple[Any, Any], Metrics]:
            params, opt_state = critic
            rows, generated, number, critic_key = part
            gradient, figures = jax.grad(self._critic_loss, has_aux=True)(
                replicate(params), model.real(rows), generated, rows["labels"], number, critic_key
            )
            updates, opt_state = self._optimizers["critic"].update(gradient, opt_state, params)
            figures["critic_gradient_norm"] = optax.tree.norm(gradient)
            return (optax.apply_updates(params, updates), opt_state), figures

        numbers = state.step * len(keys) + jnp.arange(len(keys))
        start = state.params["critic"], state.opt_state["critic"]
        learned, by_part = jax.lax.scan(
            learn, start, (parts, jnp.concatenate([generated, last[None]]), numbers, critic_keys)
        )
        means = {name: values.mean() for name, values in by_part.items()}
        if self.config.penalties:
            means["critic_penalty"] = jnp.nanmean(by_part["critic_penalty"])
        return learned, means

    @property
    def has_distance_terms(self) -> bool:
        """Whether there are terms that need no critic."""
        return not all(term.uses_critic for term, _ in self._terms)

    def distances(self, params: Any, batch: Batch) -> dict[str, jax.Array]:
        """How far the generator with these parameters is from the samples of a batch, by row: [B] each.

        The terms that need no critic by name, and as `loss` their sum, each times its weight. Only where it `has_distance_terms`.
        """
        generated = self.module(params).generate_like(batch, random_key(0))
        inputs = LossInputs(self.module(params).real(batch), generated)
        rows = {term.name: distance(inputs) for term, distance in self._terms if not term.uses_critic}
        return rows | {"loss": self._sum(rows)}

    def diagnose(self, figures: Mapping[str, float]) -> str:
        advice = (
            "lower --objective.critic-optimizer.learning-rate, or strengthen a penalty of objective.penalties in the config "
            "file"
        )
        if figures["diversity"] < _COLLAPSED:
            return (
                f"what the generator makes varies {figures['diversity']:.2f} times as much as real sound does: it may have "
                f"collapsed to a few sounds; {advice}"
            )
        if (within := figures.get("diversity_within_labels", math.nan)) < _COLLAPSED:
            return (
                f"what the generator makes of the same labels varies {within:.2f} times as much as real sound with them does: "
                f"it may have collapsed to one sound for each; {advice}"
            )
        # A critic for Wasserstein is to be as good as can be, and terms that need none teach whatever it says.
        teaches = self.config.loss.needs_penalty or self.has_distance_terms
        if not teaches and (accuracy := figures.get("critic_accuracy", math.nan)) > _WON:
            return (
                f"the critic tells real sound from made in {accuracy:.1%} of pairs: it has won, and its loss may teach the "
                f"generator nothing; {advice}"
            )
        return ""

    def _critic_loss(
        self, params: Any, real: jax.Array, generated: jax.Array, labels: Labels, number: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """Loss of the critic's update of this number, and what is reported of it: `critic_loss` without penalties, and
        `critic_penalty` as strong as it would be at every update; NaN where one of them is not due."""
        critic, adversarial_loss = self._critic(params), self.config.loss
        key, penalty_key = jax.random.split(key)
        twice = jax.tree.map(lambda values: jnp.concatenate([values, values]), dict(labels))
        outputs = [_halves(output) for output in critic(jnp.concatenate([real, generated]), twice, key)]
        loss = _mean([adversarial_loss.critic_loss(real.scores, generated.scores) for real, generated in outputs])
        right = _mean([(_row_scores(real) > _row_scores(generated)).mean() for real, generated in outputs])
        figures, added = {"critic_loss": loss, "critic_accuracy": right}, jnp.zeros(())
        for penalty in self.config.penalties:

            def strength(penalty: Penalty = penalty) -> jax.Array:
                def score(rows: jax.Array) -> jax.Array:
                    return _mean([_row_scores(output) for output in critic(rows, labels, key)])

                return penalty.compute(score, real, generated, penalty_key)

            due = number % penalty.every == 0
            size = penalty.weight * jax.lax.cond(due, strength, lambda: jnp.zeros(()))
            loss += penalty.every * size
            added += jnp.where(due, size, jnp.nan)
        if self.config.penalties:
            figures["critic_penalty"] = added
        return loss, figures | {"critic_loss_penalised": loss}

    def _generator_loss(
        self, generated: jax.Array, critic_params: Any, real: jax.Array, labels: Labels, key: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """Loss of the generator for what it made, and its terms."""
        critic, config = self._critic(critic_params), self.config
        inputs = LossInputs(real, generated, critic(real, labels, key), critic(generated, labels, key))
        adversarial = _mean([config.loss.generator_loss(output.scores) for output in inputs.generated_outputs])
        figures = {term.name: distance(inputs).mean() for term, distance in self._terms}
        loss = config.weight * adversarial
        for term, _ in self._terms:
            loss += term.weight * figures[term.name]
        shown = self._sum(figures) if self.has_distance_terms else loss
        return loss, figures | {"adversarial_loss": adversarial, "generator_loss": loss, "loss": shown}

    def _loss_alone(
        self, generated: jax.Array, critic_params: Any, real: jax.Array, labels: Labels, key: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """As `_generator_loss`, of the terms that need no critic; what that has beside them is 0."""
        del critic_params, labels, key
        inputs = LossInputs(real, generated)
        figures = {
            term.name: jnp.zeros(()) if term.uses_critic else distance(inputs).mean() for term, distance in self._terms
        }
        loss = self._sum(figures)
        return loss, figures | {"adversarial_loss": jnp.zeros(()), "generator_loss": loss, "loss": loss}

    def _sum(self, figures: Mapping[str, jax.Array]) -> jax.Array:
        """What training and validation alike call `loss`: the terms that need no critic."""
        weighted = [term.weight * figures[term.name] for term, _ in self._terms if not term.uses_critic]
        return sum(weighted, start=jnp.zeros(()))


def _unchanged(
    state: TrainState, learn: Callable[[], tuple[tuple[Any, Any], Metrics]]
) -> tuple[tuple[Any, Any], Metrics]:
    """What `learn` returns, had it not been called: the critic as it was, and zeros."""
    _, figures = jax.eval_shape(learn)
    start = state.params["critic"], state.opt_state["critic"]
    return start, jax.tree.map(lambda figure: jnp.zeros(figure.shape, figure.dtype), figures)


def _halves(output: DiscriminatorOutput) -> tuple[DiscriminatorOutput, DiscriminatorOutput]:
    """The outputs for real and for generated sounds, which the critic read together."""
    half = len(output.scores) // 2
    parts = [jax.tree.map(lambda array, part=part: array[part], output) for part in (slice(half), slice(half, None))]
    return parts[0], parts[1]


def _row_scores(output: DiscriminatorOutput) -> jax.Array:
    return output.scores.mean(axis=-1)


def _mean(values: Sequence[jax.Array]) -> jax.Array:
    return jnp.stack(values).mean(axis=0)
