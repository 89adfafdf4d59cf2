"""Speed and memory, each benchmark one command."""
