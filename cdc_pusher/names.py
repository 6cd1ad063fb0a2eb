"""What our things in the CPO's database are called, and what stands between the words that stations are found by."""

SCHEMA = "cdc_pusher"
CHANNEL = "cdc_pusher"
LANE_CHANNEL = "cdc_pusher_lane"
PUNCTUATION = "./-:@+&_*#~,;"
"""Blanks, in the index of words: the parser of Postgres would take `A7/E45` for a path, and `St.Gallen` for a host."""
