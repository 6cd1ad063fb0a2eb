"""A small explicit-state model of the protocol between change log, outbox, leases and EMP, explored exhaustively: docs/model.md.

One station, two EVSEs, one EMP, two daemons. What the model rests on, beside what the database does:

- **Time.** A claim can run out only when its request has ended at the sender, or when its daemon hangs or is dead: it outlasts the longest
  request, and a daemon asks its monotonic clock before it sends. Between that question and the bytes that leave nothing hangs for longer
  than the margin of a claim. What hangs is not seen by the model as anything else than steps that come late.
- **Late.** What an EMP processes after nobody waits for it any more, it has processed within the quiet time, counted from when it was noted
  that the answer is missing. An EMP that answers, if only with an error that says nothing, has done with the request.
- **The EMP.** It takes the last message for the truth. A station that is posted loses its statuses there (not documented; the worst case),
  a deleted one has none. What it once applied it does not refuse for good, and what it refused for good it would refuse again.
- **Leases.** A lease is taken by another only when its holder knows by its own clock that it has it no more.
- **The database** loses nothing that it has committed; fail-over is not in the model.

Two daemons at once, a crash at any moment and answers in any order are steps like others, so every interleaving of the transactions is
explored. What is in one transaction is one step, but for capture: consuming, reading and writing are steps of their own.
"""
