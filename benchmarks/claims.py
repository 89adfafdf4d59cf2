"""How often the statistics of a comparison claim what is not there, and miss what is.

  python -m benchmarks.claims      # two minutes of CPU; the tables of benchmarks/NOTES.md

All is simulated. Standard deviations are those of one architecture's values over seeds.
"""

import warnings

import numpy as np
from scipy import special, stats

from llm_jax.analysis import bootstrap, evidence, statistics

TRIALS = 300  # of everything that is judged in full
EQUALS = 20_000  # of equal architectures, of which only the largest ratio matters


def values(generator, trials, architectures, seeds, share, scales=None) -> np.ndarray:
  """Equal architectures, (N, A, R): `share` of the variance is the seed's; scales are of noise."""
  scales_A1 = np.ones((architectures, 1)) if scales is None else np.array(scales)[:, None]
  noise_NAR = scales_A1 * generator.normal(size=(trials, architectures, seeds))
  return np.sqrt(share) * generator.normal(size=(trials, 1, seeds)) + np.sqrt(1 - share) * noise_NAR


def false_claims(values_NAR: np.ndarray, level=statistics.LEVEL) -> float:
  """In which part of comparisons of equals anything is claimed."""
  _, A, R = values_NAR.shape
  _, border = evidence.judge(np.zeros(A * (A - 1) // 2), evidence.chance(A, R, A, True), level)
  return float((evidence.ratio(*evidence.separations(values_NAR, A)).max(1) > border).mean())


def found(values_NAR: np.ndarray, gap: float) -> float:
  """Which part of the differences is claimed if the first architecture is better by `gap`."""
  names = [str(a) for a in range(values_NAR.shape[1])]
  shifted_NAR = values_NAR.copy()
  shifted_NAR[:, 0] -= gap
  claimed = [
    comparison.apart("0", name)
    for table_AR in shifted_NAR
    for comparison in [statistics.compare(dict(zip(names, table_AR, strict=True)))]
    for name in names[1:]
  ]
  return float(np.mean(claimed))


def paired_and_holm(values_NAR: np.ndarray, gap: float) -> tuple[float, float]:
  """What was there before: pooled paired t tests and Holm's correction at 5 %, its first step."""
  _, A, R = values_NAR.shape
  rest_NAR = values_NAR - values_NAR.mean(2, keepdims=True)
  rest_NAR = rest_NAR - rest_NAR.mean(1, keepdims=True)
  freedom = (A - 1) * (R - 1)
  error_N = np.sqrt((rest_NAR**2).sum((1, 2)) / freedom * 2 / R)
  border_N = error_N * special.stdtrit(freedom, 1 - 0.05 / (A * (A - 1)))
  mean_NA = values_NAR.mean(2)
  false = np.ptp(mean_NA, axis=1) > border_N
  true = np.abs(mean_NA[:, :1] - gap - mean_NA[:, 1:]) > border_N[:, None]
  return float(false.mean()), float(true.mean())


def one_score() -> None:
  """False claims and power by architectures, seeds, and the seed's share of the variance."""
  print("| architectures | seeds | seed's share | false claims | found | Holm: false | found |")
  print("| --- | --- | --- | --- | --- | --- | --- |")
  generator = np.random.default_rng(1)
  for architectures in (2, 3, 7, 12):
    for seeds in (2, 3, 5):
      for share in (0, 0.25, 0.5, 0.75):
        equals = values(generator, EQUALS, architectures, seeds, share)
        before = paired_and_holm(equals, 2)
        row = (false_claims(equals), found(equals[:TRIALS], 2), *before)
        cells = " | ".join(f"{100 * cell:.1f} %" for cell in row)
        print(f"| {architectures} | {seeds} | {share} | {cells} |", flush=True)


def unequal_noise() -> None:
  """False claims where some architectures have three times the noise of the rest."""
  print("| noisy of all | seeds | false claims | Holm |\n| --- | --- | --- | --- |")
  generator = np.random.default_rng(2)
  for noisy, architectures in ((1, 3), (1, 7), (2, 7)):
    for seeds in (2, 3, 5):
      scales = [3.0] * noisy + [1.0] * (architectures - noisy)
      equals = values(generator, EQUALS, architectures, seeds, 0, scales)
      row = 100 * false_claims(equals), 100 * paired_and_holm(equals, 0)[0]
      print(f"| {noisy} of {architectures} | {seeds} | {row[0]:.1f} % | {row[1]:.1f} % |")


KINDS = {  # a letter is an architecture: its accuracies, given a generator and a shape
  "S": lambda g, shape: 1 - np.abs(0.001 * g.normal(size=shape)),  # solves the task
  "u": lambda g, shape: 0.3 + 0.1 * g.normal(size=shape),  # half learned
  "c": lambda g, shape: 0.3 + 0.01 * g.normal(size=shape),  # at chance
  "h": lambda g, shape: 0.9 + 0.03 * g.normal(size=shape),  # nearly there
  "4": lambda g, shape: np.where(g.random(shape) < 0.4, 1, 0.3 + 0.05 * g.normal(size=shape)),
  "7": lambda g, shape: np.where(g.random(shape) < 0.7, 1, 0.3 + 0.05 * g.normal(size=shape)),
}
TASKS = "SS Su SSSSSSSS uuuuuuuu 44 44444444 77777777 SSSSuuuu SSSScccc SSSSSS44 cccccc44 ccccccuu"
TASKS = (*TASKS.split(), "SSScccc4", "SSShhuuu", "hhhhuuuu")


def tasks() -> None:
  """One task by itself and as one of six: any false claim, and the true differences claimed."""
  print("| task | seeds | false | found | false, of six | found, of six |")
  print("| --- | --- | --- | --- | --- | --- |")
  generator = np.random.default_rng(3)
  for kinds in TASKS:
    pairs = [(a, b) for b in range(len(kinds)) for a in range(b)]
    for seeds in (3, 5):
      row = []
      for family in (1, 7):
        false, true = [], []
        for _ in range(TRIALS):
          scores = {str(a): KINDS[kind](generator, seeds) for a, kind in enumerate(kinds)}
          scores = {name: np.clip(of, 0, 1) for name, of in scores.items()}
          seen = statistics.compare(scores, higher_is_better=True, fractions=True, family=family)
          told = {(a, b): seen.apart(str(a), str(b)) for a, b in pairs}
          false.append(any(told[a, b] for a, b in pairs if kinds[a] == kinds[b]))
          true += [told[a, b] for a, b in pairs if kinds[a] != kinds[b]]
        row += [f"{100 * np.mean(false):.1f} %", f"{100 * np.mean(true):.0f} %" if true else ""]
      print(f"| {kinds} | {seeds} | {' | '.join(row)} |", flush=True)


def intervals() -> None:
  """How often 95 % intervals of one architecture's mean cover it."""
  print("| values | seeds | t, as reported | percentile | BCa | bootstrap t |")
  print("| --- | --- | --- | --- | --- | --- |")
  generator = np.random.default_rng(4)
  for kind, truth in (("normal", 0.0), ("4", 0.58)):
    for seeds in (3, 5, 10):
      shape = (EQUALS // 10, seeds)
      rows_NR = KINDS["4"](generator, shape) if kind == "4" else generator.normal(size=shape)
      rows_NR = np.minimum(rows_NR, 1) if kind == "4" else rows_NR
      seen = (statistics.compare({"a": row}, fractions=kind == "4") for row in rows_NR)
      ends = [of.summaries["a"].interval for of in seen]
      cells = [np.mean([low <= truth <= high for low, high in ends])]
      cells += [covered(rows_NR, truth, method) for method in ("percentile", "BCa")]
      cells.append(covered_by_bootstrap_t(generator, rows_NR, truth))
      print(f"| {kind} | {seeds} | {' | '.join(f'{100 * cell:.0f} %' for cell in cells)} |")


def covered(rows_NR: np.ndarray, truth: float, method: str) -> float:
  """Part of scipy's intervals with the truth in them; one that is not a number has it not."""
  with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
    ends = stats.bootstrap(
      (rows_NR,), np.mean, axis=1, method=method, n_resamples=999, batch=100, rng=0
    ).confidence_interval
  return float(((ends.low <= truth) & (truth <= ends.high)).mean())


def covered_by_bootstrap_t(generator, rows_NR: np.ndarray, truth: float) -> float:
  """The same of intervals from the bootstrap distribution of t; infinite ones count as none."""
  N, R = rows_NR.shape
  drawn_NBR = rows_NR[np.arange(N)[:, None, None], generator.integers(R, size=(N, 999, R))]
  mean_N, error = rows_NR.mean(1), lambda x: x.std(-1, ddof=1) / np.sqrt(R)
  with np.errstate(all="ignore"):
    t_NB = np.nan_to_num((drawn_NBR.mean(2) - mean_N[:, None]) / error(drawn_NBR), posinf=np.inf)
    t_NB = np.sort(t_NB, axis=1)
    low_N, high_N = (mean_N - t_NB[:, end] * error(rows_NR) for end in (974, 24))
  finite_N = np.isfinite(low_N) & np.isfinite(high_N)
  return float((finite_N & (low_N <= truth) & (truth <= high_N)).mean())


def over_tasks() -> None:
  """How often the 95 % intervals of a mean over six tasks cover it: of R - 1 seeds, and of R."""
  print("| tasks | seeds | covered | by drawing all seeds |\n| --- | --- | --- | --- |")
  generator = np.random.default_rng(5)
  truths = {"h": 0.9, "u": 0.3, "4": 0.58}
  for kinds in ("uuuuuu", "hhuu44", "444444"):
    truth = np.mean([truths[kind] for kind in kinds])
    for seeds in (2, 3, 5):
      hits = []
      for _ in range(TRIALS):
        scores_TR = np.array([KINDS[kind](generator, seeds) for kind in kinds])
        mean = bootstrap.aggregate(scores_TR[:, None])[0].mean
        drawn_NTR = generator.integers(seeds, size=(999, len(kinds), seeds))
        plain_N = scores_TR[np.arange(len(kinds))[:, None], drawn_NTR].mean((1, 2))
        low, high = np.quantile(plain_N, (0.025, 0.975))
        hits.append((mean.low <= truth <= mean.high, low <= truth <= high))
      cells = " | ".join(f"{100 * cell:.0f} %" for cell in np.mean(hits, axis=0))
      print(f"| {kinds} | {seeds} | {cells} |", flush=True)


if __name__ == "__main__":
  for part in (one_score, unequal_noise, tasks, intervals, over_tasks):
    print(f"\n{part.__doc__}\n")
    part()
