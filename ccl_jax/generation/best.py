"""The best of several clips of one prompt, by a measured score.

The clips have seeds one after the other, are files like any others, and are scored as
`eval` would: decoded from what was written.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ccl_jax import progress
from ccl_jax.errors import UsageError
from ccl_jax.files import write_json
from ccl_jax.generation.clips import Maker
from ccl_jax.generation.request import Request
from ccl_jax.metrics.base import Metric, Unscorable
from ccl_jax.metrics.clip import Clip
from ccl_jax.metrics.columns import COLUMNS, Column
from ccl_jax.metrics.registry import Options, build_metrics
from ccl_jax.remote.paths import Place
from ccl_jax.tasks import GENERATIONS

# By metric, the number that says how well picture and sound belong together.
SCORES: dict[str, Column] = {
  COLUMNS[name].metric: COLUMNS[name]
  for name in ("talking_r", "film_r", "av_align", "sync_c", "desync", "ib")
}


class Judge(NamedTuple):
  """What clips are compared by.

  Attributes:
    metric: as of `eval`.
    column: its number.
  """

  metric: Metric
  column: Column

  def score(self, path: Place, prompt: str) -> float:
    """The score of a clip.

    Args:
      path: of the clip.
      prompt: what it was made from.

    Raises:
      Unscorable: it has none, for the reason given.
    """
    clip = Clip(path, path.stem, {"prompt": prompt}, self.metric.needs)
    value = self.metric.score(clip).get(self.column.value)
    if value is None or not math.isfinite(value):
      raise Unscorable(f"no {self.column.label} of such a clip")
    return float(value)


class Scored(NamedTuple):
  """The clips of a prompt with their scores.

  Attributes:
    label: of the score.
    scores: by path; None of a clip that cannot be scored.
    reasons: by path, why it cannot.
    best: the path of the best; None: none can be scored.
  """

  label: str
  scores: Mapping[Place, float | None]
  reasons: Mapping[Place, str]
  best: Place | None

  def lines(self) -> list[str]:
    """What a command prints: a line a clip, of which the best is marked."""
    out = []
    for path, score in self.scores.items():
      told = self.reasons[path] if score is None else f"{self.label} {score:.3f}"
      out.append(f"{path}  {told}{'  best' if path == self.best else ''}")
    return out

  def write(self, path: Place) -> None:
    """Writes {"score", "clips": {name: score or null}, "reasons", "best"} as JSON."""
    names = lambda found: {p.name: x for p, x in found.items()}
    about = {"score": self.label, "clips": names(self.scores)}
    best = None if self.best is None else self.best.name
    write_json(path, about | {"reasons": names(self.reasons), "best": best}, indent=2)

  def require_best(self) -> None:
    """Ends a command none of whose clips of a prompt has a score.

    Raises:
      UsageError: so it is.
    """
    if self.best is None:
      path, reason = next(iter(self.reasons.items()))
      raise UsageError(f"--score: none of the clips beside {path} has one: {reason}")


def check_best(
  count: int | None,
  score: str | None,
  weights: Sequence[str] | None,
  asked: Request,
  *,
  settings: bool,
) -> None:
  """Checks what is said of the best clips, before anything is loaded.

  Args:
    count, score, weights: of --best_of, --score and --score_weights.
    asked: what clips are asked for.
    settings: --settings is given.

  Raises:
    UsageError: flags that do not go together, or values out of range.
  """
  if count is None:
    for name, value in (("score", score), ("score_weights", weights)):
      if value is not None:
        raise UsageError(f"--{name} does nothing without --best_of: leave it out")
    return
  if count < 2:
    raise UsageError(f"--best_of: got {count}; expected at least 2")
  if score is None:
    raise UsageError("--best_of needs --score: what the best is told by, as talking")
  for name, given in (("manifest", asked.manifest), ("settings", settings)):
    if given:
      raise UsageError(f"--best_of with --{name}: expected --prompt")
  if (last := max(asked.seed) + count - 1) >= 2**64:
    raise UsageError(f"--best_of: the last seed would be {last}; expected below 2^64")
  kind = GENERATIONS.get(asked.task)
  if kind is not None and len(kind.generated + kind.given) < 2:
    raise UsageError(f"--best_of: {asked.task} has no picture with a sound to compare")
  judge_of(score, weights or ())


def judge_of(name: str, weights: Sequence[str]) -> Judge:
  """The judge by a metric, whose networks are read with the first clip.

  Args:
    name: of `SCORES`.
    weights: places of the networks' released weights, as `eval --weights`.

  Raises:
    UsageError: there is no such score, or it lacks weights or a package.
  """
  if name not in SCORES:
    raise UsageError(f"--score: got {name!r}; expected one of {', '.join(SCORES)}")
  try:
    metrics, skipped = build_metrics([name], weights, Options())
  except UsageError as e:
    raise UsageError(str(e).replace("--weights", "--score_weights")) from e
  if skipped:
    reason = skipped[name].replace("--weights", "--score_weights")
    raise UsageError(f"--score {name}: {reason}")
  return Judge(metrics[0], SCORES[name])


def made_and_scored(
  maker: Maker, asked: Request, judge: Judge, count: int
) -> list[Scored]:
  """Makes the clips round by round, with one seed more in each, and scores those of
  each prompt. Beside them best_TASK_SEED_NUMBER.json has what was found.

  Args:
    maker: of clips as files.
    asked: what clips are asked for.
    judge: what they are compared by.
    count: clips of each prompt.

  Returns:
    By prompt; empty in processes that do not write.
  """
  prompts, task = asked.prompt, asked.task
  spread = lambda values: [*values] * (len(prompts) // len(values))
  files, seeds = {n: spread(x) for n, x in asked.files.items()}, spread(asked.seed)
  rounds = []
  for k in range(count):
    progress.phase(f"clip {k + 1} of {count}")
    names = {i: f"{task}_{seed + k}_{i}" for i, seed in enumerate(seeds)}
    now = [seed + k for seed in seeds]
    rounds.append(maker.make(prompts, now, files, names, numbered=True))
  progress.phase("scoring")
  found = []
  for i, paths in enumerate(zip(*rounds)):
    found.append(best_of(judge, paths, prompts[i]))
    found[i].write(maker.out / f"best_{task}_{seeds[i]}_{i}.json")
  return found


def best_of(judge: Judge, paths: Sequence[Place], prompt: str) -> Scored:
  """Scores the clips of one prompt; of equals the first is the best.

  Args:
    judge: what they are compared by.
    paths: of the clips.
    prompt: of all.

  Raises:
    UsageError: the metric's networks are not what they should be.
  """
  scores: dict[Place, Any] = {}
  reasons = {}
  for path in paths:
    try:
      scores[path] = judge.score(path, prompt)
    except Unscorable as e:
      scores[path], reasons[path] = None, e.reason
  sign = 1 if judge.column.higher else -1
  able = [path for path, score in scores.items() if score is not None]
  best = max(able, key=lambda path: sign * scores[path], default=None)
  return Scored(judge.column.label, scores, reasons, best)
