"""`python -m hakuriver`: the same as `hakuriver`."""

from hakuriver.cli import main

if __name__ == "__main__":
    main()
