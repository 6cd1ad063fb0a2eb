"""`python -m cdc_pusher` is `cdc-pusher`."""

from cdc_pusher.cli import main

main()
