"""The training methods: for each, the rows and settings it takes, its trainer, and its words in help and on cards.

A new method is an entry here and a class that trains, in `cai.training.trainers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["chat", "pairs", "graded", "labels", "revisions", "candidates", "prompts", "text", "unknown"]

CHAT = ("cai chat THIS", "cai generate PROMPTS --constitution harmless --model hf:THIS")
REPLIES = (  # keys of the config
    "reward", "watch", "stop_on_goodhart", "rollouts", "server_args", "generations", "reply_length", "temperature",
    "iterations", "mask_truncated",
)  # fmt: skip
VALUES = ("discount", "gae_lambda", "value_weight")
OF_REPLIES = (*REPLIES, *VALUES)
REWARDS = (
    ("eval_reward_before", "held-out reward before"),
    ("eval_reward", "held-out reward"),
    ("eval_watch", "held-out rating by watch"),
    ("kl", "KL a token"),
)
JUDGE = ("cai label SOURCE --constitution harmless --judge reward:THIS", "cai judge bench --judge reward:THIS")


@dataclass(frozen=True, slots=True)
class Method:
    """What is special about one way of training."""

    rows: Kind  # of a dataset that it trains on
    trainer: str  # the class that trains: module of `cai.training.trainers` and name
    trl: str  # how the names of TRL's classes begin, with their module: those that end in Config and in Trainer
    summary: str  # help of the command
    example: str  # arguments of the command, for its help
    card: str  # what it did with the base model, for the model card
    rates: tuple[float, float]  # learning rates: of a LoRA adapter, of all weights
    file: str = ""  # which training file of a run folder it reads, without its ending; empty: prompts are in its rows
    keys: tuple[str, ...] = ()  # of the config, beside those that every method has
    unused: tuple[str, ...] = ()  # arguments of TRL's trainer that have no effect on it
    loss: str = ""  # the default; empty: there is but one
    soft_loss: str = ""  # the default if every pair has p_chosen; empty: labels do not decide
    losses: tuple[str, ...] = ()  # by name
    width: int = 2  # sequences that a row puts through the model at once
    fewest: int = 1  # rows in one forward pass
    all_logits: bool = False  # whether the logits of all tokens exist at once
    dropout: bool = False  # whether TRL leaves dropout on
    after_sft: bool = False  # whether it is made for models that have been taught to reply
    online: bool = False  # whether it trains on rewards of the model's own replies
    scores: bool = False  # whether the product gives a reply a number and writes none
    shown: tuple[tuple[str, str], ...] = ()  # metrics that the summary shows beside the losses, with their words
    usage: tuple[str, ...] = CHAT  # commands that use the product, for the model card
    following: str = ""  # the next training; {folder} is the product


# Of TRL's DPO trainer, what is about its reference and its own losses.
OF_DPO = (
    "precompute_ref_batch_size", "precompute_ref_log_probs", "ld_alpha", "f_divergence_type",
    "f_alpha_divergence_coef", "use_weighting", "label_smoothing", "discopop_tau", "loss_weights", "padding_free",
)  # fmt: skip

# Learning rates: full SFT is TRL's; LoRA wants about ten times that of full fine-tuning, whatever the method (Schulman
# et al. 2025, "LoRA Without Regret"). Full DPO: Tunstall et al. 2023 (Zephyr), section 4. Full ORPO and SimPO: that of
# the authors' own trainings of Mistral 7B and Llama 3 8B. CPO: that of the authors' own adapter (ALMA-R).
METHODS: dict[str, Method] = {
    "sft": Method(
        rows="chat",
        file="sft",
        trainer="sft:Replies",
        trl="trl:SFT",
        summary="Train on replies, with the loss on the last reply only.",
        example="runs/a --model local --out models/sft",
        card="fine-tuned on replies, with the loss on the last reply of each conversation only",
        rates=(2e-4, 2e-5),
        keys=("packing",),
        width=1,
        all_logits=True,
        dropout=True,
        following="cai train dpo RUN --model {folder} --out FOLDER, with the RUN of cai label",
    ),
    "dpo": Method(
        rows="pairs",
        file="dpo",
        trainer="dpo:Pairs",
        trl="trl:DPO",
        summary="Train on pairs, by the probability that the chosen reply is better.",
        example="runs/labels --model models/sft --out models/dpo --beta 0.1",
        card="trained on pairs of replies by direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290)",
        rates=(5e-6, 5e-7),
        after_sft=True,
        keys=("loss", "beta", "nll", "reference"),
        loss="sigmoid",
        soft_loss="cdpo",
        losses=(
            "cdpo", "gap_scaled", "sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "exo_pair", "discopop", "aot",
            "aot_unpaired", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "sft",
        ),
    ),
    "kto": Method(
        rows="graded",
        file="kto",
        trainer="kto:Graded",
        trl="trl:KTO",
        summary="Train on single replies, each desirable or not.",
        example="runs/labels --model models/sft --out models/kto",
        card="trained on single replies, desirable or not (KTO: Ethayarajh et al. 2024, arXiv 2402.01306)",
        rates=(5e-6, 5e-7),
        keys=("loss", "beta", "reference"),
        loss="kto",
        losses=("kto", "apo_zero_unpaired"),
        fewest=2,  # its estimate of the KL divergence pairs the rows of a batch
        shown=(
            ("eval_rewards/chosen", "desirable: reward"),
            ("eval_rewards/rejected", "undesirable: reward"),
        ),
    ),
    "orpo": Method(
        rows="pairs",
        file="dpo",
        trainer="reference_free:OddsRatio",
        trl="trl:DPO",
        summary="Train on pairs without a reference, with SFT and preference in one loss (ORPO).",
        example="runs/labels --model Qwen/Qwen3-8B-Base --out models/orpo",
        card="trained on pairs of replies by odds ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691)",
        rates=(5e-5, 5e-6),
        keys=("loss", "beta"),
        unused=OF_DPO,
        loss="hard",
        soft_loss="soft",
        losses=("soft", "hard"),
    ),
    "simpo": Method(
        rows="pairs",
        file="dpo",
        trainer="reference_free:Simple",
        trl="trl:DPO",
        summary="Train on pairs without a reference, by mean log-probabilities and a margin (SimPO).",
        example="runs/labels --model models/sft --out models/simpo",
        card="trained on pairs of replies by simple preference optimisation (Meng et al. 2024, arXiv 2405.14734)",
        rates=(6e-6, 6e-7),
        after_sft=True,
        keys=("loss", "beta", "gamma", "nll"),
        unused=OF_DPO,
        loss="hard",
        soft_loss="soft",
        losses=("soft", "hard"),
    ),
    "cpo": Method(
        rows="pairs",
        file="dpo",
        trainer="reference_free:Contrastive",
        trl="trl:DPO",
        summary="Train on pairs without a reference, by log-probabilities and the NLL of the chosen reply (CPO).",
        example="runs/labels --model models/sft --out models/cpo",
        card="trained on pairs of replies by contrastive preference optimisation (Xu et al. 2024, arXiv 2401.08417)",
        rates=(1e-4, 1e-5),
        keys=("loss", "beta", "nll"),
        unused=OF_DPO,
        loss="hard",
        soft_loss="soft",
        losses=("soft", "hard"),
    ),
    "reward": Method(
        rows="pairs",
        file="dpo",
        trainer="reward:Scored",
        trl="trl:Reward",
        summary="Train a reward model on pairs, a judge for reward:PATH.",
        example="runs/labels --model local --out models/reward",
        card="made a reward model: trained on pairs of replies to give the better one the higher number",
        rates=(1e-4, 1e-5),
        keys=("loss", "condition", "constitution"),
        loss="hard",
        soft_loss="soft",
        losses=("soft", "margin", "hard"),
        scores=True,
        usage=JUDGE,
    ),
    "rloo": Method(
        rows="prompts",
        trainer="online.prompts:Prompts",
        trl="trl:RLOO",
        summary="Train on rewards for the model's own replies, each against the mean of the others to its prompt.",
        example="runs/a --model models/sft --reward reward:models/reward --out models/rloo",
        card="trained on rewards for its own replies by RLOO (Ahmadian et al. 2024, arXiv 2402.14740)",
        rates=(1e-5, 1e-6),
        online=True,
        after_sft=True,
        keys=(*REPLIES, "beta"),
        width=1,
        shown=REWARDS,
    ),
    "grpo": Method(
        rows="prompts",
        trainer="online.prompts:Prompts",
        trl="trl:GRPO",
        summary="Train on rewards for the model's own replies, scaled by their spread among those to one prompt.",
        example="runs/a --model models/sft --reward reward:models/reward --out models/grpo",
        card="trained on rewards for its own replies by GRPO (Shao et al. 2024, arXiv 2402.03300)",
        rates=(1e-5, 1e-6),
        online=True,
        after_sft=True,
        keys=("loss", *REPLIES, "beta"),
        loss="dapo",
        losses=("dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo"),
        width=1,
        shown=REWARDS,
    ),
    "ppo": Method(
        rows="prompts",
        trainer="online.ppo:Credited",
        trl="trl:GRPO",
        summary="Train on rewards for the model's own replies, with a value model that credits each token.",
        example="runs/a --model models/sft --reward reward:models/reward --out models/ppo",
        card="trained on rewards for its own replies by PPO (Schulman et al. 2017, arXiv 1707.06347)",
        rates=(1e-5, 1e-6),
        online=True,
        after_sft=True,
        keys=(*REPLIES, "beta", *VALUES),
        unused=("loss_type",),  # it has TRL's clipped one
        width=1,
        shown=REWARDS,
    ),
}  # fmt: skip


# Arguments of TRL that are set by a key of ours, and those that would break what cai promises.
OURS = {
    "learning_rate": "learning_rate", "num_train_epochs": "epochs", "per_device_train_batch_size": "rows_at_once",
    "per_device_eval_batch_size": "rows_at_once", "gradient_accumulation_steps": "batch_size",
    "max_length": "max_length", "seed": "seed", "bf16": "dtype", "fp16": "dtype", "save_steps": "save_every",
    "eval_steps": "eval_every", "gradient_checkpointing": "gradient_checkpointing",
    "activation_checkpointing": "gradient_checkpointing", "packing": "packing",
    "padding_free": "packing", "chat_template_path": "chat_template", "warmup_steps": "warmup",
    "lr_scheduler_type": "schedule", "eval_strategy": "eval_every", "loss_type": "loss", "loss_weights": "nll",
    "beta": "beta", "precompute_ref_log_probs": "reference", "num_generations": "generations",
    "max_completion_length": "reply_length", "temperature": "temperature", "num_iterations": "iterations",
    "mask_truncated_completions": "mask_truncated", "reward_weights": "reward",
}  # fmt: skip
FIXED = {
    "output_dir": "it is --out", "resume_from_checkpoint": "the same command resumes by itself",
    "dataset_kwargs": "rows are tokenised already", "remove_unused_columns": "rows are tokenised already",
    "completion_only_loss": "the loss is on the last reply", "assistant_only_loss": "the loss is on the last reply",
    "logging_nan_inf_filter": "it would hide a loss that is not a number", "save_strategy": "resuming needs "
    "checkpoints", "trust_remote_code": "code that comes with a model is never run",
    "use_cpu": "the device is detected", "data_seed": "it is seed",
    "ignore_data_skip": "a resumed training must see the same rows",
    "save_only_model": "resuming needs the optimiser's state", "truncation_mode": "rows are truncated at their end",
    "logging_steps": "metrics.jsonl has every step", "logging_strategy": "metrics.jsonl has every step",
    "logging_first_step": "metrics.jsonl has every step", "log_level": "the command prints what matters",
    "disable_tqdm": "the command shows progress", "eval_on_start": "it depends on the method",
    "dataloader_drop_last": "every row is used", "push_to_hub": "training uses no network; upload the folder yourself",
    "include_num_input_tokens_seen": "tokens are counted", "load_best_model_at_end": "checkpoints/ keeps the last two",
    "sync_ref_model": "checkpoints do not save a reference that changes, so a resumed training would use another",
    "steps_per_generation": "the replies of a step are written together, so that a checkpoint loses none",
    "generation_batch_size": "it is batch_size: a checkpoint between replies and step would lose them",
    "off_policy_mask_threshold": "every reply is written by the model that learns from it",
    "num_generations_eval": "a held-out prompt is answered once", "use_vllm": "it cannot be installed beside training",
    "auto_find_batch_size": "rows_at_once is lowered if memory runs out",
    "model_init_kwargs": "cai opens the model", "ddp_find_unused_parameters": "every weight that trains is used",
}  # fmt: skip


def keys_lacking(method: str) -> set[str]:
    """The keys of the config that only other methods have."""
    return {key for other in METHODS.values() for key in other.keys} - set(METHODS[method].keys)
