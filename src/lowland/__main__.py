"""``python -m lowland`` is the command ``lowland``: of this Python, and of every process that ``torchrun`` starts."""

from lowland.cli import main

if __name__ == "__main__":
    main()
