"""What is explored in every run of the tests; docs/model.md says what that leaves out."""

from model.protocol import Bounds

REMOVE, STATUS = "remove", "status"

CONFIGURATIONS = {
    "nothing fails": Bounds(reads_apart=True),
    "an answer is lost": Bounds(changes=2, lost=1),
    "an answer is lost, the station goes and comes back": Bounds(lost=1, kinds=(STATUS, REMOVE)),
    "two answers are lost": Bounds(changes=1, lost=2),
    "a daemon crashes": Bounds(crashes=1, kinds=(STATUS, REMOVE)),
    "a daemon crashes, and an answer is lost": Bounds(crashes=1, lost=1, kinds=(STATUS,)),
    "the EMP refuses": Bounds(changes=2, refused=1, rejected=1),
    "the EMP refuses after an answer was lost": Bounds(changes=2, refused=1, rejected=1, lost=1, kinds=(STATUS, REMOVE)),
    "a daemon hangs": Bounds(changes=2, stalls=1, kinds=(STATUS, REMOVE)),
    "a daemon hangs, and an answer is lost": Bounds(changes=2, stalls=1, lost=1, kinds=(STATUS,)),
    "a lease is lost": Bounds(changes=2, lapses=1, leases=True),
    "a lease is lost, and a daemon hangs": Bounds(changes=1, lapses=1, stalls=1, leases=True),
    "a lease is lost, and a daemon crashes": Bounds(changes=1, lapses=1, crashes=1, leases=True),
    "full load": Bounds(changes=1, crashes=1, kinds=(REMOVE,), full_load=True, leases=True),
    "full load, and a trigger misses a change": Bounds(changes=1, missed=1, full_load=True, leases=True),
}
