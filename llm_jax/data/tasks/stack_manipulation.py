"""Stack manipulation: what a stack of bits holds after some pushes and pops.

  0 1 push1 pop pop ? ? ? ? ? ?     the stack 0 1, its top last; the answers are 0 end

The answer begins at the top. Of the "?", one more than the string has tokens, those behind "end" do
not count. A pop of an empty stack does nothing. By chance: 1/2 for a bit, less for "end".

Source: Deletang et al. 2022, arXiv:2207.02098, "stack manipulation": a deterministic context-free
language.
"""

import numpy as np

from llm_jax.data import strings

_POP, _PUSH, _END = 2, 3, 5


class StackManipulation(strings.Strings):
  """A stack, given and then changed. A length is that of both parts; the first is never empty."""

  symbols = strings.symbols("0", "1", "pop", "push0", "push1", "end")

  def tokens(self, length: int) -> int:
    return 2 * length + 1

  def example(self, random: np.random.RandomState, length: int):
    height = 1 + random.randint(max(length - 1, 1))
    given = random.randint(2, size=height).tolist()
    actions = (_POP + random.randint(3, size=length - height)).tolist()
    stack = list(given)
    for action in actions:
      if action >= _PUSH:
        stack.append(action - _PUSH)
      elif stack:
        stack.pop()
    return strings.answered(given + actions, [*stack[::-1], _END], room=length + 1)
