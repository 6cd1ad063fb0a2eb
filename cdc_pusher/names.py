"""What our things in the CPO's database are called."""

SCHEMA = "cdc_pusher"
CHANNEL = "cdc_pusher"
LANE_CHANNEL = "cdc_pusher_lane"
