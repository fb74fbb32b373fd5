"""Other libraries' names for settings, for suggestions in errors.

Names are compared regardless of case, `-` and `_`: learningRate is learning_rate.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from suggestions import did_you_mean, nearest

# (names elsewhere, settings here, a note)
ALIASES = (
    ("learning_rate lr max_lr base_lr initial_lr init_lr peak_learning_rate max_learning_rate "
     "actor_lr policy_lr", ["optimizer.peak_lr"], ""),
    ("embedding_lr unembedding_lr matrix_lr scalar_lr head_lr loraplus_lr_ratio",
     ["optimizer.lr_multipliers"], "{patterns of weights: factor}"),
    ("critic_lr value_lr vf_lr critic_learning_rate", ["value_optimizer.peak_lr"], ""),
    ("lr_scheduler_type lr_scheduler scheduler lr_schedule lr_decay_style learning_rate_schedule "
     "lr_decay", ["optimizer.schedule"], ""),
    ("min_lr min_learning_rate final_lr end_lr lr_end min_lr_ratio final_lr_fraction alpha_f "
     "final_lr_frac cosine_learning_rate_final_fraction",
     ["optimizer.final_fraction"], "a share of the peak"),
    ("warmup num_warmup_steps warmup_iters lr_warmup_steps lr_warmup_iters warmup_updates",
     ["optimizer.warmup_steps"], ""),
    ("warmup_ratio warmup_fraction lr_warmup_fraction warmup_proportion warmup_epochs "
     "warmup_steps_fraction",
     ["optimizer.warmup_steps"], "warm-up is counted in steps"),
    ("cooldown cooldown_fraction decay_ratio warmdown_ratio lr_decay_ratio lr_decay_iters "
     "decay_steps lr_decay_steps", ["optimizer.decay_fraction"], "a share of all steps, of wsd"),
    ("cosine_restarts cosine_with_restarts num_cycles lr_num_cycles restarts warm_restarts sgdr "
     "cycle_length t_mult", ["optimizer.cycles"], "{step: peak of the cycle that begins there}"),
    ("optim optimizer_type optimizer_name opt optim_type opt_type", ["optimizer.name"], ""),
    ("wd adam_weight_decay l2 decay", ["optimizer.weight_decay"], ""),
    ("max_grad_norm grad_clip gradient_clipping gradient_clip gradient_clip_val grad_clip_norm "
     "clip_grad clip_grad_norm max_norm gradient_clip_norm grad_norm_clip clip_gradient "
     "clip_gradients global_norm gradient_clipping_threshold", ["optimizer.clip_norm"], ""),
    ("beta1 beta_1 adam_beta1 adam_b1", ["optimizer.b1"], ""),
    ("momentum", ["optimizer.b1"], "AdamW's first moment"),
    ("beta2 beta_2 adam_beta2 adam_b2", ["optimizer.b2"], ""),
    ("betas adam_betas", ["optimizer.b1", "optimizer.b2"], ""),
    ("epsilon adam_eps adam_epsilon optimizer_eps", ["optimizer.eps"], ""),
    ("newton_schulz_steps muon_steps muon_ns_steps", ["optimizer.ns_steps"], ""),
    ("optimizer_dtype moment_dtype mu_dtype optim_8bit", ["optimizer.state_dtype"], ""),
    ("max_steps num_steps train_steps num_train_steps total_steps max_iters num_iterations "
     "n_steps training_steps iterations num_training_steps total_train_steps train_iters "
     "max_updates num_updates max_train_steps n_iters learning_rate_schedule_steps "
     "max_steps_per_epoch", ["steps"], ""),
    ("target_flops target_param_data_ratio tokens_per_param flops_budget max_tokens_trained",
     ["steps"], "a budget such as 20x (tokens a parameter), 1e9tokens or 1e18flops"),
    ("mup use_mup maximal_update mup_base_width mup_width_multiplier width_multiplier",
     ["model.parametrization", "model.base_width"], "mup"),
    ("num_epochs epochs num_train_epochs n_epochs max_epochs total_epochs epoch train_epochs "
     "total_episodes", ["steps"], "of data.batch_size rows; a run counts no epochs"),
    ("ppo_epochs num_ppo_epochs update_epochs noptepochs n_ppo_epochs num_iterations_per_batch",
     ["rl.epochs"], ""),
    ("train_batch_size global_batch_size bs batch total_batch_size bsz rows n_batch",
     ["data.batch_size"], "rows a step, over all devices and microbatches"),
    ("per_device_batch_size per_device_train_batch_size micro_batch_size mbs microbatch_size "
     "device_batch_size batch_size_per_device train_micro_batch_size_per_gpu micro_batch "
     "microbatch batch_size_per_gpu per_gpu_train_batch_size",
     ["data.batch_size", "accumulate"],
     "batch_size counts rows of all devices; accumulate divides it into microbatches"),
    ("rampup_batch_size batch_size_warmup batch_size_rampup batch_size_schedule batch_warmup "
     "per_device_batch_size_start global_batch_size_rampup_steps",
     ["data.batch_ramp"], "{step: rows a step until then}"),
    ("seq_len_warmup sequence_length_warmup seqlen_warmup curriculum_learning length_warmup "
     "length_curriculum", ["data.length_ramp"], "{step: tokens in a row until then}"),
    ("gradient_accumulation_steps grad_accum grad_accum_steps accumulation_steps accum_steps "
     "accumulate_grad_batches gradient_accumulation num_microbatches grad_accumulation_steps "
     "accumulation accumulate_steps grad_accum_iters", ["accumulate"], ""),
    ("per_device_eval_batch_size eval_batch_size", ["data.batch_size"],
     "evaluation reads as many rows"),
    ("ppo_mini_batch_size mini_batch_size minibatch_size num_mini_batches minibatch",
     ["data.batch_size"], "the minibatch of PPO and GRPO"),
    ("seq_len seq_length sequence_length max_seq_length max_seq_len max_sequence_length max_length "
     "block_size context_length context_len max_len ctx_len context n_ctx sequence_len "
     "max_target_length model_max_length max_position_embeddings context_window n_positions "
     "context_size cutoff_len max_context_length", ["data.length", "model.max_length"],
     "tokens a row; the most that the model takes"),
    ("packing sample_packing pack_sequences packed", ["data.pack"], ""),
    ("dataset dataset_name dataset_path data_path data_dir train_file train_data train_files "
     "dataset_mixer training_data train_dataset input_path data_files path datasets corpus "
     "hf_path hf_train_files dataset_config dataset_dir dataset_type",
     ["data.source"], ""),
    ("eval_dataset validation_file valid_file test_file eval_file val_data validation_data "
     "dataset_test_split eval_data "
     "hf_eval_files eval_dataset_name", ["data.heldout_source"], ""),
    ("val_size test_size eval_split val_fraction validation_split validation_split_percentage "
     "val_split valid_fraction eval_fraction val_set_size test_split",
     ["data.heldout_fraction"], ""),
    ("max_eval_samples eval_limit eval_samples max_val_samples limit_val_batches eval_iters "
     "eval_batches max_eval_batches eval_tokens", ["data.heldout_limit"], "examples"),
    ("truncation truncation_mode on_overflow", ["data.on_long", "data.truncate"], ""),
    ("deduplicate deduplication dedupe", ["data.dedup"], ""),
    ("prompt_template prompt_field text_column dataset_text_field column columns text_field "
     "response_template columns_mapping field_mapping", ["data.fields"], "templates, as "
     "--config.data.fields.prompt='{instruction}'"),
    ("min_length min_chars max_chars max_repetition max_symbols filter", ["data.filters"],
     "as --config.data.filters.min_length=20"),
    ("weights mixture_weights data_mix mix datasets_weights probs interleave_probs",
     ["data.mixture"], "as --config.data.mixture.NAME.weight=2"),
    ("fim fim_prob fim_ratio", ["data.fim_rate", "tokenizer.fim"], ""),
    ("tokenizer_name tokenizer_path tokenizer_name_or_path tokenizer_file tokenizer_model",
     ["tokenizer.path"], ""),
    ("vocab vocab_size n_vocab num_tokens padded_vocab_size", ["tokenizer.vocab_size"], ""),
    ("pad_vocab_to_multiple_of pad_to_multiple_of make_vocab_size_divisible_by vocab_divisor",
     ["model.vocab_multiple"], ""),
    ("hidden_size hidden_dim d_model n_embd n_embed dim width embedding_dim embedding_size "
     "model_dim emb_dim embed_size n_embedding base_emb_dim", ["model.embed_dim"], ""),
    ("n_layer n_layers num_hidden_layers layers depth num_blocks n_blocks num_decoder_layers "
     "base_num_decoder_layers",
     ["model.num_layers"], ""),
    ("n_head n_heads num_attention_heads heads attention_heads num_query_heads n_q_heads "
     "base_num_query_heads",
     ["model.num_heads"], ""),
    ("num_key_value_heads n_kv_head n_kv_heads kv_heads num_query_groups base_num_kv_heads",
     ["model.num_kv_heads"], ""),
    ("d_head dim_head head_size d_kv kv_channels", ["model.head_dim"], ""),
    ("intermediate_size d_ff ffn_dim n_inner ffn_hidden_size mlp_hidden_dim ff_dim hidden_ff "
     "feed_forward_dim ffn_size mlp_ratio expansion_factor base_mlp_dim", ["model.mlp_dim"], ""),
    ("rope_theta rotary_base theta rotary_emb_base", ["model.rope_base"], ""),
    ("model_size preset architecture arch model_type model_config", ["model.size"], ""),
    ("model_name model_name_or_path pretrained checkpoint_path load_from init_checkpoint "
     "pretrained_model_name_or_path base_model from_pretrained finetune_from restore_from "
     "load_checkpoint init_from_checkpoint model_path load_parameters_path model_tag",
     ["init_from.policy"],
     "the workdir of a run, or of an open model that train.convert has imported"),
    ("resume_from_checkpoint resume load_full_state_path checkpointer",
     ["init_from.policy"], "to resume a run, type its command again, with the same --workdir"),
    ("ref_model reference_model ref_policy ref_model_path", ["init_from.policy"],
     "the reference is where the policy starts"),
    ("reward_model reward_model_path rm_path reward_model_name_or_path rm", ["init_from.reward"],
     ""),
    ("value_model critic critic_model critic_path", ["init_from.value"], ""),
    ("bf16 fp16 fp32 precision mixed_precision torch_dtype compute_dtype param_dtype amp "
     "activation_dtype half tf32 matmul_precision weight_dtype float16 bfloat16",
     ["model.dtype"], "float32 or bfloat16, of activations and matmuls"),
    ("gradient_checkpointing activation_checkpointing checkpoint_activations remat_policy "
     "recompute use_remat grad_checkpointing recompute_granularity rematerialize grad_checkpoint "
     "enable_activation_checkpointing enable_activation_offloading",
     ["model.remat"], "none, minimal, matmuls, qkv, projections, full or offload"),
    ("attn_implementation use_flash_attention flash_attention flash_attn attention_backend "
     "attn_impl use_flash_attn flash attention_impl flash_attention_2", ["model.attention"], ""),
    ("scan_layers unroll", ["model.scan_unroll"], ""),
    ("fp8 int8 int8_training use_qwix_quantization fp8_recipe aqt quantized_training",
     ["model.matmul"], "int8 or fp8, in training"),
    ("load_in_8bit load_in_4bit quantization quantize bnb_4bit quant_type qlora",
     ["freeze.dtype"], "of frozen weights"),
    ("lora_rank r lora_r lora_dim adapter_rank use_peft peft adapter use_lora", ["lora.rank"], ""),
    ("lora_alpha", ["lora.alpha"], ""),
    ("target_modules lora_target_modules lora_targets lora_target modules_to_adapt "
     "lora_attn_modules lora_target_linear",
     ["lora.targets"], ""),
    ("freeze_layers frozen_layers freeze_modules frozen_modules", ["freeze.frozen"], ""),
    ("modules_to_save trainable_modules trainable unfreeze trainable_params", ["freeze.trained"],
     ""),
    ("tensor_parallel tensor_parallel_size tp tp_size model_parallel_size "
     "tensor_model_parallel_size tensor_parallelism ici_tensor_parallelism", ["mesh.tensor"], ""),
    ("dp dp_size data_parallel data_parallel_size data_parallelism num_replicas ddp "
     "ici_data_parallelism dcn_data_parallelism",
     ["mesh.data"], ""),
    ("fsdp_size zero zero_stage shard sharding deepspeed fsdp_parallelism "
     "ici_fsdp_parallelism", ["mesh.fsdp"], ""),
    ("cp sp context_parallel context_parallel_size sequence_parallel sequence_parallel_size "
     "context_parallelism ici_context_parallelism ici_sequence_parallelism", ["mesh.sequence"], ""),
    ("ep ep_size expert_parallel expert_parallel_size expert_parallelism ici_expert_parallelism",
     ["mesh.expert"], ""),
    ("n_experts num_local_experts moe", ["model.num_experts"], ""),
    ("z_loss_weight z_loss_coef", ["loss.z_loss"], ""),
    ("router_aux_loss_coef aux_loss_coef load_balancing_loss moe_aux_loss_coeff",
     ["loss.load_balance"], ""),
    ("label_smoothing_factor cdpo", ["loss.label_smoothing", "dpo.label_smoothing"], ""),
    ("beta dpo_beta", ["dpo.beta", "rl.kl_coef"], "the strength of the KL penalty"),
    ("loss_type dpo_loss", ["dpo.loss"], ""),
    ("init_kl_coef kl_coeff kl_penalty kl_ctl kl_weight kl_beta kl_loss_weight kl beta_kl",
     ["rl.kl_coef", "rl.kl_loss_coef"], "in the reward; in the loss"),
    ("target target_kl_coef kl_adaptive", ["rl.kl_target"], ""),
    ("target_kl kl_early_stop early_stopping_kl", ["rl.max_kl"], "skips what is past it"),
    ("horizon kl_adapt_horizon", ["rl.kl_horizon"], ""),
    ("clip_range cliprange clip_eps epsilon_low clip_ratio epsilon_high clip_param eps_clip clip "
     "ratio_clip ppo_clip clip_epsilon grpo_epsilon epsilon_clip",
     ["rl.clip_low", "rl.clip_high"], ""),
    ("cliprange_value clip_range_vf value_clip_range vf_clip clip_range_value",
     ["ppo.value_clip"], ""),
    ("vf_coef value_loss_coef vf_coeff critic_coef value_coeff", ["ppo.value_coef"], ""),
    ("gae_lambda lambda lam_gae lmbda", ["ppo.lam"], ""),
    ("discount discount_factor", ["ppo.gamma"], ""),
    ("ptx_coef ptx_coeff", ["rl.pretrain_coef"], ""),
    ("rollout_batch_size num_rollouts n_rollouts generate_batch_size train_rollout_batch",
     ["rl.rollout_batch"], "answers a rollout"),
    ("record_rollouts save_rollouts log_completions rollout_data_dir record_trajectories",
     ["rl.record"], "every so many rollouts"),
    ("max_prompt_length prompt_len max_prompt_len", ["rl.prompt_length"], ""),
    ("max_new_tokens max_completion_length max_response_length response_len max_tokens gen_len "
     "completion_length max_gen_len generation_max_length max_generate_length new_tokens",
     ["rl.response_length", "evaluate.sample_tokens"], "of rollouts; of samples at evaluation"),
    ("num_generations num_return_sequences n_samples_per_prompt num_samples group n_generations "
     "samples_per_prompt num_generations_per_prompt rollout_n", ["grpo.group_size"], ""),
    ("reward_funcs reward_fn reward_func reward", ["rl.reward_function"], "module:function"),
    ("reward_timeout verifier_timeout", ["rewards.timeout"], ""),
    ("ddp_timeout nccl_timeout step_timeout hang_timeout", ["watchdog.least"], ""),
    ("reward_weights", ["rewards.function", "rewards.model"], "each reward has its weight"),
    ("whiten_rewards whiten normalize_advantages normalize_advantage", ["ppo.whiten_advantages"],
     ""),
    ("scale_rewards normalize_rewards reward_normalization", ["rl.normalize_scores", "grpo.scale"],
     ""),
    ("missing_eos_penalty non_eos_penalty", ["rl.missing_eos", "rl.missing_eos_value"], ""),
    ("random_seed rng_seed data_seed prng_seed", ["seed"], ""),
    ("save_steps save_every save_interval checkpoint_every checkpoint_interval save_freq "
     "save_strategy checkpoint_frequency ckpt_interval checkpoint_steps ckpt_every "
     "checkpoint_period saves_per_epoch "
     "save_every_n_steps", ["checkpoint.every"], ""),
    ("save_total_limit max_checkpoints keep_checkpoints max_to_keep keep_last keep_last_n "
     "num_checkpoints keep_n", ["checkpoint.keep"], ""),
    ("eval_steps eval_every eval_interval eval_freq evaluation_strategy eval_strategy val_interval "
     "val_check_interval validate_every test_interval val_every evaluate_every eval_frequency "
     "evals_per_epoch eval_per_epoch",
     ["evaluate.every"], ""),
    ("sample_every core_metric_every", ["evaluate.every", "evals"], ""),
    ("eval_on_start eval_at_start", ["evaluate.at_start"], ""),
    ("skip_nan_updates max_nan_steps nan_threshold max_skipped_updates rollback skip_nan",
     ["guard.in_a_row", "guard.go_back"], "an update that is not finite is never applied"),
    ("loss_spike spike_threshold loss_spike_threshold skip_loss_spikes spike_factor",
     ["guard.spike"], ""),
    ("logging_steps log_interval log_steps print_every log_freq logging_freq log_every_n_steps "
     "print_freq report_every logging_interval", ["log_every"], ""),
    ("task objective trainer algorithm algo mode method", ["stage"], ""),
    ("dropout attention_dropout resid_dropout hidden_dropout attn_pdrop embd_pdrop resid_pdrop "
     "dropout_rate hidden_dropout_prob lora_dropout attn_dropout residual_dropout embed_dropout "
     "attention_probs_dropout_prob disable_dropout", [], "there is no dropout in Seedpod"),
    ("entropy_coef ent_coef entropy_bonus entropy_coeff", [],
     "there is no entropy bonus; rl.clip_high keeps answers diverse"),
    ("early_stopping early_stopping_patience", ["evaluate.patience"],
     "evaluations without a better checkpoint.best"),
    ("initializer_range init_std initializer_std", ["model.init_scale", "model.embedding_std"],
     "a matrix starts with a deviation of init_scale/√fan_in"),
    ("rms_norm_eps layer_norm_eps layernorm_epsilon", ["model.norm_eps"], ""),
    ("tie_word_embeddings tie_weights", ["model.tie_embeddings"], ""),
    ("hidden_act hidden_activation activation_function", ["model.activation"], ""),
    ("sliding_window", ["model.window"], "of the `local` layers of model.layer_pattern"),
    ("lr_mult lr_mults layer_lr layerwise_lr", ["optimizer.lr_multipliers"], ""),
    ("top_p top_k min_p repetition_penalty", [],
     "rollouts draw from the whole distribution; train.chat has --top_p"),
    ("output_dir out_dir save_dir logdir log_dir output_path checkpoint_dir ckpt_dir results_dir "
     "save_path exp_dir run_dir workdir experiment_dir default_root_dir hub_model_id "
     "base_output_directory out output output_directory", [],
     "a run lives in --workdir=PATH"),
    ("report_to wandb use_wandb logger tensorboard tracker log_with mlflow trackio", ["trackers"],
     "as wandb,mlflow; metrics.jsonl in --workdir is always written"),
    ("wandb_project project_name", ["tracking.project"], ""),
    ("run_name wandb_run_name comet neptune clearml", [],
     "trackers give a run the name of its workdir; a plugin may add a tracker"),
    ("log_gradients watch_model log_grad_norm grad_stats", ["statistics"], ""),
    ("num_workers dataloader_num_workers num_proc preprocessing_num_workers", [],
     "there is no such setting here; data.prepare has --processes"),
    ("device devices num_gpus gpus num_devices n_gpu world_size nproc_per_node num_nodes backend "
     "accelerator local_rank ngpu", [],
     "all devices that JAX sees are used; --config.mesh divides them"),
    ("use_vllm vllm vllm_mode vllm_gpu_memory_utilization", [],
     "rollouts are sampled by the model's own code"),
    ("assistant_only_loss completion_only_loss train_on_inputs train_on_input mask_prompt "
     "train_on_responses_only", [], "SFT learns from the assistant's tokens alone"),
    ("push_to_hub hub_token hub_strategy", [], "nothing is uploaded; see train.convert export"),
    ("profiler profile profile_step", [], "--profile_steps=FROM:TO traces steps"),
    ("compile torch_compile jit", [], "every step is compiled"),
    ("shuffle shuffle_data shuffle_buffer_size", [], "rows are always shuffled, by --config.seed"),
    ("streaming", [], "files are read as they are; prepare large ones with data.prepare"),
    ("order stages chain", [], "train.chain runs several stages"),
    ("chat_template", [], "a template comes with its tokenizer: see train.convert"),
)  # fmt: skip

# {a setting's name in older versions: its name}; workdirs of these versions still resume.
RENAMED = {
    f"ppo.{name}": f"rl.{name}"
    for name in (
        "prompt_length", "response_length", "rollout_batch", "epochs", "prompt_buckets",
        "temperature", "stop_at_eos", "decode_tensor", "eval_prompts", "reward_function",
        "normalize_scores", "score_clip", "missing_eos", "missing_eos_value", "overlong_buffer",
        "kl_coef", "kl_target", "kl_horizon", "kl_estimator", "kl_loss_coef", "kl_loss_estimator",
        "clip_low", "clip_high", "dual_clip", "importance_cap", "max_kl", "pretrain_coef",
    )
}  # fmt: skip


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


_BY_NAME = {
    _plain(name): (targets, note) for names, targets, note in ALIASES for name in names.split()
}
# Groups with the same settings as another group, which is the one that is suggested.
_SECOND = ("value_optimizer.", "pretrain_data.")


def suggest(key: str, known: Sequence[str], prefix: str = "") -> str:
    """The end of "unknown config key KEY…": the setting that was meant, or why there is none.

    Args:
      known: dotted keys of all settings and of their groups. prefix: to print before each.
    """
    if new := RENAMED.get(key):
        return f"; it is called {prefix}{new} now"
    if text := meant(key, known, prefix):
        return text
    group, _ = _split(key)
    inside = _beside(group, known) if group else []
    return f"; known: {', '.join(inside)}" if inside else "; --config=RECIPE --help lists all"


def _split(key: str) -> tuple[str, str]:
    """("optimizer.", "peak_lr"); the group is "" at the top."""
    group, dot, leaf = key.rpartition(".")
    return group + dot, leaf


def _beside(group: str, known: Sequence[str]) -> list[str]:
    """The names in one group."""
    return [leaf for k in known for above, leaf in [_split(k)] if above == group]


def _near(leaf: str, group: str, known: Sequence[str], cutoff: float) -> list[str]:
    """[the key in a group that is spelled most like a name], or [] if none is similar enough."""
    near = nearest(leaf, _beside(group, known), cutoff)
    return [group + near] if near else []


def meant(key: str, known: Sequence[str], prefix: str = "") -> str:
    """The setting that was probably meant, as in `suggest`; "" if no name is similar to the key."""
    group, leaf = _split(key)
    if near := _near(leaf, group, known, 0.85 if group else 1.0):
        return _question(near, "", prefix)
    targets, note = _BY_NAME.get(_plain(leaf), ([], ""))
    same = [k for k in known if _plain(k.split(".")[-1]) == _plain(leaf)]
    targets = [*targets, *(k for k in same if k not in targets and not k.startswith(_SECOND))]
    here = [t for t in targets if group and t.startswith(group)]
    if group in _SECOND:
        here = [k for t in targets if (k := group + t.split(".")[-1]) in known]
    if here or targets:
        return _question(here or targets[:3], note, prefix)
    if note:
        return f"; {note}"
    near = _near(leaf, group, known, 0.7)
    if not near and group[:-1] not in known:  # else the group alone makes the names similar
        near = [nearest(key, known, 0.75)]
    if any(near):
        return _question(near, "", prefix)
    leaves = {k.split(".")[-1]: k for k in reversed(known)}
    near = nearest(leaf, [*leaves, *_BY_NAME], 0.75)
    return meant(near, known, prefix) if near else ""


def note(word: str) -> str:
    """A remark about another library's name for which there is no setting here, or ""."""
    targets, text = _BY_NAME.get(_plain(word), ([], ""))
    return "" if targets else text


def matches(query: str, key: str, meaning: str) -> bool:
    """Whether a query finds a setting: by its name, by another library's name for it, or by words
    of its meaning."""
    targets, _ = _BY_NAME.get(_plain(query), ([], ""))
    words = query.lower().replace("-", "_").split()
    text = meaning.lower().replace("-", "_")
    return key in targets or all(
        word in key or re.search(rf"\b{re.escape(word)}", text) for word in words
    )


def _question(keys: Sequence[str], note: str, prefix: str) -> str:
    return did_you_mean(*(prefix + key for key in keys)) + (f" ({note})" if note else "")
