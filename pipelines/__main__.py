"""`python -m pipelines COMMAND ...`; defines nothing, so that nothing of it has to be pickled."""

from pipelines.entry import main

if __name__ == "__main__":
    main()
