"""Which test proves what of each flag and key: its effect, and in which direction.

By test: the flags "COMMAND --flag", config keys "KIND config.key" and arguments
"CONFIG:argument" that it proves; `test_proofs.py` compares the table with the parsers
and the configs themselves.
"""

NETWORKS = (
  "aesthetics", "audio-vae", "clip", "i3d", "imagebind", "ovi-dit", "s3fd",
  "synchformer", "syncnet", "umt5", "vggish", "vocoder", "wan-dit", "wan-vae",
  "wan22-vae",
)  # fmt: skip


def _of(prefix: str, names: str) -> list[str]:
  return [prefix + name for name in names.split()]


def _flags(command: str, names: str) -> list[str]:
  return _of(f"{command} --", names)


def _keys(kind: str, names: str) -> list[str]:
  return _of(f"{kind} config.", names)


HERE = "tests/flags/"
PROOFS: dict[str, list[str]] = {
  HERE + "test_generate_flags.py::test_every_setting_goes_to_its_place": _flags(
    "generate",
    "task seed steps shift solver sequential guidance scale_video scale_audio frames "
    "height width seconds size window overlap negative_prompt negative_prompt_video "
    "negative_prompt_audio prompt skip_block schedule guidance_interval "
    "guidance_every",
  ),
  HERE + "test_generate_flags.py::test_a_calibration_is_measured_and_used": _flags(
    "generate", "calibrate cache"
  ),
  "tests/generation/test_quantized.py::test_the_command": _flags(
    "generate", "quantize"
  ),
  "tests/generation/test_best.py::test_the_command": _flags(
    "generate", "best_of score"
  ),
  "tests/generation/test_best.py::test_the_score_s_networks": _flags(
    "generate", "score_weights"
  ),
  HERE + "test_generate_effects.py::test_schedules_of_few_steps": _flags(
    "generate", "schedule"
  ),
  HERE + "test_generate_effects.py::"
  "test_guidance_on_an_interval_and_at_some_steps": _flags(
    "generate", "guidance_interval guidance_every"
  ),
  HERE + "test_generate_settings.py::test_another_calibration_must_be_asked_for": (
    _flags("generate", "cache settings")
  ),
  HERE + "test_generate_effects.py::test_prompts_pull_and_negative_prompts_push": (
    _flags("generate", "prompt negative_prompt negative_prompt_video "
           "negative_prompt_audio scale_video scale_audio guidance solver")
  ),
  HERE
  + "test_generate_effects.py::test_noise_is_the_seeds_and_every_clips_and_streams_own"
  : _flags("generate", "seed"),
  HERE + "test_generate_effects.py::"
  "test_steps_and_shift_are_the_times_that_the_network_is_told": _flags(
    "generate", "steps shift solver"
  ),
  HERE + "test_generate_effects.py::"
  "test_sequential_evaluations_are_alone_and_of_equal_result": _flags(
    "generate", "sequential"
  ),
  HERE + "test_generate_flags.py::test_what_is_loaded": _flags(
    "generate", "ckpt codecs weights step"
  ),
  HERE + "test_generate_flags.py::test_loras_are_added_and_told": _flags(
    "generate", "lora"
  ),
  HERE + "test_generate_settings.py::test_another_lora_must_be_asked_for": _flags(
    "generate", "lora settings"
  ),
  HERE + "test_generate_flags.py::test_each_clip_in_its_file_beside_its_prompt": (
    _flags("generate", "out seed task prompt")
  ),
  HERE + "test_generate_flags.py::test_what_is_given_is_read_and_kept": _flags(
    "generate", "image audio video"
  ),
  HERE + "test_generate_length.py::test_a_last_image": _flags(
    "generate", "last_image settings"
  ),
  HERE + "test_generate_length.py::test_a_film_goes_on": _flags(
    "generate", "extend overlap frames"
  ),
  HERE + "test_generate_length.py::test_a_sound_gives_a_clip_its_length": _flags(
    "generate", "audio frames"
  ),
  HERE + "test_generate_length.py::test_a_size_that_an_image_gives": _flags(
    "generate", "size image"
  ),
  HERE + "test_generate_flags.py::"
  "test_each_prompt_may_have_a_seed_and_a_file_of_its_own": _flags(
    "generate", "image audio video seed prompt"
  ),
  HERE + "test_generate_settings.py::test_settings_make_the_clip_again": _flags(
    "generate", "settings task steps shift solver sequential guidance scale_video "
    "negative_prompt_video negative_prompt_audio frames height width weights codecs "
    "step ckpt seed prompt audio",
  ),
  HERE + "test_generate_flags.py::test_a_flag_that_would_do_nothing_is_refused": _flags(
    "generate", "seconds size"
  ),
  HERE + "test_generate_flags.py::test_the_devices_that_clips_are_made_on": _flags(
    "generate", "mesh"
  ),
  HERE + "test_generate_flags.py::test_the_tiles_that_a_video_is_decoded_by": _flags(
    "generate", "vae_tile settings"
  ),
  HERE + "test_generate_flags.py::test_processes_that_make_a_clip_together": _flags(
    "generate", "distributed coordinator num_processes process_id"
  ),
  HERE + "test_generate_flags.py::test_a_manifest_in_parts_and_batches": _flags(
    "generate", "manifest process_index process_count batch"
  ),
  HERE + "test_app_flags.py::test_what_is_loaded_and_served": _flags(
    "app", "ckpt codecs step weights lora mesh vae_tile host port"
  ),
  # Training: flags, then the sections of a config.
  HERE + "test_train_flags.py::"
  "test_the_loop_ends_or_is_stopped_and_the_command_says_so": _flags(
    "train", "config workdir"
  ),
  HERE + "test_train_flags.py::"
  "test_another_config_goes_on_only_where_it_is_allowed": _flags(
    "train", "allow_changes"
  ),
  HERE + "test_train_audio_flags.py::"
  "test_another_config_goes_on_only_where_it_is_allowed": _flags(
    "train_audio", "allow_changes"
  ),
  HERE + "test_train_flags.py::test_processes_meet_as_the_flags_say": _flags(
    "train",
    "distributed coordinator num_processes process_id meet_seconds heartbeat_seconds",
  ),
  HERE + "test_train_flags.py::test_sections_reach_their_functions": _keys(
    "train",
    "seed steps clip.frames clip.height clip.width clip.fps clip.stride "
    "clip.audio_rate data.source data.root data.options data.cache_gb batch.size "
    "batch.threads codec.fit_clips codec.text_length codec.text_dim mesh slices "
    "checkpoint.every checkpoint.minutes checkpoint.keep log_every log.trackers "
    "profile",
  ),
  HERE + "test_train_flags.py::test_codecs_that_are_named_or_belong_to_the_start": (
    _keys("train", "codec.path")
  ),
  HERE
  + "test_train_flags.py::test_the_held_out_loss_is_of_clips_that_no_step_reads"
  : _keys(
    "train", "evaluate.every evaluate.clips evaluate.root evaluate.sigmas"
  ),
  HERE + "test_train_flags.py::test_init_is_where_the_parameters_come_from": _keys(
    "train", "init"
  ),
  HERE + "test_train_flags.py::test_a_part_of_a_model_is_trained": _keys(
    "train", "lora.rank lora.alpha lora.layers lora.whole init"
  ),
  "tests/training/test_adapter.py::test_what_a_config_trains": _keys(
    "train", "lora.rank lora.alpha lora.layers lora.whole"
  ),
  HERE + "test_train_flags.py::test_fresh_parameters_are_drawn_by_the_seed": _keys(
    "train", "seed"
  ),
  HERE + "test_config_sections.py::test_a_key_of_the_model": _keys(
    "train",
    "model.preset model.streams model.patch model.variant model.tarp model.times "
    "model.tarp_centre model.window model.video_window model.rope_unit "
    "model.video_tokens model.audio_tokens model.context_std model.context_values "
    "model.cross_rope model.image_form model.remat model.dtype model.residual "
    "model.attention model.blocks",
  ),
  HERE + "test_config_sections.py::test_a_key_of_the_objective": _keys(
    "train",
    "objective.sigma objective.shift objective.loss_weights objective.text_dropout "
    "objective.image_probability objective.last_image_probability "
    "objective.shared_sigma objective.detach",
  ),
  HERE + "test_config_sections.py::test_text_dropout_by_task": _keys(
    "train",
    "tasks.text_dropout.single tasks.text_dropout.a2v tasks.text_dropout.v2a "
    "tasks.text_dropout.joint",
  ),
  HERE + "test_config_sections.py::test_probabilities_of_tasks_go_to_their_names": (
    _keys(
      "train",
      "tasks.probabilities.single tasks.probabilities.a2v "
      "tasks.probabilities.v2a tasks.probabilities.joint",
    )
  ),
  HERE + "test_config_sections.py::test_the_optimizer_is_adamw_of_the_section": _keys(
    "train",
    "optim.groups optim.warmup_steps optim.schedule optim.b1 optim.b2 optim.eps "
    "optim.clip_norm",
  ),
  HERE + "test_config_sections.py::test_the_exchange_learns_ten_times_as_fast": _keys(
    "train", "optim.groups"
  ),
  HERE + "test_config_sections.py::test_moment_dtype_is_the_first_moments": _keys(
    "train", "optim.moment_dtype"
  ),
  HERE + "test_config_sections.py::test_one_program_draws_tasks_by_sample": _keys(
    "train", "accumulate ema_decay tasks.draw"
  ),
  HERE + "test_config_sections.py::test_draw_by_step_is_one_static_task_a_step": _keys(
    "train", "tasks.draw"
  ),
  HERE + "test_train_data.py::test_sets_are_opened_as_the_config_says": _keys(
    "train", "data.root data.options.buckets data.options.batch_sizes"
  ),
  HERE + "test_report_flags.py::test_keys_of_the_report": _keys(
    "train",
    "report.tasks report.clips report.steps report.guidance report.scales.video "
    "report.scales.audio report.show",
  ),
  HERE + "test_report_command.py::test_each_flag_takes_the_place_of_a_setting": _flags(
    "report",
    "workdir out tasks clips steps show seed guidance scale_video scale_audio",
  ),
  HERE + "test_report_command.py::test_another_form_starts_from_its_own_scales": _flags(
    "report", "guidance scale_video scale_audio"
  ),
  # Options of the sources.
  HERE + "test_source_options.py::test_borders_of_what_is_taken": [
    *_keys("train", "data.options.min_seconds data.options.max_seconds "
           "data.options.min_side"),
    *_keys("encode", "data.options.min_seconds data.options.max_seconds "
           "data.options.min_side"),
  ],
  HERE + "test_source_options.py::test_speech_is_asked_for_or_kept_out": [
    *_keys("train", "data.options.speech"),
    *_keys("encode", "data.options.speech"),
  ],
  HERE + "test_source_options.py::test_chances_of_what_a_scene_has": _keys(
    "train", "data.options.duet data.options.distractor data.options.impacts"
  ),
  HERE + "test_source_options.py::test_jitter_moves_faces": _keys(
    "train", "data.options.jitter"
  ),
  HERE + "test_source_options.py::test_squares_and_texture_of_the_background": _keys(
    "train", "data.options.shapes data.options.texture"
  ),
  "tests/data/test_talking_scene.py::"
  "test_a_build_gives_back_the_clips_and_is_done_once": [
    *_keys("train", "data.options.n_train data.options.n_test"),
    *_keys("encode", "data.options.n_train data.options.n_test"),
  ],
  "tests/data/test_talking_bench.py::"
  "test_a_build_gives_back_the_clips_by_their_index": _keys(
    "train", "data.options.kinds"
  ),
  "tests/data/test_media_sets.py::test_openhumanvid_chooses_captions_and_scores": [
    *_keys("train", "data.options.caption data.options.min_scores"),
    *_keys("encode", "data.options.caption data.options.min_scores"),
  ],
  "tests/data/test_media_sets.py::test_all_parts_of_a_film_fall_to_one_split": [
    *_keys("train", "data.options.test_share"),
    *_keys("encode", "data.options.test_share"),
  ],
  "tests/data/test_media_sets.py::test_relative_paths_and_a_folder_for_sets": [
    *_keys("train", "data.options.data_dir"),
    *_keys("encode", "data.options.data_dir"),
  ],
  "tests/data/test_folder.py::test_hop": _keys("train", "data.options.hop"),
  "tests/data/test_media_sets.py::test_vggsound_as_a_source_of_training_and_of_encode":
  _keys("encode", "data.options.hop"),
  "tests/data/test_catalogue.py::test_only_the_kinds_asked_for": _keys(
    "encode", "data.options.kinds"
  ),
  "tests/data/test_prepare.py::test_the_table_and_how_it_is_read": [
    *_keys("train", "data.options.captions"),
    *_keys("encode", "data.options.captions"),
  ],
  # Audio training.
  HERE + "test_train_audio_flags.py::test_the_command": _flags(
    "train_audio", "config workdir"
  ),
  HERE + "test_train_audio_flags.py::test_sections_reach_their_functions": _keys(
    "train_audio",
    "seed steps window batch.size batch.threads data.root data.cache_gb mesh "
    "checkpoint.every checkpoint.minutes checkpoint.keep log_every log.trackers "
    "profile",
  ),
  HERE + "test_train_audio_flags.py::test_what_is_scored": _keys(
    "train_audio", "score.windows score.samples"
  ),
  HERE + "test_train_audio_flags.py::"
  "test_a_second_folder_is_scored_and_nothing_is_held_out": _keys(
    "train_audio", "data.test score.samples"
  ),
  HERE + "test_train_audio_flags.py::test_mistakes": _keys("train_audio", "kind"),
  HERE + "test_train_audio_flags.py::test_the_vae_is_what_its_config_says": _keys(
    "train_audio",
    "model.hidden optim.lr optim.warmup_steps optim.schedule optim.b1 optim.b2 "
    "optim.clip_norm loss.kl_weight loss.modulation_weight ema_decay seed kind",
  ),
  HERE + "test_train_audio_flags.py::test_the_vocoder_is_what_its_config_says": _keys(
    "train_audio",
    "model.channels model.rates model.kernels model.blocks model.bias model.tanh "
    "critic.width critic.periods critic.resolutions optim.lr optim.decay "
    "optim.warmup_steps optim.b1 optim.b2 optim.weight_decay optim.clip_norm "
    "loss.spectral_weight loss.spectral_floor ema_decay window",
  ),
  HERE + "test_train_audio_flags.py::test_when_terms_and_mels_join": _keys(
    "train_audio", "loss.adversary_from vae.path vae.from_step"
  ),
  # Encoding.
  HERE + "test_encode_flags.py::test_the_flags_of_encode": _flags(
    "encode", "config process_index process_count distributed"
  )
  + _keys("encode", "out"),
  HERE + "test_encode_flags.py::test_check_decodes_so_many_records": _flags(
    "encode", "check"
  ),
  HERE + "test_encode_flags.py::test_processes_share_the_shards": _flags(
    "encode", "process_index process_count"
  ),
  HERE + "test_encode_flags.py::test_media_are_opened_as_the_section_says": _keys(
    "encode", "data.source data.root data.split data.loudness clips"
  ),
  HERE + "test_encode_flags.py::test_loudness_levels_what_is_read": _keys(
    "encode", "data.loudness"
  ),
  HERE + "test_encode_flags.py::test_codecs_are_loaded_or_fitted": _keys(
    "encode", "codec.path codec.fit_clips codec.text_length codec.text_dim"
  ),
  HERE + "test_encode_flags.py::"
  "test_the_plan_has_the_settings_and_the_size_of_a_shard": _keys(
    "encode", "shard_clips"
  ),
  HERE + "test_encode_flags.py::"
  "test_the_encoder_is_told_the_batch_and_whether_to_keep_deviations": _keys(
    "encode", "batch.size batch.threads video_std"
  ),
  "tests/encoding/test_encode.py::"
  "test_the_deviation_is_stored_where_it_is_asked_for": _keys("encode", "video_std"),
  # Plans.
  HERE + "test_plan_flags.py::test_defaults": _flags("plan", "config"),
  HERE + "test_plan_flags.py::test_each_flag": _flags(
    "plan", "topology slices mesh batch generate vae_tile"
  ),
  HERE + "test_plan_flags.py::test_sweep_shows_what_fits_and_the_fastest_first": (
    _flags("plan", "sweep slices vae_tile out")
  ),
  HERE + "test_plan_flags.py::test_out_and_compare": _flags("plan", "out compare"),
  HERE + "test_plan_flags.py::test_compare_reads_the_prediction": _flags(
    "plan", "compare"
  ),
  # Conversion.
  HERE + "test_convert_flags.py::test_a_network": [
    flag for kind in NETWORKS for flag in _flags(f"convert {kind}",
                                                 "src dst dtype verify")
  ],
  HERE + "test_convert_flags.py::test_a_whole_release": [
    flag for kind in ("wan", "ovi") for flag in _flags(f"convert {kind}",
                                                       "src dst dtype verify")
  ],
  HERE + "test_convert_flags.py::"
  "test_the_dtype_of_a_release_is_the_transformers": _flags(
    "convert wan", "dtype verify"
  ),
  HERE + "test_convert_flags.py::test_export": _flags(
    "convert export", "src dst format dtype verify"
  ),
  HERE + "test_convert_flags.py::test_join": _flags(
    "convert join", "video audio size variant seed video_tokens audio_tokens dst"
  ),
  HERE + "test_convert_flags.py::test_lora": _flags(
    "convert lora", "src dst model format"
  ),
  HERE + "test_convert_flags.py::test_codecs": _flags(
    "convert codecs", "video audio text image dst"
  ),
  "tests/weights/test_convert.py::test_another_dtype": _flags(
    "convert wan-dit", "dtype"
  ),
  "tests/weights/test_convert.py::test_a_flipped_bit_is_noticed": _flags(
    "convert wan-dit", "verify"
  ),
  # Scores.
  HERE + "test_eval_flags.py::"
  "test_without_a_manifest_every_film_of_the_folder": _flags("eval", "videos out"),
  HERE + "test_eval_flags.py::test_options_of_the_metrics": _flags(
    "eval",
    "metrics weights sync-scale min-track min-face-size recogniser fvd-frames "
    "transcripts name reference",
  ),
  HERE + "test_eval_flags.py::test_each_option_is_part_of_its_metrics_protocol": (
    _flags("eval", "sync-scale min-track min-face-size fvd-frames")
  ),
  HERE + "test_eval_flags.py::test_a_manifest_names_the_clips": _flags(
    "eval", "manifest"
  ),
  HERE + "test_eval_flags.py::test_what_is_missing_or_fails_is_exit_1": _flags(
    "eval", "allow-missing"
  ),
  HERE + "test_eval_flags.py::test_compare_is_of_two_runs_in_their_order": _flags(
    "eval", "compare"
  ),
  "tests/metrics/test_eval_command.py::test_two_runs_side_by_side": _flags(
    "eval", "compare transcripts"
  ),
  HERE + "test_eval_flags.py::test_prompts_become_a_manifest": _flags(
    "eval make-manifest", "prompts out"
  ),
  HERE + "test_eval_flags.py::test_the_format_of_prompts_is_the_named_one": _flags(
    "eval make-manifest", "format"
  ),
  # Tools for data.
  HERE + "test_data_flags.py::test_inspect": [
    "data inspect set", *_flags("data inspect", "clips out")
  ],
  HERE + "test_data_flags.py::test_prepare": [
    "data prepare dir", "data prepare out",
    *_flags("data prepare", "shots crop loudness speech template captions "
            "max_offset_ms threads runner"),
  ],
  HERE + "test_data_flags.py::test_what_starts_apart_is_listed_from_max_offset_ms_on":
  _flags("data prepare", "max_offset_ms"),
  "tests/data/test_prepare.py::test_nothing_that_is_not_asked_for": _flags(
    "data prepare", "shots crop"
  ),
  HERE + "test_data_flags.py::test_build": [
    "data build source", "data build dir", "data build options",
    *_flags("data build", "runner"),
  ],
  # Benchmarks.
  HERE + "test_bench_flags.py::test_compiler": _flags("bench compiler", "chips"),
  HERE + "test_bench_flags.py::test_prepare": _flags("bench prepare", "seconds rounds"),
  HERE + "test_bench_flags.py::test_scale": _flags(
    "bench scale", "clips chips rates cores memory seeds folder megabytes"
  ),
  HERE + "test_bench_flags.py::test_kernels": _flags("bench kernels", "chips blocks"),
  HERE + "test_bench_flags.py::test_data": _flags(
    "bench data", "records batch threads folder"
  ),
  HERE + "test_bench_flags.py::test_eval_of_all_and_of_some": _flags(
    "bench eval", "metrics clips together"
  ),
  HERE + "test_bench_flags.py::test_eval_of_given_clips_and_weights": _flags(
    "bench eval", "videos weights folder clips"
  ),
  HERE + "test_bench_flags.py::test_vocoder": _flags(
    "bench vocoder", "preset seconds chunk rounds"
  ),
  HERE + "test_bench_flags.py::test_length": _flags(
    "bench length", "ckpt fold clips steps out"
  ),
  HERE + "test_bench_flags.py::test_sampling": _flags(
    "bench sampling", "ckpt prompt steps clips rounds"
  ),
  HERE + "test_bench_flags.py::test_start": _flags(
    "bench start", "ckpt task steps rounds"
  ),
  HERE + "test_bench_flags.py::test_step": _flags(
    "bench step",
    "size depth frames height width batch dtype attention rounds",
  ),
  HERE + "test_bench_flags.py::test_step_alone": _flags("bench step", "peer joint"),
  HERE + "test_bench_flags.py::test_a_trace_of_a_step": _flags("bench step", "profile"),
  HERE + "test_bench_flags.py::test_device": _flags(
    "bench device", "out minutes sizes depth frames height width rounds peer"
  ),
  "tests/ablation/test_run.py::test_the_command_line": _flags(
    "ablation run", "root results size only seeds parallel cores"
  ),
  "tests/ablation/test_run.py::"
  "test_a_dry_run_prints_what_is_missing_and_does_nothing": _flags(
    "ablation run", "dry_run"
  ),
  "tests/ablation/test_score.py::test_a_result": _flags(
    "ablation score", "what workdir results size"
  ),
  "tests/ablation/test_page.py::test_table": _flags("ablation table", "results out"),
  "tests/ablation/test_page.py::test_plots": _flags("ablation plots", "results out"),
  "tests/viz/test_viz_command.py::test_attention": _flags(
    "viz attention", "ckpt prompt film steps at block head seed out"
  ),
  "tests/viz/test_viz_command.py::test_losses_of_runs": [
    *_of("viz loss ", "runs --smooth --out")
  ],
  "tests/viz/test_viz_command.py::test_clips_side_by_side": [
    *_of("viz sheet ", "models --prompts --out")
  ],
  "tests/viz/test_viz_command.py::test_a_lag_is_seen": [
    *_of("viz lag ", "films --out")
  ],
  # What follows the colon of a config.
  HERE + "test_config_values.py::test_a_training_config": [
    *_of("joint:", "size runlocal data records init image_form variant train"),
    *_of("audio:", "size runlocal records"),
    *_of("lora:", "init size rank alpha layers whole image_form data records runlocal"),
    *_of("ablation:", "stage size longer"),
    *_of("quickstart:", "data source runlocal seed"),
  ],
  HERE + "test_config_values.py::test_the_config_of_encode": _of(
    "encode:", "data codecs out clips source loudness video_std runlocal"
  ),
  HERE + "test_config_values.py::test_a_config_of_sound": [
    *_of("audio_vae:", "data test size runlocal seed"),
    *_of("vocoder:", "data test vae size runlocal seed"),
  ],
}  # fmt: skip
