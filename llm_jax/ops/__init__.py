"""Pure array functions, no parameters: a readable reference and its fast forms."""
