"""`python -m depthmask` is `dmx`: torchrun starts modules."""

from depthmask.cli import main

if __name__ == "__main__":
    main()
