"""``python -m secure_fedhelp`` is the same as ``secure-fedhelp``."""

from secure_fedhelp.cli.main import main

if __name__ == "__main__":
    main()
