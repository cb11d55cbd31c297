"""Compiles programs for chips that may be absent: do they fit, how fast are they?"""

import itertools
import math
import sys
import time

import jax

from ccl_jax import progress
from ccl_jax.codecs.bundle import Codecs
from ccl_jax.data.spec import ClipSpec
from ccl_jax.errors import UsageError, bind
from ccl_jax.generation.decoding import AUTO, checked_tile
from ccl_jax.generation.memory import held, worked_in
from ccl_jax.generation.meshes import chosen_shape
from ccl_jax.generation.sampling import Sampling, sample_latents
from ccl_jax.models.byte_text import LENGTHS
from ccl_jax.models.joint import JointDiT, geometry_of
from ccl_jax.models.precision import stored_as
from ccl_jax.models.presets import build_model, parameter_shapes
from ccl_jax.models.stream import CLIP_TOKENS, CLIP_WIDTH
from ccl_jax.planning.chips import Chip
from ccl_jax.planning.floors import arithmetic
from ccl_jax.planning.gpus import GPUS, cudnn_of
from ccl_jax.planning.launches import launches
from ccl_jax.planning.phases import Phase, codec_shapes, decoding_phase, text_phase
from ccl_jax.planning.predict import predict
from ccl_jax.planning.program import Program
from ccl_jax.planning.report import Report, show
from ccl_jax.planning.topologies import compiler, parse_topology, text_of
from ccl_jax.planning.traffic import collectives, table
from ccl_jax.sharding import (
  batch_sharding,
  compiler_options,
  make_mesh,
  parameter_shardings,
)
from ccl_jax.tasks import GENERATIONS
from ccl_jax.training.build import build_run

POLICIES = ("full", "save_attention")
STEPS = 50  # of sampling, in one scan


def sizes_of(config) -> tuple[JointDiT, ClipSpec, tuple[int, int]]:
  """What the sizes of a config's programs follow from: the network, a clip, and a
  text's rows and width.

  Raises:
    UsageError: a model or a clip of such settings cannot be built.
  """
  return (
    bind("model", config.model, build_model),
    bind("clip", config.clip, ClipSpec),
    (config.codec.text_length or LENGTHS[1], config.codec.text_dim),
  )


def lower_train(config, mesh, batch: int):
  """The train step of a config before it is compiled, for `batch` clips on the mesh."""
  _, spec, text = sizes_of(config)
  run = build_run(config, mesh, text, batch=batch)
  rows = batch_sharding(mesh)
  data = _latents(run.model, spec, batch, rows) | _image(run.model, spec, batch, rows)
  data["text"] = _array((batch, *text), rows)
  data["null_text"] = _array(text, jax.NamedSharding(mesh, jax.P()))
  _, step = run.step_of(0, data)
  with jax.set_mesh(mesh):  # from here on nothing may be computed, only traced
    base = {} if run.base is None else {"base": run.base}
    return step.lower(run.state, data, **base)


def compile_train(config, mesh, batch: int):
  """The compiled train step of a config, for `batch` clips on the mesh."""
  lowered = lower_train(config, mesh, batch)
  with jax.set_mesh(mesh):
    return lowered.compile()


def compile_generate(config, mesh, batch: int):
  """The compiled sampling of `batch` clips, of joint generation with guidance.

  It has `STEPS` steps, in one scan.
  """
  model, spec, text = sizes_of(config)
  streams = tuple(s for s, _ in model.streams)
  # The task that generates every stream of the model.
  kind = next(g for g in GENERATIONS.values() if g.generated == streams)
  guidance = "ucg2" if len(streams) == 2 else "text"

  def program(params, noise, text, image):
    conditions = {"text": text, "given": {}}
    if image:
      conditions |= {"condition": image["condition"], "clip": image["image"]}
    return sample_latents(
      model,
      params,
      kind,
      noise,
      conditions,
      Sampling(guidance=guidance, steps=STEPS, shift=5.0, solver="unipc"),
    )

  shapes = _parameters(model, text, mesh, batch)
  # Conditional and null prompt, as guidance stacks them; whole on every device, as
  # `LoadedModel.generate` has them.
  whole = jax.NamedSharding(mesh, jax.P())
  texts = _array((2, batch, *text), whole)
  noise = _latents(model, spec, batch, whole)
  with jax.set_mesh(mesh):
    image = _image(model, spec, batch, whole)
    jitted = jax.jit(program, compiler_options=compiler_options(mesh))
    return jitted.lower(shapes, noise, texts, image).compile()


def codecs_of(config, mesh):
  """The codecs of a config's generation, of shapes on a mesh."""
  model, _, text = sizes_of(config)
  return codec_shapes(model, text, mesh)


def compile_phases(
  config, mesh, batch: int, codecs: Codecs, tile, limit: float, sampling
) -> dict[str, Phase]:
  """What the phases of a generation need of a chip: those beside its sampling are
  compiled.

  Args:
    config, mesh, batch: of the run to plan.
    codecs: of `codecs_of`.
    tile: of the video's decoding, see `decoding_phase`.
    limit: bytes of a chip.
    sampling: of `compile_generate`.
  """
  model, spec, text = sizes_of(config)
  rest = held(codecs._replace(text=None))
  parameters = held(_parameters(model, text, mesh, batch))
  return {
    "text": text_phase(codecs, text[0], mesh),
    # All its arguments are used: it makes every stream of the model.
    "sampling": Phase(
      sampling.memory_analysis().argument_size_in_bytes + worked_in(sampling) + rest,
      rest,
    ),
    "decoding": decoding_phase(codecs, spec, batch, mesh, parameters, limit, tile),
  }


def _parameters(model, text, mesh, batch: int):
  """Shapes of a model's parameters for generation, spread over a mesh."""
  shapes = stored_as(parameter_shapes(model, text, batch=batch), model.dtype)
  return jax.tree.map(
    lambda x, s: x.update(sharding=s), shapes, parameter_shardings(shapes, mesh)
  )


def _latents(model, spec: ClipSpec, batch: int, rows):
  sizes = {"video": spec.latent_shape, "audio": (spec.audio_tokens,)}
  return {s: _array((batch, *sizes[s], c.out_channels), rows) for s, c in model.streams}


def _image(model, spec: ClipSpec, batch: int, rows):
  """Shapes of a model's image condition beside the latents, {} if it takes none: the
  mask with the image's latent, and CLIP tokens (`codecs.images.image_condition`).
  """
  video = dict(model.streams).get("video")
  if video is None or not video.image_tokens:
    return {}
  condition = (batch, *spec.latent_shape, video.in_channels - video.out_channels)
  tokens = (batch, video.images * CLIP_TOKENS, CLIP_WIDTH)
  return {"condition": _array(condition, rows), "image": _array(tokens, rows)}


def _array(shape, sharding):
  return jax.ShapeDtypeStruct(shape, jax.numpy.float32, sharding=sharding)


def plan(
  config,
  topology: str,
  shape,
  batch: int,
  generate: bool,
  slices: int = 1,
  tile: str | int = AUTO,
) -> Report:
  """Compiles a program, and reports on it.

  Args:
    config: of the run.
    topology, slices: see `parse_topology`.
    shape: of the mesh; None: see `default_mesh`.
    batch: clips, over all chips.
    generate: a sampling step, in place of a train step.
    tile: of a generation's decoding, see `decoding_phase`.

  Raises:
    UsageError: the mesh, the batch, the clip or its tiles do not fit one another.
  """
  chip, devices = parse_topology(topology, slices)
  kind = topology.partition(":")[0]
  if shape is None:
    with cudnn_of(kind):  # the model is traced
      shape = default_mesh(config, chip, len(devices), batch, generate, slices)
  mesh = make_mesh(shape, devices, across(slices, shape, tuple(config.slices)))
  check(config, mesh, batch, generate)
  codecs = codecs_of(config, mesh) if generate else None
  if codecs:
    checked_tile(codecs, tile)
  start = time.perf_counter()
  progress.phase(f"compiling the {'sampling' if generate else 'train step'}")
  with cudnn_of(kind):
    compiled = (compile_generate if generate else compile_train)(config, mesh, batch)
    phases = {}
    if codecs:
      phases = compile_phases(config, mesh, batch, codecs, tile, chip.hbm, compiled)
  took = time.perf_counter() - start
  progress.phase("reading the program")
  memory = compiled.memory_analysis()
  program = Program(text_of(compiled))
  steps = STEPS if generate else 1
  model, spec, text = sizes_of(config)
  geometry = geometry_of(model, spec)
  work = arithmetic(model, geometry, text, batch / len(devices), chip, generate)
  moved = (
    # Bytes through HBM, at the least: arguments in, results out, temporaries both ways.
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + 2 * memory.temp_size_in_bytes
  )
  machines = [d.process_index for d in mesh.devices.flat] if kind in GPUS else ()
  instructions = collectives(program, machines)
  # Of all steps of the program, in one of them.
  in_a_step = lambda of: sum(c.times * of(c) for c in instructions) / steps
  seconds = {
    "arithmetic": work.seconds,
    "memory": moved / chip.hbm_rate,
    "network": in_a_step(lambda c: c.seconds(chip)),
  }
  ideal = work.model / chip.flops
  prediction = predict(program, kind, steps)
  largest = max(instructions, key=lambda c: c.moved, default="none")
  return Report(
    topology=topology,
    mesh=tuple(mesh.shape.values()),
    batch=batch,
    program="sampling step" if generate else "train step",
    remat=config.model.remat,
    hbm_bytes=memory.peak_memory_in_bytes,
    hbm_limit=chip.hbm,
    model_flops=work.model,
    hardware_flops=work.hardware,
    traffic_bytes=int(in_a_step(lambda c: c.moved)),
    outside_bytes=int(in_a_step(lambda c: c.outside)),
    collectives=table(instructions),
    largest=str(largest),
    seconds=seconds,
    # Model FLOPs utilisation: useful arithmetic over the time of all floors, in turn or
    # all at once (PaLM, appendix B).
    mfu=(ideal / sum(seconds.values()), ideal / max(seconds.values())),
    compile_seconds=took,
    phases=phases,
    slices=slices,
    prediction=prediction,
    predicted_mfu=prediction and (ideal / prediction.est, ideal / prediction.low),
    compiler=compiler(topology),
    launches=launches(program, steps) if kind in GPUS else {},
  )


def across(slices: int, shape, asked: tuple[int, ...]) -> tuple[int, ...]:
  """How many parts of each size of a mesh lie on different slices.

  Args:
    slices: that there are.
    shape: of the mesh.
    asked: `config.slices`; where it asks for none, slices part `data` or, if that does
      not divide by them, `fsdp`.
  """
  if math.prod(asked) > 1 or slices == 1:
    return asked
  return (slices, 1, 1, 1) if shape[0] % slices == 0 else (1, slices, 1, 1)


def default_mesh(
  config, chip: Chip, devices: int, batch: int, generate: bool, slices: int = 1
) -> tuple[int, ...]:
  """The sizes of a mesh that nobody names: of a train step all chips of a
  slice are fsdp, of a generation as `generate` has it on such chips.

  Args:
    config, batch, generate: see `plan`.
    chip: one of them, and `devices` how many there are, in so many `slices`.
  """
  if not generate:
    return slices, devices // slices, 1, 1
  model, spec, _ = sizes_of(config)
  # With a negative evaluation a clip.
  return chosen_shape(model, spec, 2 * batch, devices, int(chip.hbm))


def check(config, mesh, batch: int, generate: bool = False) -> None:
  """Checks that clips and model divide as the mesh asks.

  Args:
    config, batch, generate: see `plan`.
    mesh: of the chips.

  Raises:
    UsageError: they do not; it names the nearest sizes that do.
  """
  rows = mesh.shape["data"] * mesh.shape["fsdp"] * config.accumulate
  if batch % rows and not generate:
    below = batch // rows * rows
    near = " or ".join(str(n) for n in (below, below + rows) if n)
    raise UsageError(
      f"--batch {batch}: expected a multiple of {rows} (data x fsdp devices x "
      f"accumulated microbatches): {near}"
    )
  model, spec, _ = sizes_of(config)
  geometry = geometry_of(model, spec)
  space, parts = geometry.h * geometry.w, mesh.shape["context"]
  # Tokens are split within latent frames, so that windows of time stay whole.
  if parts > 1 and space % parts:
    valid = [n for n in range(1, min(space, mesh.size) + 1) if space % n == 0]
    near = sorted(valid, key=lambda n: abs(n - parts))[:3]
    raise UsageError(
      f"mesh context {parts} does not divide the {space} tokens of a latent frame "
      f"({geometry.h} x {geometry.w}): nearest that do: {', '.join(map(str, near))}"
    )
  for name, c in model.streams:
    if c.heads % mesh.shape["tensor"]:
      valid = [n for n in range(1, c.heads + 1) if c.heads % n == 0]
      raise UsageError(
        f"mesh tensor {mesh.shape['tensor']} does not divide the {c.heads} heads of "
        f"{name}: expected one of {', '.join(map(str, valid))}"
      )


def meshes(devices: int, batch: int, space: int, heads: int, slices: int = 1):
  """Shapes of meshes worth trying.

  A slice's chips are fsdp, but for powers of two of them as context or tensor, and
  slices are data: between them go gradients alone.

  Args:
    devices: chips.
    batch: clips, which data x fsdp must divide.
    space: tokens of a latent frame, which context must divide.
    heads: which tensor must divide.
    slices: that the chips are parted in.
  """
  for context, tensor in itertools.product((1, 2, 4, 8), (1, 2, 4)):
    rows, rest = divmod(devices, slices * context * tensor)
    if rest or batch % (slices * rows) or space % context or heads % tensor:
      continue
    yield (slices, rows, context, tensor)


def sweep(
  config,
  topology: str,
  batch: int,
  generate: bool,
  slices: int = 1,
  tile: str | int = AUTO,
):
  """Yields reports of every mesh and policy that compiles, and prints each.

  Args:
    config, topology, batch, generate, slices, tile: see `plan`.
  """
  _, devices = parse_topology(topology, slices)
  model, spec, _ = sizes_of(config)
  geometry = geometry_of(model, spec)
  # Tensor parallelism splits heads, of both streams alike.
  heads = math.gcd(*(c.heads for _, c in model.streams))
  policies = (config.model.remat,) if generate else POLICIES
  space = geometry.h * geometry.w
  shapes = meshes(len(devices), batch, space, heads, slices)
  plans = list(itertools.product(shapes, policies))
  for i, (shape, policy) in enumerate(plans):
    progress.part("plans", i, len(plans))
    tried = config.copy_and_resolve_references().unlock()
    tried.model.remat = policy
    try:
      report = plan(tried, topology, shape, batch, generate, slices, tile)
    except Exception as e:  # out of memory, or of what the compiler can do
      if isinstance(e, UsageError) or "RESOURCE_EXHAUSTED" not in str(e):
        raise
      short = f"mesh {shape} remat {policy}: {str(e).splitlines()[0][:160]}"
      progress.say(short, sys.stdout)
      continue
    progress.say(show(report), sys.stdout)
    yield report
  progress.part("plans", len(plans), len(plans))
