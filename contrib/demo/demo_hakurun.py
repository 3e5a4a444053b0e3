"""A program to try hakurun with: prints the arguments that it got.

    hakurun python contrib/demo/demo_hakurun.py 'span:{1..2}' fixed_arg 'span:[input_a,input_b]'   # four runs

and in its own directory, as a module and as a function, whose numbers are int:

    hakurun --parallel demo_hakurun 'span:{1..2}' fixed_arg 'span:[input_a,input_b]'
    hakurun demo_hakurun:describe 'span:{1..2}' fixed_arg
"""

import os
import random
import sys
import time


def describe(*arguments: object) -> None:
    """Print the arguments with their types."""
    print(", ".join(f"{value!r} is {type(value).__name__}" for value in arguments))


def main() -> None:
    """Work a moment, then print the arguments, and which process this is."""
    time.sleep(random.random() * 0.1)
    print(f"Args: {sys.argv[1:]}, PID: {os.getpid()}")


if __name__ == "__main__":
    main()
