"""`python -m cai` is the `cai` command."""

from cai.cli.main import main

if __name__ == "__main__":
    main()
