"""The fault campaign: real daemons, a real Postgres, a strict EMP and a busy CPO, to whom everything happens that can.

    points     places within the daemon where it can be made to die, stop, or lose its database
    kinds      the faults, one after the other: from within and from outside
    stage      what they happen to
    campaign   one run: faults of one kind while the CPO writes, then quiet, then judgement
    soak       an hour of them while the CPO writes at a steady pace (`steady`): what is sampled (`sample`) has to stay flat (`flat`)
    mutants    patches that break one invariant each, and that the campaign has to notice

`make faults` runs them all and prints a table; `make faults KINDS='killed restored' SEED=7 RUNS=3` some of them again.
`make soak MINUTES=60 SEED=1` plays the soak.
"""
