"""Every name of another library that the product depends on and that nobody promises to keep:
private ones, methods that we override, and public ones that no documentation mentions.

tests/integration/test_upstream.py holds each to its signature and to what it does, and searches the
product for names that are missing here, so that an upgrade fails in one place, with the reason why
we depend on the name.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method that we override, or a private one that we call."""

    owner: str
    """Dotted path of the class, or of the module of a function."""

    name: str

    parameters: tuple[str, ...]
    """Names of its parameters without `self`, in order; "*" and "**" mark the catch-alls."""

    why: str
    """What we rely on."""


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """A private attribute that we read or write."""

    owner: str
    name: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Name:
    """A public name that is not documented, or not as a part of the interface."""

    path: str
    """Dotted path from the library's name on."""

    why: str

    passes: tuple[str, ...] = ()
    """Parameters that we give by position, in this order from the first on, without `self`."""

    keywords: tuple[str, ...] = ()
    """Parameters that we give by keyword."""


TRL = "trl.GRPOTrainer"
TRAINER = "transformers.Trainer"
LOGPS = (
    "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy",
    "compute_aux_loss",
)  # fmt: skip
TURN = ("prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images")

METHODS = (
    Method(
        owner=TRL, name="_tokenize_prompts", parameters=("prompts",),
        why="one row of ids a rollout; the other two results are images, which we have none of",
    ),
    Method(
        owner=TRL, name="_generate_single_turn", parameters=TURN,
        why="completions of all rows of this process, and their logprobs or None",
    ),
    Method(
        owner=TRL, name="_generate_and_score_completions", parameters=("inputs",),
        why="calls the three before and after it; may return more keys, which stay with the rows",
    ),
    Method(
        owner=TRL, name="_calculate_rewards",
        parameters=("inputs", "prompts", "completions", "completion_ids_list"),
        why="(rows of all processes, rewards), NaN where a reward did not judge",
    ),
    Method(
        owner=TRL, name="_prepare_inputs", parameters=("generation_batch",),
        why="one generation batch is used up in steps_per_generation · num_iterations calls",
    ),
    Method(
        owner=TRL, name="_get_per_token_logps_and_entropies", parameters=LOGPS,
        why="asked for old and reference logps without gradient, for trained ones with it",
    ),
    Method(
        owner=TRL, name="_compute_loss", parameters=("model", "inputs"),
        why="`old_per_token_logps` of the inputs, where it is there, are the old logps",
    ),
    Method(
        owner=TRL, name="training_step", parameters=("model", "inputs", "num_items_in_batch"),
        why="prepares a micro-batch, its loss and its gradient; `_step` has grown when it returns",
    ),
    Method(
        owner=TRL, name="compute_loss",
        parameters=("model", "inputs", "return_outputs", "num_items_in_batch"),
        why="called when the micro-batch is prepared, before its loss adds to `_metrics`",
    ),
    Method(
        owner=TRL, name="log", parameters=("logs", "start_time"),
        why="every line of the training log goes through it; it adds the means of `_metrics`",
    ),
    Method(
        owner=TRL, name="_save_checkpoint", parameters=("model", "trial"),
        why="writes into `_get_output_dir`",
    ),
    Method(
        owner=TRL, name="_load_optimizer_and_scheduler", parameters=("checkpoint",),
        why="restores the entropy controller besides",
    ),
    Method(
        owner=TRL, name="_get_train_sampler", parameters=("dataset",),
        why="a RepeatSampler, whose settings EpochOrder takes over",
    ),
    Method(
        owner=TRAINER, name="evaluate",
        parameters=("eval_dataset", "ignore_keys", "metric_key_prefix"),
        why="called when an evaluation is due; what it returns is all that is used of it",
    ),
    Method(
        owner=TRAINER, name="get_batch_samples",
        parameters=("epoch_iterator", "num_batches", "device"),
        why="takes the micro-batches of one step from the data loader; nothing else waits for it",
    ),
    Method(
        owner=TRAINER, name="train",
        parameters=("resume_from_checkpoint", "trial", "ignore_keys_for_eval"),
        why="a path resumes from that folder, None starts anew",
    ),
    Method(
        owner=TRAINER, name="get_decay_parameter_names", parameters=("model",),
        why="names of parameters with weight decay, which create_optimizer asks for",
    ),
    Method(
        owner=TRAINER, name="create_optimizer", parameters=("model",),
        why="makes two groups by its rule of weight decay; DeepSpeed calls it, too",
    ),
    Method(
        owner=TRAINER, name="_get_output_dir", parameters=("trial",),
        why="the folder that checkpoint-N is created in",
    ),
    Method(
        owner=TRAINER, name="_save_optimizer_and_scheduler", parameters=("output_dir",),
        why="called once a checkpoint, on every process; pickles",
    ),
    Method(
        owner=TRAINER, name="_save_rng_state", parameters=("output_dir",),
        why="called once a checkpoint, on every process; pickles",
    ),
    Method(
        owner=TRAINER, name="_load_rng_state", parameters=("checkpoint",),
        why="called when the data loader stands where it stood, so that nothing draws after it",
    ),
    Method(
        owner=TRAINER, name="_load_from_checkpoint",
        parameters=("resume_from_checkpoint", "model"),
        why="loads weights, keys that do not fit are only logged",
    ),
    Method(
        owner=TRAINER, name="_run_epoch",
        parameters=(
            "model", "epoch", "train_dataloader", "steps_in_epoch", "num_update_steps_per_epoch",
            "trial", "ignore_keys_for_eval", "start_time", "resume_from_checkpoint",
            "epochs_trained", "steps_trained_in_current_epoch",
        ),
        why="called by keyword; takes a step even where max_steps is reached already",
    ),
    Method(
        owner=TRAINER, name="_get_grad_norm", parameters=("model", "grad_norm"),
        why="between the reduced gradient and the optimizer step, once a step",
    ),
    Method(
        owner="transformers.PreTrainedModel", name="_init_weights", parameters=("module",),
        why="of a class from outside transformers: asked only for what no checkpoint filled",
    ),
    Method(
        owner="torch._C._autograd", name="_top_saved_tensors_default_hooks", parameters=(),
        why="the innermost saved-tensor hooks, None where there are none",
    ),
)  # fmt: skip

ATTRIBUTES = (
    Attribute(owner=TRL, name="_step", why="micro-batches trained on; indexes the buffered batch"),
    Attribute(
        owner=TRL, name="_buffered_inputs", why="the micro-batches of the batch at hand, or None"
    ),
    Attribute(
        owner=TRL,
        name="_metrics",
        why="lists by name under train and eval; `log` writes their means and clears them",
    ),
    Attribute(
        owner=TRL,
        name="_logs",
        why="rewards by name and advantages of the last rollouts of all processes, newest last",
    ),
    Attribute(owner=TRAINER, name="_tr_loss", why="sum of the losses since the last log, a tensor"),
    Attribute(owner=TRAINER, name="_total_loss_scalar", why="sum of the losses before that"),
    Attribute(owner=TRAINER, name="_globalstep_last_logged", why="the step of the last log"),
    Attribute(
        owner="torch.nn.Module",
        name="_parameters",
        why="`lm_head.bias` is registered as None; it must go before a buffer can take its name",
    ),
    Attribute(
        owner="transformers.integrations.deepspeed",
        name="_hf_deepspeed_config_weak_ref",
        why="a policy that is loaded while it is set to ZeRO-3 is sharded",
    ),
    Attribute(owner="torch", name="_C", why="where autograd's saved-tensor hooks are found"),
    Attribute(
        owner="torch._C", name="_autograd", why="where autograd's saved-tensor hooks are found"
    ),
    Attribute(
        owner="vllm.v1.engine.core_client.InprocClient",
        name="_finalizer",
        why="shuts down every process group of this process when it is collected, unless detached",
    ),
)

MULTIMODAL = "vllm.multimodal.inputs"
WEIGHTS = "vllm.distributed.weight_transfer"

NAMES = (
    # transformers
    Name(
        path="transformers.conversion_mapping.get_checkpoint_conversion_mapping",
        passes=("model_type",), why="key renames of a host class, by its name; None: it has none",
    ),
    Name(
        path="transformers.conversion_mapping.register_checkpoint_conversion_mapping",
        passes=("model_type_or_class_name", "mapping"), keywords=("overwrite",),
        why="gives our class the key renames of its host",
    ),
    Name(
        path="transformers.vision_utils.get_vision_window_index", passes=("grid_thw",),
        keywords=("spatial_merge_size", "window_size", "patch_size"),
        why="(order of the window attention, …), which the merger's output is put back from",
    ),
    Name(
        path="transformers.integrations.sdpa_attention.repeat_kv",
        passes=("hidden_states", "n_rep"), why="a key or value head for each query head",
    ),
    Name(
        path="transformers.integrations.sdpa_attention.sdpa_attention_forward",
        passes=("module", "query", "key", "value", "attention_mask"),
        why="our attention function is this one wherever no prompt is shared",
    ),
    Name(
        path="transformers.masking_utils.sdpa_mask",
        why="masks for our attention function, made as for sdpa; `create_causal_mask` gives the "
        "mask function what it was given, where that is no tensor and has another `ndim` than 2",
    ),
    Name(
        path="transformers.masking_utils.AttentionMaskInterface.register", passes=("key", "value"),
        why="a mask function under the name of our attention function",
    ),
    Name(
        path="transformers.AttentionInterface.register", passes=("key", "value"),
        why="an attention function by name",
    ),
    Name(
        path="transformers.trainer.TRAINING_ARGS_NAME",
        why="the pickle in a checkpoint, which we delete",
    ),
    Name(
        path="transformers.DynamicCache.batch_repeat_interleave", passes=("repeats",),
        why="every row of a cache G times, in place, copies side by side",
    ),
    Name(
        path="transformers.integrations.deepspeed.unset_hf_deepspeed_config",
        why="what is loaded afterwards is whole",
    ),
    Name(
        path="transformers.initialization",
        why="as torch.nn.init, but leaves alone what a checkpoint has filled",
    ),
    Name(
        path="transformers.models.got_ocr2.image_processing_got_ocr2.GotOcr2ImageProcessor",
        why="a part of InternVL's processor",
    ),
    Name(
        path="transformers.models.internvl.modeling_internvl.InternVLModel",
        why="what our InternVL backbone extends",
    ),
    Name(
        path="transformers.models.internvl.processing_internvl.InternVLProcessor",
        why="what our InternVL processor extends",
    ),
    Name(
        path="transformers.models.internvl.video_processing_internvl.InternVLVideoProcessor",
        why="a part of InternVL's processor",
    ),
    Name(
        path="transformers.models.qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VLModel",
        why="what our Qwen backbone extends",
    ),
    Name(
        path="transformers.models.qwen2_vl.modeling_qwen2_vl.Qwen2VLModel",
        why="what our Qwen2-VL backbone extends",
    ),
    Name(
        path="transformers.models.qwen3_vl.modeling_qwen3_vl.Qwen3VLModel",
        why="what our Qwen3-VL backbone extends",
    ),
    Name(
        path="transformers.models.llava_onevision.modeling_llava_onevision.LlavaOnevisionModel",
        why="what our LLaVA-OneVision backbone extends",
    ),
    Name(
        path="transformers.modeling_outputs.BaseModelOutputWithPast",
        why="its fields tell what this release calls a cache: `past_key_values`, or `cache`",
    ),
    Name(
        path="transformers.models.qwen3_vl.modeling_qwen3_vl.Qwen3VLTextModel.forward",
        keywords=("visual_pos_masks", "deepstack_visual_embeds"),
        why="adds a tensor behind each of the first layers, at the places of the mask",
    ),
    Name(
        path="transformers.models.qwen3_vl.video_processing_qwen3_vl.Qwen3VLVideoProcessor",
        why="a part of Qwen3-VL's processor",
    ),
    Name(
        path="datasets.Dataset.__getitems__", passes=("keys",),
        why="rows by their numbers, transformed together, as a data loader asks for them",
    ),
    # TRL and peft
    Name(
        path="trl.trainer.utils.RepeatSampler",
        keywords=(
            "data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed",
        ),
        why="EpochOrder is one, made from the attributes of the same names",
    ),
    Name(
        path="trl.trainer.utils.split_tensor_dict", passes=("tensor_dict", "num_chunks"),
        why="a generation batch as equal parts in order, lists included",
    ),
    Name(
        path="trl.models.unwrap_model_for_generation", passes=("model", "accelerator"),
        keywords=("gather_deepspeed3_params", "gradient_checkpointing_kwargs"),
        why="a context in which the weights are whole and gradient checkpointing is off",
    ),
    Name(
        path="trl.trainer.utils.add_fused_lm_head",
        why="TRL sets a model's `forward` by it: with `fused_lm_head=True` it calls the backbone "
        "and gives log_probs and entropy, without it the forward is the one there was",
    ),
    Name(
        path="peft.tuners.tuners_utils.BaseTunerLayer.active_adapters",
        why="names of the adapters that a layer adds, ['ref'] in TRL's reference pass",
    ),
    Name(
        path="peft.tuners.tuners_utils.BaseTunerLayer.disable_adapters",
        why="whether a layer is what it was before training",
    ),
    Name(
        path="peft.tuners.lora.Linear.get_delta_weight", passes=("adapter",),
        why="what merging adds to the base weight; layers that have it are merged for rollouts",
    ),
    Name(
        path="peft.utils.ModulesToSaveWrapper",
        why="holds a projector that is trained beside LoRA: `original_module`, and its copies in "
        "`modules_to_save`",
    ),
    Name(
        path="transformers.activations.ACT2FN",
        why="which activations a released configuration may name",
    ),
    Name(
        path="transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS",
        why="which kinds of rotary positions a released configuration may name",
    ),
    Name(
        path="transformers.quantizers.base.HfQuantizer.remove_quantization_config",
        passes=("model",),
        why="the configuration of a model in 4 bits is that of a plain one again; its "
        "`is_loaded_in_4bit`, by which peft and TRL know it, stays",
    ),
    Name(
        path="bitsandbytes.functional.dequantize_4bit", passes=("A", "quant_state"),
        why="what a weight in 4 bits stands for, in the type that it was loaded in",
    ),
    # PyAV
    Name(
        path="av.sidedata.sidedata.SideDataContainer",
        why="made from a frame by hand, since `frame.side_data` is a cycle that keeps pictures",
    ),
    Name(path="av.sidedata.sidedata.Type.DISPLAYMATRIX", why="how a picture is turned"),
    # vLLM: models, and the inputs of its engine
    Name(
        path="vllm.ModelRegistry.register_model", passes=("model_arch", "model_cls"),
        why="a model by the architecture that a folder names, as \"module:class\"",
    ),
    Name(
        path="vllm.model_executor.models.qwen3_vl.Qwen3VLForConditionalGeneration",
        why="its DeepStack works without a tower once its buffers are there; tests/rollout compare",
    ),
    Name(
        path="vllm.inputs.engine.tokens_input", passes=("prompt_token_ids",),
        why="a prompt of token ids, as the engine takes it",
    ),
    Name(
        path="vllm.inputs.engine.mm_input",
        passes=("prompt_token_ids", "mm_kwargs", "mm_hashes", "mm_placeholders"),
        why="a prompt with embedding items, past all processors",
    ),
    Name(path=f"{MULTIMODAL}.MultiModalKwargsItem", why="an item: its fields by name"),
    Name(path=f"{MULTIMODAL}.MultiModalKwargsItems", why="the items of a prompt by modality"),
    Name(
        path=f"{MULTIMODAL}.MultiModalFieldElem", keywords=("data", "field"),
        why="a tensor, and how those of several items become one batch",
    ),
    Name(
        path=f"{MULTIMODAL}.MultiModalBatchedField", keywords=("keep_on_cpu",),
        why="a batch stacks the items",
    ),
    Name(
        path=f"{MULTIMODAL}.MultiModalFlatField", keywords=("slices",),
        why="a batch concatenates the items",
    ),
    Name(
        path=f"{MULTIMODAL}.MultiModalSharedField", keywords=("batch_size",),
        why="items in which it differs never meet in one batch",
    ),
    Name(
        path=f"{MULTIMODAL}.PlaceholderRange", keywords=("offset", "length"),
        why="where an item stands in the prompt",
    ),
    Name(
        path="vllm.entrypoints.scale_out.token_in_token_out.mm_serde.encode_mm_kwargs_item",
        passes=("item",), why="an item as text, which /inference/v1/generate takes",
    ),
    Name(
        path="vllm.sampling_params.RequestOutputKind.FINAL_ONLY",
        why="one output a request, when all its completions are there",
    ),
    Name(
        path="vllm.v1.engine.async_llm.AsyncLLM.update_weight_version", passes=("new_version",),
        why="what POST /update_weight_version calls: a name for the weights in the process that "
        'holds them; a start gives it the name "default"',
    ),
    Name(
        path="vllm.v1.engine.async_llm.AsyncLLM.get_weight_version",
        why="what GET /weight_info gives: that name",
    ),
    # vLLM: its engine in our process
    Name(
        path="vllm.LLM.collective_rpc", passes=("method",), keywords=("kwargs",),
        why="calls a worker's `reload_weights`",
    ),
    Name(
        path="vllm.v1.worker.gpu_model_runner.GPUModelRunner.reload_weights",
        keywords=("weights_iterator",), why="new weights by name, as a checkpoint holds them",
    ),
    Name(
        path="vllm.LLM.reset_prefix_cache",
        why="drops what was cached under old weights; False where it could not",
    ),
    Name(path="vllm.LLM.wake_up", why="undoes `sleep`"),
    Name(path="vllm.LLM.sleep", keywords=("level",), why="level 1: weights to host memory"),
    Name(
        path="vllm.v1.engine.llm_engine.LLMEngine.add_request",
        passes=("request_id", "prompt", "params"), why="takes an engine input as the prompt",
    ),
    Name(
        path="vllm.v1.engine.llm_engine.LLMEngine.step",
        why="a forward pass; outputs with request_id and finished",
    ),
    Name(
        path="vllm.v1.engine.llm_engine.LLMEngine.abort_request", passes=("request_ids",),
        why="drops requests after a failure",
    ),
    Name(
        path="vllm.v1.engine.llm_engine.LLMEngine.has_unfinished_requests",
        why="whether another step is needed",
    ),
    Name(
        path="vllm.v1.engine.llm_engine.LLMEngine.reset_encoder_cache",
        why="drops embedding items that were cached",
    ),
    Name(
        path="vllm.v1.executor.abstract.Executor.shutdown",
        why="as engine_core.engine_core.model_executor: releases the workers, no process group",
    ),
    Name(
        path="vllm.v1.core.sched.scheduler.Scheduler.shutdown",
        why="as engine_core.engine_core.scheduler: releases what the scheduler holds",
    ),
    Name(path="av.video.frame.PictureType", why="whether a picture is an I picture"),
    # transformers: what a run says where, and what libraries say in a terminal
    Name(
        path="transformers.integrations.get_available_reporting_integrations",
        why="the values of report_to that would work here",
    ),
    Name(
        path="transformers.integrations.integration_utils.INTEGRATION_TO_CALLBACK",
        why="all values of report_to",
    ),
    Name(
        path="transformers.utils.logging",
        why="disable_progress_bar and set_verbosity_error, where it was imported before us",
    ),
    # vLLM: weights over NCCL, which needs GPUs: only names and signatures are held
    Name(
        path=f"{WEIGHTS}.packed_tensor.packed_nccl_broadcast_producer",
        keywords=("iterator", "group", "src", "post_iter_func"),
        why="sends tensors in the order that the server was told",
    ),
    Name(
        path=f"{WEIGHTS}.nccl_common.trainer_init", passes=("init_info",),
        why="joins the server's group as rank 0",
    ),
    Name(path="vllm.utils.network_utils.get_ip", why="the address that the server connects to"),
)  # fmt: skip
