"""`python -m runwire_cli` is `runwire`."""

from runwire_cli.entry import main

main()
