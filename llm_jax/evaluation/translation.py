"""Scores of runs that answer a text with a text: BLEU and chrF of what they make."""

from collections.abc import Sequence

from llm_jax import objective as objectives
from llm_jax.data import pairs
from llm_jax.evaluation import scores as task_scores
from llm_jax.inference.generate import generate
from llm_jax.inference.prompt import asked

_BATCH = 64  # sources decoded together
_ROOM = 16  # tokens that an answer may have beyond twice those of its source


def scores(
  run,
  records: Sequence[dict],
  training: Sequence[dict] = (),
  *,
  num_beams: int = 4,
  length_penalty: float = 1.0,
) -> dict:
  """How near the answers to the records' sources come to their targets.

  Args:
    run: what `runs.read` gives, of an objective with sources and targets.
    records: with source and target.
    training: not looked at.
    num_beams: hypotheses kept of each answer; 1 is greedy decoding.
    length_penalty: of the beam, see `generate`.

  Returns:
    bleu, chrf and their signatures; num_beams, length_penalty; samples, the first three sources
    with target and answer.

  Raises:
    UserError: no records, or one that the objective refuses.
  """
  pairs.check(records)
  sources, targets = ([record[name] for record in records] for name in ("source", "target"))
  made = answers(run, sources, num_beams, length_penalty)
  samples = [
    {"source": source, "target": target, "answer": answer}
    for source, target, answer in zip(sources[:3], targets, made, strict=False)
  ]
  found = task_scores.translation(made, targets)
  return found | {"num_beams": num_beams, "length_penalty": length_penalty, "samples": samples}


def answers(run, sources: Sequence[str], num_beams: int, length_penalty: float) -> list[str]:
  """The answer to each source, in the order given; decoded shortest first, so that those of one
  batch end at about the same time."""
  prompts, options = asked(run, list(sources))
  if num_beams != 1:
    options |= {"method": "beam", "num_beams": num_beams, "length_penalty": length_penalty}
  longest, spec = objectives.make(run.config).target_length(run.config.seq_len), run.model.spec
  lengths = [len(run.tokenizer.encode(source)) for source in sources]
  order = sorted(range(len(sources)), key=lambda i: lengths[i])
  found = [""] * len(sources)
  for start in range(0, len(order), _BATCH):
    chosen = order[start : start + _BATCH]
    room = min(longest, 2 * lengths[chosen[-1]] + _ROOM)
    if spec.kind == "decoder" and spec.positions == "learned":  # answers stand behind their prompts
      room = max(min(room, spec.max_length - len(prompts[chosen[-1]])), 1)
    made = generate(
      run.model,
      run.params,
      [prompts[i] for i in chosen],
      tokenizer=run.tokenizer,
      max_new_tokens=room,
      **options,
    )
    for index, text in zip(chosen, made, strict=True):
      found[index] = text.strip()
  return found
