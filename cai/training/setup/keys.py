"""What a training config file may hold: every key with its type, its default and its description."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from cai.records import Record, Values


def number_of(value: Any) -> Any:
    """The number that YAML reads as text if it is written without a dot, as in 1e-4; `yes`, which it reads as true."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Number = Annotated[float, BeforeValidator(number_of), Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0)]
Count = Annotated[int, Field(strict=True, ge=1)]


class Lora(Record):
    """The adapter that is trained in place of the weights."""

    rank: Count = Field(16, description="Rank of the two factors of each weight's change.")
    alpha: Count = Field(32, description="Scale of the change: alpha / rank.")
    dropout: Number = Field(0.0, ge=0, lt=1, description="Share of the adapter's inputs set to zero.")
    targets: str | tuple[str, ...] = Field(
        "all-linear", description="Which layers: all-linear (but the head), or a list of names."
    )
    embeddings: bool | None = Field(
        None,
        strict=True,
        description="Train all token embeddings (default: if the base model does not know those of the chat template).",
    )


class TrainConfig(Record):
    """What a training config file may hold; None stands for what is resolved from data and hardware."""

    full: bool = Field(False, strict=True, description="Train all weights, not a LoRA adapter.")
    lora: Lora = Field(Lora.model_validate({}), description="The adapter, unless `full` is set.")
    quantize: Literal["4bit"] | None = Field(
        None, description="Hold the frozen weights under an adapter in fewer bits: 4bit (QLoRA; needs an NVIDIA GPU)."
    )
    chat_template: str | None = Field(None, description="A Jinja file, for a model that has no chat template.")
    split: Annotated[Number, Field(gt=0, le=1)] | None = Field(
        None, description="Share of the prompts to train on, if there is no eval file beside the data (default 0.95)."
    )
    epochs: Positive = Field(1.0, le=10_000, description="How many times each row is seen.")
    learning_rate: Positive | None = Field(None, description="Peak learning rate (default: by method, and by `full`).")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate falls after the warm-up."
    )
    warmup: Number = Field(0.03, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    batch_size: Count = Field(16, description="Rows in one step of the optimiser, over all devices.")
    rows_at_once: Count | None = Field(
        None, description="Rows in one forward pass of a device (default: from its memory)."
    )
    max_length: Annotated[int, Field(strict=True, ge=8)] | None = Field(
        None,
        description="Most tokens of a row; the rest is truncated (default: holds 99 % of the rows whole, up to a cap).",
    )
    dtype: Literal["bfloat16", "float32"] | None = Field(
        None, description="Precision of the arithmetic: bfloat16 or float32 (default: from the hardware)."
    )
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] | None = Field(
        None,
        description="Attention: sdpa, eager, flash_attention_2 or flash_attention_3 (default: from the hardware).",
    )
    gradient_checkpointing: bool | None = Field(
        None,
        strict=True,
        description="Compute activations twice to save memory (default: if they would not fit otherwise).",
    )
    packing: Literal["none", "padding_free", "packed"] | None = Field(
        None,
        description="Rows side by side without padding (padding_free), or several in one sequence (packed: a step then "
        "sees more rows). Both need flash attention.",
    )
    save_every: Count | None = Field(None, description="Steps between checkpoints (default: a tenth of the run).")
    eval_every: Count | None = Field(
        None, description="Steps between evaluations (default: a tenth of the run, or more if many rows are held out)."
    )
    loss: str | None = Field(
        None,
        description="dpo: cdpo and gap_scaled read p_chosen of every pair, TRL's sigmoid, robust, ipo and others do "
        "not (default: cdpo if all pairs have it, else sigmoid). kto: kto or apo_zero_unpaired. orpo, simpo, cpo: soft "
        "or hard labels, reward: soft, margin or hard ones (default: soft if all pairs have p_chosen, else hard). "
        "grpo: dapo, grpo, dr_grpo, bnpo and others of TRL (default dapo).",
    )
    beta: Positive | None = Field(
        None,
        description="dpo, kto: how close to the reference the model stays (default 0.1); so for rloo, ppo (0.05) and "
        "grpo (0.04). orpo: weight of the odds ratio beside the NLL (default 0.1). simpo, cpo: scale of the "
        "log-probabilities (default 2 and 0.1).",
    )
    gamma: Annotated[Number, Field(ge=0)] | None = Field(
        None, description="simpo: margin by which the chosen reply is to win, in rewards (default: half of beta)."
    )
    nll: Annotated[Number, Field(ge=0)] | None = Field(
        None,
        description="dpo: weight of the chosen replies' NLL, which keeps their probability from collapsing (default "
        "0.2; 0 for losses that hold the chosen reply by themselves). simpo, cpo: the same (default 0 and 1).",
    )
    reference: Literal["once", "each_step"] | None = Field(
        None,
        description="dpo, kto: when to compute the reference's log-probabilities (default: once, if that is cheaper).",
    )
    reward: str | None = Field(None, description="What a reply is worth: see docs/online.md.")
    watch: str | None = Field(
        None,
        description="Model that takes no part, reward:PATH or a judge under -c: it rates the held-out replies of each "
        "evaluation, to see whether the reward rises while this falls (Goodhart's law).",
    )
    stop_on_goodhart: bool | None = Field(
        None, strict=True, description="End the training when --watch sees that (default false: it warns)."
    )
    rollouts: str | None = Field(
        None,
        description="vLLM server that writes the replies: vllm:NAME, started in an environment of its own for the base "
        "model NAME, or vllm:NAME@URL, which runs (default: this process).",
    )
    server_args: str | None = Field(
        None, description="What that server is told besides, such as '--gpu-memory-utilization 0.4'."
    )
    generations: Annotated[int, Field(strict=True, ge=2)] | None = Field(
        None, description="Replies to each prompt of a step, which are compared (default: rloo 4, grpo 8, ppo 2)."
    )
    reply_length: Count | None = Field(None, description="Most tokens of a reply of the model (default 256).")
    temperature: Positive | None = Field(None, description="Temperature at which the model replies (default 1).")
    iterations: Count | None = Field(
        None, description="Steps of the optimiser on each batch of replies (default: ppo 4, others 1)."
    )
    mask_truncated: bool | None = Field(
        None, strict=True, description="Learn nothing from replies cut at reply_length (default false)."
    )
    discount: Annotated[Number, Field(gt=0, le=1)] | None = Field(
        None, description="Gamma: what a reward is worth one token earlier (default 1)."
    )
    gae_lambda: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        None,
        description="Lambda of generalised advantage estimates: 0 trusts the values, 1 the rewards (default 0.95).",
    )
    value_weight: Positive | None = Field(
        None, description="Weight of the value model's loss beside the policy's (default 0.1)."
    )
    condition: Literal["principle"] | None = Field(
        None,
        description="reward: what else the model is told. principle: the one by which it judges, from the votes of a "
        "label run or a column of that name.",
    )
    constitution: str | None = Field(
        None,
        description="reward: with condition principle, the constitution that its rows name principles of, NAME or PATH "
        "(default: the built-in with the hash of the labels).",
    )
    samples: Annotated[int, Field(strict=True, ge=0, le=64)] = Field(
        8, description="Held-out prompts that the model answers before and after (not for reward)."
    )
    seed: int = Field(0, strict=True, ge=0, lt=2**32, description="Seed of the order of rows and of the adapter.")
    trl: Values = Field(default_factory=dict, description="Any other argument of TRL's trainer, by its name.")
